//! The supervisor: an actor that owns its children's starts, ends and restarts, and does nothing else.
//!
//! It never waits for a child in a handler: starts, stops and restarts run as one *job* at a time in a task that reports
//! back, in the order in which they became due. A job that a failure makes necessary takes in every child that the
//! strategy names. A caller that goes away changes nothing.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use ractor::{
    Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, ActorStatus, RpcReplyPort, SpawnErr, SupervisionEvent,
};
use tokio::time::Instant;

use super::child_spec::{ChildKind, ChildSpec, Restart};
use super::intensity::{Intensity, Restarts};
use super::strategy::Strategy;
use crate::error::{ErrorKind, Failure};

/// How long a question about the tree may take at each supervisor.
const TREE_DEADLINE: Duration = Duration::from_secs(1);
/// How many children that do not depend on each other are stopped at once.
const STOPS_AT_ONCE: usize = 64;
/// What takes longer than this to start or to stop is told in the log.
const SLOW: Duration = Duration::from_millis(100);
/// How long a kill may take to be seen; an actor is killed at its next await.
const KILL_DEADLINE: Duration = Duration::from_secs(1);

/// Told when a child with an intensity of its own has failed for good: its id, and why.
pub type GaveUp = Arc<dyn Fn(&str, &str) + Send + Sync>;

/// What a supervisor is to do.
#[derive(Clone)]
pub struct SupervisorSpec {
    /// Its name, for logs.
    pub name: Arc<str>,
    /// Who is restarted with a child that failed.
    pub strategy: Strategy,
    /// How often that may happen.
    pub intensity: Intensity,
    /// When present, the intensity is counted for each child alone, and this is told of one that exceeds it; the
    /// supervisor never gives up itself. For [`Strategy::OneForOne`].
    pub per_child: Option<GaveUp>,
    /// Its first children, in the order of start.
    pub children: Vec<ChildSpec>,
}

impl SupervisorSpec {
    /// A supervisor with the default intensity.
    pub fn new(name: impl Into<Arc<str>>, strategy: Strategy, children: Vec<ChildSpec>) -> Self {
        Self { name: name.into(), strategy, intensity: Intensity::default(), per_child: None, children }
    }

    /// Counts the intensity for each child alone.
    #[must_use]
    pub fn per_child(mut self, gave_up: GaveUp) -> Self {
        self.per_child = Some(gave_up);
        self
    }

    /// Says how often children may fail.
    #[must_use]
    pub fn intensity(mut self, intensity: Intensity) -> Self {
        self.intensity = intensity;
        self
    }
}

impl fmt::Debug for SupervisorSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SupervisorSpec")
            .field("name", &self.name)
            .field("strategy", &self.strategy)
            .field("intensity", &self.intensity)
            .field("children", &self.children)
            .finish_non_exhaustive()
    }
}

/// Why a supervisor did not do what it was asked.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SupervisionError {
    /// A child of that id is there.
    #[error("`{0}` is already supervised")]
    Exists(Arc<str>),
    /// No child of that id is there.
    #[error("`{0}` is not supervised here")]
    NotFound(Arc<str>),
    /// The child did not start.
    #[error("`{id}` did not start: {reason}")]
    Start {
        /// The child.
        id: Arc<str>,
        /// Why.
        reason: String,
    },
    /// The supervisor is not running.
    #[error("the supervisor is not running")]
    Gone,
}

impl Failure for SupervisionError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Exists(_) => ErrorKind::Conflict,
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::Start { .. } => ErrorKind::Internal,
            Self::Gone => ErrorKind::Unavailable,
        }
    }

    fn slug(&self) -> &'static str {
        match self {
            Self::Exists(_) => "exists",
            Self::NotFound(_) => "not-found",
            Self::Start { .. } => "start-failed",
            Self::Gone => "not-running",
        }
    }
}

/// How a child is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ChildState {
    /// It runs.
    Running,
    /// It is being started, again or for the first time.
    Starting,
    /// It is being stopped.
    Stopping,
    /// It ended, and is not to run.
    Stopped,
    /// It failed too often.
    Failed,
}

