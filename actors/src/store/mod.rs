//! The embedded database: one SQLite file, `dxflow.db` in the data directory, and its single writer.
//!
//! Everything that must outlive the engine and is neither in the keeper nor in Docker: keys, shares, records of workflows,
//! uploads, the audit. Operators can look in with `sqlite3` while it runs. A write is on the disk before it is answered
//! (WAL, `synchronous=FULL`).
//!
//! The actor owns the writer's thread; work goes to the thread's bounded queue directly, not through the mailbox. Reads
//! have connections of their own and wait for no writer.
//!
//! Failure: a panic in a piece of work ends the writer and with it the actor; the supervisor starts it again, which opens
//! the file anew. What was answered is kept. A piece of work that was taken
//! and not answered may or may not be.

pub mod audit;
mod error;
pub mod idempotency;
mod migrations;
mod writer;

use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use rusqlite::{Connection, OpenFlags, Transaction};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;

pub use self::audit::{AuditEntry, AuditFilter, AuditRecord, AuditVerdict, ChainHead};
pub use self::error::StoreError;
use self::writer::{Job, Outcome};
use crate::call::{self, CallError, Handle, Reply, Slot};
use crate::supervision::ChildSpec;

/// The name in the supervision tree.
pub const NAME: &str = "store";
/// The file's name in the data directory.
const FILE: &str = "dxflow.db";
/// How many writes may wait at once; the next is refused with 503.
const QUEUE: usize = 1024;
/// How many reads run at once; more wait.
const READERS: usize = 4;
/// How long a write or a read may take; it may still happen after that.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long opening is tried again: after a kill the file may be held for a moment.
const OPEN_FOR: Duration = Duration::from_secs(5);
/// The pause between two tries.
const OPEN_PAUSE: Duration = Duration::from_millis(100);
/// How long SQLite itself waits for a lock that a tool of the operator holds.
const BUSY: Duration = Duration::from_secs(5);

/// The embedded database as the rest of the engine sees it; cheap to clone, good through restarts.
#[derive(Clone, Debug)]
pub struct Store {
    shared: Arc<Shared>,
    handle: Handle<StoreMsg>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    writer: watch::Sender<Option<mpsc::Sender<Job>>>,
    idle_readers: Mutex<Vec<Connection>>,
    reader_permits: Semaphore,
}

/// What the actor is told.
#[derive(Debug)]
pub enum StoreMsg {
    /// Asks whether the writer answers.
    Ping {
        /// Answered at once.
        reply: Reply<(), StoreError>,
    },
    /// The writer's thread has ended by a panic.
    WriterEnded {
        /// What it said.
        reason: String,
    },
}

impl Store {
    /// The database of this data directory; nothing is opened before its [`child`](Self::child) starts.
    pub fn new(data_dir: &Path) -> Self {
        let slot = Slot::new(NAME);
        Self {
            shared: Arc::new(Shared {
                path: data_dir.join(FILE),
                writer: watch::Sender::new(None),
                idle_readers: Mutex::new(Vec::new()),
                reader_permits: Semaphore::new(READERS),
            }),
            handle: Handle::new(slot, DEADLINE, QUEUE),
        }
    }

    /// How the supervisor starts a generation.
    pub fn child(&self) -> ChildSpec {
        let store = self.clone();
        ChildSpec::worker(NAME, move |supervisor| {
            let store = store.clone();
            async move {
                let (actor, _) = Actor::spawn_linked(None, StoreActor, store, supervisor).await?;
                Ok(actor.get_cell())
            }
        })
    }

