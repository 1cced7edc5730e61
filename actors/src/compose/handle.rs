//! The workflows as the rest of the engine sees them.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::{broadcast, mpsc, watch};

use super::error::WorkflowError;
use super::file::{self, Input, Loaded, Policy};
use super::hub::Hub;
use super::observe::{self, Container, Seen, WorkflowState};
use super::ops::Work;
use super::plan::{self, Step};
use super::record::{self, Record, Revision};
use super::supervisor::{ComposeArgs, ComposeMsg, CreateSpec, Operation, Request, UpdateSpec, WorkflowEvent};
use super::up::{Brought, Up};
use super::{Outcome, Progress, ServiceOutcome, Settings, Warning};
use crate::call::{Handle, Slot, blocking};
use crate::ids::WorkflowId;
use crate::live::Live;
use crate::store::Store;
use crate::supervision::{ChildSpec, Strategy, SupervisionError, Supervisor, SupervisorHandle, SupervisorSpec};

/// How long a call to an actor may take.
const CALL_DEADLINE: Duration = Duration::from_secs(15);
/// How many calls to one workflow's actor may wait at once.
const CALLS: usize = 64;
/// How long all workflows together may take to stop.
const SHUTDOWN: Duration = Duration::from_secs(5);
/// How many events of a workflow a reader may be behind.
const BACKLOG: usize = 1024;

/// A workflow.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct Workflow {
    /// Its name.
    pub identity: WorkflowId,
    /// How it is.
    pub state: WorkflowState,
    /// How many containers are in which state.
    pub status: String,
    /// The names of its services.
    pub services: Vec<String>,
    /// Its containers.
    pub containers: Vec<Container>,
    /// When it was made, ISO 8601.
    pub created_at: String,
    /// Where its file is among the objects.
    pub source: Option<String>,
    /// Whether it was made by another tool.
    pub foreign: bool,
}

/// A workflow with all that is known of it.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct WorkflowDescription {
    /// How it is.
    #[serde(flatten)]
    pub workflow: Workflow,
    /// Its file in the long form, paths absolute, secrets masked; none of a foreign one.
    pub file: Option<serde_json::Value>,
    /// What in its file is not honoured.
    pub warnings: Vec<Warning>,
    /// Containers of services that the file does not have.
    pub orphans: Vec<Container>,
    /// What a start would change, and why.
    pub plan: Vec<Step>,
    /// The files that were applied, newest first.
    pub revisions: Vec<Revision>,
    /// The operation that runs on it.
    pub operation: Option<&'static str>,
}

/// One workflow through all generations of its actor.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: WorkflowId,
    pub(super) handle: Handle<ComposeMsg>,
    pub(super) events: broadcast::Sender<WorkflowEvent>,
    operation: Mutex<Option<&'static str>>,
}

impl Entry {
    pub(super) fn operation(&self) -> Option<&'static str> {
        *self.operation.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_operation(&self, operation: Option<&'static str>) {
        *self.operation.lock().unwrap_or_else(PoisonError::into_inner) = operation;
    }
}

/// The compose workflows as the rest of the engine sees them.
#[derive(Clone, Debug)]
pub struct Workflows(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: Live<Settings>,
    store: Store,
    hub: Hub,
    /// Where own directories of workflows are.
    directories: PathBuf,
    volume: PathBuf,
    entries: Mutex<HashMap<WorkflowId, Arc<Entry>>>,
    supervisor: watch::Sender<Option<SupervisorHandle>>,
}

impl Workflows {
    /// Handles on the workflows; files that name none of their own get a directory below `data_dir`.
    pub fn new(settings: Live<Settings>, store: Store, data_dir: &Path, volume: PathBuf) -> Self {
        let hub = Hub::new(settings.clone(), store.clone());
        Self(Arc::new(Inner {
            settings,
            store,
            hub,
            directories: data_dir.join("workflows"),
            volume,
            entries: Mutex::default(),
            supervisor: watch::Sender::new(None),
        }))
    }

