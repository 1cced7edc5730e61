//! HTTP: the accept loop, and one warp filter in front of the route table.

pub(crate) mod answer;
mod auth;
mod engine;
mod objects;
pub(crate) mod problem;
mod query;
pub(crate) mod request;
pub(crate) mod route;
mod routes;
mod shells;
mod workflows;

/// Whether the engine goes on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    /// It serves.
    Serving,
    /// It goes down; connections that last are closed.
    Stopping {
        /// Whether clients should come back: the process only replaces itself.
        retry: bool,
    },
}
