//! Signatures over a challenge's nonce, in the three kinds that clients send, and whether one is good for a key.
//!
//! 1. raw Ed25519: base64 (standard or URL alphabet, padded or not) or hex;
//! 2. an armored SSH signature with the namespace `dxflow`, as `ssh-keygen -Y sign` writes it;
//! 3. RSA PKCS#1 v1.5 with SHA-256, base64.
//!
//! A text that is none of these is not an error here: it is a signature that is good for nobody.

use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA512};
use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use ssh_key::{Algorithm, HashAlg, LineEnding, SshSig};

use super::public_key::PublicKey;

/// What SSH signatures for us are made with (`ssh-keygen -Y sign -n dxflow`): one made for something else is not for us.
const NAMESPACE: &str = "dxflow";
/// The longest text that can be a signature; an armored one of RSA with 8192 bits has 3.5 KiB.
const MAX_TEXT: usize = 16 * 1024;
/// What an armored signature begins with.
const ARMOR: &str = "-----BEGIN SSH SIGNATURE-----";

const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const BASE64: GeneralPurpose = GeneralPurpose::new(&STANDARD, LENIENT);
const BASE64_URL: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, LENIENT);

/// A signature as it was presented.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Presented {
    /// The bytes of a signature; whose it is must be found out.
    Raw(Vec<u8>),
    /// An SSH signature, which names its key.
    Ssh(Box<SshSig>),
    /// Nothing that could be a signature.
    Nothing,
}

impl Presented {
    /// Reads a signature.
    pub(super) fn parse(text: &str) -> Self {
        if text.len() > MAX_TEXT {
            return Self::Nothing;
        }
        let text = text.trim();
        if text.starts_with(ARMOR) {
            // ssh-keygen ends lines with LF; a form on a web page may have made CRLF of it.
            let unix = text.replace("\r\n", "\n") + "\n";
            let canonical = |signature: &SshSig| signature.to_pem(LineEnding::LF).is_ok_and(|text| same(&text, &unix));
            // The reader takes wrong lengths in some places: what it read must be what it would write.
            return match SshSig::from_pem(&unix) {
                Ok(signature) if canonical(&signature) => Self::Ssh(Box::new(signature)),
                _ => Self::Nothing,
            };
        }
        // Hex of 64 bytes is base64 of 96 bytes too, which is no signature of any kind.
        let bytes = match hex::decode(text) {
            Ok(bytes) if bytes.len() == ed25519_dalek::SIGNATURE_LENGTH => Some(bytes),
            _ => BASE64.decode(text).or_else(|_| BASE64_URL.decode(text)).ok(),
        };
        bytes.map_or(Self::Nothing, Self::Raw)
    }

    /// Whether it is `key`'s signature over `message`.
    ///
    /// The work that it takes does not depend on whether the answer is yes.
    pub(super) fn is_good(&self, key: &PublicKey, message: &[u8]) -> bool {
        match self {
            Self::Raw(bytes) => match key {
                PublicKey::Ed25519(_) => verify_ed25519(key, message, bytes),
                PublicKey::Rsa { .. } => verify_rsa(key, &RSA_PKCS1_2048_8192_SHA256, message, bytes),
            },
            Self::Ssh(signature) => verify_ssh(signature, key, message),
            Self::Nothing => false,
        }
    }
}

/// Whether two texts differ in white space only.
fn same(one: &str, other: &str) -> bool {
    let visible = |text: &str| text.split_ascii_whitespace().map(str::to_owned).collect::<String>();
    visible(one) == visible(other)
}

fn verify_ed25519(key: &PublicKey, message: &[u8], signature: &[u8]) -> bool {
    let (PublicKey::Ed25519(key), Ok(signature)) = (key, ed25519_dalek::Signature::from_slice(signature)) else {
        return false;
    };
    key.verify_strict(message, &signature).is_ok()
}

fn verify_rsa(
    key: &PublicKey,
    algorithm: &aws_lc_rs::signature::RsaParameters,
    message: &[u8],
    signature: &[u8],
) -> bool {
    let PublicKey::Rsa { modulus, exponent } = key else { return false };
    // RFC 8017, 8.2.2: as long as the modulus, to the byte.
    signature.len() == modulus.len()
        && PublicKeyComponents { n: modulus, e: exponent }.verify(algorithm, message, signature).is_ok()
}

/// PROTOCOL.sshsig: what is signed is the namespace and a hash of the message; the namespace must be ours, the key the
/// one that is asked for, and SHA-1 is not taken.
fn verify_ssh(signature: &SshSig, key: &PublicKey, message: &[u8]) -> bool {
    let names_key = PublicKey::from_ssh(signature.public_key()).is_ok_and(|named| named == *key);
    if !names_key
        || signature.version() != SshSig::VERSION
        || signature.namespace() != NAMESPACE
        || !signature.reserved().is_empty()
    {
        return false;
    }
    let Ok(signed) = SshSig::signed_data(NAMESPACE, signature.hash_alg(), message) else { return false };
    let bytes = signature.signature_bytes();
    match signature.algorithm() {
        Algorithm::Ed25519 => verify_ed25519(key, &signed, bytes),
        Algorithm::Rsa { hash: Some(HashAlg::Sha256) } => verify_rsa(key, &RSA_PKCS1_2048_8192_SHA256, &signed, bytes),
        Algorithm::Rsa { hash: Some(HashAlg::Sha512) } => verify_rsa(key, &RSA_PKCS1_2048_8192_SHA512, &signed, bytes),
        _ => false,
    }
}