impl ChildState {
    /// Its name in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Starting => "starting",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }
}

/// One child as the tree shows it.
#[derive(Clone, Debug)]
pub struct ChildInfo {
    /// Its id among its siblings.
    pub id: Arc<str>,
    /// Worker or supervisor.
    pub kind: ChildKind,
    /// How it is.
    pub state: ChildState,
    /// How often it was restarted.
    pub restarts: u64,
    /// Why it last ended, if it did.
    pub last_exit: Option<String>,
    /// How long its present generation has run.
    pub age: Duration,
    /// How many calls wait for it.
    pub mailbox: usize,
    /// Its own children.
    pub children: Vec<ChildInfo>,
}

/// What a supervisor is told.
pub enum SupervisorMsg {
    /// Starts a child after all that are there.
    StartChild {
        /// How.
        spec: ChildSpec,
        /// Answered when it runs, or has failed to start and is forgotten.
        reply: RpcReplyPort<Result<ActorCell, SupervisionError>>,
    },
    /// Stops a child and forgets it.
    StopChild {
        /// Which.
        id: Arc<str>,
        /// Answered when it has ended.
        reply: RpcReplyPort<Result<(), SupervisionError>>,
    },
    /// Stops all children in reverse; they stay known and can be started again.
    StopAll {
        /// Answered when all have ended.
        reply: RpcReplyPort<()>,
    },
    /// Starts all that do not run, in order.
    StartAll {
        /// Answered when all run, or with the first that does not.
        reply: RpcReplyPort<Result<(), SupervisionError>>,
    },
    /// Tells how the children are.
    Children {
        /// Answered with each and, for supervisors, its address.
        reply: RpcReplyPort<Vec<(ChildInfo, Option<ActorCell>)>>,
    },
    /// A job has ended.
    JobDone(Done),
    /// The wait before a restart is over.
    RestartDue {
        /// Which children, in order.
        ids: Vec<Arc<str>>,
    },
}

impl fmt::Debug for SupervisorMsg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::StartChild { .. } => "StartChild",
            Self::StopChild { .. } => "StopChild",
            Self::StopAll { .. } => "StopAll",
            Self::StartAll { .. } => "StartAll",
            Self::Children { .. } => "Children",
            Self::JobDone(_) => "JobDone",
            Self::RestartDue { .. } => "RestartDue",
        })
    }
}

/// What a job is for, and whom to tell.
enum Purpose {
    StartChild(RpcReplyPort<Result<ActorCell, SupervisionError>>),
    StopChild(RpcReplyPort<Result<(), SupervisionError>>),
    StopAll(RpcReplyPort<()>),
    StartAll(RpcReplyPort<Result<(), SupervisionError>>),
    Restart,
}

/// Children to stop, in the order given, then children to start, in the order given.
struct Job {
    stop: Vec<Arc<str>>,
    start: Vec<Arc<str>>,
    purpose: Purpose,
}

/// What became of a job.
pub struct Done {
    started: Vec<(Arc<str>, ActorCell)>,
    failed: Option<(Arc<str>, String)>,
    stopped: Vec<Arc<str>>,
    purpose: Purpose,
}

struct Child {
    spec: ChildSpec,
    state: ChildState,
    cell: Option<ActorCell>,
    restarts: u64,
    own_restarts: Restarts,
    last_exit: Option<String>,
    since: Instant,
}

impl Child {
    fn new(spec: ChildSpec) -> Self {
        Self {
            spec,
            state: ChildState::Stopped,
            cell: None,
            restarts: 0,
            own_restarts: Restarts::default(),
            last_exit: None,
            since: Instant::now(),
        }
    }
}

/// A supervisor's state.
pub struct SupervisorState {
    spec: SupervisorSpec,
    children: Vec<Child>,
    restarts: Restarts,
    /// Jobs that wait for the one that runs. In per-child supervisors jobs of different children run side by side, so
    /// that one slow start holds up nobody.
    jobs: VecDeque<Job>,
    busy: HashSet<Arc<str>>,
    /// Actors whose end we brought about.
    expected: HashSet<ActorId>,
}

