//! The shells as the rest of the engine sees them.
//!
//! Holds the registry of sessions, which outlives restarts of the tree: who watches a shell goes on watching. Making and
//! removing happen in tasks of their own, so that a client that leaves half-way leaves nothing half-made.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};

use super::actor::{Shell, ShellArgs};
use super::environment::Account;
use super::error::ShellError;
use super::messages::ShellMsg;
use super::note::Note;
use super::recording::Recordings;
use super::registrar;
use super::session::{Description, Session};
use super::timeline::Base;
use super::viewer::{Builders, Snapshot, Viewer};
use super::{CALL_DEADLINE, Settings, execute};
use crate::ids::ShellId;
use crate::keeper::{Keeper, KeeperError, Limits, Record, SpawnSpec};
use crate::live::Live;
use crate::supervision::{ChildSpec, Restart, SupervisionError, SupervisorHandle};

/// How many shells are taken over from the keeper at once.
const ADOPTIONS: usize = 16;
/// How long a kill waits for the program to end before it answers.
const KILL_ANSWER: Duration = Duration::from_secs(2);
/// And for a signal that the program may handle.
const SIGNAL_ANSWER: Duration = Duration::from_millis(250);
/// The widest and highest terminal, in characters.
const MAX_SIZE: u16 = 1000;

/// A shell to be made. What is not said comes from the configuration.
#[derive(Clone, Debug, Default)]
pub struct ShellSpec {
    /// Its name; generated without.
    pub identity: Option<ShellId>,
    /// The program.
    pub command: Option<String>,
    /// Its arguments.
    pub args: Option<Vec<String>>,
    /// Added to its environment.
    pub env: BTreeMap<String, String>,
    /// Where it starts.
    pub cwd: Option<String>,
    /// The width of the terminal.
    pub columns: Option<u16>,
    /// The height of the terminal.
    pub rows: Option<u16>,
    /// Whether it is made only, to be started by `start`.
    pub wait_for_start: bool,
    /// Whether it is recorded; the configuration may ask for all.
    pub record: bool,
    /// What it may use.
    pub limits: Option<Limits>,
}

/// The shells as the rest of the engine sees them.
#[derive(Clone, Debug)]
pub struct Shells(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) settings: Live<Settings>,
    pub(super) keeper: Keeper,
    recordings: Recordings,
    registry: Mutex<Registry>,
    /// The present supervisor, from the moment that it runs.
    supervisor: watch::Sender<Option<SupervisorHandle>>,
    builders: Builders,
    adoptions: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Registry {
    /// By number, in the order of creation.
    sessions: BTreeMap<u64, Arc<Session>>,
    numbers: HashMap<ShellId, u64>,
    /// Names of shells that are being made.
    reserved: HashSet<ShellId>,
    next: u64,
}

impl Registry {
    fn insert(&mut self, record: Record) -> Arc<Session> {
        let number = self.next;
        self.next += 1;
        let session = Session::new(record, number);
        self.numbers.insert(session.id.clone(), number);
        self.sessions.insert(number, Arc::clone(&session));
        session
    }
}

/// Keeps a name while its shell is being made.
struct Reservation {
    shells: Shells,
    id: ShellId,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shells.registry().reserved.remove(&self.id);
    }
}

impl Shells {
    /// Handles on the shells that `keeper` holds; recordings are kept below `data_dir`.
    pub fn new(settings: Live<Settings>, keeper: Keeper, data_dir: PathBuf) -> Self {
        Self(Arc::new(Inner {
            settings,
            keeper,
            recordings: Recordings::new(data_dir.join("recordings")),
            registry: Mutex::default(),
            supervisor: watch::Sender::new(None),
            builders: Builders::default(),
            adoptions: Arc::new(Semaphore::new(ADOPTIONS)),
        }))
    }

    /// How the tree starts the supervisor of all shells.
    pub fn child(&self) -> ChildSpec {
        registrar::child(self)
    }

    /// Takes note of the present supervisor.
    pub(super) fn supervise(&self, handle: SupervisorHandle) {
        self.0.supervisor.send_replace(Some(handle));
    }

    /// The present supervisor; during a restart of the tree, the next one.
    async fn supervisor(&self) -> Option<SupervisorHandle> {
        let mut supervisors = self.0.supervisor.subscribe();
        let runs = |handle: &Option<SupervisorHandle>| handle.as_ref().is_some_and(SupervisorHandle::runs);
        let found = tokio::time::timeout(CALL_DEADLINE, supervisors.wait_for(runs)).await;
        found.ok()?.ok()?.clone()
    }