    /// Asks whether the actor answers and its writer is there.
    ///
    /// # Errors
    /// A [`CallError`] when it does not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.handle.ask(|reply| StoreMsg::Ping { reply }).await
    }

    /// Waits until there is a writer, at most for the deadline of a write. An actor that writes in its handlers has its
    /// callers wait here: while the store is being restarted it is to be restarted too, and must not be held up.
    ///
    /// # Errors
    /// [`CallError::NotRunning`] when there is none in time.
    pub async fn ready(&self) -> Result<(), CallError> {
        let mut generations = self.shared.writer.subscribe();
        let open = generations.wait_for(|writer| writer.as_ref().is_some_and(|queue| !queue.is_closed()));
        match tokio::time::timeout(DEADLINE, open).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(CallError::NotRunning { actor: NAME.into() }),
        }
    }

    /// Runs `work` in a transaction on the writer's thread; what it did is on the disk when this returns `Ok`, and undone
    /// when `work` returns an error.
    ///
    /// # Errors
    /// What `work` returns, or a [`StoreError`] when the change could not be kept.
    pub async fn write<T, E, F>(&self, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T, E> + Send + 'static,
    {
        self.write_soon(DEADLINE, work).await
    }

    /// As [`write`](Self::write) from within an actor's handler: a writer that is away is waited for only briefly. While
    /// the store is being restarted the actor is to be restarted too, and must end what it does for that; a writer that
    /// is there has all its time.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn write_in_handler<T, E, F>(&self, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T, E> + Send + 'static,
    {
        self.write_soon(call::HANDLER_PATIENCE, work).await
    }

    async fn write_soon<T, E, F>(&self, wait: Duration, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T, E> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let job: Job = Box::new(move |transaction| {
            let result = match transaction {
                Ok(transaction) => work(transaction),
                Err(error) => Err(error.into()),
            };
            Outcome {
                keep: result.is_ok(),
                answer: Box::new(move |committed| {
                    let answer = match committed {
                        Ok(()) => result,
                        Err(error) => result.and_then(|_| Err(error.into())),
                    };
                    // The caller may have left.
                    let _ = sender.send(answer);
                }),
            }
        });
        let until = Instant::now() + DEADLINE;
        self.submit(job, Instant::now() + wait).await.map_err(StoreError::from)?;
        let actor = || Arc::from(NAME);
        match tokio::time::timeout_at(until, receiver).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(StoreError::from(CallError::Dropped { actor: actor() }).into()),
            Err(_) => Err(StoreError::from(CallError::TimedOut { actor: actor() }).into()),
        }
    }

    /// Puts the job into the writer's queue; waits for the next generation while there is none.
    async fn submit(&self, mut job: Job, until: Instant) -> Result<(), CallError> {
        let mut generations = self.shared.writer.subscribe();
        loop {
            let present = generations.borrow_and_update().clone();
            if let Some(queue) = present {
                match queue.try_send(job) {
                    Ok(()) => return Ok(()),
                    Err(mpsc::error::TrySendError::Full(_)) => {
                        return Err(CallError::Overloaded { actor: NAME.into(), limit: QUEUE });
                    }
                    Err(mpsc::error::TrySendError::Closed(back)) => job = back,
                }
            }
            match tokio::time::timeout_at(until, generations.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Err(CallError::NotRunning { actor: NAME.into() }),
            }
        }
    }

    /// Runs `work` on a read-only connection; it sees all that was written before.
    ///
    /// # Errors
    /// What `work` returns, or a [`StoreError`].
    pub async fn read<T, E, F>(&self, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    {
        let until = Instant::now() + DEADLINE;
        let late = || StoreError::from(CallError::TimedOut { actor: NAME.into() });
        let _permit = match tokio::time::timeout_at(until, self.shared.reader_permits.acquire()).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) | Err(_) => return Err(late().into()),
        };
        let mut generations = self.shared.writer.subscribe();
        let opened = tokio::time::timeout_at(until, generations.wait_for(Option::is_some)).await;
        if !matches!(opened, Ok(Ok(_))) {
            return Err(StoreError::from(CallError::NotRunning { actor: NAME.into() }).into());
        }
        drop(opened);
        let shared = Arc::clone(&self.shared);
        let read = call::blocking(move || {
            let connection = shared.reader().map_err(E::from)?;
            let result = work(&connection);
            shared.lock_readers().push(connection);
            result
        });
        match tokio::time::timeout_at(until, read).await {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => Err(StoreError::Panicked(panic).into()),
            Err(_) => Err(late().into()),
        }
    }
}