/// An OTP supervisor.
#[derive(Debug)]
pub struct Supervisor;

impl Supervisor {
    /// Starts a supervisor under nobody: the root. Its children run when this returns.
    ///
    /// # Errors
    /// When a child does not start; those before it have been stopped again.
    pub async fn spawn(spec: SupervisorSpec) -> Result<SupervisorHandle, SpawnErr> {
        let (actor, _) = Actor::spawn(None, Self, spec).await?;
        Ok(SupervisorHandle { actor })
    }

    /// Starts a supervisor under `parent`.
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn).
    pub async fn spawn_linked(spec: SupervisorSpec, parent: ActorCell) -> Result<SupervisorHandle, SpawnErr> {
        let (actor, _) = Actor::spawn_linked(None, Self, spec, parent).await?;
        Ok(SupervisorHandle { actor })
    }
}

impl Actor for Supervisor {
    type Msg = SupervisorMsg;
    type State = SupervisorState;
    type Arguments = SupervisorSpec;

    async fn pre_start(
        &self,
        myself: ActorRef<SupervisorMsg>,
        spec: SupervisorSpec,
    ) -> Result<SupervisorState, ActorProcessingErr> {
        let mut state = SupervisorState {
            children: spec.children.iter().cloned().map(Child::new).collect(),
            spec,
            restarts: Restarts::default(),
            jobs: VecDeque::new(),
            busy: HashSet::new(),
            expected: HashSet::new(),
        };
        for index in 0..state.children.len() {
            let child = &state.children[index];
            let since = Instant::now();
            let started = start(&child.spec, myself.get_cell()).await;
            note_slow(&child.spec.id, "start", since);
            match started {
                Ok(cell) => state.children[index].runs(cell),
                Err(reason) => {
                    let id = Arc::clone(&child.spec.id);
                    state.stop_everything().await;
                    return Err(SupervisionError::Start { id, reason }.into());
                }
            }
        }
        Ok(state)
    }

    async fn post_stop(
        &self,
        _: ActorRef<SupervisorMsg>,
        state: &mut SupervisorState,
    ) -> Result<(), ActorProcessingErr> {
        state.stop_everything().await;
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<SupervisorMsg>,
        message: SupervisorMsg,
        state: &mut SupervisorState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            SupervisorMsg::StartChild { spec, reply } => state.start_child(spec, reply),
            SupervisorMsg::StopChild { id, reply } => state.stop_child(&id, reply),
            SupervisorMsg::StopAll { reply } => state.stop_all(reply),
            SupervisorMsg::StartAll { reply } => state.start_all(reply),
            SupervisorMsg::Children { reply } => {
                let _ = reply.send(state.infos());
            }
            SupervisorMsg::JobDone(done) => state.job_done(done, &myself)?,
            SupervisorMsg::RestartDue { ids } => state.restart_due(ids),
        }
        state.run_jobs(&myself);
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<SupervisorMsg>,
        event: SupervisionEvent,
        state: &mut SupervisorState,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorTerminated(cell, _, reason) => {
                state.child_ended(&cell, false, reason.unwrap_or_else(|| "ended".into()), &myself)?;
            }
            SupervisionEvent::ActorFailed(cell, error) => {
                state.child_ended(&cell, true, error.to_string(), &myself)?;
            }
            _ => {}
        }
        state.run_jobs(&myself);
        Ok(())
    }
}

/// Starts one generation of a child; a panic in it is a failed start.
async fn start(spec: &ChildSpec, supervisor: ActorCell) -> Result<ActorCell, String> {
    match std::panic::AssertUnwindSafe((spec.start)(supervisor)).catch_unwind().await {
        Ok(Ok(cell)) => Ok(cell),
        Ok(Err(error)) => Err(crate::error::chain(&error)),
        Err(panic) => Err(crate::call::panic_message(&*panic)),
    }
}

/// Says in the log which child took long, since all others wait for it.
fn note_slow(child: &str, to: &str, since: Instant) {
    let took = since.elapsed();
    if took > SLOW {
        tracing::info!(child, millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX), "took long to {to}");
    }
}

