//! What can go wrong with keys and sign-in.

use std::time::Duration;

use crate::call::CallError;
use crate::error::{ErrorKind, Failure};
use crate::ids::KeyId;
use crate::store::StoreError;

/// What can go wrong with keys and sign-in.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Not a public key that can be registered.
    #[error("`key` is not a public key of use: {0}")]
    NotAKey(&'static str),
    /// The lifetime that was asked for is not allowed.
    #[error("`lifetime` must be from {} to {}", crate::units::Span(*least), crate::units::Span(*most))]
    Lifetime {
        /// The shortest.
        least: Duration,
        /// The longest.
        most: Duration,
    },
    /// A change that changes nothing.
    #[error("say what to change: `permissions` or `disabled`")]
    NothingToChange,
    /// A sign-in that failed, for whatever reason: they all look alike.
    #[error("the sign-in failed: ask for a new challenge and sign its nonce with a registered key")]
    SignIn,
    /// A token that is not good, or no longer.
    #[error("the token is missing or no longer good")]
    Token,
    /// The owner of the Unix socket asked for what only a key can have.
    #[error("no key of that name (`{0}`) is registered")]
    NotFound(KeyId),
    /// The identity is taken.
    #[error("a key of that name (`{0}`) is registered already")]
    IdentityTaken(KeyId),
    /// The key itself is there, under this identity.
    #[error("that key is registered already, as `{0}`")]
    KeyTaken(KeyId),
    /// It is the last one that could manage keys.
    #[error("`{0}` is the last enabled key with MASTER that may change something; register another one first")]
    LastMaster(KeyId),
    /// As many keys as may be are registered.
    #[error("{limit} keys are registered already (`auth.max_keys`); unregister one first")]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// A key file of the engine cannot be used.
    #[error("failed to use the key file `{}`: {reason}", path.display())]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        reason: String,
    },
    /// Too many sign-ins are being checked.
    #[error("too many sign-ins are being checked; try again")]
    Busy,
    /// The work panicked.
    #[error("a signature could not be checked: {0}")]
    Panicked(String),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The actor did not answer.
    #[error(transparent)]
    Call(#[from] CallError),
}

impl From<rusqlite::Error> for KeyError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

impl Failure for KeyError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotAKey(_) | Self::Lifetime { .. } | Self::NothingToChange => ErrorKind::Invalid,
            Self::SignIn | Self::Token => ErrorKind::Unauthenticated,
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::IdentityTaken(_) | Self::KeyTaken(_) | Self::LastMaster(_) | Self::TooMany { .. } => {
                ErrorKind::Conflict
            }
            Self::File { .. } | Self::Panicked(_) => ErrorKind::Internal,
            Self::Busy => ErrorKind::Overloaded,
            Self::Store(error) => error.kind(),
            Self::Call(error) => error.kind(),
        }
    }

    fn slug(&self) -> &'static str {
        match self {
            Self::NotAKey(_) => "not-a-key",
            Self::Lifetime { .. } => "lifetime",
            Self::NothingToChange => "nothing-to-change",
            Self::SignIn => "sign-in-failed",
            Self::Token => "unauthenticated",
            Self::NotFound(_) => "not-found",
            Self::IdentityTaken(_) | Self::KeyTaken(_) => "exists",
            Self::LastMaster(_) => "last-master",
            Self::TooMany { .. } => "too-many-keys",
            Self::File { .. } | Self::Panicked(_) => "internal",
            Self::Busy => "overloaded",
            Self::Store(error) => error.slug(),
            Self::Call(error) => error.slug(),
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy => Some(Duration::from_secs(1)),
            Self::Store(error) => error.retry_after(),
            Self::Call(error) => error.retry_after(),
            _ => None,
        }
    }
}
