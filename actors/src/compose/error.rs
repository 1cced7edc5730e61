//! Why a workflow did not do what it was asked.

use std::time::Duration;

use crate::call::CallError;
use crate::error::{ErrorKind, Failure};
use crate::ids::WorkflowId;
use crate::store::StoreError;

use super::file::Fault;

/// Why a workflow did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum WorkflowError {
    /// There is no such workflow.
    #[error("workflow `{id}` not found")]
    NotFound {
        /// Which.
        id: WorkflowId,
    },
    /// There is no such revision of it.
    #[error("workflow `{id}` has no revision {revision}")]
    NoRevision {
        /// Which workflow.
        id: WorkflowId,
        /// Which revision.
        revision: i64,
    },
    /// The name is taken.
    #[error("workflow `{id}` exists already")]
    Exists {
        /// Which.
        id: WorkflowId,
    },
    /// Another operation runs on it.
    #[error("workflow `{id}` is busy with `{operation}`; try again when it has ended")]
    Busy {
        /// Which.
        id: WorkflowId,
        /// With what.
        operation: &'static str,
    },
    /// It is in a state that does not allow what was asked.
    #[error("{reason}")]
    State {
        /// Why.
        reason: String,
    },
    /// The request makes no sense.
    #[error("{reason}")]
    Invalid {
        /// Why.
        reason: String,
    },
    /// The compose file cannot be used.
    #[error("{}", faults.first().map_or_else(|| "the compose file cannot be used".to_owned(), ToString::to_string))]
    File {
        /// Everything that is wrong with it.
        faults: Vec<Fault>,
    },
    /// The compose file cannot be had.
    #[error("{reason}")]
    Source {
        /// Why.
        reason: String,
    },
    /// Docker is not there.
    #[error("Docker cannot be reached: {reason}; start it, or say where it is by `docker` in [workflow]")]
    Away {
        /// Why.
        reason: String,
    },
    /// Docker refused.
    #[error("Docker refused to {what}: {message}")]
    Docker {
        /// What was asked of it.
        what: String,
        /// What it said.
        message: String,
    },
    /// Docker did not answer in time.
    #[error("Docker did not {what} in time; it may still happen")]
    Slow {
        /// What was asked of it.
        what: String,
    },
    /// Some of its services did not do what was asked.
    #[error("{detail}")]
    Failed {
        /// The first failure.
        detail: String,
        /// What became of all.
        outcome: Box<super::Outcome>,
    },
    /// The work was broken off: the engine restarts, or an actor failed.
    #[error("the operation was broken off; look at the state and try again")]
    BrokenOff,
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The actor did not answer.
    #[error(transparent)]
    Call(#[from] CallError),
}

impl WorkflowError {
    /// What an error of the Docker client means; `what` was asked of Docker.
    pub(crate) fn docker(what: impl Into<String>, error: bollard::errors::Error) -> Self {
        use bollard::errors::Error;
        match error {
            Error::DockerResponseServerError { message, .. } => Self::Docker { what: what.into(), message },
            Error::DockerStreamError { error } => Self::Docker { what: what.into(), message: error },
            Error::RequestTimeoutError => Self::Slow { what: what.into() },
            other => Self::Away { reason: crate::error::chain(&other) },
        }
    }
}

/// Whether Docker said that there is no such thing.
pub(crate) fn is_missing(error: &bollard::errors::Error) -> bool {
    matches!(error, bollard::errors::Error::DockerResponseServerError { status_code: 404, .. })
}

/// Whether Docker said that it is so already, or in the wrong state.
pub(crate) fn is_conflict(error: &bollard::errors::Error) -> bool {
    matches!(error, bollard::errors::Error::DockerResponseServerError { status_code: 304 | 409, .. })
}

impl Failure for WorkflowError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } | Self::NoRevision { .. } => ErrorKind::NotFound,
            Self::Exists { .. } | Self::Busy { .. } | Self::State { .. } => ErrorKind::Conflict,
            Self::Invalid { .. } => ErrorKind::Invalid,
            Self::File { .. } | Self::Source { .. } => ErrorKind::Unprocessable,
            Self::Away { .. } => ErrorKind::Unavailable,
            Self::Docker { .. } | Self::Failed { .. } => ErrorKind::BadGateway,
            Self::Slow { .. } => ErrorKind::Timeout,
            Self::BrokenOff => ErrorKind::Overloaded,
            Self::Store(error) => error.kind(),
            Self::Call(error) => error.kind(),
        }
    }

    fn slug(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "workflow-not-found",
            Self::NoRevision { .. } => "no-revision",
            Self::Exists { .. } => "workflow-exists",
            Self::Busy { .. } => "workflow-busy",
            Self::State { .. } => "workflow-state",
            Self::Invalid { .. } => "invalid-workflow",
            Self::File { .. } => "invalid-compose-file",
            Self::Source { .. } => "no-compose-file",
            Self::Away { .. } => "docker-away",
            Self::Docker { .. } => "docker-refused",
            Self::Slow { .. } => "docker-slow",
            Self::Failed { .. } => "workflow-failed",
            Self::BrokenOff => "broken-off",
            Self::Store(error) => error.slug(),
            Self::Call(error) => error.slug(),
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Away { .. } | Self::BrokenOff => Some(Duration::from_secs(1)),
            Self::Store(error) => error.retry_after(),
            Self::Call(error) => error.retry_after(),
            _ => None,
        }
    }

    fn members(&self) -> serde_json::Map<String, serde_json::Value> {
        let (name, value) = match self {
            Self::File { faults } => ("errors", serde_json::to_value(faults)),
            Self::Failed { outcome, .. } => ("outcome", serde_json::to_value(outcome)),
            Self::Busy { operation, .. } => ("operation", serde_json::to_value(operation)),
            _ => return serde_json::Map::new(),
        };
        value.map(|value| serde_json::Map::from_iter([(name.to_owned(), value)])).unwrap_or_default()
    }
}
