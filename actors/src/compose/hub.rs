//! The one connection to Docker: a client for calls, and the only stream of events.
//!
//! The actor owns the task that keeps both: it connects, reads events, and when Docker goes away tries again until it is
//! back, or at once when a call wants it. Events go on where they ended (`since`); who reads them is told to look anew
//! after every break. Failure: a task that ends by a panic fails the actor, and the supervisor starts it again.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptions;
use bollard::{API_DEFAULT_VERSION, Docker};
use futures_util::StreamExt;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::{Notify, Semaphore, broadcast, watch};

use super::Settings;
use super::body::label;
use super::error::WorkflowError;
use crate::call::AbortOnDrop;
use crate::live::Live;
use crate::store::{Store, StoreError};
use crate::supervision::ChildSpec;

/// How many events a reader may be behind before it has to look anew.
const BACKLOG: usize = 4096;
/// The longest that one call may take to answer.
const CALL: u64 = 120;
/// How often a Docker that is away is looked for.
const RETRY: Duration = Duration::from_secs(1);
/// How long a call waits for a Docker that is being looked for.
const PATIENCE: Duration = Duration::from_secs(2);
/// The events that change what a workflow is; health checks run commands all the time, which are left out.
const ACTIONS: [&str; 12] = [
    "create",
    "start",
    "die",
    "stop",
    "kill",
    "pause",
    "unpause",
    "destroy",
    "restart",
    "oom",
    "health_status",
    "rename",
];

/// How Docker is.
#[derive(Clone, Debug)]
enum Link {
    Connecting,
    There(Docker),
    Away(String),
}

/// What Docker says.
#[derive(Clone, Debug)]
pub(crate) enum DockerEvent {
    /// Something may have been missed.
    LookAnew,
    /// Something happened to a container of a project.
    Container(Arc<Happened>),
}

/// What happened to a container.
#[derive(Clone, Debug)]
pub(crate) struct Happened {
    pub(crate) at: i64,
    pub(crate) action: String,
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) project: String,
    pub(crate) service: String,
    pub(crate) exit_code: Option<i64>,
    pub(crate) signal: Option<i32>,
}

impl Happened {
    fn read(message: EventMessage) -> Option<Self> {
        let actor = message.actor?;
        let mut attributes = actor.attributes?;
        Some(Self {
            at: message.time_nano.or_else(|| message.time.map(|time| time * 1_000_000_000))?,
            action: message.action?,
            id: actor.id?,
            name: attributes.remove("name").unwrap_or_default(),
            project: attributes.remove(label::PROJECT)?,
            service: attributes.remove(label::SERVICE).unwrap_or_default(),
            exit_code: attributes.remove("exitCode").and_then(|code| code.parse().ok()),
            signal: attributes.remove("signal").and_then(|signal| signal.parse().ok()),
        })
    }
}

/// The connection to Docker as the rest of the workflows see it.
#[derive(Clone, Debug)]
pub(crate) struct Hub(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: Live<Settings>,
    store: Store,
    link: watch::Sender<Link>,
    events: broadcast::Sender<DockerEvent>,
    wanted: Notify,
    calls: Semaphore,
    /// Containers that somebody has stopped or killed: that they ended is no failure.
    stopped: Mutex<HashSet<String>>,
}

impl Hub {
    pub(crate) fn new(settings: Live<Settings>, store: Store) -> Self {
        let calls = Semaphore::new(settings.get().concurrency.clamp(1, 256));
        Self(Arc::new(Inner {
            settings,
            store,
            link: watch::Sender::new(Link::Connecting),
            events: broadcast::Sender::new(BACKLOG),
            wanted: Notify::new(),
            calls,
            stopped: Mutex::default(),
        }))
    }

    pub(crate) fn child(&self) -> ChildSpec {
        let hub = self.clone();
        ChildSpec::worker("docker-hub", move |supervisor| {
            let hub = hub.clone();
            async move { Ok(Actor::spawn_linked(None, HubActor, hub, supervisor).await?.0.get_cell()) }
        })
    }

    /// The client; one that is away is looked for first.
    pub(crate) async fn client(&self) -> Result<Docker, WorkflowError> {
        let mut link = self.0.link.subscribe();
        if matches!(&*link.borrow_and_update(), Link::Away(_)) {
            self.0.wanted.notify_one();
            let _ = tokio::time::timeout(PATIENCE, link.changed()).await;
        }
        let known = tokio::time::timeout(PATIENCE, link.wait_for(|link| !matches!(link, Link::Connecting))).await;
        match known {
            Ok(Ok(link)) => match &*link {
                Link::There(docker) => Ok(docker.clone()),
                Link::Away(reason) => Err(WorkflowError::Away { reason: reason.clone() }),
                Link::Connecting => Err(WorkflowError::Away { reason: "it is being looked for".into() }),
            },
            Ok(Err(_)) | Err(_) => Err(WorkflowError::Away { reason: "it does not answer".into() }),
        }
    }

    /// Why Docker cannot be reached, if it cannot.
    pub(crate) fn away(&self) -> Option<String> {
        match &*self.0.link.borrow() {
            Link::Away(reason) => Some(reason.clone()),
            Link::Connecting | Link::There(_) => None,
        }
    }

    pub(crate) fn events(&self) -> broadcast::Receiver<DockerEvent> {
        self.0.events.subscribe()
    }

