//! Why a shell did not do what it was asked.

use std::time::Duration;

use crate::call::CallError;
use crate::error::{ErrorKind, Failure};
use crate::ids::ShellId;
use crate::keeper::KeeperError;

/// Why a shell did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ShellError {
    /// There is no such shell.
    #[error("shell `{id}` not found")]
    NotFound {
        /// Which.
        id: ShellId,
    },
    /// There are as many as there may be.
    #[error("there are {limit} shells, as many as there may be (`shell.max_shells`); remove some")]
    TooMany {
        /// How many.
        limit: usize,
    },
    /// The name is taken.
    #[error("shell `{id}` exists already")]
    Exists {
        /// Which.
        id: ShellId,
    },
    /// It does not run.
    #[error("shell `{id}` is not running; `execute` without a command starts it")]
    NotRunning {
        /// Which.
        id: ShellId,
    },
    /// A program other than the shell has the terminal, or another command is waited for.
    #[error("shell `{id}` is busy: {reason}")]
    Busy {
        /// Which.
        id: ShellId,
        /// With what.
        reason: String,
    },
    /// It is not a shell whose results can be known.
    #[error("`{path}` of shell `{id}` is not a shell that can say when a command has ended; execute without `wait`")]
    NotAShell {
        /// Which.
        id: ShellId,
        /// Its program.
        path: String,
    },
    /// The command goes on.
    #[error("the command has not ended in time; it goes on in shell `{id}`")]
    CommandGoesOn {
        /// Which.
        id: ShellId,
    },
    /// The shell ended, or was removed, before the command did.
    #[error("shell `{id}` ended before the command did")]
    Ended {
        /// Which.
        id: ShellId,
    },
    /// The request makes no sense.
    #[error("{reason}")]
    Invalid {
        /// Why.
        reason: String,
    },
    /// The command cannot be started.
    #[error("{reason}")]
    Unusable {
        /// Why.
        reason: String,
    },
    /// Its actor failed too often and is not started again.
    #[error("shell `{id}` failed: {reason}")]
    Failed {
        /// Which.
        id: ShellId,
        /// How.
        reason: String,
    },
    /// There is no such recording.
    #[error("recording `{name}` not found")]
    NoRecording {
        /// Which.
        name: String,
    },
    /// A recording is being written.
    #[error("recording `{name}` is being written; remove or end its shell first")]
    RecordingInUse {
        /// Which.
        name: String,
    },
    /// A file of ours could not be read or written.
    #[error("failed to {what}")]
    File {
        /// What was attempted.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The keeper refused or is away.
    #[error(transparent)]
    Keeper(KeeperError),
    /// The actor did not answer.
    #[error(transparent)]
    Call(#[from] CallError),
}

impl From<KeeperError> for ShellError {
    fn from(error: KeeperError) -> Self {
        match error {
            KeeperError::NotFound { id } => Self::NotFound { id },
            KeeperError::Exists { id } => Self::Exists { id },
            KeeperError::NotRunning { id } => Self::NotRunning { id },
            other => Self::Keeper(other),
        }
    }
}

impl Failure for ShellError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } | Self::NoRecording { .. } => ErrorKind::NotFound,
            Self::TooMany { .. } => ErrorKind::Overloaded,
            Self::Exists { .. }
            | Self::NotRunning { .. }
            | Self::Busy { .. }
            | Self::NotAShell { .. }
            | Self::Ended { .. }
            | Self::Failed { .. }
            | Self::RecordingInUse { .. } => ErrorKind::Conflict,
            Self::CommandGoesOn { .. } => ErrorKind::Timeout,
            Self::Invalid { .. } => ErrorKind::Invalid,
            Self::Unusable { .. } => ErrorKind::Unprocessable,
            Self::File { .. } => ErrorKind::Internal,
            Self::Keeper(error) => error.kind(),
            Self::Call(error) => error.kind(),
        }
    }

    fn slug(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "shell-not-found",
            Self::Exists { .. } => "shell-exists",
            Self::TooMany { .. } => "too-many-shells",
            Self::NotRunning { .. } => "shell-not-running",
            Self::Busy { .. } => "shell-busy",
            Self::NotAShell { .. } => "not-a-shell",
            Self::CommandGoesOn { .. } => "command-goes-on",
            Self::Ended { .. } => "shell-ended",
            Self::Invalid { .. } => "invalid-shell",
            Self::Unusable { .. } => "cannot-start",
            Self::Failed { .. } => "shell-failed",
            Self::NoRecording { .. } => "recording-not-found",
            Self::RecordingInUse { .. } => "recording-in-use",
            Self::File { .. } => "file",
            Self::Keeper(error) => error.slug(),
            Self::Call(error) => error.slug(),
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Keeper(error) => error.retry_after(),
            Self::Call(error) => error.retry_after(),
            Self::TooMany { .. } => Some(Duration::from_secs(10)),
            _ => None,
        }
    }
}
