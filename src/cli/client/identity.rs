//! Who signs in: a private key in a file, or one that the ssh-agent holds.
//!
//! Challenges are always signed as SSH signatures in the namespace `dxflow`. The engine would take a bare signature as
//! well, but then an engine that means ill could have anything signed; within the namespace it cannot.

use std::fmt;
use std::path::Path;

use aws_lc_rs::signature::RSA_PKCS1_SHA512;
use base64::Engine as _;
use ed25519_dalek::{Signer, SigningKey};
use ssh_key::private::KeypairData;
use ssh_key::public::KeyData;
use ssh_key::{Algorithm, HashAlg, LineEnding, PrivateKey, PublicKey, Signature, SshSig};

use super::{agent, rsa};
use crate::cli::error::CliError;

/// The namespace of our signatures.
const NAMESPACE: &str = "dxflow";
/// How many of the agent's keys are tried: each costs a challenge.
const AGENT_KEYS: usize = 8;

/// A key that can sign in.
pub(crate) enum Identity {
    /// From a file.
    File(Secret),
    /// Held by the agent.
    Agent(PublicKey),
}

/// A private key.
pub(crate) enum Secret {
    /// Ed25519.
    Ed25519(Box<SigningKey>),
    /// RSA.
    Rsa(Box<aws_lc_rs::rsa::KeyPair>),
}

impl Identity {
    /// Signs a challenge; the signature is armored as `ssh-keygen -Y sign` writes it.
    pub(crate) async fn sign(&self, message: &[u8]) -> Result<String, CliError> {
        let failed = |error: ssh_key::Error| CliError::failed("failed to sign the challenge", error);
        let data = SshSig::signed_data(NAMESPACE, HashAlg::Sha512, message).map_err(failed)?;
        let (key, signature) = match self {
            Self::File(secret) => (secret.public()?, secret.sign(&data)?),
            Self::Agent(key) => (key.key_data().clone(), agent::sign(key, &data).await?),
        };
        let signature = SshSig::new(key, NAMESPACE, HashAlg::Sha512, signature).map_err(failed)?;
        signature.to_pem(LineEnding::LF).map_err(failed)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = match self {
            Self::File(secret) => secret.public().ok().map(PublicKey::from),
            Self::Agent(key) => Some(key.clone()),
        };
        match key {
            Some(key) => write!(f, "{} {}", key.fingerprint(HashAlg::Sha256), key.comment()),
            None => f.write_str("?"),
        }
    }
}

impl Secret {
    /// Its public half.
    pub(crate) fn public(&self) -> Result<KeyData, CliError> {
        match self {
            Self::Ed25519(key) => Ok(ssh_key::public::Ed25519PublicKey(key.verifying_key().to_bytes()).into()),
            Self::Rsa(pair) => rsa::public(pair).map(KeyData::Rsa),
        }
    }

    fn sign(&self, data: &[u8]) -> Result<Signature, CliError> {
        let made = match self {
            Self::Ed25519(key) => Signature::new(Algorithm::Ed25519, key.sign(data).to_bytes()),
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                let random = aws_lc_rs::rand::SystemRandom::new();
                pair.sign(&RSA_PKCS1_SHA512, &random, data, &mut signature)
                    .map_err(|_| CliError::Failed("failed to sign with the RSA key".into()))?;
                Signature::new(Algorithm::Rsa { hash: Some(HashAlg::Sha512) }, signature)
            }
        };
        made.map_err(|error| CliError::failed("failed to write the signature", error))
    }
}

/// What a key file holds.
pub(crate) enum KeyFile {
    /// A private key, ready for use.
    Private(Secret),
    /// A private key behind a passphrase; only its public half can be read.
    Locked(PublicKey),
    /// A public key.
    Public(PublicKey),
}

/// Reads a key file: OpenSSH, or PEM as OpenSSL writes it.
pub(crate) fn read_key(path: &Path) -> Result<KeyFile, CliError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| CliError::failed(format!("failed to read the key `{}`", path.display()), error))?;
    parse_key(&text).map_err(|reason| CliError::failed(format!("the key `{}` cannot be used", path.display()), reason))
}

fn parse_key(text: &str) -> Result<KeyFile, String> {
    if text.contains("-----BEGIN OPENSSH PRIVATE KEY-----") {
        let key = PrivateKey::from_openssh(text).map_err(|error| error.to_string())?;
        return match key.key_data() {
            KeypairData::Ed25519(pair) => {
                Ok(KeyFile::Private(Secret::Ed25519(Box::new(SigningKey::from_bytes(&pair.private.to_bytes())))))
            }
            KeypairData::Rsa(pair) => Ok(KeyFile::Private(Secret::Rsa(Box::new(rsa::from_openssh(pair)?)))),
            KeypairData::Encrypted(_) => Ok(KeyFile::Locked(key.public_key().clone())),
            _ => Err("it must be an Ed25519 or an RSA key".into()),
        };
    }
    for label in ["PRIVATE KEY", "RSA PRIVATE KEY"] {
        if let Some(der) = pem_body(text, label)? {
            if let Some(seed) = ed25519_seed(&der) {
                return Ok(KeyFile::Private(Secret::Ed25519(Box::new(SigningKey::from_bytes(&seed)))));
            }
            let pair = match label {
                "PRIVATE KEY" => aws_lc_rs::rsa::KeyPair::from_pkcs8(&der),
                _ => aws_lc_rs::rsa::KeyPair::from_der(&der),
            };
            let pair = pair.map_err(|_| "it must be an Ed25519 or an RSA key, of 2048 bits or more")?;
            return Ok(KeyFile::Private(Secret::Rsa(Box::new(pair))));
        }
    }
    if text.contains("ENCRYPTED") {
        return Err("it has a passphrase: add it to the ssh-agent".into());
    }
    PublicKey::from_openssh(text.trim())
        .map(KeyFile::Public)
        .map_err(|_| "it is neither a private nor a public key".into())
}