    /// Waits for a turn among the calls that change something.
    pub(crate) async fn turn(&self) -> Result<tokio::sync::SemaphorePermit<'_>, WorkflowError> {
        self.0.calls.acquire().await.map_err(|_| WorkflowError::BrokenOff)
    }

    fn stopped(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.0.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether somebody has stopped or killed the container.
    pub(crate) fn was_stopped(&self, id: &str) -> bool {
        self.stopped().contains(id)
    }

    /// Takes note of whether somebody stops the container.
    pub(crate) async fn mark(&self, id: &str, stopped: bool) {
        let changed = if stopped { self.stopped().insert(id.to_owned()) } else { self.stopped().remove(id) };
        if !changed {
            return;
        }
        let container = id.to_owned();
        let kept = self.0.store.write::<(), StoreError, _>(move |transaction| {
            if stopped {
                transaction.execute("INSERT OR IGNORE INTO stopped_containers VALUES (?1)", [&container])?;
            } else {
                transaction.execute("DELETE FROM stopped_containers WHERE container = ?1", [&container])?;
            }
            Ok(())
        });
        if let Err(error) = kept.await {
            // The exit code tells nearly the same after a restart.
            tracing::warn!(error = crate::error::chain(&error), "that a container was stopped could not be kept");
        }
    }

    async fn heard(&self, happened: Happened) {
        match happened.action.as_str() {
            "start" | "destroy" => self.mark(&happened.id, false).await,
            "stop" => self.mark(&happened.id, true).await,
            "kill" if matches!(happened.signal, Some(libc::SIGTERM | libc::SIGKILL | libc::SIGINT | libc::SIGQUIT)) => {
                self.mark(&happened.id, true).await;
            }
            _ => {}
        }
        let _ = self.0.events.send(DockerEvent::Container(Arc::new(happened)));
    }

    async fn run(self) {
        let mut since = crate::time::unix_millis() * 1_000_000;
        loop {
            let reason = match self.connect().await {
                Ok(docker) => {
                    let mut events = Box::pin(docker.events(Some(event_options(since))));
                    self.0.link.send_replace(Link::There(docker.clone()));
                    let _ = self.0.events.send(DockerEvent::LookAnew);
                    loop {
                        match events.next().await {
                            Some(Ok(message)) => {
                                let Some(happened) = Happened::read(message) else { continue };
                                // `since` counts the last one again.
                                if happened.at > since {
                                    since = happened.at;
                                    self.heard(happened).await;
                                }
                            }
                            Some(Err(error)) => break crate::error::chain(&error),
                            None => break "its stream of events ended".into(),
                        }
                    }
                }
                Err(reason) => reason,
            };
            let before = self.0.link.send_replace(Link::Away(reason.clone()));
            if !matches!(before, Link::Away(_)) {
                tracing::warn!(reason, "Docker is away");
            }
            let _ = tokio::time::timeout(RETRY, self.0.wanted.notified()).await;
        }
    }

    async fn connect(&self) -> Result<Docker, String> {
        let address = self.0.settings.get().docker.clone();
        let docker = if let Some(path) = address.strip_prefix("unix://") {
            Docker::connect_with_unix(path, CALL, API_DEFAULT_VERSION)
        } else if address.starts_with("tcp://") || address.starts_with("http://") {
            Docker::connect_with_http(&address, CALL, API_DEFAULT_VERSION)
        } else {
            return Err(format!("`{address}` is no address: it begins with `unix://` or `tcp://`"));
        };
        let docker = docker.map_err(|error| error.to_string())?;
        match tokio::time::timeout(PATIENCE * 5, docker.ping()).await {
            Ok(Ok(_)) => Ok(docker),
            Ok(Err(error)) => Err(crate::error::chain(&error)),
            Err(_) => Err("it does not answer".into()),
        }
    }
}

fn event_options(since: i64) -> EventsOptions {
    let filters = HashMap::from([
        ("type".to_owned(), vec!["container".to_owned()]),
        ("label".to_owned(), vec![label::PROJECT.to_owned()]),
        ("event".to_owned(), ACTIONS.iter().map(|action| (*action).to_owned()).collect()),
    ]);
    let since = format!("{}.{:09}", since / 1_000_000_000, since % 1_000_000_000);
    EventsOptions { since: Some(since), until: None, filters: Some(filters) }
}

/// The actor.
struct HubActor;

/// What the actor is told.
#[derive(Debug)]
enum HubMsg {
    /// The task ended, which it never does by itself.
    Ended,
}

impl Actor for HubActor {
    type Msg = HubMsg;
    type State = AbortOnDrop;
    type Arguments = Hub;

    async fn pre_start(&self, myself: ActorRef<HubMsg>, hub: Hub) -> Result<AbortOnDrop, ActorProcessingErr> {
        let kept = hub.0.store.read::<HashSet<String>, StoreError, _>(|connection| {
            let mut statement = connection.prepare("SELECT container FROM stopped_containers")?;
            let rows = statement.query_map([], |row| row.get(0))?;
            Ok(rows.collect::<Result<_, _>>()?)
        });
        let kept = kept.await?;
        hub.stopped().extend(kept);
        let task = tokio::spawn(hub.run());
        let abort = task.abort_handle();
        tokio::spawn(async move {
            let _ = task.await;
            let _ = myself.cast(HubMsg::Ended);
        });
        Ok(AbortOnDrop(abort))
    }

    async fn handle(
        &self,
        _: ActorRef<HubMsg>,
        message: HubMsg,
        _: &mut AbortOnDrop,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            HubMsg::Ended => Err("the connection to Docker failed".into()),
        }
    }
}
