//! The keeper: what holds the shells while no engine is there.

mod error;
mod protocol;
pub mod process;
mod signals;
mod types;

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

pub use error::KeeperError;
pub use signals::{signal_name, signal_number};
pub use types::{Adopted, KeeperEvent, Limits, MAX_NOTE, Record, Scope, SpawnSpec, Status, Usage};

use crate::ids::ShellId;
use crate::live::Live;
use crate::supervision::ChildSpec;
use crate::units::Span;

/// Its part of the configuration.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The program that is started as keeper (`PROGRAM keeper --data-dir DIR`); none: the engine's own binary.
    pub program: Option<PathBuf>,
    /// How long a keeper may take to start.
    pub start_timeout: Span,
    /// How long one request to the keeper may take.
    pub request_timeout: Span,
}

impl Default for Settings {
    fn default() -> Self {
        Self { program: None, start_timeout: Span::seconds(10), request_timeout: Span::seconds(10) }
    }
}

/// The keeper as the rest of the engine sees it.
#[derive(Clone, Debug)]
pub struct Keeper {}

impl Keeper {
    /// A handle on the keeper of the data directory; nothing is started before [`child`](Self::child) is.
    pub fn new(_settings: Live<Settings>, _data_dir: PathBuf) -> Self {
        Self {}
    }

    /// How the supervisor starts the connection to the keeper process.
    pub fn child(&self) -> ChildSpec {
        unreachable!()
    }

    /// What happens in the keeper without being asked for.
    pub fn events(&self) -> broadcast::Receiver<KeeperEvent> {
        unreachable!()
    }

    /// Makes a shell; with `start` its program runs when this returns. On an error no shell is left behind.
    ///
    /// # Errors
    /// [`KeeperError::Exists`], [`KeeperError::CannotStart`], [`KeeperError::TooMany`], [`KeeperError::Limits`].
    pub async fn spawn(&self, _spec: SpawnSpec) -> Result<Adopted, KeeperError> {
        unreachable!()
    }

    /// Everything that the keeper holds.
    ///
    /// # Errors
    /// When the keeper cannot be reached.
    pub async fn list(&self) -> Result<Vec<Record>, KeeperError> {
        unreachable!()
    }

    /// The shell's description, pty and log.
    ///
    /// # Errors
    /// [`KeeperError::NotFound`].
    pub async fn adopt(&self, _id: &ShellId) -> Result<Adopted, KeeperError> {
        unreachable!()
    }

    /// Starts a shell that is not running, on a fresh pty and the same log.
    ///
    /// # Errors
    /// [`KeeperError::NotFound`], [`KeeperError::Running`], [`KeeperError::CannotStart`].
    pub async fn start(&self, _id: &ShellId) -> Result<Adopted, KeeperError> {
        unreachable!()
    }

    /// Sets the size of the terminal, in character cells.
    ///
    /// # Errors
    /// [`KeeperError::NotFound`].
    pub async fn resize(&self, _id: &ShellId, _columns: u16, _rows: u16) -> Result<(), KeeperError> {
        unreachable!()
    }

    /// Sends a signal to what runs in a shell.
    ///
    /// # Errors
    /// [`KeeperError::NotFound`], [`KeeperError::NotRunning`].
    pub async fn signal(&self, _id: &ShellId, _signal: i32, _scope: Scope) -> Result<(), KeeperError> {
        unreachable!()
    }

    /// Hangs the shell up (SIGHUP; after `grace` SIGKILL to the whole tree) and forgets it. Returns when all is gone.
    ///
    /// # Errors
    /// [`KeeperError::NotFound`].
    pub async fn remove(&self, _id: &ShellId, _grace: Duration) -> Result<(), KeeperError> {
        unreachable!()
    }

    /// Replaces the engine's own note on a shell.
    ///
    /// # Errors
    /// [`KeeperError::NotFound`], [`KeeperError::Invalid`] when it is too long.
    pub async fn set_note(&self, _id: &ShellId, _note: Vec<u8>) -> Result<(), KeeperError> {
        unreachable!()
    }
}