/// The bytes between the lines that begin and end this PEM label.
fn pem_body(text: &str, label: &str) -> Result<Option<Vec<u8>>, String> {
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
    let Some((_, rest)) = text.split_once(&begin) else { return Ok(None) };
    let (body, _) = rest.split_once(&end).ok_or("its end is missing")?;
    if body.contains(':') {
        return Err("it has a passphrase: add it to the ssh-agent".into());
    }
    let body: String = body.split_whitespace().collect();
    base64::engine::general_purpose::STANDARD.decode(body).map(Some).map_err(|error| error.to_string())
}

/// The seed in a PKCS#8 document of an Ed25519 key (RFC 8410), versions 1 and 2.
fn ed25519_seed(der: &[u8]) -> Option<[u8; 32]> {
    const ALGORITHM: [u8; 11] = [0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
    let rest = der.get(5..)?.strip_prefix(&ALGORITHM)?;
    rest.first_chunk::<32>().copied()
}

/// The keys to try, in this order: the one in the file, or those of the agent.
pub(crate) async fn candidates(key: Option<&Path>) -> Result<Vec<Identity>, CliError> {
    let Some(path) = key else {
        if agent::socket().is_none() {
            return Ok(Vec::new());
        }
        let mut keys = agent::keys().await?;
        keys.retain(|key| matches!(key.algorithm(), Algorithm::Ed25519 | Algorithm::Rsa { .. }));
        keys.truncate(AGENT_KEYS);
        return Ok(keys.into_iter().map(Identity::Agent).collect());
    };
    match read_key(path)? {
        KeyFile::Private(secret) => Ok(vec![Identity::File(secret)]),
        KeyFile::Public(key) | KeyFile::Locked(key) => {
            let held = match agent::socket() {
                Some(_) => agent::keys().await?.iter().any(|held| held.key_data() == key.key_data()),
                None => false,
            };
            if held {
                Ok(vec![Identity::Agent(key)])
            } else {
                Err(CliError::Failed(format!(
                    "the key `{}` has a passphrase, or is only the public half, and the ssh-agent does not hold it: add it with ssh-add",
                    path.display()
                )))
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use ssh_key::private::{Ed25519Keypair, Ed25519PrivateKey};

    fn sample() -> SigningKey {
        SigningKey::from_bytes(&[7; 32])
    }

    #[test]
    fn ed25519_keys_are_read_in_both_formats() {
        let key = sample();
        let pair = Ed25519Keypair {
            public: ssh_key::public::Ed25519PublicKey(key.verifying_key().to_bytes()),
            private: Ed25519PrivateKey::from_bytes(&key.to_bytes()),
        };
        let openssh = PrivateKey::new(pair.into(), "me").expect("a key").to_openssh(LineEnding::LF).expect("text");
        let mut der =
            vec![0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
        der.extend([7; 32]);
        let body = base64::engine::general_purpose::STANDARD.encode(der);
        let pkcs8 = format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n");
        for text in [openssh.as_str(), &pkcs8] {
            match parse_key(text) {
                Ok(KeyFile::Private(Secret::Ed25519(read))) => assert_eq!(read.to_bytes(), key.to_bytes()),
                _ => panic!("{text}"),
            }
        }
    }

    #[tokio::test]
    async fn signatures_are_those_of_ssh_keygen() {
        let key = sample();
        let identity = Identity::File(Secret::Ed25519(Box::new(key.clone())));
        let signature = SshSig::from_pem(identity.sign(b"nonce").await.expect("signed")).expect("an armored signature");
        assert_eq!(signature.namespace(), "dxflow");
        let data = SshSig::signed_data("dxflow", HashAlg::Sha512, b"nonce").expect("data");
        let bytes: [u8; 64] = signature.signature_bytes().try_into().expect("64 bytes");
        key.verify(&data, &ed25519_dalek::Signature::from_bytes(&bytes)).expect("good");
    }

    #[test]
    fn what_is_no_key_says_so() {
        for text in [
            "",
            "hello",
            "-----BEGIN PRIVATE KEY-----\n",
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAA==\n-----END RSA PRIVATE KEY-----",
        ] {
            assert!(parse_key(text).is_err(), "{text}");
        }
    }
}
