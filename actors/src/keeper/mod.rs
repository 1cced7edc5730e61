//! The keeper: what holds the shells while no engine is there.
//!
//! Two halves. [`process`] is a small process of its own that opens the terminals, starts the programs, reaps them, and
//! outlives every engine; it is not on the path of a shell's bytes. [`Keeper`] is the engine's handle on it: an actor
//! that holds the connection, starts the process when there is none, and hands out descriptors.
//!
//! Failure: an engine that ends leaves the process and all shells as they are. A keeper process that is killed takes its
//! shells with it (their terminals close); the actor starts another, and `list` is empty.

mod cgroup;
mod client;
mod error;
mod link;
pub mod process;
mod protocol;
mod pty;
mod signals;
mod socket;
mod table;
#[cfg(test)]
mod tests;
mod tree;
mod types;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use ractor::Actor;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

pub use error::KeeperError;
pub use signals::{signal_name, signal_number};
pub use types::{Adopted, KeeperEvent, Limits, MAX_NOTE, Record, Scope, SpawnSpec, Status, Usage};

use self::client::{Answer, KeeperActor, KeeperArgs, KeeperMsg};
use self::protocol::Command;
use crate::call::{Handle, Slot};
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

/// How many requests may wait for the keeper at once.
pub(crate) const MAX_WAITING: usize = 4096;
/// How many events a receiver may be behind before it misses some; then it must look at `list`.
const EVENTS: usize = 4096;

/// The keeper as the rest of the engine sees it.
#[derive(Clone, Debug)]
pub struct Keeper {
    handle: Handle<KeeperMsg>,
    args: KeeperArgs,
}

impl Keeper {
    /// A handle on the keeper of the data directory; nothing is started before [`child`](Self::child) is.
    pub fn new(settings: Live<Settings>, data_dir: PathBuf) -> Self {
        let slot = Slot::new("keeper");
        let handle = Handle::new(Arc::clone(&slot), settings.get().request_timeout.0, MAX_WAITING);
        let events = broadcast::Sender::new(EVENTS);
        let connected_before = Arc::new(AtomicBool::new(false));
        Self { handle, args: KeeperArgs { settings, data_dir, slot, events, connected_before } }
    }

    /// How the supervisor starts the connection to the keeper process.
    pub fn child(&self) -> ChildSpec {
        let args = self.args.clone();
        ChildSpec::worker("keeper", move |supervisor| {
            let args = args.clone();
            async move { Ok(Actor::spawn_linked(None, KeeperActor, args, supervisor).await?.0.get_cell()) }
        })
    }

    /// The same, for calls from within handlers of actors that are restarted with the keeper's.
    pub(crate) fn in_handlers(&self) -> Self {
        Self { handle: self.handle.clone().in_handlers(), args: self.args.clone() }
    }

    /// What happens in the keeper without being asked for. A receiver that lags must look at [`list`](Self::list).
    pub fn events(&self) -> broadcast::Receiver<KeeperEvent> {
        self.args.events.subscribe()
    }

    async fn ask(&self, command: Command, extra: Duration) -> Result<Answer, KeeperError> {
        let deadline = self.args.settings.get().request_timeout.0 + extra;
        self.handle.ask_within(deadline, |reply| KeeperMsg::Ask { command: command.clone(), reply }).await
    }

    async fn ask_done(&self, command: Command, extra: Duration) -> Result<(), KeeperError> {
        self.ask(command, extra).await.map(drop)
    }

    async fn ask_shell(&self, command: Command) -> Result<Adopted, KeeperError> {
        match self.ask(command, Duration::ZERO).await? {
            Answer::Shell(adopted) => Ok(*adopted),
            Answer::Done | Answer::Shells { .. } => Err(odd()),
        }
    }

    /// Makes a shell; with `start` its program runs when this returns. On an error no shell is left behind.
    ///
    /// # Errors
    /// [`KeeperError::Exists`], [`KeeperError::CannotStart`], [`KeeperError::TooMany`], [`KeeperError::Limits`],
    /// [`KeeperError::Exhausted`], [`KeeperError::Invalid`].
    pub async fn spawn(&self, spec: SpawnSpec) -> Result<Adopted, KeeperError> {
        self.ask_shell(Command::Spawn { spec }).await
    }

    /// Everything that the keeper holds, in the order of the names.
    ///
    /// # Errors
    /// When the keeper cannot be reached.
    pub async fn list(&self) -> Result<Vec<Record>, KeeperError> {
        let mut all: Vec<Record> = Vec::new();
        loop {
            let after = all.last().map(|record| record.id.clone());
            match self.ask(Command::List { after }, Duration::ZERO).await? {
                Answer::Shells { records, more } => {
                    let more = more && !records.is_empty();
                    all.extend(records);
                    if !more {
                        return Ok(all);
                    }
                }
                Answer::Done | Answer::Shell(_) => return Err(odd()),
            }
        }
    }

    /// The shell's description, pty and log. Whoever wrote to the log before must have ended.
    ///
    /// # Errors
    /// [`KeeperError::NotFound`].
    pub async fn adopt(&self, id: &ShellId) -> Result<Adopted, KeeperError> {
        self.ask_shell(Command::Adopt { shell: id.clone() }).await
    }

    /// Starts a shell that is not running, on a fresh pty and the same log.
    ///
    /// # Errors
    /// [`KeeperError::NotFound`], [`KeeperError::Running`], [`KeeperError::CannotStart`] (then its status is `Failed`).
    pub async fn start(&self, id: &ShellId) -> Result<Adopted, KeeperError> {
        self.ask_shell(Command::Start { shell: id.clone() }).await
    }

    /// Sets the size of the terminal, in character cells.
    ///
    /// # Errors
    /// [`KeeperError::NotFound`], [`KeeperError::Invalid`].
    pub async fn resize(&self, id: &ShellId, columns: u16, rows: u16) -> Result<(), KeeperError> {
        self.ask_done(Command::Resize { shell: id.clone(), columns, rows }, Duration::ZERO).await
    }

    /// Sends a signal to what runs in a shell.
    ///
    /// # Errors
    /// [`KeeperError::NotFound`], [`KeeperError::NotRunning`], [`KeeperError::Invalid`] for a signal that there is not.
    pub async fn signal(&self, id: &ShellId, signal: i32, scope: Scope) -> Result<(), KeeperError> {
        self.ask_done(Command::Signal { shell: id.clone(), signal, scope }, Duration::ZERO).await
    }

    /// Hangs the shell up (SIGHUP; after `grace` SIGKILL to the whole tree) and forgets it. Returns when all is gone.
    ///
    /// # Errors
    /// [`KeeperError::NotFound`].
    pub async fn remove(&self, id: &ShellId, grace: Duration) -> Result<(), KeeperError> {
        let grace_millis = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        self.ask_done(Command::Remove { shell: id.clone(), grace_millis }, grace).await
    }

    /// Replaces the engine's own note on a shell.
    ///
    /// # Errors
    /// [`KeeperError::NotFound`], [`KeeperError::Invalid`] when it is longer than [`MAX_NOTE`].
    pub async fn set_note(&self, id: &ShellId, note: Vec<u8>) -> Result<(), KeeperError> {
        self.ask_done(Command::SetNote { shell: id.clone(), note }, Duration::ZERO).await
    }
}

fn odd() -> KeeperError {
    KeeperError::Unavailable { reason: "it gave an answer to another question".into() }
}
