//! What can be wrong with a request about objects. Nothing here says a path outside the volume.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::call::CallError;
use crate::error::{ErrorKind, Failure};
use crate::store::StoreError;

/// Why an operation on an object was refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// A text that names no object.
    #[error("`{identity}` is not an object's identity: {reason}")]
    Path {
        /// The text.
        identity: String,
        /// Why.
        reason: &'static str,
    },
    /// There is no such object.
    #[error("there is no object `{0}`")]
    NotFound(String),
    /// There is one already.
    #[error("`{0}` is there already; say `force` to replace it")]
    Exists(String),
    /// It is of another kind than is needed.
    #[error("`{identity}` is {is}")]
    Kind {
        /// The object.
        identity: String,
        /// What it is: `not a directory`, `a directory`, `neither a file nor a directory`.
        is: &'static str,
    },
    /// A link on the way leads out of the volume.
    #[error("`{0}` leads out of the volume")]
    Outside(String),
    /// The volume itself cannot be the subject.
    #[error("the volume itself cannot be {0}")]
    Volume(&'static str),
    /// The engine's user may not.
    #[error("the engine's user may not do that to `{0}`")]
    Denied(String),
    /// A field does not fit.
    #[error("{0}")]
    Invalid(String),
    /// A part does not begin where the upload stands.
    #[error("the upload stands at offset {offset}: send the part that begins there")]
    Offset {
        /// Where it stands.
        offset: u64,
    },
    /// Something is in the way: an upload that another request writes, a changed total.
    #[error("{0}")]
    Conflict(String),
    /// Larger than is allowed.
    #[error("the object is larger than {limit} bytes, the limit (`object.max_upload`)")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// The content is not what its checksum says.
    #[error("the content does not have the checksum that was sent; nothing was kept")]
    Checksum,
    /// An archive that is refused.
    #[error("the archive is refused at `{entry}`: {reason}")]
    Archive {
        /// The entry.
        entry: String,
        /// Why.
        reason: String,
    },
    /// The disk is full.
    #[error("the disk is full; nothing of this request was kept")]
    Full,
    /// The client left.
    #[error("the work was cancelled")]
    Cancelled,
    /// All workers are busy.
    #[error("all {0} workers for archives are busy; try again")]
    Busy(usize),
    /// A share's signature is not good, for whatever reason.
    #[error("the signature is not good, or no longer")]
    Signature,
    /// A fault of ours.
    #[error("a fault of the engine")]
    Fault(#[source] std::io::Error),
    /// The database did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The actor did not answer.
    #[error(transparent)]
    Call(#[from] CallError),
}

impl FsError {
    /// What an error of the system means for the object called `identity`.
    pub(super) fn system(error: rustix::io::Errno, identity: &str) -> Self {
        use rustix::io::Errno;
        let identity = identity.to_owned();
        match error {
            Errno::NOENT => Self::NotFound(identity),
            Errno::EXIST => Self::Exists(identity),
            Errno::NOTDIR => Self::Kind { identity, is: "not a directory" },
            Errno::ISDIR => Self::Kind { identity, is: "a directory" },
            Errno::NOTEMPTY => Self::Exists(identity),
            Errno::XDEV | Errno::LOOP => Self::Outside(identity),
            Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::TXTBSY | Errno::BUSY => Self::Denied(identity),
            Errno::NOSPC | Errno::DQUOT | Errno::FBIG => Self::Full,
            Errno::NAMETOOLONG => Self::Path { identity, reason: "a name is too long" },
            Errno::INVAL | Errno::ILSEQ => Self::Path { identity, reason: "the filesystem does not allow that name" },
            Errno::NXIO | Errno::OPNOTSUPP => Self::Kind { identity, is: "neither a file nor a directory" },
            other => Self::Fault(other.into()),
        }
    }

    /// As [`system`](Self::system), for an error of the standard library.
    pub(super) fn io(error: &std::io::Error, identity: &str) -> Self {
        match error.raw_os_error() {
            Some(number) => Self::system(rustix::io::Errno::from_raw_os_error(number), identity),
            None => Self::Fault(std::io::Error::new(error.kind(), error.to_string())),
        }
    }
}

impl Failure for FsError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Path { .. } | Self::Invalid(_) => ErrorKind::Invalid,
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::Exists(_) | Self::Kind { .. } | Self::Volume(_) | Self::Offset { .. } | Self::Conflict(_) => {
                ErrorKind::Conflict
            }
            Self::Outside(_) | Self::Denied(_) | Self::Signature => ErrorKind::Forbidden,
            Self::TooLarge { .. } => ErrorKind::TooLarge,
            Self::Checksum | Self::Archive { .. } => ErrorKind::Unprocessable,
            Self::Full => ErrorKind::InsufficientStorage,
            Self::Busy(_) => ErrorKind::Overloaded,
            Self::Cancelled | Self::Fault(_) => ErrorKind::Internal,
            Self::Store(error) => error.kind(),
            Self::Call(error) => error.kind(),
        }
    }

    fn slug(&self) -> &'static str {
        match self {
            Self::Path { .. } => "bad-identity",
            Self::NotFound(_) => "not-found",
            Self::Exists(_) => "exists",
            Self::Kind { .. } => "wrong-kind",
            Self::Outside(_) => "outside-volume",
            Self::Volume(_) => "volume",
            Self::Denied(_) => "denied",
            Self::Invalid(_) => "bad-request",
            Self::Offset { .. } => "wrong-offset",
            Self::Conflict(_) => "conflict",
            Self::TooLarge { .. } => "too-large",
            Self::Checksum => "checksum",
            Self::Archive { .. } => "bad-archive",
            Self::Full => "disk-full",
            Self::Cancelled => "cancelled",
            Self::Busy(_) => "busy",
            Self::Signature => "bad-signature",
            Self::Fault(_) => "internal",
            Self::Store(error) => error.slug(),
            Self::Call(error) => error.slug(),
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy(_) => Some(Duration::from_secs(1)),
            Self::Store(error) => error.retry_after(),
            Self::Call(error) => error.retry_after(),
            _ => None,
        }
    }

    fn members(&self) -> Map<String, Value> {
        let mut members = Map::new();
        match self {
            Self::Offset { offset } => {
                members.insert("offset".into(), (*offset).into());
            }
            Self::Archive { entry, .. } => {
                members.insert("entry".into(), entry.clone().into());
            }
            _ => {}
        }
        members
    }
}
