//! How a supervisor starts, restarts and stops one child.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ractor::{ActorCell, SpawnErr};

/// When a child that ended is started again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Restart {
    /// Always.
    Permanent,
    /// When it failed: not after a clean end.
    Transient,
    /// Never.
    Temporary,
}

/// What a child is, for the tree that operators look at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ChildKind {
    /// It does work.
    Worker,
    /// It supervises others.
    Supervisor,
}

/// Starts one generation of a child, linked to the supervisor that is passed.
pub type Start =
    Arc<dyn Fn(ActorCell) -> Pin<Box<dyn Future<Output = Result<ActorCell, SpawnErr>> + Send>> + Send + Sync>;

/// A number that can be looked at.
pub type Gauge = Arc<dyn Fn() -> usize + Send + Sync>;

/// How a supervisor starts, restarts and stops one child.
#[derive(Clone)]
pub struct ChildSpec {
    /// Its name among its siblings.
    pub id: Arc<str>,
    /// Worker or supervisor.
    pub kind: ChildKind,
    /// When it is started again.
    pub restart: Restart,
    /// How long a graceful stop may take before it is killed.
    pub shutdown: Duration,
    /// Starts one generation.
    pub start: Start,
    /// How many calls wait for it, for the tree that operators look at.
    pub mailbox: Option<Gauge>,
}

impl ChildSpec {
    /// A permanent worker with five seconds to stop. `start` spawns it linked to the supervisor that it is given
    /// (`Actor::spawn_linked(None, …, supervisor)`) and returns its cell.
    pub fn worker<F, S>(id: impl Into<Arc<str>>, start: S) -> Self
    where
        S: Fn(ActorCell) -> F + Send + Sync + 'static,
        F: Future<Output = Result<ActorCell, SpawnErr>> + Send + 'static,
    {
        Self {
            id: id.into(),
            kind: ChildKind::Worker,
            restart: Restart::Permanent,
            shutdown: Duration::from_secs(10),
            start: Arc::new(move |supervisor| Box::pin(start(supervisor))),
            mailbox: None,
        }
    }

    /// A permanent supervisor with fifteen seconds to stop.
    pub fn supervisor<F, S>(id: impl Into<Arc<str>>, start: S) -> Self
    where
        S: Fn(ActorCell) -> F + Send + Sync + 'static,
        F: Future<Output = Result<ActorCell, SpawnErr>> + Send + 'static,
    {
        Self { kind: ChildKind::Supervisor, shutdown: Duration::from_secs(20), ..Self::worker(id, start) }
    }

    /// Says when it is started again.
    #[must_use]
    pub fn restart(mut self, restart: Restart) -> Self {
        self.restart = restart;
        self
    }

    /// Says how many calls wait for it ([`Handle::waiting`](crate::call::Handle::waiting)).
    #[must_use]
    pub fn mailbox(mut self, gauge: impl Fn() -> usize + Send + Sync + 'static) -> Self {
        self.mailbox = Some(Arc::new(gauge));
        self
    }

    /// Says how long a graceful stop may take.
    #[must_use]
    pub fn shutdown(mut self, shutdown: Duration) -> Self {
        self.shutdown = shutdown;
        self
    }
}

impl fmt::Debug for ChildSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChildSpec")
            .field("id", &self.id)
            .field("kind", &self.kind)
            .field("restart", &self.restart)
            .field("shutdown", &self.shutdown)
            .finish_non_exhaustive()
    }
}