    /// How the tree starts the supervisor of all workflows.
    pub fn child(&self) -> ChildSpec {
        let workflows = self.clone();
        ChildSpec::supervisor("workflow-supervisor", move |parent| {
            let workflows = workflows.clone();
            async move {
                let children = vec![workflows.0.hub.child()];
                let gave_up =
                    Arc::new(|id: &str, reason: &str| tracing::error!(actor = id, reason, "failed too often"));
                let spec = SupervisorSpec::new("workflow-supervisor", Strategy::OneForOne, children).per_child(gave_up);
                let handle = Supervisor::spawn_linked(spec, parent).await?;
                let cell = handle.cell();
                workflows.0.supervisor.send_replace(Some(handle));
                Ok(cell)
            }
        })
        .shutdown(SHUTDOWN)
    }

    pub(super) fn hub(&self) -> &Hub {
        &self.0.hub
    }

    /// Why Docker cannot be reached, if it cannot.
    pub fn away(&self) -> Option<String> {
        self.0.hub.away()
    }

    /// The settings in force.
    pub fn settings(&self) -> Arc<Settings> {
        self.0.settings.get()
    }

    /// The workflow's entry, its actor started.
    async fn entry(&self, id: &WorkflowId) -> Result<Arc<Entry>, WorkflowError> {
        let entry = {
            let mut entries = self.0.entries.lock().unwrap_or_else(PoisonError::into_inner);
            let made = || {
                let slot = Slot::new(format!("workflow-{id}"));
                Arc::new(Entry {
                    id: id.clone(),
                    handle: Handle::new(slot, CALL_DEADLINE, CALLS),
                    events: broadcast::Sender::new(BACKLOG),
                    operation: Mutex::default(),
                })
            };
            Arc::clone(entries.entry(id.clone()).or_insert_with(made))
        };
        if entry.handle.slot().present().is_none() {
            let mut supervisors = self.0.supervisor.subscribe();
            let runs = |handle: &Option<SupervisorHandle>| handle.as_ref().is_some_and(SupervisorHandle::runs);
            let found = tokio::time::timeout(CALL_DEADLINE, supervisors.wait_for(runs)).await;
            let supervisor = found.ok().and_then(Result::ok).and_then(|handle| handle.clone());
            let supervisor = supervisor.ok_or(WorkflowError::BrokenOff)?;
            let args = ComposeArgs { workflows: self.clone(), entry: Arc::clone(&entry) };
            match supervisor.start_child(super::supervisor::child(args)).await {
                Ok(_) | Err(SupervisionError::Exists(_)) => {}
                Err(error) => tracing::debug!(workflow = %id, %error, "the actor was not started"),
            }
        }
        Ok(entry)
    }

    /// Begins an operation.
    ///
    /// # Errors
    /// [`WorkflowError::NotFound`]; [`WorkflowError::Busy`] while another runs.
    pub async fn begin(&self, id: &WorkflowId, request: Request) -> Result<Operation, WorkflowError> {
        if !matches!(request, Request::Create(_)) {
            self.known(id).await?;
        }
        let entry = self.entry(id).await?;
        entry.handle.ask(|reply| ComposeMsg::Begin { request: request.clone(), reply }).await
    }

    /// What happens to a workflow from now on.
    ///
    /// # Errors
    /// [`WorkflowError::NotFound`].
    pub async fn events(&self, id: &WorkflowId) -> Result<broadcast::Receiver<WorkflowEvent>, WorkflowError> {
        self.known(id).await?;
        Ok(self.entry(id).await?.events.subscribe())
    }

    /// The record of a workflow; none of a foreign one that is there.
    async fn known(&self, id: &WorkflowId) -> Result<Option<Record>, WorkflowError> {
        let record = record::get(&self.0.store, id).await?;
        if record.is_none() {
            let docker = self.0.hub.client().await?;
            if observe::containers(&docker, &self.0.hub, Some(id.as_str())).await?.is_empty() {
                return Err(WorkflowError::NotFound { id: id.clone() });
            }
        }
        Ok(record)
    }

    /// What works on a workflow, where nobody listens to the progress.
    pub(super) async fn work(&self, id: &WorkflowId) -> Result<Work, WorkflowError> {
        self.known(id).await?;
        self.work_with(id, mpsc::unbounded_channel().0).await
    }

    async fn work_with(
        &self,
        id: &WorkflowId,
        progress: mpsc::UnboundedSender<Progress>,
    ) -> Result<Work, WorkflowError> {
        Ok(Work {
            docker: self.0.hub.client().await?,
            hub: self.0.hub.clone(),
            project: id.as_str().to_owned(),
            progress,
            patience: self.0.settings.get().patience.0,
        })
    }

