//! What is known of one shell, shared by its actor, its pump and those who watch it; it outlives restarts of the actor.
//!
//! The actor decides, the pump moves bytes, viewers read. Bytes are in the output log; here are only offsets, the state,
//! and the wake-up for those who wait for more. Locks are held for moments and never across an await.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::{Notify, mpsc, watch};

use super::error::ShellError;
use super::input::Input;
use super::note::Note;
use super::timeline::{Base, Timeline};
use crate::call::{CallError, Handle, Slot};
use crate::ids::ShellId;
use crate::keeper::{Keeper, Record, Status, Usage, signal_name};
use crate::output_log::OutputLog;

use super::messages::ShellMsg;
use super::{CALL_DEADLINE, CALLS_PER_SHELL};

/// How many pieces of input wait for a recorder.
const TYPED_AHEAD: usize = 1024;

/// What a shell is doing.
#[derive(Clone, Copy, Debug, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ShellState {
    /// Made, not started yet.
    Created,
    /// Its program runs.
    Executed,
    /// Its program ended by itself.
    Exited,
    /// Its program was ended on request.
    Killed,
    /// Its program could not be started.
    Failed,
}

impl ShellState {
    /// Its name in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Executed => "executed",
            Self::Exited => "exited",
            Self::Killed => "killed",
            Self::Failed => "failed",
        }
    }
}

/// A shell as it is told to clients.
#[derive(Clone, Debug, JsonSchema, PartialEq, Serialize)]
pub struct Description {
    /// Its name.
    pub identity: ShellId,
    /// Its program.
    pub path: String,
    /// The program's arguments.
    pub args: Vec<String>,
    /// What it is doing.
    pub state: ShellState,
    /// The width of the terminal in characters.
    pub columns: u16,
    /// The height of the terminal in characters.
    pub rows: u16,
    /// How many are attached.
    pub sessions: usize,
    /// Unix seconds.
    pub created_at: i64,
    /// The process, while it runs.
    pub pid: Option<i32>,
    /// The directory it started in.
    pub cwd: String,
    /// What it ended with.
    pub exit_code: Option<i32>,
    /// The name of the signal that ended it.
    pub exit_signal: Option<String>,
    /// When it ended, Unix seconds.
    pub ended_at: Option<i64>,
    /// Why it could not be started.
    pub reason: Option<String>,
    /// How many bytes were typed.
    pub bytes_in: u64,
    /// How many bytes it has written.
    pub bytes_out: u64,
    /// The name of its recording, while it is recorded.
    pub recording: Option<String>,
    /// What it used, once it has ended.
    pub usage: Option<Accounting>,
}

/// What a shell used.
#[derive(Clone, Copy, Debug, JsonSchema, PartialEq, Serialize)]
pub struct Accounting {
    /// Processor time in seconds.
    pub cpu_seconds: f64,
    /// The largest resident size of one process, in bytes.
    pub memory_peak: u64,
}

/// How a shell's program ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Exit {
    /// What it ended with.
    pub code: Option<i32>,
    /// The name of the signal that ended it.
    pub signal: Option<String>,
}

/// Tells that something is new: more output, or another state.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Progress {
    /// The log's committed offset.
    pub(crate) committed: u64,
    /// Counts changes of everything else.
    pub(crate) version: u64,
}

/// What may change, behind one lock.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) record: Record,
    pub(crate) log: Option<OutputLog>,
    pub(crate) timeline: Timeline,
    pub(crate) killed: bool,
    pub(crate) recording: Option<String>,
    /// The program has ended and its last byte is in the log.
    pub(crate) complete: bool,
    /// The shell was removed.
    pub(crate) removed: bool,
    /// Its actor is not started again, and why.
    pub(crate) failure: Option<String>,
    /// The base that the keeper has noted.
    pub(crate) noted: u64,
    /// The last change of size: where, and its number.
    pub(crate) resized: (u64, u64),
}

