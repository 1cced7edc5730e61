//! Keys and tokens in the hands of a test: keys of its own, those that ssh-keygen makes, and tokens that it signs itself
//! with the engine's own key, so that only what they say can be wrong with them.

use std::path::{Path, PathBuf};
use std::process::Command;

use aws_lc_rs::rsa::KeyPair;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ed25519_dalek::{Signer, SigningKey};
use serde_json::Value;
use ssh_key::private::{Ed25519Keypair, Ed25519PrivateKey, KeypairData, PrivateKey};
use ssh_key::public::Ed25519PublicKey;

use super::Engine;

/// An Ed25519 key.
pub struct Ed25519(pub SigningKey);

impl Ed25519 {
    /// A new one.
    pub fn generate() -> Self {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).expect("the kernel's random source");
        Self(SigningKey::from_bytes(&seed))
    }

    /// The one of this OpenSSH private key file.
    pub fn read(path: &Path) -> Self {
        Self::parse(&std::fs::read_to_string(path).expect("the key can be read"))
    }

    /// The one of this OpenSSH private key.
    pub fn parse(text: &str) -> Self {
        let key = PrivateKey::from_openssh(text).expect("an OpenSSH private key");
        Self(SigningKey::from_bytes(&key.key_data().ed25519().expect("an Ed25519 key").private.to_bytes()))
    }

    /// The OpenSSH private key.
    pub fn private_text(&self) -> String {
        let pair = Ed25519Keypair {
            public: Ed25519PublicKey(self.0.verifying_key().to_bytes()),
            private: Ed25519PrivateKey::from_bytes(self.0.as_bytes()),
        };
        let key = PrivateKey::new(KeypairData::Ed25519(pair), "test").expect("a key");
        key.to_openssh(ssh_key::LineEnding::LF).expect("a text").to_string()
    }

    /// The OpenSSH public key line.
    pub fn line(&self) -> String {
        let key: ssh_key::PublicKey = Ed25519PublicKey(self.0.verifying_key().to_bytes()).into();
        key.to_openssh().expect("a text")
    }

    /// The signature over a text, in base64.
    pub fn sign(&self, text: &str) -> String {
        STANDARD.encode(self.0.sign(text.as_bytes()).to_bytes())
    }
}

/// A key pair that ssh-keygen made, in files.
pub struct KeyFile {
    /// The private key; the public one is beside it.
    pub path: PathBuf,
}

impl KeyFile {
    /// Makes a pair; `arguments` say which.
    pub fn generate(directory: &Path, name: &str, arguments: &[&str]) -> Self {
        let path = directory.join(name);
        let path_text = path.to_str().expect("UTF-8");
        ssh_keygen(directory, &[&["-q", "-N", "", "-C", "a comment", "-f", path_text], arguments].concat());
        Self { path }
    }

    /// The OpenSSH public key line.
    pub fn line(&self) -> String {
        std::fs::read_to_string(self.path.with_extension("pub")).expect("the public key").trim().to_owned()
    }

    /// The public key as PEM: `PKCS8` (which is SPKI here) or `PEM` (PKCS#1).
    pub fn public_pem(&self, form: &str) -> String {
        let public = self.path.with_extension("pub");
        ssh_keygen(&self.path, &["-e", "-m", form, "-f", public.to_str().expect("UTF-8")])
    }

    /// The fingerprint, as `ssh-keygen -l` says it.
    pub fn fingerprint(&self) -> String {
        let said = ssh_keygen(&self.path, &["-l", "-f", self.path.to_str().expect("UTF-8")]);
        said.split_whitespace().nth(1).expect("bits, fingerprint, …").to_owned()
    }

    /// The armored SSH signature over a text.
    pub fn ssh_sign(&self, namespace: &str, text: &str) -> String {
        let file = self.path.with_extension("message");
        std::fs::write(&file, text).expect("written");
        let signature = self.path.with_extension("message.sig");
        // It asks before it overwrites.
        let _ = std::fs::remove_file(&signature);
        let (key, file) = (self.path.to_str().expect("UTF-8"), file.to_str().expect("UTF-8"));
        ssh_keygen(&self.path, &["-q", "-Y", "sign", "-n", namespace, "-f", key, file]);
        std::fs::read_to_string(signature).expect("the signature")
    }

    /// The RSA PKCS#1 v1.5 signature with SHA-256 over a text, in base64. The pair must have been made with `-m PEM`.
    pub fn rsa_sign(&self, text: &str) -> String {
        let pem = std::fs::read_to_string(&self.path).expect("the private key");
        assert!(pem.starts_with("-----BEGIN RSA PRIVATE KEY-----"), "PKCS#1");
        let der: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        let key = KeyPair::from_der(&STANDARD.decode(der).expect("base64")).expect("an RSA key");
        let mut signature = vec![0; key.public_modulus_len()];
        let random = aws_lc_rs::rand::SystemRandom::new();
        key.sign(&aws_lc_rs::signature::RSA_PKCS1_SHA256, &random, text.as_bytes(), &mut signature).expect("signed");
        STANDARD.encode(signature)
    }
}

/// Runs ssh-keygen beside `place`; what it said.
pub fn ssh_keygen(place: &Path, arguments: &[&str]) -> String {
    let directory = if place.is_dir() { place } else { place.parent().expect("a file in a directory") };
    let output = Command::new("ssh-keygen").args(arguments).current_dir(directory).output().expect("ssh-keygen runs");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// What a token says, as it is written in it.
pub fn claims_of(token: &str) -> String {
    let payload = token.split('.').nth(1).expect("three parts");
    String::from_utf8(URL_SAFE_NO_PAD.decode(payload).expect("base64")).expect("UTF-8")
}

/// The header of every good token.
pub const HEADER: &str = r#"{"alg":"EdDSA","typ":"JWT"}"#;

/// The engine's own hand.
pub struct Forger(pub Ed25519);

impl Forger {
    /// Of this engine.
    pub fn of(engine: &Engine) -> Self {
        Self(Ed25519::read(&engine.data_dir().join("keys/signing")))
    }

    /// A token that the engine's key signs, whatever it says.
    pub fn sign(&self, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = self.0.0.sign(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.to_bytes()))
    }

    /// The same token, but issued and ending at other moments, relative to now in seconds.
    pub fn redate(&self, token: &str, iat: i64, exp: i64) -> String {
        let text = claims_of(token);
        let claims: Value = serde_json::from_str(&text).expect("JSON");
        let now = now();
        let changed = text
            .replace(&format!("\"iat\":{}", claims["iat"]), &format!("\"iat\":{}", now + iat))
            .replace(&format!("\"exp\":{}", claims["exp"]), &format!("\"exp\":{}", now + exp));
        self.sign(HEADER, &changed)
    }
}

/// The time in Unix seconds.
pub fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}