/// Ends a child: gracefully within its deadline (its queue is handled, its `post_stop` runs), then by force.
async fn stop(cell: &ActorCell, deadline: Duration) {
    if matches!(cell.get_status(), ActorStatus::Stopped) {
        return;
    }
    if deadline.is_zero() || cell.drain_and_wait(Some(deadline)).await.is_err() {
        let _ = cell.kill_and_wait(Some(KILL_DEADLINE)).await;
    }
}

impl Child {
    fn runs(&mut self, cell: ActorCell) {
        self.cell = Some(cell);
        self.state = ChildState::Running;
        self.since = Instant::now();
    }

    fn info(&self) -> ChildInfo {
        ChildInfo {
            id: Arc::clone(&self.spec.id),
            kind: self.spec.kind,
            state: self.state,
            restarts: self.restarts,
            last_exit: self.last_exit.clone(),
            age: if self.state == ChildState::Running { self.since.elapsed() } else { Duration::ZERO },
            mailbox: self.spec.mailbox.as_ref().map_or(0, |gauge| gauge()),
            children: Vec::new(),
        }
    }
}

impl SupervisorState {
    fn position(&self, id: &str) -> Option<usize> {
        self.children.iter().position(|child| &*child.spec.id == id)
    }

    fn infos(&self) -> Vec<(ChildInfo, Option<ActorCell>)> {
        let of = |child: &Child| {
            let supervisor = child.spec.kind == ChildKind::Supervisor && child.state == ChildState::Running;
            (child.info(), child.cell.clone().filter(|_| supervisor))
        };
        self.children.iter().map(of).collect()
    }

    /// Stops the children in reverse; those that do not depend on each other (see [`SupervisorSpec::per_child`]) side by
    /// side, since there may be a thousand.
    async fn stop_everything(&mut self) {
        let at_once = if self.spec.per_child.is_some() { STOPS_AT_ONCE } else { 1 };
        let mut stops: Vec<BoxFuture<'_, ()>> = Vec::new();
        for child in self.children.iter_mut().rev() {
            let Some(cell) = child.cell.take() else { continue };
            child.state = ChildState::Stopping;
            stops.push(Box::pin(async move {
                let since = Instant::now();
                stop(&cell, child.spec.shutdown).await;
                child.state = ChildState::Stopped;
                note_slow(&child.spec.id, "stop", since);
            }));
        }
        // Each begins when there is room for it, in this order: with one at a time, when the one before has ended.
        stream::iter(stops).buffered(at_once).collect::<()>().await;
    }

    fn start_child(&mut self, spec: ChildSpec, reply: RpcReplyPort<Result<ActorCell, SupervisionError>>) {
        if self.position(&spec.id).is_some() {
            let _ = reply.send(Err(SupervisionError::Exists(spec.id)));
            return;
        }
        let id = Arc::clone(&spec.id);
        let mut child = Child::new(spec);
        child.state = ChildState::Starting;
        self.children.push(child);
        self.jobs.push_back(Job { stop: Vec::new(), start: vec![id], purpose: Purpose::StartChild(reply) });
    }

    fn stop_child(&mut self, id: &Arc<str>, reply: RpcReplyPort<Result<(), SupervisionError>>) {
        if self.position(id).is_none() {
            let _ = reply.send(Err(SupervisionError::NotFound(Arc::clone(id))));
            return;
        }
        let stop = vec![Arc::clone(id)];
        self.jobs.push_back(Job { stop, start: Vec::new(), purpose: Purpose::StopChild(reply) });
    }

    fn stop_all(&mut self, reply: RpcReplyPort<()>) {
        let stop = self.children.iter().rev().map(|child| Arc::clone(&child.spec.id)).collect();
        self.jobs.push_back(Job { stop, start: Vec::new(), purpose: Purpose::StopAll(reply) });
    }

    fn start_all(&mut self, reply: RpcReplyPort<Result<(), SupervisionError>>) {
        let idle = |child: &&Child| child.cell.is_none();
        let start = self.children.iter().filter(idle).map(|child| Arc::clone(&child.spec.id)).collect();
        self.jobs.push_back(Job { stop: Vec::new(), start, purpose: Purpose::StartAll(reply) });
    }