/// One shell.
#[derive(Debug)]
pub struct Session {
    pub(crate) id: ShellId,
    /// Its place in the order of creation.
    pub(crate) number: u64,
    /// Its name in the supervision tree.
    pub(crate) name: Arc<str>,
    pub(crate) actor: Handle<ShellMsg>,
    pub(crate) input: Input,
    pub(crate) progress: watch::Sender<Progress>,
    /// A viewer has read on.
    pub(crate) drained: Notify,
    /// One pump at a time writes to the log.
    pub(crate) writer: Arc<tokio::sync::Mutex<()>>,
    /// One command at a time is waited for.
    pub(crate) executing: Arc<tokio::sync::Mutex<()>>,
    noting: tokio::sync::Mutex<()>,
    pub(crate) bytes_in: AtomicU64,
    /// Whether what was typed last was not the end of a line.
    pub(crate) half_typed: AtomicBool,
    /// Where a recorder wants what is typed.
    typed: Mutex<Option<mpsc::Sender<Vec<u8>>>>,
    state: Mutex<State>,
    positions: Mutex<Vec<Arc<AtomicU64>>>,
}

impl Session {
    /// A shell that the keeper told of.
    pub(crate) fn new(record: Record, number: u64) -> Arc<Self> {
        let name: Arc<str> = format!("shell/{}", record.id).into();
        let note = Note::from_bytes(&record.note);
        let blank = || (Base::blank(0, record.columns, record.rows), Vec::new());
        let (base, resizes) = note.screen().unwrap_or_else(blank);
        let state = State {
            timeline: Timeline::new(base, resizes),
            log: None,
            killed: note.killed,
            recording: note.recording,
            complete: false,
            removed: false,
            failure: None,
            noted: 0,
            resized: (0, 0),
            record,
        };
        Arc::new(Self {
            id: state.record.id.clone(),
            number,
            actor: Handle::new(Slot::new(Arc::clone(&name)), CALL_DEADLINE, CALLS_PER_SHELL),
            name,
            input: Input::default(),
            progress: watch::Sender::new(Progress::default()),
            drained: Notify::new(),
            writer: Arc::default(),
            executing: Arc::default(),
            noting: tokio::sync::Mutex::default(),
            bytes_in: AtomicU64::new(note.bytes_in),
            half_typed: AtomicBool::new(false),
            typed: Mutex::default(),
            state: Mutex::new(state),
            positions: Mutex::default(),
        })
    }

