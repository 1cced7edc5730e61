//! The engine: the root of the tree.

use crate::{
    compose::Workflows, fs::Files, keeper::Keeper, key_registry::Keys, shell::Shells, stats::Stats, store::Store,
};

/// The handles of everything that the engine runs; cheap to clone behind an `Arc`, good through every restart.
#[derive(Clone, Debug)]
pub struct Engine {
    /// The embedded database.
    pub store: Store,
    /// Keys, challenges and tokens.
    pub keys: Keys,
    /// The keeper process.
    pub keeper: Keeper,
    /// Shells.
    pub shells: Shells,
    /// The volume.
    pub files: Files,
    /// Compose workflows.
    pub workflows: Workflows,
    /// Samples of the host.
    pub stats: Stats,
}