    /// Starts the jobs whose turn it is.
    fn run_jobs(&mut self, myself: &ActorRef<SupervisorMsg>) {
        let side_by_side = self.spec.per_child.is_some();
        let mut waiting = VecDeque::new();
        let mut held: HashSet<Arc<str>> = HashSet::new();
        while let Some(job) = self.jobs.pop_front() {
            let ids = || job.stop.iter().chain(&job.start);
            let blocked = if side_by_side {
                ids().any(|id| self.busy.contains(id) || held.contains(id))
            } else {
                !self.busy.is_empty() || !waiting.is_empty()
            };
            if blocked {
                held.extend(ids().cloned());
                waiting.push_back(job);
            } else {
                self.run(job, myself);
            }
        }
        self.jobs = waiting;
    }

    fn run(&mut self, job: Job, myself: &ActorRef<SupervisorMsg>) {
        let mut stops = Vec::new();
        for id in &job.stop {
            let Some(index) = self.position(id) else { continue };
            let child = &mut self.children[index];
            if let Some(cell) = child.cell.take() {
                child.state = ChildState::Stopping;
                self.expected.insert(cell.get_id());
                stops.push((cell, child.spec.shutdown));
            }
        }
        let mut starts = Vec::new();
        for id in &job.start {
            let Some(index) = self.position(id) else { continue };
            let child = &mut self.children[index];
            if child.cell.is_none() {
                child.state = ChildState::Starting;
                starts.push(child.spec.clone());
            }
        }
        self.busy.extend(job.stop.iter().chain(&job.start).cloned());
        let (supervisor, report) = (myself.get_cell(), myself.clone());
        let work: BoxFuture<'static, Done> = Box::pin(async move {
            for (cell, deadline) in &stops {
                stop(cell, *deadline).await;
            }
            let mut done = Done { started: Vec::new(), failed: None, stopped: job.stop, purpose: job.purpose };
            for spec in starts {
                let since = Instant::now();
                let id = Arc::clone(&spec.id);
                match start(&spec, supervisor.clone()).await {
                    Ok(cell) => done.started.push((spec.id, cell)),
                    Err(reason) => {
                        done.failed = Some((spec.id, reason));
                        break;
                    }
                }
                note_slow(&id, "start", since);
            }
            done
        });
        tokio::spawn(async move {
            let done = work.await;
            if let Err(ractor::MessagingErr::SendErr(SupervisorMsg::JobDone(done))) =
                report.send_message(SupervisorMsg::JobDone(done))
            {
                // The supervisor has gone meanwhile: what was started for it must not outlive it.
                for (_, cell) in done.started {
                    cell.kill();
                }
            }
        });
    }

    fn job_done(&mut self, done: Done, myself: &ActorRef<SupervisorMsg>) -> Result<(), ActorProcessingErr> {
        for id in &done.stopped {
            self.busy.remove(id);
            if let Some(index) = self.position(id) {
                let child = &mut self.children[index];
                if child.cell.is_none() && child.state == ChildState::Stopping {
                    child.state = ChildState::Stopped;
                }
            }
        }
        let restarted = matches!(done.purpose, Purpose::Restart);
        let mut last = None;
        for (id, cell) in done.started {
            self.busy.remove(&id);
            let Some(index) = self.position(&id) else { continue };
            let child = &mut self.children[index];
            child.restarts += u64::from(restarted);
            // It may have ended before we knew that it ran; its event was not for anybody then.
            let ended = matches!(cell.get_status(), ActorStatus::Stopped | ActorStatus::Stopping)
                && !self.expected.contains(&cell.get_id());
            child.runs(cell.clone());
            last = Some(cell.clone());
            if ended {
                self.child_ended(&cell, true, "it ended as soon as it had started".into(), myself)?;
            }
        }
        if let Some((id, _)) = &done.failed {
            self.busy.remove(id);
        }
        let error = done
            .failed
            .as_ref()
            .map(|(id, reason)| SupervisionError::Start { id: Arc::clone(id), reason: reason.clone() });
        match done.purpose {
            Purpose::StartChild(reply) => {
                let result = match (error, last) {
                    (Some(error), _) => {
                        self.children.retain(|child| done.failed.as_ref().is_none_or(|(id, _)| *id != child.spec.id));
                        Err(error)
                    }
                    (None, Some(cell)) => Ok(cell),
                    (None, None) => Err(SupervisionError::Gone),
                };
                let _ = reply.send(result);
            }
            Purpose::StopChild(reply) => {
                self.children.retain(|child| !done.stopped.contains(&child.spec.id));
                let _ = reply.send(Ok(()));
            }
            Purpose::StopAll(reply) => {
                let _ = reply.send(());
            }
            Purpose::StartAll(reply) => {
                if let Some((id, reason)) = &done.failed {
                    self.failed(id, reason.clone(), myself)?;
                }
                let _ = reply.send(error.map_or(Ok(()), Err));
            }
            Purpose::Restart => {
                if let Some((id, reason)) = &done.failed {
                    self.failed(id, reason.clone(), myself)?;
                }
            }
        }
        self.clear_busy();
        Ok(())
    }

    /// Children of a job that broke off are no longer busy, and wait for the restart that the failure brings.
    fn clear_busy(&mut self) {
        if self.spec.per_child.is_none() {
            self.busy.clear();
        }
    }

    fn child_ended(
        &mut self,
        cell: &ActorCell,
        failed: bool,
        reason: String,
        myself: &ActorRef<SupervisorMsg>,
    ) -> Result<(), ActorProcessingErr> {
        if self.expected.remove(&cell.get_id()) {
            return Ok(());
        }
        let present = |child: &Child| child.cell.as_ref().is_some_and(|present| present.get_id() == cell.get_id());
        let Some(index) = self.children.iter().position(present) else { return Ok(()) };
        let child = &mut self.children[index];
        child.cell = None;
        child.last_exit = Some(reason.clone());
        let id = Arc::clone(&child.spec.id);
        let again = match child.spec.restart {
            Restart::Permanent => true,
            Restart::Transient => failed,
            Restart::Temporary => false,
        };
        if failed {
            tracing::warn!(supervisor = %self.spec.name, child = %id, reason, "a child failed");
        } else {
            tracing::debug!(supervisor = %self.spec.name, child = %id, reason, "a child ended");
        }
        if again {
            return self.failed(&id, reason, myself);
        }
        self.children[index].state = ChildState::Stopped;
        if self.children[index].spec.restart == Restart::Temporary {
            self.children.remove(index);
        }
        Ok(())
    }

    /// Plans the restart that a failure of `id` makes necessary, or gives up.
    fn failed(
        &mut self,
        id: &Arc<str>,
        reason: String,
        myself: &ActorRef<SupervisorMsg>,
    ) -> Result<(), ActorProcessingErr> {
        let Some(index) = self.position(id) else { return Ok(()) };
        let now = Instant::now();
        let child = &mut self.children[index];
        child.last_exit = Some(reason.clone());
        let wait = match &self.spec.per_child {
            Some(gave_up) => match child.own_restarts.admit(self.spec.intensity, now) {
                Some(wait) => wait,
                None => {
                    child.state = ChildState::Failed;
                    tracing::error!(supervisor = %self.spec.name, child = %id, reason, "a child failed too often");
                    gave_up(id, &reason);
                    return Ok(());
                }
            },
            None => self.restarts.admit(self.spec.intensity, now).ok_or_else(|| {
                child.state = ChildState::Failed;
                format!(
                    "`{id}` failed more than {} times in {:?}, last: {reason}",
                    self.spec.intensity.max, self.spec.intensity.period
                )
            })?,
        };
        child.state = ChildState::Starting;
        let affected = self.spec.strategy.affected(index, self.children.len());
        let ids: Vec<Arc<str>> = self.children[affected].iter().map(|child| Arc::clone(&child.spec.id)).collect();
        if wait.is_zero() {
            self.restart_due(ids);
        } else {
            let myself = myself.clone();
            tokio::spawn(async move {
                tokio::time::sleep(wait).await;
                let _ = myself.send_message(SupervisorMsg::RestartDue { ids });
            });
        }
        Ok(())
    }

    fn restart_due(&mut self, ids: Vec<Arc<str>>) {
        // Whoever was stopped or forgotten meanwhile stays so.
        let wanted = |id: &&Arc<str>| {
            self.position(id).is_some_and(|index| {
                !matches!(self.children[index].state, ChildState::Stopped | ChildState::Stopping | ChildState::Failed)
            })
        };
        let start: Vec<Arc<str>> = ids.iter().filter(wanted).cloned().collect();
        let stop = start.iter().rev().cloned().collect();
        self.jobs.push_back(Job { stop, start, purpose: Purpose::Restart });
    }
}

