//! The actor of one shell: it owns control, the pump moves the bytes.
//!
//! ```text
//! start ──► Adopt ──► serving ──► removed by the keeper: stops for good
//!             ▲          │
//!             └─ panic, Err, restart of the tree, new engine: the same way again
//! ```
//!
//! There is one way into service: the keeper hands over the description, the pty and the log, and the actor goes on where
//! the log ends. It makes no difference whether it was this actor, the tree or the whole engine that ended. Nothing is lost
//! but what waited to be typed, when the whole engine was killed.

use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::OwnedMutexGuard;

use super::error::ShellError;
use super::messages::ShellMsg;
use super::pump::Pump;
use super::session::Session;
use super::timeline::{Base, Timeline};
use super::{Settings, recording};
use crate::call::AbortOnDrop;
use crate::keeper::{Adopted, Keeper, KeeperError, Scope, Status, Usage};
use crate::live::Live;
use crate::time::unix_now;

/// How long a new generation waits for the pump of the last to let go of the log.
const HANDOVER: Duration = Duration::from_secs(5);
/// When the terminal is looked at again after it ended while the program still runs.
const PUMP_AGAIN: Duration = Duration::from_millis(250);

/// The actor.
pub(crate) struct Shell;

/// What it starts from.
#[derive(Clone)]
pub(crate) struct ShellArgs {
    pub(crate) session: Arc<Session>,
    pub(crate) keeper: Keeper,
    pub(crate) settings: Live<Settings>,
    pub(crate) recordings: recording::Recordings,
    /// How many shells may be taken over at once.
    pub(crate) adoptions: Arc<tokio::sync::Semaphore>,
}

/// What it holds.
pub(crate) struct ShellState {
    args: ShellArgs,
    settings: Arc<Settings>,
    pump: Option<AbortOnDrop>,
    pumps: u64,
    recorder: Option<AbortOnDrop>,
}

impl Actor for Shell {
    type Msg = ShellMsg;
    type State = ShellState;
    type Arguments = ShellArgs;

    async fn pre_start(&self, myself: ActorRef<ShellMsg>, args: ShellArgs) -> Result<ShellState, ActorProcessingErr> {
        // First in the mailbox: whatever callers send is handled after it.
        myself.cast(ShellMsg::Adopt)?;
        args.session.actor.slot().publish(myself);
        Ok(ShellState { settings: args.settings.get(), args, pump: None, pumps: 0, recorder: None })
    }

    async fn handle(
        &self,
        myself: ActorRef<ShellMsg>,
        message: ShellMsg,
        state: &mut ShellState,
    ) -> Result<(), ActorProcessingErr> {
        crate::fault::point(&state.args.session.name);
        // Boxed: an idle actor should not keep room for its largest handler.
        Box::pin(state.take(&myself, message)).await
    }

    async fn post_stop(&self, myself: ActorRef<ShellMsg>, state: &mut ShellState) -> Result<(), ActorProcessingErr> {
        let session = &state.args.session;
        session.actor.slot().withdraw(&myself);
        state.pump = None;
        state.recorder = None;
        // What was typed up to now is counted on by the next engine.
        if !session.state().removed {
            let note = Box::pin(session.save_note(&state.args.keeper));
            let _ = tokio::time::timeout(Duration::from_secs(2), note).await;
        }
        Ok(())
    }
}

impl ShellState {
    async fn take(&mut self, myself: &ActorRef<ShellMsg>, message: ShellMsg) -> Result<(), ActorProcessingErr> {
        // Who asked may have given up meanwhile: then the answer goes nowhere.
        match message {
            ShellMsg::Adopt => self.adopt(myself).await?,
            ShellMsg::Resize { columns, rows, reply } => {
                let _ = reply.send(self.resize(columns, rows).await);
            }
            ShellMsg::Kill { signal, reply } => {
                let _ = reply.send(self.kill(signal).await);
            }
            ShellMsg::Start { reply } => {
                let _ = reply.send(self.start(myself).await);
            }
            ShellMsg::Exited { generation, status, usage } => self.exited(generation, status, usage),
            ShellMsg::PumpEnded { number, failure } => self.pump_ended(myself, number, failure)?,
            ShellMsg::PumpTick => self.pump_tick(myself).await?,
        }
        Ok(())
    }

