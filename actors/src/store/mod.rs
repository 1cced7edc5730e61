//! The embedded database.

/// The embedded database as the rest of the engine sees it.
#[derive(Clone, Debug)]
pub struct Store {}
