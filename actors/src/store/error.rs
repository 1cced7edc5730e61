//! What can go wrong with the database.

use std::path::PathBuf;

use crate::call::CallError;
use crate::error::{ErrorKind, Failure};

/// What can go wrong with the database.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened.
    #[error("failed to open the database `{}`", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<StoreError>,
    },
    /// The file was made by a later version of this program.
    #[error(
        "the database is of a newer version ({found}) than this program knows ({known}); run the newer program, or \
         move the file away"
    )]
    Newer {
        /// The version of the file.
        found: i64,
        /// The newest version that this program knows.
        known: i64,
    },
    /// The disk or the quota is full.
    #[error("there is no space left for the database; nothing was changed")]
    Full {
        /// What SQLite says.
        #[source]
        source: rusqlite::Error,
    },
    /// A statement failed.
    #[error("the database failed")]
    Sqlite {
        /// What SQLite says.
        #[source]
        source: rusqlite::Error,
    },
    /// A file beside the database cannot be made or protected.
    #[error("a file of the database cannot be used")]
    Io(#[source] std::io::Error),
    /// The transaction of this write could not be committed; nothing was changed.
    #[error("the database could not keep the change: {reason}")]
    Commit {
        /// What SQLite says.
        reason: String,
        /// Whether for want of space.
        full: bool,
    },
    /// The work panicked.
    #[error("the database's work failed: {0}")]
    Panicked(String),
    /// The actor did not answer.
    #[error(transparent)]
    Call(#[from] CallError),
}

impl From<rusqlite::Error> for StoreError {
    fn from(source: rusqlite::Error) -> Self {
        if is_full(&source) { Self::Full { source } } else { Self::Sqlite { source } }
    }
}

/// Whether SQLite failed for want of space.
pub(super) fn is_full(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
}

impl Failure for StoreError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Full { .. } | Self::Commit { full: true, .. } => ErrorKind::InsufficientStorage,
            Self::Open { .. }
            | Self::Newer { .. }
            | Self::Sqlite { .. }
            | Self::Io(_)
            | Self::Commit { .. }
            | Self::Panicked(_) => ErrorKind::Internal,
            Self::Call(error) => error.kind(),
        }
    }

    fn slug(&self) -> &'static str {
        match self {
            Self::Full { .. } | Self::Commit { full: true, .. } => "storage-full",
            Self::Open { .. }
            | Self::Newer { .. }
            | Self::Sqlite { .. }
            | Self::Io(_)
            | Self::Commit { .. }
            | Self::Panicked(_) => "database-failed",
            Self::Call(error) => error.slug(),
        }
    }

    fn retry_after(&self) -> Option<std::time::Duration> {
        match self {
            Self::Call(error) => error.retry_after(),
            _ => None,
        }
    }
}