    async fn adopt(&mut self, myself: &ActorRef<ShellMsg>) -> Result<(), ActorProcessingErr> {
        let session = Arc::clone(&self.args.session);
        let writer = tokio::time::timeout(HANDOVER, Arc::clone(&session.writer).lock_owned())
            .await
            .map_err(|_| "the pump of the last generation does not end")?;
        let adopted = {
            let _permit = self.args.adoptions.acquire().await?;
            self.args.keeper.adopt(&session.id).await
        };
        match adopted {
            Ok(adopted) => self.serve(myself, adopted, writer),
            Err(KeeperError::NotFound { .. }) => {
                session.change(|state| state.removed = true);
                myself.stop(None);
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Goes on with what the keeper handed over.
    fn serve(&mut self, myself: &ActorRef<ShellMsg>, adopted: Adopted, writer: OwnedMutexGuard<()>) {
        let Adopted { record, pty, log } = adopted;
        let session = &self.args.session;
        let running = record.status.is_running();
        let pty = pty.map(Arc::new);
        session.input.connect(pty.clone().filter(|_| running));
        let committed = log.committed();
        let recording = session.change(|state| {
            let first = state.log.is_none();
            if state.timeline.newest().offset < log.oldest() || state.timeline.newest().offset > committed {
                state.timeline = Timeline::new(Base::blank(log.oldest(), record.columns, record.rows), Vec::new());
            }
            if state.timeline.size() != (record.columns, record.rows) {
                state.timeline.resize(committed, record.columns, record.rows);
            }
            if first || state.noted < log.oldest() {
                // What the keeper has told is what it has noted.
                state.noted = state.timeline.newest().offset;
            }
            state.complete = !running && pty.is_none();
            state.failure = None;
            state.record = record;
            state.log = Some(log.clone());
            state.recording.clone()
        });
        session.publish(committed);
        if let Some(pty) = pty {
            self.pumps += 1;
            let pump = Pump {
                session: Arc::clone(session),
                keeper: self.args.keeper.clone(),
                log,
                pty,
                longest_pause: self.settings.longest_pause.0,
            };
            self.pump = Some(run(pump, writer, myself.clone(), self.pumps));
        }
        if let Some(name) = recording
            && self.recorder.is_none()
        {
            self.recorder = Some(self.args.recordings.follow(Arc::clone(session), name, &self.settings));
        }
    }

    async fn resize(&mut self, columns: u16, rows: u16) -> Result<(), ShellError> {
        let session = &self.args.session;
        if session.size() == (columns, rows) {
            return Ok(());
        }
        self.args.keeper.resize(&session.id, columns, rows).await?;
        session.change(|state| {
            let offset = state.log.as_ref().map_or(0, crate::output_log::OutputLog::committed);
            state.record.columns = columns;
            state.record.rows = rows;
            state.timeline.resize(offset, columns, rows);
            state.resized = (offset, state.resized.1 + 1);
        });
        if let Err(error) = session.save_note(&self.args.keeper).await {
            tracing::warn!(shell = %session.id, error = crate::error::chain(&error), "the size was not noted");
        }
        Ok(())
    }

    async fn kill(&mut self, signal: i32) -> Result<(), ShellError> {
        let session = &self.args.session;
        let (running, pid) = {
            let state = session.state();
            (state.record.status.is_running(), state.record.pid)
        };
        if !running {
            return Err(ShellError::NotRunning { id: session.id.clone() });
        }
        session.change(|state| state.killed = true);
        session.save_note(&self.args.keeper).await?;
        if matches!(signal, libc::SIGKILL | libc::SIGHUP) {
            self.args.keeper.signal(&session.id, signal, Scope::Tree).await?;
            return Ok(());
        }
        self.args.keeper.signal(&session.id, signal, Scope::Foreground).await?;
        if let Some(shell) = pid.and_then(rustix::process::Pid::from_raw)
            && session.input.foreground() != Some(shell)
            && let Some(signal) = rustix::process::Signal::from_named_raw(signal)
        {
            // The shell itself as well, unless it was its own foreground just now. It may have ended: nothing to tell then.
            let _ = rustix::process::kill_process(shell, signal);
        }
        Ok(())
    }

    async fn start(&mut self, myself: &ActorRef<ShellMsg>) -> Result<(), ShellError> {
        let session = Arc::clone(&self.args.session);
        if session.state().record.status.is_running() {
            return Ok(());
        }
        self.pump = None;
        let again = !matches!(session.state().record.status, Status::Created);
        let busy = || ShellError::Busy { id: session.id.clone(), reason: "its last output is still being read".into() };
        let writer =
            tokio::time::timeout(HANDOVER, Arc::clone(&session.writer).lock_owned()).await.map_err(|_| busy())?;
        let adopted = match self.args.keeper.start(&session.id).await {
            Ok(adopted) => adopted,
            Err(KeeperError::Running { .. }) => self.args.keeper.adopt(&session.id).await?,
            Err(KeeperError::CannotStart { reason }) => {
                session.change(|state| state.record.status = Status::Failed { reason: reason.clone() });
                return Err(ShellError::Unusable { reason });
            }
            Err(error) => return Err(error.into()),
        };
        if again {
            // What the last program left on the terminal (modes, colours, the alternate screen) is not the next one's.
            adopted.log.append(b"\x1bc");
        }
        session.change(|state| state.killed = false);
        self.serve(myself, adopted, writer);
        session.save_note(&self.args.keeper).await
    }

    fn exited(&mut self, generation: u32, status: Status, usage: Option<Usage>) {
        let session = &self.args.session;
        session.change(|state| {
            if state.record.generation == generation && state.record.status.is_running() {
                state.record.status = status;
                state.record.usage = usage;
                state.record.pid = None;
                state.record.ended_at = Some(unix_now());
                state.complete = self.pump.is_none();
            }
        });
        if !session.state().record.status.is_running() {
            session.input.connect(None);
        }
    }

    fn pump_ended(
        &mut self,
        myself: &ActorRef<ShellMsg>,
        number: u64,
        failure: Option<String>,
    ) -> Result<(), ActorProcessingErr> {
        if number != self.pumps || self.pump.take().is_none() {
            return Ok(());
        }
        if let Some(failure) = failure {
            return Err(failure.into());
        }
        let running = self.args.session.change(|state| {
            state.complete = !state.record.status.is_running();
            !state.complete
        });
        if running {
            myself.send_after(PUMP_AGAIN, || ShellMsg::PumpTick);
        }
        Ok(())
    }

    async fn pump_tick(&mut self, myself: &ActorRef<ShellMsg>) -> Result<(), ActorProcessingErr> {
        let running = self.args.session.state().record.status.is_running();
        if running && self.pump.is_none() {
            return self.adopt(myself).await;
        }
        Ok(())
    }
}

/// Runs a pump as a task that tells the actor of its end, a panic included.
fn run(pump: Pump, writer: OwnedMutexGuard<()>, actor: ActorRef<ShellMsg>, number: u64) -> AbortOnDrop {
    struct Report {
        actor: ActorRef<ShellMsg>,
        number: u64,
        failure: Option<String>,
    }
    impl Drop for Report {
        fn drop(&mut self) {
            // The actor may be gone: then nobody needs to know.
            let _ = self.actor.cast(ShellMsg::PumpEnded { number: self.number, failure: self.failure.take() });
        }
    }
    let task = tokio::spawn(async move {
        let mut report = Report { actor, number, failure: Some("the pump panicked".into()) };
        let _writer = writer;
        report.failure = pump.run().await.err().map(|error| format!("the pty failed: {error}"));
    });
    AbortOnDrop(task.abort_handle())
}