    /// A child of the supervisor failed too often.
    pub(super) fn gave_up(&self, id: &str, reason: &str) {
        tracing::error!(actor = id, reason, "failed too often and is not started again");
        if let Some(session) = self.all().into_iter().find(|session| &*session.name == id) {
            session.change(|state| state.failure = Some(format!("its actor failed too often: {reason}")));
        }
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.0.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The settings in force.
    pub fn settings(&self) -> Arc<Settings> {
        self.0.settings.get()
    }

    /// The recordings of shells.
    pub fn recordings(&self) -> &Recordings {
        &self.0.recordings
    }

    /// Whether the recording called `name` is being written.
    pub fn is_recording(&self, name: &str) -> bool {
        self.all().iter().any(|session| session.state().recording.as_deref() == Some(name))
    }

    /// One shell.
    ///
    /// # Errors
    /// [`ShellError::NotFound`].
    pub fn get(&self, id: &ShellId) -> Result<Arc<Session>, ShellError> {
        let registry = self.registry();
        let session = registry.numbers.get(id).and_then(|number| registry.sessions.get(number));
        session.cloned().ok_or_else(|| ShellError::NotFound { id: id.clone() })
    }

    /// How many shells there are.
    pub fn count(&self) -> usize {
        self.registry().sessions.len()
    }

    /// How many shells run.
    pub fn running(&self) -> usize {
        self.all().iter().filter(|session| session.state().record.status.is_running()).count()
    }

    /// Shells, newest first.
    pub fn list(&self, offset: usize, limit: usize) -> Vec<Arc<Session>> {
        self.registry().sessions.values().rev().skip(offset).take(limit).cloned().collect()
    }

    /// Makes a shell.
    ///
    /// # Errors
    /// [`ShellError::Exists`], [`ShellError::Invalid`], [`ShellError::Unusable`] with the reason, and what the keeper says.
    pub async fn create(&self, spec: ShellSpec) -> Result<Description, ShellError> {
        let settings = self.settings();
        let id = spec.identity.clone().unwrap_or_else(ShellId::generate);
        let spec = spawn_spec(&settings, id.clone(), spec, &self.0.recordings)?;
        let reservation = {
            let mut registry = self.registry();
            if registry.numbers.contains_key(&id) || !registry.reserved.insert(id.clone()) {
                return Err(ShellError::Exists { id });
            }
            let full = registry.numbers.len() + registry.reserved.len() > settings.max_shells;
            if full {
                registry.reserved.remove(&id);
                return Err(ShellError::TooMany { limit: settings.max_shells });
            }
            drop(registry);
            Reservation { shells: self.clone(), id: id.clone() }
        };
        let shells = self.clone();
        finished(
            &id,
            tokio::spawn(async move {
                let record = shells.0.keeper.spawn(spec).await.map_err(unusable)?.record;
                let session = shells.registry().insert(record);
                drop(reservation);
                shells.start_actor(&session).await;
                Ok(session.describe())
            }),
        )
        .await
    }

    /// Takes shells into the registry that the keeper has and the registry has not, and drops those that it no longer has.
    pub(super) fn reconcile(&self, mut records: Vec<Record>) {
        records.sort_by_key(|record| record.created_at);
        let gone = {
            let mut registry = self.registry();
            let known: HashSet<_> = records.iter().map(|record| record.id.clone()).collect();
            for record in records {
                if !registry.numbers.contains_key(&record.id) && !registry.reserved.contains(&record.id) {
                    registry.insert(record);
                }
            }
            let gone: Vec<_> =
                registry.sessions.values().filter(|session| !known.contains(&session.id)).cloned().collect();
            gone
        };
        for session in gone {
            self.forget(&session);
        }
    }

    fn forget(&self, session: &Arc<Session>) {
        {
            let mut registry = self.registry();
            registry.sessions.remove(&session.number);
            if registry.numbers.get(&session.id) == Some(&session.number) {
                registry.numbers.remove(&session.id);
            }
        }
        session.change(|state| state.removed = true);
        session.input.connect(None);
    }

    /// Every shell, oldest first.
    pub(super) fn all(&self) -> Vec<Arc<Session>> {
        self.registry().sessions.values().cloned().collect()
    }

    /// Starts the actor of a shell under the supervisor; one that is there already stays.
    pub(super) async fn start_actor(&self, session: &Arc<Session>) {
        let args = ShellArgs {
            session: Arc::clone(session),
            keeper: self.0.keeper.in_handlers(),
            settings: self.0.settings.clone(),
            recordings: self.0.recordings.clone(),
            adoptions: Arc::clone(&self.0.adoptions),
        };
        let spec = ChildSpec::worker(Arc::clone(&session.name), move |supervisor| {
            let args = args.clone();
            async move { Ok(ractor::Actor::spawn_linked(None, Shell, args, supervisor).await?.0.get_cell()) }
        })
        .restart(Restart::Transient);
        let Some(supervisor) = self.supervisor().await else { return };
        match supervisor.start_child(spec).await {
            Ok(_) | Err(SupervisionError::Exists(_)) => {}
            // During a restart of the tree: the registrar of the next generation starts it.
            Err(error) => tracing::debug!(shell = %session.id, %error, "the actor was not started"),
        }
    }

    /// Attaches a viewer: exactly at `since` when its bytes are still kept, else at a snapshot of the screen.
    ///
    /// # Errors
    /// [`ShellError::NotFound`], or a [`CallError`](crate::call::CallError) when the shell is not there in time.
    pub async fn attach(&self, id: &ShellId, since: Option<u64>) -> Result<(Viewer, Option<Snapshot>), ShellError> {
        let session = self.get(id)?;
        let scrollback = usize::from(self.settings().scrollback);
        Viewer::attach(session, self.0.builders.clone(), scrollback, since, true).await
    }

    /// Types into a shell; returns when the terminal or its queue has all of it.
    ///
    /// # Errors
    /// [`ShellError::NotFound`], [`ShellError::NotRunning`].
    pub async fn write(&self, id: &ShellId, bytes: &[u8]) -> Result<(), ShellError> {
        self.get(id)?.write(bytes).await
    }

    /// Sets the size of a terminal.
    ///
    /// # Errors
    /// [`ShellError::NotFound`], [`ShellError::Invalid`].
    pub async fn resize(&self, id: &ShellId, columns: u16, rows: u16) -> Result<(), ShellError> {
        self.get(id)?.resize(columns, rows).await
    }

    /// Starts the program of a shell that does not run; a running one is left alone.
    ///
    /// # Errors
    /// [`ShellError::NotFound`], [`ShellError::Unusable`] with the reason.
    pub async fn start(&self, id: &ShellId) -> Result<Description, ShellError> {
        let session = self.get(id)?;
        session.actor.ask(|reply| ShellMsg::Start { reply }).await?;
        Ok(session.describe())
    }

    /// Types a command line and does not wait for what comes of it.
    ///
    /// # Errors
    /// [`ShellError::NotFound`], [`ShellError::NotRunning`].
    pub async fn type_line(&self, id: &ShellId, command: &str) -> Result<Description, ShellError> {
        let session = self.get(id)?;
        let mut line = command.trim_end_matches(['\r', '\n']).replace("\r\n", "\r").replace('\n', "\r");
        line.push('\r');
        session.write(line.as_bytes()).await?;
        Ok(session.describe())
    }

    /// Runs a command in the session and waits for its result.
    ///
    /// # Errors
    /// [`ShellError::Busy`], [`ShellError::NotAShell`], [`ShellError::NotRunning`], [`ShellError::CommandGoesOn`] after
    /// `timeout`, [`ShellError::Ended`].
    pub async fn execute(
        &self,
        id: &ShellId,
        command: &str,
        timeout: Duration,
    ) -> Result<execute::Outcome, ShellError> {
        let session = self.get(id)?;
        execute::run(&session, &self.settings(), self.0.builders.clone(), command, timeout).await
    }

    /// Sends a signal to the foreground process group and the shell; SIGKILL to everything that the shell has started.
    ///
    /// # Errors
    /// [`ShellError::NotFound`], [`ShellError::NotRunning`].
    pub async fn kill(&self, id: &ShellId, signal: i32) -> Result<Description, ShellError> {
        let session = self.get(id)?;
        session.actor.ask(|reply| ShellMsg::Kill { signal, reply }).await?;
        let patience = if signal == libc::SIGKILL { KILL_ANSWER } else { SIGNAL_ANSWER };
        let ended = session.wait_for(|state| (!state.record.status.is_running() || state.removed).then_some(()));
        // One that goes on is described as what it is: running.
        let _ = tokio::time::timeout(patience, ended).await;
        Ok(session.describe())
    }

    /// Hangs a shell up, kills what is left of it after the grace time, and forgets it.
    ///
    /// # Errors
    /// [`ShellError::NotFound`], and what the keeper says.
    pub async fn remove(&self, id: &ShellId) -> Result<(), ShellError> {
        let session = self.get(id)?;
        let shells = self.clone();
        finished(
            id,
            tokio::spawn(async move {
                let grace = shells.settings().grace.0;
                session.change(|state| state.killed = true);
                match shells.0.keeper.remove(&session.id, grace).await {
                    Ok(()) | Err(KeeperError::NotFound { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
                shells.forget(&session);
                if let Some(supervisor) = shells.supervisor().await {
                    // It has stopped by itself when the keeper told it first.
                    let _ = supervisor.stop_child(&session.name).await;
                }
                Ok(())
            }),
        )
        .await
    }
}

impl Session {
    /// Types into the shell; returns when the terminal or its queue has all of it.
    ///
    /// # Errors
    /// [`ShellError::NotRunning`].
    pub async fn write(&self, bytes: &[u8]) -> Result<(), ShellError> {
        if bytes.is_empty() {
            return Ok(());
        }
        if !self.input.write(bytes).await && (self.adopted().await.is_err() || !self.input.write(bytes).await) {
            return Err(ShellError::NotRunning { id: self.id.clone() });
        }
        self.bytes_in.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.was_typed(bytes);
        // Return, and the keys that end or empty a line: ^C, ^D, ^U.
        let open = !bytes.ends_with(b"\r") && !matches!(bytes.last(), Some(b'\n' | 0x03 | 0x04 | 0x15));
        self.half_typed.store(open, Ordering::Relaxed);
        Ok(())
    }

    /// Sets the size of the terminal.
    ///
    /// # Errors
    /// [`ShellError::Invalid`], and what the keeper says.
    pub async fn resize(&self, columns: u16, rows: u16) -> Result<(), ShellError> {
        check_size(columns, rows)?;
        if self.size() == (columns, rows) {
            return Ok(());
        }
        self.actor.ask(|reply| ShellMsg::Resize { columns, rows, reply }).await
    }

    /// Sends a signal to what runs.
    ///
    /// # Errors
    /// [`ShellError::NotRunning`], and what the keeper says.
    pub async fn signal(&self, signal: i32) -> Result<(), ShellError> {
        self.actor.ask(|reply| ShellMsg::Kill { signal, reply }).await
    }
}

fn check_size(columns: u16, rows: u16) -> Result<(), ShellError> {
    for (name, value) in [("columns", columns), ("rows", rows)] {
        if !(1..=MAX_SIZE).contains(&value) {
            return Err(ShellError::Invalid { reason: format!("`{name}` must be 1 to {MAX_SIZE}, not {value}") });
        }
    }
    Ok(())
}

fn unusable(error: KeeperError) -> ShellError {
    match error {
        KeeperError::CannotStart { reason } => ShellError::Unusable { reason },
        other => other.into(),
    }
}

/// Waits for a task that goes on when the one who waits leaves.
async fn finished<T>(id: &ShellId, task: tokio::task::JoinHandle<Result<T, ShellError>>) -> Result<T, ShellError> {
    task.await.unwrap_or_else(|error| Err(ShellError::Failed { id: id.clone(), reason: error.to_string() }))
}

fn spawn_spec(
    settings: &Settings,
    id: ShellId,
    spec: ShellSpec,
    recordings: &Recordings,
) -> Result<SpawnSpec, ShellError> {
    let account = Account::own();
    let (columns, rows) = (spec.columns.unwrap_or(settings.columns), spec.rows.unwrap_or(settings.rows));
    check_size(columns, rows)?;
    let (path, args) = match spec.command {
        Some(command) => (command, spec.args.unwrap_or_default()),
        None => {
            let path = settings.command.clone().unwrap_or_else(|| account.shell.clone());
            (path, spec.args.unwrap_or_else(|| settings.args.clone()))
        }
    };
    for (name, value) in &spec.env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(ShellError::Invalid {
                reason: format!("`{}` cannot be in an environment", name.escape_debug()),
            });
        }
    }
    if path.is_empty() {
        return Err(ShellError::Invalid { reason: "`command` is empty".into() });
    }
    if path.contains('\0') || args.iter().any(|arg| arg.contains('\0')) {
        return Err(ShellError::Invalid { reason: "`command` and `args` cannot hold a NUL".into() });
    }
    let env = account.environment(&path, &[&settings.env, &spec.env]);
    let cwd = spec.cwd.unwrap_or_else(|| {
        settings.cwd.as_ref().map_or_else(|| account.home.clone(), |cwd| cwd.to_string_lossy().into_owned())
    });
    let mut note = Note::default();
    note.set_screen(&Base::blank(0, columns, rows), Vec::new());
    note.recording = (spec.record || settings.record).then(|| recordings.name_for(&id));
    Ok(SpawnSpec {
        id,
        path,
        args,
        env,
        cwd,
        columns,
        rows,
        log_capacity: settings.log_size.0,
        note: note.to_bytes(),
        start: !spec.wait_for_start,
        limits: spec.limits,
    })
}
