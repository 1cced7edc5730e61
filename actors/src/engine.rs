//! The engine: the root of the tree, the handles on everything in it, and the restart that keeps all that matters.
//!
//! ```text
//! running ──restart──► stopping children in reverse ─► settings replaced ─► starting in order ─► running, generation + 1
//!    └── the root gave up ──► (backoff) ──────────────────────────────────────────┘
//! ```
//!
//! Handles are made once and live through all generations; a call made meanwhile waits for the next. What a restart
//! keeps is outside the tree: listeners and connections in the HTTP layer, shells in the keeper, jobs in Docker, the
//! rest in the database.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ractor::SpawnErr;
use tokio::sync::{Notify, RwLock};

use crate::compose::Workflows;
use crate::fs::Files;
use crate::keeper::Keeper;
use crate::key_registry::Keys;
use crate::live::Live;
use crate::shell::Shells;
use crate::stats::Stats;
use crate::store::Store;
use crate::supervision::{ChildInfo, ChildState, Strategy, Supervisor, SupervisorHandle, SupervisorSpec};
use crate::{compose, fs, keeper, key_registry, shell, stats};

/// How long the children of one generation may take to stop in a restart, all together, before the rest is killed.
const RESTART_STOP: Duration = Duration::from_secs(30);
/// The wait before the tree is started again after its root gave up; doubled for each time in a row.
const ROOT_BACKOFF: Duration = Duration::from_millis(100);
/// The longest such wait.
const ROOT_BACKOFF_LONGEST: Duration = Duration::from_secs(10);

/// What the engine is started with.
#[derive(Clone, Debug)]
pub struct EngineSettings {
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// The directory beneath which all objects live.
    pub volume: PathBuf,
    /// Keys and sign-in.
    pub auth: key_registry::Settings,
    /// The keeper.
    pub keeper: keeper::Settings,
    /// Shells.
    pub shell: shell::Settings,
    /// Files.
    pub object: fs::Settings,
    /// Compose workflows.
    pub workflow: compose::Settings,
    /// Samples of the host.
    pub stat: stats::Settings,
}

/// The settings that the actors read when they start.
#[derive(Debug)]
struct Lives {
    auth: Live<key_registry::Settings>,
    keeper: Live<keeper::Settings>,
    shell: Live<shell::Settings>,
    object: Live<fs::Settings>,
    workflow: Live<compose::Settings>,
    stat: Live<stats::Settings>,
}

impl Lives {
    fn set(&self, settings: EngineSettings) {
        self.auth.set(settings.auth);
        self.keeper.set(settings.keeper);
        self.shell.set(settings.shell);
        self.object.set(settings.object);
        self.workflow.set(settings.workflow);
        self.stat.set(settings.stat);
    }
}

/// Why the engine did not start.
#[derive(Debug, thiserror::Error)]
#[error("the actors did not start")]
pub struct StartError(#[source] SpawnErr);

/// How a part of the engine is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Component {
    /// Its name.
    pub name: Arc<str>,
    /// How it is.
    pub health: Health,
    /// What is wrong and what to do, when something is.
    pub detail: Option<String>,
}

/// How a part of the engine is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Health {
    /// As it should be.
    Healthy,
    /// It works in part, or what it needs from outside is away.
    Degraded,
    /// It does not work.
    Unhealthy,
}

impl Health {
    /// Its name in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// Reads the settings anew for a restart; an error keeps the old ones and is shown in the health.
type Reload = Box<dyn Fn() -> Result<EngineSettings, String> + Send + Sync>;

/// The handles of everything that the engine runs; cheap to clone, good through every restart.
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
    root: Arc<Root>,
}

struct Root {
    lives: Lives,
    supervisor: RwLock<Option<SupervisorHandle>>,
    generation: AtomicU64,
    stopping: AtomicBool,
    restarting: AtomicBool,
    started: Instant,
    reload: Mutex<Option<Reload>>,
    reload_error: Mutex<Option<String>>,
    replacement: Notify,
}

