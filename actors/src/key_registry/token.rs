//! Tokens: JWTs (RFC 7519) that only this engine issues and only this engine verifies.
//!
//! So there is nothing to negotiate. A token is good if it is, byte for byte, one that this module would write: the one
//! header, the one set of claims in the one order, each of its type, signed with the engine's own Ed25519 key. There is
//! no `alg` to choose, no `kid` to follow, no claim that may be missing, no leeway. The signature is checked before
//! anything is parsed.
//!
//! Whether the key behind a token still is what it was is not known here: see [`Claims::serial`] and the registry.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

use crate::ids::KeyId;
use crate::permission::Permissions;

/// Who issues tokens.
const ISSUER: &str = "dxflow";
/// The header of every token: `{"alg":"EdDSA","typ":"JWT"}`.
const HEADER: &str = "eyJhbGciOiJFZERTQSIsInR5cCI6IkpXVCJ9";
/// The longest text that can be a token; ours have some 500 characters.
const MAX_LENGTH: usize = 2048;

/// What a token says.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Claims {
    /// Who issued it.
    iss: String,
    /// The key's identity.
    sub: KeyId,
    /// The same, under the name that clients look for.
    identity: KeyId,
    /// What it may do.
    pub(super) permissions: Permissions,
    /// Whether it may change anything: false with READ_ONLY.
    writable: bool,
    /// When it was issued, Unix seconds.
    pub(super) iat: i64,
    /// When it ends, Unix seconds: from then on it is not good.
    pub(super) exp: i64,
    /// Its name: the serial of the key's registration, a dash, and what makes it unique.
    pub(super) jti: String,
}

impl Claims {
    /// What a new token of this key says.
    pub(super) fn new(identity: &KeyId, serial: &str, permissions: Permissions, iat: i64, exp: i64) -> Self {
        Self {
            iss: ISSUER.into(),
            sub: identity.clone(),
            identity: identity.clone(),
            permissions,
            writable: permissions.writable(),
            iat,
            exp,
            jti: format!("{serial}-{}", crate::ids::random_name()),
        }
    }

    /// The key's identity.
    pub(super) fn identity(&self) -> &KeyId {
        &self.identity
    }

    /// The registration of the key for which it was issued. A registration that ended, was disabled or lost permissions
    /// gets another serial, and its tokens are not good any more.
    pub(super) fn serial(&self) -> &str {
        serial_of(&self.jti)
    }

    fn is_consistent(&self) -> bool {
        self.iss == ISSUER
            && self.sub == self.identity
            && self.writable == self.permissions.writable()
            && self.iat < self.exp
            && !self.serial().is_empty()
    }
}

/// The registration that a token's name says.
pub(super) fn serial_of(jti: &str) -> &str {
    jti.split_once('-').map_or("", |(serial, _)| serial)
}

/// Writes and signs a token.
pub(super) fn issue(key: &SigningKey, claims: &Claims) -> String {
    let payload = serde_json::to_vec(claims).expect("claims are plain data");
    let mut token = format!("{HEADER}.{}", URL_SAFE_NO_PAD.encode(payload));
    let signature = key.sign(token.as_bytes());
    token.push('.');
    token.push_str(&URL_SAFE_NO_PAD.encode(signature.to_bytes()));
    token
}