    fn policy(&self) -> Policy {
        let settings = self.0.settings.get();
        Policy {
            roots: std::iter::once(self.0.volume.clone()).chain(settings.allow_binds.clone()).collect(),
            privileged: settings.allow_privileged,
            devices: settings.allow_devices,
            cap_add: settings.allow_cap_add,
            host_namespaces: settings.allow_host_namespaces,
            remote: settings.allow_remote,
        }
    }

    /// Reads a workflow's file as it is meant now.
    async fn load(&self, record: &Record) -> Result<Loaded, WorkflowError> {
        let (record, policy) = (record.clone(), self.policy());
        let loaded = blocking(move || {
            file::load(&Input {
                name: record.identity.as_str(),
                file: "compose.yaml",
                content: &record.content,
                directory: &record.directory,
                variables: &record.env,
                profiles: &record.profiles,
                policy: &policy,
            })
        });
        let loaded = loaded.await.map_err(|_| WorkflowError::BrokenOff)?;
        loaded.map_err(|faults| WorkflowError::File { faults })
    }

    /// Does what was asked; in the task of the workflow's actor.
    pub(super) async fn perform(
        &self,
        id: &WorkflowId,
        request: Request,
        progress: mpsc::UnboundedSender<Progress>,
    ) -> Result<Outcome, WorkflowError> {
        let work = self.work_with(id, progress).await?;
        let mut warnings = Vec::new();
        let failures = match request {
            Request::Create(spec) => return self.create(id, &spec, &work).await,
            Request::Update(spec) => return self.update(id, &spec, &work).await,
            Request::Rollback(number) => return self.rollback(id, number, &work).await,
            Request::Start(services) => match record::get(&self.0.store, id).await? {
                None => work.start_present(&services).await?,
                Some(record) => {
                    let loaded = self.load(&record).await?;
                    if let Some(name) = services.iter().find(|name| !loaded.project.services.contains_key(*name)) {
                        let reason = format!("workflow `{id}` has no service `{name}`");
                        return Err(WorkflowError::Invalid { reason });
                    }
                    warnings = loaded.warnings;
                    let up = Up { start: true, services, ..Up::default() };
                    work.up(&loaded.project, &up).await?.failures
                }
            },
            Request::Stop(services, timeout) => work.stop(&services, timeout).await?,
            Request::Restart(services, timeout) => {
                let mut failures = work.stop(&services, timeout).await?;
                failures.extend(work.start_present(&services).await?);
                failures
            }
            Request::Pause(services) => work.pause(&services, true).await?,
            Request::Unpause(services) => work.pause(&services, false).await?,
            Request::Kill(services, signal) => work.kill(&services, signal).await?,
            Request::Remove { volumes, stop } => {
                let failures = work.remove(volumes, stop).await?;
                if failures.is_empty() {
                    self.forget(id, volumes).await?;
                    return Ok(Outcome {
                        identity: id.clone(),
                        state: "removed".into(),
                        containers: Vec::new(),
                        revision: None,
                        plan: None,
                        services: Vec::new(),
                        warnings,
                    });
                }
                failures
            }
        };
        let outcome = self.outcome(id, &work, &failures, warnings).await?;
        match failures.into_iter().next() {
            None => Ok(outcome),
            Some((service, reason)) => {
                let detail = format!("`{service}` failed: {reason}");
                Err(WorkflowError::Failed { detail, outcome: Box::new(outcome) })
            }
        }
    }

    async fn outcome(
        &self,
        id: &WorkflowId,
        work: &Work,
        failures: &BTreeMap<String, String>,
        warnings: Vec<Warning>,
    ) -> Result<Outcome, WorkflowError> {
        let record = record::get(&self.0.store, id).await?;
        let seen = observe::containers(&work.docker, &self.0.hub, Some(id.as_str())).await?;
        let workflow = describe(id, record.as_ref(), &seen);
        let mut services: Vec<ServiceOutcome> = Vec::new();
        for name in &workflow.services {
            let own: Vec<&Container> = workflow.containers.iter().filter(|one| one.service == *name).collect();
            let state = serde_json::to_value(observe::state(&own, false)).unwrap_or_default();
            let error = failures.get(name).cloned();
            services.push(ServiceOutcome {
                service: name.clone(),
                state: if error.is_some() { "failed".into() } else { state.as_str().unwrap_or_default().to_owned() },
                error,
            });
        }
        for (name, error) in failures.iter().filter(|(name, _)| !workflow.services.contains(name)) {
            services.push(ServiceOutcome { service: name.clone(), state: "failed".into(), error: Some(error.clone()) });
        }
        let state = serde_json::to_value(workflow.state).unwrap_or_default();
        Ok(Outcome {
            identity: id.clone(),
            state: state.as_str().unwrap_or_default().to_owned(),
            containers: workflow.containers,
            revision: None,
            plan: None,
            services,
            warnings,
        })
    }

