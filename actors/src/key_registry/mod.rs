//! Keys, challenges and tokens.

use serde::{Deserialize, Serialize};

/// Its part of the configuration.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {}

/// The key registry as the rest of the engine sees it.
#[derive(Clone, Debug)]
pub struct Keys {}
/// x
#[derive(Clone, Debug)]
pub struct Session {
    /// x
    pub key: crate::ids::KeyId,
    /// x
    pub permissions: crate::permission::Permissions,
    /// x
    pub expires_at: i64,
    /// x
    pub jti: std::sync::Arc<str>,
}
impl Keys {
    /// x
    pub fn verify_token(&self, _: &str) -> Result<Session, String> {
        Err(String::new())
    }
    /// x
    pub fn made_admin_key(&self) -> bool {
        false
    }
}
