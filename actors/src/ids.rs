//! The names of things, each a type of its own: a shell's name cannot be passed where a workflow's is meant.
//!
//! All are chosen by the caller or generated, and are checked once, when they enter. What passes the check is safe in a
//! URL, a file name, a label and a log line; it is never part of a command line.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text that cannot be an identity.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{text}` cannot be an identity: {rule}")]
pub struct IdError {
    text: String,
    rule: &'static str,
}

/// Why `name` is refused as an identity, or `None`.
fn plain_rule(name: &str) -> bool {
    let bytes = name.as_bytes();
    (1..=64).contains(&bytes.len())
        && bytes[0].is_ascii_alphanumeric()
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

fn project_rule(name: &str) -> bool {
    let bytes = name.as_bytes();
    (1..=63).contains(&bytes.len())
        && (bytes[0].is_ascii_lowercase() || bytes[0].is_ascii_digit())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-'))
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $check:expr, $reserved:expr, $pattern:literal, $rule:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// The identity as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// A fresh identity: 12 random characters of `[a-z2-7]`.
            pub fn generate() -> Self {
                Self(random_name().into())
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let reserved: &[&str] = $reserved;
                if reserved.contains(&text) {
                    return Err(IdError { text: text.into(), rule: "the name of an action is reserved" });
                }
                if !$check(text) {
                    return Err(IdError { text: text.chars().take(80).collect(), rule: $rule });
                }
                Ok(Self(text.into()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "pattern": $pattern })
            }
        }
    };
}

id! {
    /// Names a registered key.
    KeyId, plain_rule, &[], r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
    "1 to 64 of letters, digits, `.`, `_`, `-`, beginning with a letter or digit"
}
id! {
    /// Names a shell.
    ShellId, plain_rule, &["resize", "execute", "kill", "batch", "recording"], r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
    "1 to 64 of letters, digits, `.`, `_`, `-`, beginning with a letter or digit"
}
id! {
    /// Names a workflow: a Compose project name.
    WorkflowId, project_rule, &[
        "start", "stop", "restart", "pause", "unpause", "kill", "execute", "containers", "logs", "events", "update",
        "rollback", "batch", "shell",
    ],
    r"^[a-z0-9][a-z0-9_-]{0,62}$",
    "1 to 63 of lower-case letters, digits, `_`, `-`, beginning with a letter or digit"
}

/// 12 random characters of the RFC 4648 base32 alphabet in lower case: 60 bits.
pub fn random_name() -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut bytes = [0; 12];
    getrandom::fill(&mut bytes).expect("the kernel's random source answers after boot (getrandom(2))");
    bytes.iter().map(|b| char::from(ALPHABET[usize::from(b % 32)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_hold_to_their_rules() {
        for good in ["a", "A.b_c-9", &"x".repeat(64), "0"] {
            assert!(good.parse::<ShellId>().is_ok(), "{good}");
        }
        for bad in ["", "-a", ".a", "a/b", "a b", "a\n", "é", "a\0", &"x".repeat(65), "resize", "batch", "$(x)", "a=b"]
        {
            assert!(bad.parse::<ShellId>().is_err(), "{bad}");
        }
        assert!("resize".parse::<KeyId>().is_ok());
        for bad in ["", "A", "-a", "_a", "a.b", &"x".repeat(64), "logs"] {
            assert!(bad.parse::<WorkflowId>().is_err(), "{bad}");
        }
        for _ in 0..100 {
            let id = WorkflowId::generate();
            assert!(id.as_str().parse::<ShellId>().is_ok() && id.as_str().parse::<WorkflowId>().is_ok());
        }
    }
}