    async fn create(&self, id: &WorkflowId, spec: &CreateSpec, work: &Work) -> Result<Outcome, WorkflowError> {
        if record::get(&self.0.store, id).await?.is_some() || !work.containers(&[]).await?.is_empty() {
            return Err(WorkflowError::Exists { id: id.clone() });
        }
        let own = self.0.directories.join(id.as_str());
        let (content, directory) = match (&spec.content, &spec.source) {
            (Some(content), None) => (content.clone(), own.clone()),
            (None, Some(source)) => self.read_source(source).await?,
            _ => return Err(WorkflowError::Invalid { reason: "say either `content` or `source`".into() }),
        };
        let unusable = |error: std::io::Error| WorkflowError::Source {
            reason: format!("the workflow's directory cannot be made: {error}"),
        };
        tokio::fs::create_dir_all(&own).await.map_err(unusable)?;
        let mut record = Record {
            identity: id.clone(),
            content,
            source: spec.source.clone(),
            directory,
            env: spec.env.clone(),
            profiles: spec.profiles.clone(),
            services: BTreeMap::new(),
            created_at: crate::time::unix_now(),
            revision: 1,
        };
        let loaded = match self.load(&record).await {
            Ok(loaded) => loaded,
            Err(error) => {
                // Only where nothing is in it.
                let _ = tokio::fs::remove_dir(&own).await;
                return Err(error);
            }
        };
        let project = loaded.project;
        record.services = project.services.keys().map(|name| (name.clone(), project.scale(name))).collect();
        if record.source.is_none() {
            tokio::fs::write(own.join("compose.yaml"), &record.content).await.map_err(unusable)?;
        }
        record::insert(&self.0.store, &record).await?;
        let up = Up {
            start: spec.start,
            services: Vec::new(),
            pull: spec.pull.clone(),
            remove_orphans: spec.remove_orphans,
            dropped: Vec::new(),
        };
        let failures = match work.up(&project, &up).await.map(|brought| brought.failures) {
            Ok(failures) if failures.is_empty() || spec.start => failures,
            Ok(failures) => {
                let outcome = self.outcome(id, work, &failures, loaded.warnings).await?;
                self.undo(id, work).await;
                let (service, reason) = failures.into_iter().next().unwrap_or_default();
                let detail = format!("`{service}` failed: {reason}");
                return Err(WorkflowError::Failed { detail, outcome: Box::new(outcome) });
            }
            Err(error) => {
                self.undo(id, work).await;
                return Err(error);
            }
        };
        self.outcome(id, work, &failures, loaded.warnings).await
    }

    async fn update(&self, id: &WorkflowId, spec: &UpdateSpec, work: &Work) -> Result<Outcome, WorkflowError> {
        let mut record = self.own(id).await?;
        let (content, directory) = match (&spec.content, &spec.source) {
            (Some(content), None) => (content.clone(), self.0.directories.join(id.as_str())),
            (None, Some(source)) => self.read_source(source).await?,
            _ => return Err(WorkflowError::Invalid { reason: "say either `content` or `source`".into() }),
        };
        record.content = content;
        record.directory = directory;
        record.source.clone_from(&spec.source);
        if let Some(env) = &spec.env {
            record.env.clone_from(env);
        }
        if let Some(profiles) = &spec.profiles {
            record.profiles.clone_from(profiles);
        }
        self.apply(record, spec, work).await
    }