    /// What may change.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes those who wait.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state());
        self.progress.send_modify(|progress| progress.version += 1);
        result
    }

    /// Tells viewers of new output.
    pub(crate) fn publish(&self, committed: u64) {
        self.progress.send_if_modified(|progress| std::mem::replace(&mut progress.committed, committed) != committed);
    }

    /// The size of the terminal: columns, rows.
    pub fn size(&self) -> (u16, u16) {
        let state = self.state();
        (state.record.columns, state.record.rows)
    }

    /// Leaves what must outlive the engine with the keeper.
    ///
    /// # Errors
    /// When the keeper does not take it.
    pub(crate) async fn save_note(&self, keeper: &Keeper) -> Result<(), ShellError> {
        let _one_at_a_time = self.noting.lock().await;
        let (note, offset) = {
            let state = self.state();
            let mut note = self.note_without_screen(&state);
            note.set_screen(state.timeline.newest(), state.timeline.recent_resizes());
            (note.to_bytes(), state.timeline.newest().offset)
        };
        keeper.set_note(&self.id, note).await?;
        self.state().noted = offset;
        Ok(())
    }

    fn note_without_screen(&self, state: &State) -> Note {
        Note {
            killed: state.killed,
            recording: state.recording.clone(),
            bytes_in: self.bytes_in.load(Ordering::Relaxed),
            ..Note::default()
        }
    }

    /// How the program ended, when it did and everything it wrote is in the log.
    pub(crate) fn exit(&self) -> Option<Exit> {
        let state = self.state();
        state.complete.then(|| exit_of(&state.record.status))
    }

    /// The shell as it is told to clients.
    pub fn describe(&self) -> Description {
        let sessions = self.positions().len();
        let bytes_out = self.progress.borrow().committed;
        let state = self.state();
        let record = &state.record;
        let exit = exit_of(&record.status);
        let (shell_state, reason) = match (&record.status, &state.failure) {
            (_, Some(failure)) => (ShellState::Failed, Some(failure.clone())),
            (Status::Created, _) => (ShellState::Created, None),
            (Status::Running, _) => (ShellState::Executed, None),
            (Status::Failed { reason }, _) => (ShellState::Failed, Some(reason.clone())),
            (Status::Signalled { .. }, _) if state.killed => (ShellState::Killed, None),
            (Status::Exited { .. } | Status::Signalled { .. }, _) => (ShellState::Exited, None),
        };
        Description {
            identity: self.id.clone(),
            path: record.path.clone(),
            args: record.args.clone(),
            state: shell_state,
            columns: record.columns,
            rows: record.rows,
            sessions,
            created_at: record.created_at,
            pid: record.pid,
            cwd: record.cwd.clone(),
            exit_code: exit.code,
            exit_signal: exit.signal,
            ended_at: record.ended_at,
            reason,
            bytes_in: self.bytes_in.load(Ordering::Relaxed),
            bytes_out,
            recording: state.recording.clone(),
            usage: record.usage.map(|Usage { cpu_seconds, memory_peak }| Accounting { cpu_seconds, memory_peak }),
        }
    }

    /// Gives what is typed from now on to a recorder, until it drops the other end.
    pub(crate) fn record_typed(&self) -> mpsc::Receiver<Vec<u8>> {
        let (sender, receiver) = mpsc::channel(TYPED_AHEAD);
        *self.typed.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        receiver
    }

    /// Tells a recorder what was typed. One that is behind by very much misses it: nobody waits for a recorder.
    pub(crate) fn was_typed(&self, bytes: &[u8]) {
        let mut typed = self.typed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = &*typed
            && let Err(mpsc::error::TrySendError::Closed(_)) = sender.try_send(bytes.to_vec())
        {
            *typed = None;
        }
    }

    fn positions(&self) -> MutexGuard<'_, Vec<Arc<AtomicU64>>> {
        self.positions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a viewer that has read up to `offset`.
    pub(crate) fn enter(&self, offset: u64) -> Arc<AtomicU64> {
        let position = Arc::new(AtomicU64::new(offset));
        self.positions().push(Arc::clone(&position));
        position
    }

    /// Counts a viewer no longer.
    pub(crate) fn leave(&self, position: &Arc<AtomicU64>) {
        let mut positions = self.positions();
        positions.retain(|other| !Arc::ptr_eq(other, position));
        positions.shrink_to(4);
        drop(positions);
        self.drained.notify_one();
    }

    /// How far the fastest viewer has read; none when nobody watches.
    pub(crate) fn fastest(&self) -> Option<u64> {
        self.positions().iter().map(|position| position.load(Ordering::Relaxed)).max()
    }

    /// Waits until the shell has been taken over from the keeper since this process started.
    ///
    /// # Errors
    /// [`ShellError::NotFound`] when it is gone, or that it was not in time.
    pub(crate) async fn adopted(&self) -> Result<OutputLog, ShellError> {
        let found = self.wait_for(|state| {
            if state.removed || state.failure.is_some() {
                return Some(None);
            }
            state.log.clone().map(Some)
        });
        tokio::time::timeout(CALL_DEADLINE, found)
            .await
            .map_err(|_| CallError::NotRunning { actor: Arc::clone(&self.name) })?
            .ok_or_else(|| ShellError::NotFound { id: self.id.clone() })
    }

    /// Waits until `done` says something of the state.
    pub(crate) async fn wait_for<T>(&self, mut done: impl FnMut(&State) -> Option<T>) -> T {
        let mut progress = self.progress.subscribe();
        loop {
            progress.mark_unchanged();
            if let Some(found) = done(&self.state()) {
                return found;
            }
            // The sender is in `self`.
            let _ = progress.changed().await;
        }
    }
}

fn exit_of(status: &Status) -> Exit {
    match status {
        Status::Exited { code } => Exit { code: Some(*code), signal: None },
        Status::Signalled { signal } => Exit { code: None, signal: Some(signal_name(*signal)) },
        Status::Created | Status::Running | Status::Failed { .. } => Exit { code: None, signal: None },
    }
}