impl Shared {
    fn lock_readers(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle_readers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An idle reader, or a new one.
    fn reader(&self) -> Result<Connection, StoreError> {
        if let Some(connection) = self.lock_readers().pop() {
            return Ok(connection);
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(BUSY)?;
        Ok(connection)
    }

    /// Opens the file for writing, made for its owner alone and brought to the newest version.
    fn open(&self) -> Result<Connection, StoreError> {
        let failed = |source| StoreError::Open { path: self.path.clone(), source: Box::new(source) };
        let file = std::fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&self.path)
            .map_err(|error| failed(StoreError::Io(error)))?;
        // One that was there may have been made by a tool under another umask. SQLite gives its other files the same mode.
        file.set_permissions(std::fs::Permissions::from_mode(0o600)).map_err(|error| failed(StoreError::Io(error)))?;
        drop(file);
        let mut connection = Connection::open(&self.path).map_err(|error| failed(error.into()))?;
        prepare(&mut connection).map_err(failed)?;
        Ok(connection)
    }

    /// As [`open`](Self::open), tried again for a while.
    fn open_patiently(&self) -> Result<Connection, StoreError> {
        let until = std::time::Instant::now() + OPEN_FOR;
        loop {
            match self.open() {
                Ok(connection) => return Ok(connection),
                Err(error) => {
                    let hopeless = matches!(&error, StoreError::Open { source, .. } if matches!(**source, StoreError::Newer { .. }));
                    if hopeless || std::time::Instant::now() >= until {
                        return Err(error);
                    }
                    tracing::warn!(error = crate::error::chain(&error), "the database is tried again");
                    std::thread::sleep(OPEN_PAUSE);
                }
            }
        }
    }
}

fn prepare(connection: &mut Connection) -> Result<(), StoreError> {
    connection.busy_timeout(BUSY)?;
    connection.query_row("PRAGMA journal_mode=WAL", [], |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    migrations::migrate(connection)
}

struct StoreActor;

struct StoreState {
    store: Store,
    queue: mpsc::Sender<Job>,
}

impl Actor for StoreActor {
    type Msg = StoreMsg;
    type State = StoreState;
    type Arguments = Store;

    async fn pre_start(&self, myself: ActorRef<StoreMsg>, store: Store) -> Result<StoreState, ActorProcessingErr> {
        let shared = Arc::clone(&store.shared);
        let connection = call::blocking(move || shared.open_patiently()).await??;
        let (queue, jobs) = mpsc::channel(QUEUE);
        let actor = myself.clone();
        std::thread::Builder::new().name("dxflow-store".into()).spawn(move || {
            if let Some(reason) = writer::run(connection, jobs) {
                // Fails only when the actor has ended, and then nobody needs to know.
                let _ = actor.send_message(StoreMsg::WriterEnded { reason });
            }
        })?;
        store.shared.writer.send_replace(Some(queue.clone()));
        store.handle.slot().publish(myself);
        Ok(StoreState { store, queue })
    }

    async fn handle(
        &self,
        _: ActorRef<StoreMsg>,
        message: StoreMsg,
        state: &mut StoreState,
    ) -> Result<(), ActorProcessingErr> {
        crate::fault::point(NAME);
        match message {
            StoreMsg::Ping { reply } => {
                let _ = reply.send(Ok(()));
                Ok(())
            }
            StoreMsg::WriterEnded { reason } => {
                state.withdraw();
                Err(StoreError::Panicked(reason).into())
            }
        }
    }

    async fn post_stop(&self, myself: ActorRef<StoreMsg>, state: &mut StoreState) -> Result<(), ActorProcessingErr> {
        state.store.handle.slot().withdraw(&myself);
        state.withdraw();
        // The thread ends when the last sender is gone, after it has done what waits.
        Ok(())
    }
}

impl StoreState {
    /// Takes this generation's queue away, if it is still the present one.
    fn withdraw(&self) {
        self.store.shared.writer.send_if_modified(|present| {
            let own = present.as_ref().is_some_and(|queue| queue.same_channel(&self.queue));
            if own {
                *present = None;
            }
            own
        });
    }
}

#[cfg(test)]
mod tests;