    async fn rollback(&self, id: &WorkflowId, number: Option<i64>, work: &Work) -> Result<Outcome, WorkflowError> {
        let record = self.own(id).await?;
        let number = number.unwrap_or(record.revision - 1);
        if number == 0 {
            let reason = format!("workflow `{id}` has no revision before its first");
            return Err(WorkflowError::State { reason });
        }
        let found = record::revision(&self.0.store, id, number).await?;
        let earlier = found.ok_or_else(|| WorkflowError::NoRevision { id: id.clone(), revision: number })?;
        let record = Record { created_at: record.created_at, ..earlier };
        self.apply(record, &UpdateSpec::default(), work).await
    }

    /// The record of a workflow that was made here.
    async fn own(&self, id: &WorkflowId) -> Result<Record, WorkflowError> {
        self.known(id).await?.ok_or_else(|| {
            let reason = format!("workflow `{id}` was made by another tool: the engine has no file of it");
            WorkflowError::State { reason }
        })
    }

    /// Brings Docker from what applied so far to what `record` says, which is the next revision. A file that cannot be used
    /// changes nothing; what fails after that is finished by the next start.
    async fn apply(&self, mut record: Record, spec: &UpdateSpec, work: &Work) -> Result<Outcome, WorkflowError> {
        let id = record.identity.clone();
        let before = self.own(&id).await?;
        let loaded = self.load(&record).await?;
        let project = loaded.project;
        record.services = project.services.keys().map(|name| (name.clone(), project.scale(name))).collect();
        let runs = work.containers(&[]).await?.iter().any(|seen| seen.is(&["running", "restarting", "paused"]));
        let revision = record::apply(&self.0.store, &record, self.0.settings.get().revisions).await?;
        let own = self.0.directories.join(id.as_str());
        if record.source.is_none()
            && let Err(error) = tokio::fs::write(own.join("compose.yaml"), &record.content).await
        {
            tracing::warn!(workflow = %id, %error, "the copy of its file was not written");
        }
        let up = Up {
            start: spec.start.unwrap_or(runs),
            services: Vec::new(),
            pull: spec.pull.clone(),
            remove_orphans: spec.remove_orphans,
            dropped: before.services.into_keys().filter(|name| !project.services.contains_key(name)).collect(),
        };
        let Brought { failures, steps } = work.up(&project, &up).await?;
        let mut outcome = self.outcome(&id, work, &failures, loaded.warnings).await?;
        outcome.revision = Some(revision);
        outcome.plan = Some(steps);
        match failures.into_iter().next() {
            None => Ok(outcome),
            Some((service, reason)) => {
                let detail = format!("`{service}` failed: {reason}");
                Err(WorkflowError::Failed { detail, outcome: Box::new(outcome) })
            }
        }
    }

    /// What was made of a workflow that could not be made whole goes again.
    async fn undo(&self, id: &WorkflowId, work: &Work) {
        let gone = async {
            work.remove(false, true).await?;
            self.forget(id, false).await
        };
        if let Err(error) = gone.await {
            tracing::warn!(workflow = %id, error = crate::error::chain(&error), "what was made of it is left");
        }
    }

    /// The file that `source` means, and its directory.
    async fn read_source(&self, source: &str) -> Result<(String, PathBuf), WorkflowError> {
        let (volume, source) = (self.0.volume.clone(), source.to_owned());
        let wrong = |reason: String| WorkflowError::Source { reason };
        let read = blocking(move || file::read_source(&volume, &source));
        read.await.map_err(|_| WorkflowError::BrokenOff)?.map_err(wrong)
    }

    /// Forgets a workflow; its own directory goes with its volumes.
    async fn forget(&self, id: &WorkflowId, volumes: bool) -> Result<(), WorkflowError> {
        record::delete(&self.0.store, id).await?;
        let own = self.0.directories.join(id.as_str());
        if volumes {
            let _ = tokio::fs::remove_dir_all(&own).await;
        } else {
            let _ = tokio::fs::remove_file(own.join("compose.yaml")).await;
            let _ = tokio::fs::remove_dir(&own).await;
        }
        Ok(())
    }