/// The address of a supervisor.
#[derive(Clone, Debug)]
pub struct SupervisorHandle {
    actor: ActorRef<SupervisorMsg>,
}

impl SupervisorHandle {
    /// The supervisor's cell, for the supervisor above it.
    #[must_use]
    pub fn cell(&self) -> ActorCell {
        self.actor.get_cell()
    }

    async fn ask<T: Send + 'static>(
        &self,
        build: impl FnOnce(RpcReplyPort<T>) -> SupervisorMsg,
    ) -> Result<T, SupervisionError> {
        match self.actor.call(build, None).await {
            Ok(ractor::rpc::CallResult::Success(answer)) => Ok(answer),
            _ => Err(SupervisionError::Gone),
        }
    }

    /// Starts a child after all that are there; answers when it runs. One that does not start is forgotten.
    ///
    /// # Errors
    /// [`SupervisionError::Exists`], [`SupervisionError::Start`], [`SupervisionError::Gone`].
    pub async fn start_child(&self, spec: ChildSpec) -> Result<ActorCell, SupervisionError> {
        self.ask(|reply| SupervisorMsg::StartChild { spec, reply }).await?
    }

    /// Stops a child and forgets it; answers when it has ended.
    ///
    /// # Errors
    /// [`SupervisionError::NotFound`], [`SupervisionError::Gone`].
    pub async fn stop_child(&self, id: &str) -> Result<(), SupervisionError> {
        let id = id.into();
        self.ask(|reply| SupervisorMsg::StopChild { id, reply }).await?
    }

    /// Stops all children in reverse; they stay known.
    ///
    /// # Errors
    /// [`SupervisionError::Gone`].
    pub async fn stop_all(&self) -> Result<(), SupervisionError> {
        self.ask(|reply| SupervisorMsg::StopAll { reply }).await
    }

    /// Starts all children that do not run, in order.
    ///
    /// # Errors
    /// [`SupervisionError::Start`] with the first that does not start; it is tried again as after any failure.
    pub async fn start_all(&self) -> Result<(), SupervisionError> {
        self.ask(|reply| SupervisorMsg::StartAll { reply }).await?
    }

    /// How the children are, and theirs.
    pub async fn tree(&self) -> Vec<ChildInfo> {
        tree_of(self.actor.clone()).await
    }

    /// Stops the supervisor and, in reverse, its children; waits for the end, at most `deadline`, then kills.
    pub async fn stop(&self, deadline: Duration) {
        stop(&self.actor.get_cell(), deadline).await;
    }

    /// Whether the supervisor runs.
    #[must_use]
    pub fn runs(&self) -> bool {
        matches!(self.actor.get_status(), ActorStatus::Running | ActorStatus::Upgrading | ActorStatus::Starting)
    }
}

fn tree_of(supervisor: ActorRef<SupervisorMsg>) -> BoxFuture<'static, Vec<ChildInfo>> {
    Box::pin(async move {
        let asked = supervisor.call(|reply| SupervisorMsg::Children { reply }, Some(TREE_DEADLINE)).await;
        let Ok(ractor::rpc::CallResult::Success(children)) = asked else { return Vec::new() };
        let mut infos = Vec::with_capacity(children.len());
        for (mut info, cell) in children {
            if let Some(cell) = cell {
                info.children = tree_of(cell.into()).await;
            }
            infos.push(info);
        }
        infos
    })
}
