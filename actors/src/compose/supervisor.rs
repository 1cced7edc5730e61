//! The ComposeSupervisor: one per workflow. It runs one operation at a time, in a task that it owns, and has the watcher of
//! the workflow's events as its child.

use std::collections::BTreeMap;
use std::sync::Arc;

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SupervisionEvent};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::{broadcast, mpsc, oneshot};

use super::error::WorkflowError;
use super::handle::{Entry, Workflows};
use super::hub::{DockerEvent, Happened};
use super::{Outcome, Progress};
use crate::call::AbortOnDrop;
use crate::call::Reply;
use crate::supervision::{ChildSpec, Restart};

/// A workflow that is to be made.
#[derive(Clone, Debug, Default)]
pub struct CreateSpec {
    /// The compose file.
    pub content: Option<String>,
    /// Where it is among the objects.
    pub source: Option<String>,
    /// Variables for the file.
    pub env: BTreeMap<String, String>,
    /// The profiles that are switched on.
    pub profiles: Vec<String>,
    /// Whether it is started too.
    pub start: bool,
    /// When images are pulled: `always`, `missing` or `never`.
    pub pull: Option<String>,
    /// Whether containers of services that the file does not have are removed.
    pub remove_orphans: bool,
}

/// A file that is to be applied to a workflow that is there.
#[derive(Clone, Debug, Default)]
pub struct UpdateSpec {
    /// The compose file.
    pub content: Option<String>,
    /// Where it is among the objects.
    pub source: Option<String>,
    /// Variables for the file; without, those it has.
    pub env: Option<BTreeMap<String, String>>,
    /// The profiles that are switched on; without, those it has.
    pub profiles: Option<Vec<String>>,
    /// Whether it is started too; without, whether something of it runs.
    pub start: Option<bool>,
    /// When images are pulled: `always`, `missing` or `never`.
    pub pull: Option<String>,
    /// Whether containers of services that no revision of ours had are removed too.
    pub remove_orphans: bool,
}

/// What a workflow is asked to do. `services` are those that are meant; all when there are none.
#[derive(Clone, Debug)]
pub enum Request {
    /// Make it.
    Create(Arc<CreateSpec>),
    /// Apply another file to it.
    Update(Arc<UpdateSpec>),
    /// Apply the file of an earlier revision; without a number, of the one before.
    Rollback(Option<i64>),
    /// Bring Docker to what the file says, and start it.
    Start(Vec<String>),
    /// Stop it, with so many seconds before the kill.
    Stop(Vec<String>, Option<u32>),
    /// Stop and start it.
    Restart(Vec<String>, Option<u32>),
    /// Hold it.
    Pause(Vec<String>),
    /// Let it go on.
    Unpause(Vec<String>),
    /// Send it a signal.
    Kill(Vec<String>, i32),
    /// Remove it.
    Remove {
        /// Volumes too.
        volumes: bool,
        /// Whether a running one is stopped.
        stop: bool,
    },
}

impl Request {
    /// Its name in the API.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Create(_) => "create",
            Self::Update(_) => "update",
            Self::Rollback(_) => "rollback",
            Self::Start(_) => "start",
            Self::Stop(..) => "stop",
            Self::Restart(..) => "restart",
            Self::Pause(_) => "pause",
            Self::Unpause(_) => "unpause",
            Self::Kill(..) => "kill",
            Self::Remove { .. } => "remove",
        }
    }
}

/// An operation that was begun. It goes on whether anybody waits for it or not.
#[derive(Debug)]
pub struct Operation {
    /// Names it.
    pub id: String,
    /// What becomes of each part.
    pub progress: mpsc::UnboundedReceiver<Progress>,
    done: oneshot::Receiver<Result<Outcome, WorkflowError>>,
}

impl Operation {
    /// Waits for its end.
    ///
    /// # Errors
    /// What went wrong.
    pub async fn outcome(self) -> Result<Outcome, WorkflowError> {
        self.done.await.unwrap_or(Err(WorkflowError::BrokenOff))
    }
}

/// Something that happened to a workflow.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq, Serialize)]
pub struct WorkflowEvent {
    /// When, ISO 8601.
    pub time: String,
    /// To which service.
    pub service: String,
    /// To which container.
    pub container: String,
    /// What: `start`, `die`, `stop`, …
    pub action: String,
    /// Why, as far as it can be known.
    pub cause: String,
    /// What its program ended with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
}

/// What a ComposeSupervisor is told.
#[derive(Debug)]
pub(super) enum ComposeMsg {
    /// Begin this.
    Begin {
        /// What.
        request: Request,
        /// Where the operation goes.
        reply: Reply<Operation, WorkflowError>,
    },
    /// The operation has ended.
    Ended,
}

/// The actor.
pub(super) struct ComposeSupervisor;

#[derive(Clone)]
pub(super) struct ComposeArgs {
    pub(super) workflows: Workflows,
    pub(super) entry: Arc<Entry>,
}

pub(super) struct ComposeState {
    args: ComposeArgs,
    running: Option<AbortOnDrop>,
}