/// What a token says, if it is one of ours; whether it has ended is not looked at.
pub(super) fn read(key: &VerifyingKey, token: &str) -> Option<Claims> {
    if token.len() > MAX_LENGTH {
        return None;
    }
    let (signed, signature) = token.rsplit_once('.')?;
    let payload = signed.strip_prefix(HEADER)?.strip_prefix('.')?;
    let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
    let signature = ed25519_dalek::Signature::from_slice(&signature).ok()?;
    key.verify_strict(signed.as_bytes(), &signature).ok()?;
    let payload = URL_SAFE_NO_PAD.decode(payload).ok()?;
    let claims: Claims = serde_json::from_slice(&payload).ok()?;
    // One text for one set of claims: no duplicates, no other order, no white space, no other way to write a number.
    let canonical = serde_json::to_vec(&claims).is_ok_and(|text| text == payload);
    (canonical && claims.is_consistent()).then_some(claims)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::permission::Permission;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn key() -> SigningKey {
        SigningKey::from_bytes(&[7; 32])
    }

    fn claims() -> Claims {
        Claims::new(
            &"alice".parse().expect("an identity"),
            "abc",
            Permissions::MASTER.with(Permission::Shell),
            1_000,
            4_600,
        )
    }

    fn sign(header: &Value, payload: &str) -> String {
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let signed = format!("{}.{}", encode(&header.to_string()), encode(payload));
        let signature = key().sign(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.to_bytes()))
    }

    fn header() -> Value {
        json!({ "alg": "EdDSA", "typ": "JWT" })
    }

    fn reads(token: &str) -> bool {
        read(&key().verifying_key(), token).is_some()
    }

    #[test]
    fn a_token_is_read_back() {
        let token = issue(&key(), &claims());
        let read = read(&key().verifying_key(), &token).expect("it is ours");
        assert_eq!(read.identity().as_str(), "alice");
        assert_eq!((read.serial(), read.exp, read.writable), ("abc", 4_600, true));
        assert_eq!(token.split('.').next(), Some(HEADER));
        assert_eq!(URL_SAFE_NO_PAD.decode(HEADER).expect("base64"), header().to_string().as_bytes());
        assert!(reads(&sign(&header(), &serde_json::to_string(&claims()).expect("JSON"))));
    }

    #[test]
    fn nothing_but_the_one_form_is_taken() {
        let payload = serde_json::to_string(&claims()).expect("JSON");
        for header in [
            json!({ "alg": "none", "typ": "JWT" }),
            json!({ "alg": "HS256", "typ": "JWT" }),
            json!({ "alg": "EdDSA" }),
            json!({ "alg": "EdDSA", "kid": "../../keys/x", "typ": "JWT" }),
            json!({ "alg": "EdDSA", "jwk": {}, "typ": "JWT" }),
            json!({ "alg": "eddsa", "typ": "JWT" }),
        ] {
            assert!(!reads(&sign(&header, &payload)), "{header}");
        }
        let with = |name: &str, value: Value| {
            let mut claims = serde_json::to_value(claims()).expect("JSON");
            claims[name] = value;
            claims
        };
        for changed in [
            with("exp", json!("4600")),
            with("exp", json!(4600.0)),
            with("exp", Value::Null),
            with("iat", json!(5_000)),
            with("iss", json!("another")),
            with("sub", json!("bob")),
            with("writable", json!(false)),
            with("writable", json!("true")),
            with("permissions", json!("MASTER")),
            with("permissions", json!(["ROOT"])),
            with("nbf", json!(0)),
            with("jti", json!("nodash")),
            with("jti", json!("-x")),
        ] {
            assert!(!reads(&sign(&header(), &changed.to_string())), "{changed}");
        }
        for name in ["iss", "sub", "identity", "permissions", "writable", "iat", "exp", "jti"] {
            let mut without = serde_json::to_value(claims()).expect("JSON");
            without.as_object_mut().expect("an object").remove(name);
            assert!(!reads(&sign(&header(), &without.to_string())), "without {name}");
        }
        for text in [
            payload.replacen('{', "{\"exp\":9999999999,", 1),
            payload.replacen(':', ": ", 1),
            format!("{payload} "),
            format!("[{payload}]"),
            payload.replace("4600", "4600e0"),
        ] {
            assert!(!reads(&sign(&header(), &text)), "{text}");
        }
        let token = issue(&key(), &claims());
        let stranger = SigningKey::from_bytes(&[8; 32]);
        assert!(read(&stranger.verifying_key(), &token).is_none());
        let (signed, signature) = token.rsplit_once('.').expect("three parts");
        for text in [
            "".to_owned(),
            "..".into(),
            signed.to_owned(),
            format!("{signed}."),
            format!("{token}."),
            format!("{token}="),
            format!(" {token}"),
            format!("{signed}.{signature}A"),
            format!("{signed}.{}", "A".repeat(86)),
            "a".repeat(1 << 20),
        ] {
            assert!(!reads(&text), "{}", text.chars().take(80).collect::<String>());
        }
    }

    proptest! {
        #[test]
        fn no_changed_character_is_let_through(place in any::<prop::sample::Index>(), replacement in "[A-Za-z0-9_.=-]") {
            let token = issue(&key(), &claims());
            let place = place.index(token.len());
            prop_assume!(token[place..=place] != replacement);
            let changed = format!("{}{replacement}{}", &token[..place], &token[place + 1..]);
            prop_assert!(!reads(&changed));
        }

        #[test]
        fn garbage_is_refused_quietly(text in ".{0,300}") {
            prop_assert!(!reads(&text));
            let with_header = format!("{HEADER}.{text}");
            prop_assert!(!reads(&with_header));
        }
    }
}
