//! Why the keeper did not do what it was asked.

use serde::{Deserialize, Serialize};

use crate::call::CallError;
use crate::error::{ErrorKind, Failure};
use crate::ids::ShellId;

/// What the keeper process itself refuses; travels in the protocol.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, thiserror::Error)]
#[serde(tag = "refusal", rename_all = "kebab-case")]
pub(super) enum Refusal {
    #[error("shell `{id}` not found")]
    NotFound { id: ShellId },
    #[error("shell `{id}` exists already")]
    Exists { id: ShellId },
    #[error("shell `{id}` is running already")]
    Running { id: ShellId },
    #[error("shell `{id}` is not running")]
    NotRunning { id: ShellId },
    #[error("{reason}")]
    Invalid { reason: String },
    #[error("{reason}")]
    CannotStart { reason: String },
    #[error("{reason}")]
    Limits { reason: String },
    #[error("there are {limit} shells already")]
    TooMany { limit: usize },
    #[error("{reason}")]
    Exhausted { reason: String },
    #[error("{reason}")]
    Version { reason: String },
}

/// Why the keeper did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// There is no such shell.
    #[error("shell `{id}` not found")]
    NotFound {
        /// Which.
        id: ShellId,
    },
    /// The name is taken.
    #[error("shell `{id}` exists already")]
    Exists {
        /// Which.
        id: ShellId,
    },
    /// Its program runs already.
    #[error("shell `{id}` is running already")]
    Running {
        /// Which.
        id: ShellId,
    },
    /// Its program does not run.
    #[error("shell `{id}` is not running")]
    NotRunning {
        /// Which.
        id: ShellId,
    },
    /// The request makes no sense.
    #[error("{reason}")]
    Invalid {
        /// Why.
        reason: String,
    },
    /// The program cannot be started.
    #[error("{reason}")]
    CannotStart {
        /// Why, in words for the one who asked for it.
        reason: String,
    },
    /// The limits cannot be enforced on this machine.
    #[error("{reason}")]
    Limits {
        /// Why.
        reason: String,
    },
    /// As many shells as are allowed are there.
    #[error("there are {limit} shells already; remove one first")]
    TooMany {
        /// The largest number.
        limit: usize,
    },
    /// The system has run out of something (descriptors, pseudo-terminals, processes).
    #[error("{reason}")]
    Exhausted {
        /// Of what.
        reason: String,
    },
    /// The keeper process cannot be reached, started or understood.
    #[error("the keeper is not available: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
    /// The keeper took the request and did not answer in time.
    #[error("the keeper did not answer in time; the request may still take effect")]
    TimedOut,
    /// The actor that holds the connection did not answer.
    #[error(transparent)]
    Call(#[from] CallError),
}

impl From<Refusal> for KeeperError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotFound { id } => Self::NotFound { id },
            Refusal::Exists { id } => Self::Exists { id },
            Refusal::Running { id } => Self::Running { id },
            Refusal::NotRunning { id } => Self::NotRunning { id },
            Refusal::Invalid { reason } => Self::Invalid { reason },
            Refusal::CannotStart { reason } => Self::CannotStart { reason },
            Refusal::Limits { reason } => Self::Limits { reason },
            Refusal::TooMany { limit } => Self::TooMany { limit },
            Refusal::Exhausted { reason } => Self::Exhausted { reason },
            Refusal::Version { reason } => Self::Unavailable { reason },
        }
    }
}

impl Failure for KeeperError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Exists { .. } | Self::Running { .. } | Self::NotRunning { .. } => ErrorKind::Conflict,
            Self::Invalid { .. } => ErrorKind::Invalid,
            Self::CannotStart { .. } | Self::Limits { .. } => ErrorKind::Unprocessable,
            Self::TooMany { .. } | Self::Exhausted { .. } => ErrorKind::Overloaded,
            Self::Unavailable { .. } => ErrorKind::Unavailable,
            Self::TimedOut => ErrorKind::Timeout,
            Self::Call(error) => error.kind(),
        }
    }

    fn slug(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "shell-not-found",
            Self::Exists { .. } => "shell-exists",
            Self::Running { .. } => "shell-running",
            Self::NotRunning { .. } => "shell-not-running",
            Self::Invalid { .. } => "invalid-shell",
            Self::CannotStart { .. } => "cannot-start",
            Self::Limits { .. } => "limits-not-available",
            Self::TooMany { .. } => "too-many-shells",
            Self::Exhausted { .. } => "exhausted",
            Self::Unavailable { .. } => "keeper-unavailable",
            Self::TimedOut => "timed-out",
            Self::Call(error) => error.slug(),
        }
    }

    fn retry_after(&self) -> Option<std::time::Duration> {
        match self {
            Self::Exhausted { .. } | Self::Unavailable { .. } => Some(std::time::Duration::from_secs(1)),
            Self::Call(error) => error.retry_after(),
            _ => None,
        }
    }
}