    /// Every workflow, those of other tools too; without `all` only those that are neither stopped nor exited.
    ///
    /// # Errors
    /// When Docker is away.
    pub async fn list(&self, all: bool) -> Result<Vec<Workflow>, WorkflowError> {
        let docker = self.0.hub.client().await?;
        let (records, seen) = tokio::join!(record::all(&self.0.store), observe::containers(&docker, &self.0.hub, None));
        let mut by_project: BTreeMap<String, Vec<Seen>> = BTreeMap::new();
        for one in seen? {
            by_project.entry(one.project.clone()).or_default().push(one);
        }
        let mut list = Vec::new();
        for record in records? {
            let seen = by_project.remove(record.identity.as_str()).unwrap_or_default();
            list.push(describe(&record.identity, Some(&record), &seen));
        }
        for (name, seen) in by_project {
            // A project whose name is no identity cannot be asked for.
            if let Ok(id) = name.parse::<WorkflowId>() {
                list.push(describe(&id, None, &seen));
            }
        }
        list.retain(|workflow| all || !matches!(workflow.state, WorkflowState::Stopped | WorkflowState::Exited));
        list.sort_by(|a, b| (&b.created_at, &a.identity).cmp(&(&a.created_at, &b.identity)));
        Ok(list)
    }

    /// The containers of a workflow.
    ///
    /// # Errors
    /// [`WorkflowError::NotFound`], or Docker is away.
    pub async fn containers(&self, id: &WorkflowId) -> Result<Vec<Container>, WorkflowError> {
        let work = self.work(id).await?;
        Ok(work.containers(&[]).await?.into_iter().map(|seen| seen.container).collect())
    }

    /// Everything that is known of a workflow.
    ///
    /// # Errors
    /// [`WorkflowError::NotFound`], or Docker is away.
    pub async fn describe(&self, id: &WorkflowId) -> Result<WorkflowDescription, WorkflowError> {
        let record = self.known(id).await?;
        let work = self.work_with(id, mpsc::unbounded_channel().0).await?;
        let observed = observe::observe(&work.docker, &self.0.hub, id.as_str()).await?;
        let mut description = WorkflowDescription {
            workflow: describe(id, record.as_ref(), &observed.containers),
            file: None,
            warnings: Vec::new(),
            orphans: Vec::new(),
            plan: Vec::new(),
            revisions: record::revisions(&self.0.store, id).await?,
            operation: self.entry(id).await?.operation(),
        };
        let Some(record) = record else { return Ok(description) };
        match self.load(&record).await {
            Ok(loaded) => {
                let meant = plan::meant(&loaded.project, &[]);
                let mut images = BTreeMap::new();
                for image in loaded.project.services.values().filter_map(|service| service.image.as_ref()) {
                    if !images.contains_key(image)
                        && let Some(found) = work.inspect_image(image).await?
                    {
                        images.insert(image.clone(), found);
                    }
                }
                let plan = plan::plan(&loaded.project, &observed, &images, &meant);
                description.plan = plan.steps(&loaded.project);
                description.orphans = plan.orphans.into_iter().map(|seen| seen.container).collect();
                description.file = serde_json::to_value(&loaded.project).ok();
                description.warnings = loaded.warnings;
            }
            // The file was good when it came; what it names may have gone since.
            Err(WorkflowError::File { faults }) => {
                let unusable = |fault: super::Fault| Warning {
                    name: "unusable-file",
                    path: fault.path.clone(),
                    message: fault.to_string(),
                };
                description.warnings = faults.into_iter().map(unusable).collect();
            }
            Err(error) => return Err(error),
        }
        Ok(description)
    }
}

fn describe(id: &WorkflowId, record: Option<&Record>, seen: &[Seen]) -> Workflow {
    let containers: Vec<Container> = seen.iter().map(|seen| seen.container.clone()).collect();
    let present: Vec<&Container> = containers.iter().collect();
    let wanted = record.map(|record| record.services.clone()).unwrap_or_default();
    let count = |name: &str| containers.iter().filter(|container| container.service == name).count();
    let missing = wanted.iter().any(|(name, scale)| count(name) < *scale);
    let mut services: Vec<String> =
        wanted.keys().cloned().chain(containers.iter().map(|container| container.service.clone())).collect();
    services.sort_unstable();
    services.dedup();
    let oldest = seen.iter().map(|seen| seen.created).min();
    let created = record.map(|record| record.created_at).or(oldest).unwrap_or_default();
    Workflow {
        identity: id.clone(),
        state: observe::state(&present, missing),
        status: observe::summary(&present),
        services,
        containers,
        created_at: crate::time::iso(created),
        source: record.and_then(|record| record.source.clone()),
        foreign: record.is_none(),
    }
}