pub(super) fn child(args: ComposeArgs) -> ChildSpec {
    let name = Arc::clone(args.entry.handle.slot().name());
    ChildSpec::supervisor(name, move |supervisor| {
        let args = args.clone();
        async move { Ok(Actor::spawn_linked(None, ComposeSupervisor, args, supervisor).await?.0.get_cell()) }
    })
    .restart(Restart::Transient)
}

impl ComposeSupervisor {
    async fn watch(myself: &ActorRef<ComposeMsg>, args: &ComposeArgs) -> Result<ActorCell, ActorProcessingErr> {
        Ok(Actor::spawn_linked(None, Watcher, args.clone(), myself.get_cell()).await?.0.get_cell())
    }
}

impl Actor for ComposeSupervisor {
    type Msg = ComposeMsg;
    type State = ComposeState;
    type Arguments = ComposeArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<ComposeMsg>,
        args: ComposeArgs,
    ) -> Result<ComposeState, ActorProcessingErr> {
        Self::watch(&myself, &args).await?;
        args.entry.set_operation(None);
        args.entry.handle.slot().publish(myself);
        Ok(ComposeState { args, running: None })
    }

    async fn handle(
        &self,
        myself: ActorRef<ComposeMsg>,
        message: ComposeMsg,
        state: &mut ComposeState,
    ) -> Result<(), ActorProcessingErr> {
        crate::fault::point("compose-supervisor");
        let entry = &state.args.entry;
        match message {
            ComposeMsg::Begin { request, reply } => {
                if let (Some(operation), Some(_)) = (entry.operation(), &state.running) {
                    let _ = reply.send(Err(WorkflowError::Busy { id: entry.id.clone(), operation }));
                    return Ok(());
                }
                let (progress, receiver) = mpsc::unbounded_channel();
                let (done, outcome) = oneshot::channel();
                entry.set_operation(Some(request.name()));
                let (workflows, id) = (state.args.workflows.clone(), entry.id.clone());
                let task = tokio::spawn(async move {
                    let outcome = workflows.perform(&id, request, progress).await;
                    let _ = done.send(outcome);
                });
                state.running = Some(AbortOnDrop(task.abort_handle()));
                tokio::spawn(async move {
                    let _ = task.await;
                    let _ = myself.cast(ComposeMsg::Ended);
                });
                let id = crate::ids::WorkflowId::generate().as_str().to_owned();
                let _ = reply.send(Ok(Operation { id, progress: receiver, done: outcome }));
            }
            ComposeMsg::Ended => {
                state.running = None;
                entry.set_operation(None);
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<ComposeMsg>,
        event: SupervisionEvent,
        state: &mut ComposeState,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(..) | SupervisionEvent::ActorTerminated(..) => {
                Self::watch(&myself, &state.args).await?;
            }
            _ => {}
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        myself: ActorRef<ComposeMsg>,
        state: &mut ComposeState,
    ) -> Result<(), ActorProcessingErr> {
        state.args.entry.handle.slot().withdraw(&myself);
        Ok(())
    }
}

/// The watcher of one workflow's events.
struct Watcher;

/// What the watcher is told.
#[derive(Debug)]
enum WatcherMsg {
    Heard(Arc<Happened>),
    Ended,
}

impl Actor for Watcher {
    type Msg = WatcherMsg;
    type State = (ComposeArgs, AbortOnDrop);
    type Arguments = ComposeArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<WatcherMsg>,
        args: ComposeArgs,
    ) -> Result<Self::State, ActorProcessingErr> {
        let mut events = args.workflows.hub().events();
        let id = args.entry.id.clone();
        let task = tokio::spawn(async move {
            loop {
                match events.recv().await {
                    Ok(DockerEvent::Container(happened)) if happened.project == id.as_str() => {
                        if myself.cast(WatcherMsg::Heard(happened)).is_err() {
                            return;
                        }
                    }
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => {
                        let _ = myself.cast(WatcherMsg::Ended);
                        return;
                    }
                }
            }
        });
        Ok((args, AbortOnDrop(task.abort_handle())))
    }

    async fn handle(
        &self,
        _: ActorRef<WatcherMsg>,
        message: WatcherMsg,
        (args, _): &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let WatcherMsg::Heard(happened) = message else { return Err("the events ended".into()) };
        let operation = args.entry.operation();
        let cause = match (happened.action.as_str(), happened.exit_code, operation) {
            ("die", Some(code), None) if !args.workflows.hub().was_stopped(&happened.id) => {
                format!("its program ended with {code}")
            }
            (_, _, Some(operation)) => format!("the operation `{operation}`"),
            ("oom", ..) => "there was no memory left for it".into(),
            (action, ..) if action.starts_with("health_status") => "its health check".into(),
            _ => "from outside, or by Docker".into(),
        };
        let time = jiff::Timestamp::from_nanosecond(i128::from(happened.at)).map(|time| time.to_string());
        let event = WorkflowEvent {
            time: time.unwrap_or_default(),
            service: happened.service.clone(),
            container: happened.name.clone(),
            action: happened.action.clone(),
            cause,
            exit_code: happened.exit_code,
        };
        let _ = args.entry.events.send(event);
        Ok(())
    }
}