impl std::fmt::Debug for Root {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Root").field("generation", &self.generation).finish_non_exhaustive()
    }
}

impl Engine {
    /// Starts the whole tree.
    ///
    /// # Errors
    /// When one of the actors does not start; those before it have been stopped again.
    pub async fn start(settings: EngineSettings) -> Result<Self, StartError> {
        let store = Store::new(&settings.data_dir);
        let lives = Lives {
            auth: Live::new(settings.auth),
            keeper: Live::new(settings.keeper),
            shell: Live::new(settings.shell),
            object: Live::new(settings.object),
            workflow: Live::new(settings.workflow),
            stat: Live::new(settings.stat),
        };
        let keys = Keys::new(lives.auth.clone(), store.clone(), &settings.data_dir);
        let keeper = Keeper::new(lives.keeper.clone(), settings.data_dir.clone());
        let shells = Shells::new(lives.shell.clone(), keeper.clone(), settings.data_dir.clone());
        let files = Files::new(lives.object.clone(), store.clone(), settings.volume.clone());
        let workflows = Workflows {};
        let stats = Stats::new(lives.stat.clone());
        let root = Arc::new(Root {
            lives,
            supervisor: RwLock::new(None),
            generation: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            restarting: AtomicBool::new(false),
            started: Instant::now(),
            reload: Mutex::new(None),
            reload_error: Mutex::new(None),
            replacement: Notify::new(),
        });
        let engine = Self { store, keys, keeper, shells, files, workflows, stats, root };
        engine.start_tree().await.map_err(StartError)?;
        tokio::spawn(engine.clone().keep_alive());
        Ok(engine)
    }

    /// Starts the tree's next generation.
    async fn start_tree(&self) -> Result<(), SpawnErr> {
        let children = vec![
            self.store.child(),
            self.keys.child(),
            self.keeper.child(),
            self.shells.child(),
            self.files.child(),
            self.stats.child(),
        ];
        let spec = SupervisorSpec::new("engine", Strategy::RestForOne, children);
        let supervisor = Supervisor::spawn(spec).await?;
        *self.root.supervisor.write().await = Some(supervisor);
        self.root.generation.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// Starts the tree again whenever its root gave up. The last supervisor of all: it does not give up.
    async fn keep_alive(self) {
        let mut backoff = ROOT_BACKOFF;
        loop {
            let supervisor = self.root.supervisor.read().await.clone();
            if let Some(supervisor) = supervisor {
                let since = Instant::now();
                let _ = supervisor.cell().wait(None).await;
                if since.elapsed() > ROOT_BACKOFF_LONGEST {
                    backoff = ROOT_BACKOFF;
                }
            }
            if self.root.stopping.load(Ordering::SeqCst) {
                return;
            }
            // A restart ends the root too, and brings the next itself.
            let mut slot = self.root.supervisor.write().await;
            if slot.as_ref().is_none_or(SupervisorHandle::runs) || self.root.restarting.load(Ordering::SeqCst) {
                drop(slot);
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
            *slot = None;
            drop(slot);
            tracing::error!(?backoff, "the root supervisor gave up; starting the actors again");
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(ROOT_BACKOFF_LONGEST);
            while let Err(error) = self.start_tree().await {
                tracing::error!(error = crate::error::chain(&error), ?backoff, "the actors do not start");
                tokio::time::sleep(backoff).await;
                backoff = (backoff * 2).min(ROOT_BACKOFF_LONGEST);
                if self.root.stopping.load(Ordering::SeqCst) {
                    return;
                }
            }
        }
    }

    /// Says how a restart reads the settings anew.
    pub fn on_restart(&self, reload: impl Fn() -> Result<EngineSettings, String> + Send + Sync + 'static) {
        *self.root.reload.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(reload));
    }

    /// Restarts the tree in the background: children stop in reverse, settings are read anew, all start again. A request
    /// for one while one runs is that one.
    pub fn restart(&self) {
        if self.root.restarting.swap(true, Ordering::SeqCst) {
            return;
        }
        let engine = self.clone();
        tokio::spawn(async move {
            let since = Instant::now();
            engine.restart_tree().await;
            engine.root.restarting.store(false, Ordering::SeqCst);
            tracing::info!(
                generation = engine.generation(),
                millis = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX),
                "restarted"
            );
        });
    }

