//! Public keys: what may be registered, how it is written, and its fingerprint.
//!
//! Ed25519, and RSA from 2048 to 8192 bits, as an OpenSSH line or as PEM (SPKI, PKCS#1). Nothing else: no certificates,
//! no DSA or ECDSA, no keys of security tokens, no options before the key. One key has one canonical text, the OpenSSH
//! line without its comment, by which duplicates are found.

use std::fmt;

use ed25519_dalek::VerifyingKey;
use ssh_key::Mpint;
use ssh_key::public::{Ed25519PublicKey, KeyData, RsaPublicKey};

use super::der::{self, DerKey};
use super::error::KeyError;

/// The longest text that can be a key; RSA of 8192 bits needs 1.5 KiB.
const MAX_TEXT: usize = 16 * 1024;
/// The sizes of RSA moduli that are taken, in bits.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// The longest RSA exponent, in bytes; longer ones only cost time.
const MAX_EXPONENT: usize = 4;

/// A public key that may be registered.
#[derive(Clone, Eq, PartialEq)]
pub enum PublicKey {
    /// Ed25519.
    Ed25519(VerifyingKey),
    /// RSA.
    Rsa {
        /// The modulus, big-endian, without leading zeros.
        modulus: Box<[u8]>,
        /// The exponent, likewise.
        exponent: Box<[u8]>,
    },
}

impl PublicKey {
    /// Reads an OpenSSH line or PEM.
    ///
    /// # Errors
    /// [`KeyError::NotAKey`] with the reason.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        if text.len() > MAX_TEXT {
            return Err(KeyError::NotAKey("it is too long"));
        }
        let text = text.trim();
        if text.contains("PRIVATE KEY-----") {
            return Err(KeyError::NotAKey("it is a private key; keep it to yourself and send the public half"));
        }
        if text.starts_with("-----BEGIN ") { Self::parse_pem(text) } else { Self::parse_openssh(text) }
    }

    fn parse_openssh(line: &str) -> Result<Self, KeyError> {
        if line.contains(|c: char| c.is_control() && c != '\t') {
            return Err(KeyError::NotAKey("it is more than one line"));
        }
        let kind = line.split_whitespace().next().unwrap_or("");
        if ["ecdsa-", "ssh-dss", "sk-"].iter().any(|other| kind.starts_with(other)) || kind.contains("-cert-") {
            return Err(KeyError::NotAKey("only plain Ed25519 and RSA keys are taken"));
        }
        let key = ssh_key::PublicKey::from_openssh(line).map_err(|_| {
            KeyError::NotAKey("it is neither an OpenSSH line (`ssh-ed25519 AAAA…`, `ssh-rsa AAAA…`) nor PEM")
        })?;
        Self::from_ssh(key.key_data())
    }

    fn parse_pem(text: &str) -> Result<Self, KeyError> {
        let bad = || KeyError::NotAKey("its PEM cannot be read");
        let pem = pem::parse(text).map_err(|_| bad())?;
        if !text.ends_with(&format!("-----END {}-----", pem.tag())) || text.matches("-----BEGIN ").count() != 1 {
            return Err(KeyError::NotAKey("there must be one PEM block, and nothing after it"));
        }
        let key = match pem.tag() {
            "PUBLIC KEY" => der::spki(pem.contents()),
            "RSA PUBLIC KEY" => der::pkcs1(pem.contents()),
            _ => return Err(KeyError::NotAKey("its PEM is not `PUBLIC KEY` or `RSA PUBLIC KEY`")),
        };
        match key.ok_or(KeyError::NotAKey("its PEM does not hold an Ed25519 or RSA key"))? {
            DerKey::Ed25519(bytes) => Self::ed25519(bytes),
            DerKey::Rsa { modulus, exponent } => Self::rsa(modulus, exponent),
        }
    }

    /// Takes a key in SSH's form, if it is of a kind that may be registered.
    ///
    /// # Errors
    /// [`KeyError::NotAKey`] with the reason.
    pub fn from_ssh(key: &KeyData) -> Result<Self, KeyError> {
        match key {
            KeyData::Ed25519(key) => Self::ed25519(&key.0),
            KeyData::Rsa(key) => match (key.n.as_positive_bytes(), key.e.as_positive_bytes()) {
                (Some(modulus), Some(exponent)) => Self::rsa(modulus, exponent),
                _ => Err(KeyError::NotAKey("its numbers are not positive")),
            },
            _ => Err(KeyError::NotAKey("only Ed25519 and RSA keys are taken")),
        }
    }

    fn ed25519(bytes: &[u8]) -> Result<Self, KeyError> {
        let bytes = bytes.try_into().map_err(|_| KeyError::NotAKey("an Ed25519 key has 32 bytes"))?;
        match VerifyingKey::from_bytes(bytes) {
            Ok(key) if !key.is_weak() => Ok(Self::Ed25519(key)),
            _ => Err(KeyError::NotAKey("it is not a point that an Ed25519 key can be")),
        }
    }

    fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<Self, KeyError> {
        let bits = modulus.len() * 8 - modulus.first().map_or(0, |first| first.leading_zeros() as usize);
        if !RSA_BITS.contains(&bits) {
            return Err(KeyError::NotAKey("an RSA key must have 2048 to 8192 bits"));
        }
        let odd = |number: &[u8]| number.last().is_some_and(|last| last & 1 == 1);
        if !odd(modulus) || !odd(exponent) || exponent == [1] || exponent.len() > MAX_EXPONENT || exponent[0] == 0 {
            return Err(KeyError::NotAKey("its modulus or exponent is not one of an RSA key"));
        }
        Ok(Self::Rsa { modulus: modulus.into(), exponent: exponent.into() })
    }

    /// Its kind, as OpenSSH's tools call it.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Ed25519(_) => "ed25519",
            Self::Rsa { .. } => "rsa",
        }
    }

    /// The key in SSH's form.
    pub fn to_ssh(&self) -> ssh_key::PublicKey {
        let number = |bytes| Mpint::from_positive_bytes(bytes).expect("a checked RSA number is positive and short");
        let data = match self {
            Self::Ed25519(key) => KeyData::Ed25519(Ed25519PublicKey(key.to_bytes())),
            Self::Rsa { modulus, exponent } => {
                KeyData::Rsa(RsaPublicKey { e: number(exponent.as_ref()), n: number(modulus.as_ref()) })
            }
        };
        data.into()
    }

    /// Its fingerprint, `SHA256:…`, as `ssh-keygen -l` writes it.
    pub fn fingerprint(&self) -> String {
        self.to_ssh().fingerprint(ssh_key::HashAlg::Sha256).to_string()
    }
}

/// The canonical text: an OpenSSH line without a comment.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_ssh().to_openssh().expect("a checked key can be written"))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.fingerprint())
    }
}
