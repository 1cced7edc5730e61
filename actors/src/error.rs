//! What every refusal of this crate has in common: a kind, a stable slug, and words for the person who must act.
//!
//! Each actor has an error enum of its own; [`Failure`] is the little that the layers above need to know of all of
//! them. Which HTTP status a kind becomes is decided once, in the `dxflow` crate.

use std::time::Duration;

/// The closed set of meanings that an error can have for its reader: what will they do next?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ErrorKind {
    /// The request is malformed: change it (400).
    Invalid,
    /// Nobody is signed in, or no longer (401).
    Unauthenticated,
    /// Signed in, without the permission (403).
    Forbidden,
    /// There is no such thing (404).
    NotFound,
    /// It exists already, or is in the wrong state (409).
    Conflict,
    /// Larger than a configured limit (413).
    TooLarge,
    /// No such part of the object (416).
    Range,
    /// Well-formed, but unusable (422).
    Unprocessable,
    /// Too many requests of this caller (429).
    RateLimited,
    /// The engine is at a limit: try again (503).
    Overloaded,
    /// Something that is needed is away: Docker, the keeper (503).
    Unavailable,
    /// Something that is needed answered with an error (502).
    BadGateway,
    /// Not done in time; it may still happen (504).
    Timeout,
    /// The disk or a quota is full (507).
    InsufficientStorage,
    /// A fault of ours (500).
    Internal,
}

/// An error that can be told to a client.
///
/// `Display` says what was attempted and what to do; causes go into `source` and are logged, never sent.
pub trait Failure: std::error::Error + Send + Sync + 'static {
    /// What the error means to its reader.
    fn kind(&self) -> ErrorKind;

    /// A stable name for the exact case, `kebab-case`; it becomes the problem's `type`.
    fn slug(&self) -> &'static str;

    /// When to try again, for [`ErrorKind::Overloaded`] and [`ErrorKind::RateLimited`].
    fn retry_after(&self) -> Option<Duration> {
        None
    }

    /// Further members of the problem document (an offset, a list of errors).
    fn members(&self) -> serde_json::Map<String, serde_json::Value> {
        serde_json::Map::new()
    }
}

/// Writes an error and its whole chain of causes, `a: b: c`.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