    async fn restart_tree(&self) {
        let old = self.root.supervisor.write().await.take();
        if let Some(old) = old {
            old.stop(RESTART_STOP).await;
        }
        let reloaded = {
            let reload = self.root.reload.lock().unwrap_or_else(PoisonError::into_inner);
            reload.as_ref().map(|reload| reload())
        };
        let error = match reloaded {
            Some(Ok(settings)) => {
                self.root.lives.set(settings);
                None
            }
            Some(Err(error)) => Some(error),
            None => None,
        };
        *self.root.reload_error.lock().unwrap_or_else(PoisonError::into_inner) = error;
        let mut backoff = ROOT_BACKOFF;
        while let Err(error) = self.start_tree().await {
            tracing::error!(error = crate::error::chain(&error), ?backoff, "the actors do not start");
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(ROOT_BACKOFF_LONGEST);
            if self.root.stopping.load(Ordering::SeqCst) {
                return;
            }
        }
    }

    /// Asks whoever runs the process to replace it by the program as it is on disk now.
    pub fn replace_process(&self) {
        self.root.replacement.notify_one();
    }

    /// Resolves when the process is to be replaced.
    pub async fn replacement_wanted(&self) {
        self.root.replacement.notified().await;
    }

    /// Stops the tree in reverse, at most `deadline`; returns how many shells go on in the keeper.
    pub async fn stop(&self, deadline: Duration) -> usize {
        self.root.stopping.store(true, Ordering::SeqCst);
        let left = self.shells.running();
        let supervisor = self.root.supervisor.write().await.take();
        if let Some(supervisor) = supervisor {
            supervisor.stop(deadline).await;
        }
        left
    }

    /// Passes through the tree, and returns the clock in Unix milliseconds at the moment it answered.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn ping(&self) -> Result<i64, crate::call::CallError> {
        self.stats.ping().await
    }

    /// Which generation of the tree runs; 1 after the start.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.root.generation.load(Ordering::SeqCst)
    }

    /// How long the engine has run, restarts included.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.root.started.elapsed()
    }

    /// The supervision tree as it is.
    pub async fn tree(&self) -> Vec<ChildInfo> {
        let supervisor = self.root.supervisor.read().await.clone();
        match supervisor {
            Some(supervisor) => supervisor.tree().await,
            None => Vec::new(),
        }
    }

    /// How each part of the engine is.
    pub async fn components(&self) -> Vec<Component> {
        let restarting = self.root.restarting.load(Ordering::SeqCst);
        let mut components: Vec<Component> =
            self.tree().await.iter().map(|child| component(child, restarting)).collect();
        let error = self.root.reload_error.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let configuration = match error {
            None => (Health::Healthy, None),
            Some(error) => (
                Health::Degraded,
                Some(format!("{error}; the configuration before it stays in force: mend it and restart")),
            ),
        };
        let (health, detail) = configuration;
        components.push(Component { name: "configuration".into(), health, detail });
        components
    }
}

/// A child of the root as a component. While the tree restarts, one that is not there yet is no fault.
fn component(child: &ChildInfo, restarting: bool) -> Component {
    let (health, detail) = match child.state {
        ChildState::Running => (Health::Healthy, None),
        ChildState::Starting | ChildState::Stopping => {
            (Health::Degraded, Some("it is being started; try again in a moment".to_owned()))
        }
        ChildState::Stopped if restarting => (Health::Degraded, Some("it is being restarted".to_owned())),
        ChildState::Stopped | ChildState::Failed => (
            Health::Unhealthy,
            Some(format!(
                "it does not run ({}); see the log",
                child.last_exit.as_deref().unwrap_or("no reason is known")
            )),
        ),
    };
    Component { name: Arc::clone(&child.id), health, detail }
}
