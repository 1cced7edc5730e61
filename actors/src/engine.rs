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
/// x
#[derive(Clone, Debug)]

pub struct EngineSettings {
    pub data_dir: std::path::PathBuf,
    pub volume: std::path::PathBuf,
    pub auth: crate::key_registry::Settings,
    pub keeper: crate::keeper::Settings,
    pub shell: crate::shell::Settings,
    pub object: crate::fs::Settings,
    pub workflow: crate::compose::Settings,
    pub stat: crate::stats::Settings,
}

impl Engine {
    pub async fn start(_: EngineSettings) -> Result<Self, std::io::Error> {
        Err(std::io::Error::other("x"))
    }
    pub fn on_restart(&self, _: impl Fn() -> Result<EngineSettings, String> + Send + Sync + 'static) {}
    pub fn restart(&self) {}
    pub async fn stop(&self, _: std::time::Duration) -> usize {
        0
    }
    pub async fn replacement_wanted(&self) {}
    pub async fn ping(&self) -> Result<i64, String> {
        Err(String::new())
    }
}
