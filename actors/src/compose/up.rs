//! Carries a plan out: networks, volumes, then every service as soon as what it waits for has come so far. The first error of
//! a service fails what depends on it, and lets the rest finish.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bollard::models::{
    Ipam, IpamConfig, Mount, MountType, NetworkConnectRequest, NetworkCreateRequest, VolumeCreateRequest,
};
use bollard::query_parameters::{
    CreateContainerOptions, CreateImageOptions, InspectContainerOptions, StartContainerOptions,
    UploadToContainerOptions,
};
use futures_util::StreamExt;
use tokio::sync::watch;

use super::body::{self, label};
use super::error::{WorkflowError, is_conflict, is_missing};
use super::file::Project;
use super::file::forms::Dependency;
use super::hub::DockerEvent;
use super::observe::{Seen, observe};
use super::ops::Work;
use super::plan::{self, Action, Plan, Step, Task};

/// How often a wait looks again although no event came.
const LOOK: Duration = Duration::from_secs(5);

/// What a start or create is to do.
#[derive(Clone, Debug, Default)]
pub(crate) struct Up {
    pub(crate) start: bool,
    pub(crate) services: Vec<String>,
    pub(crate) pull: Option<String>,
    pub(crate) remove_orphans: bool,
    /// Services that the file had: their containers are removed.
    pub(crate) dropped: Vec<String>,
}

/// What came of bringing Docker to what a project says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Brought {
    /// What failed, by service.
    pub(crate) failures: BTreeMap<String, String>,
    /// What was to be changed, and why.
    pub(crate) steps: Vec<Step>,
}

/// How far a service has come.
#[derive(Clone, Debug, PartialEq)]
enum Stage {
    Waiting,
    Created,
    Started,
    Failed(String),
}

type Stages = BTreeMap<String, watch::Sender<Stage>>;

/// The containers of each service that are there, by number.
type Ids = Arc<std::sync::Mutex<BTreeMap<String, Vec<String>>>>;

impl Work {
    /// Makes Docker have what the project says, and starts it if that is asked for; returns what failed, by service.
    pub(crate) async fn up(&self, project: &Project, up: &Up) -> Result<Brought, WorkflowError> {
        let meant = plan::meant(project, &up.services);
        let mut failures = BTreeMap::new();
        let (observed, images) = tokio::join!(
            observe(&self.docker, &self.hub, &project.name),
            self.images(project, &meant, up, &mut failures)
        );
        let plan = plan::plan(project, &observed?, &images, &meant);
        self.networks(project, &plan).await?;
        self.volumes(project, &plan).await?;
        let mut steps = plan.steps(project);
        for seen in &plan.orphans {
            if up.remove_orphans || up.dropped.contains(&seen.container.service) {
                steps.push(Step {
                    call: "remove container",
                    resource: seen.container.name.clone(),
                    cause: "its service is not in the file".into(),
                });
                self.stop_container(seen, None).await?;
                self.remove_container(seen, false).await?;
            }
        }
        let stages: Stages = meant.iter().map(|name| (name.clone(), watch::Sender::new(Stage::Waiting))).collect();
        let ids = Ids::default();
        let services = plan.services.iter().map(|(name, tasks)| {
            let (stages, ids, images, plan) = (&stages, &ids, &images, &plan);
            let early = failures.get(name).cloned();
            async move {
                let done = match early {
                    Some(reason) => Err(reason),
                    None => self.service(project, plan, name, tasks, up, images, stages, ids).await,
                };
                if let Err(reason) = &done {
                    self.tell(name, name, "failed", Some(reason.clone()));
                    stages[name].send_replace(Stage::Failed(reason.clone()));
                }
                (name.clone(), done)
            }
        });
        for (name, done) in futures_util::future::join_all(services).await {
            if let Err(reason) = done {
                failures.insert(name, reason);
            }
        }
        Ok(Brought { failures, steps })
    }

    /// The ids of the images; those that are missing are pulled where that is allowed.
    async fn images(
        &self,
        project: &Project,
        meant: &BTreeSet<String>,
        up: &Up,
        failures: &mut BTreeMap<String, String>,
    ) -> BTreeMap<String, String> {
        let mut wanted: BTreeMap<&str, (&str, Option<&str>, Vec<&str>)> = BTreeMap::new();
        for name in meant {
            let Some(service) = project.services.get(name) else { continue };
            let Some(image) = service.image.as_deref() else { continue };
            let policy = up.pull.as_deref().or(service.pull_policy.as_deref()).unwrap_or("missing");
            let entry = wanted.entry(image).or_insert((policy, service.platform.as_deref(), Vec::new()));
            entry.2.push(name);
        }
        let pulls = wanted.into_iter().map(|(image, (policy, platform, services))| async move {
            (image, self.image(image, policy, platform).await, services)
        });
        let mut images = BTreeMap::new();
        for (image, id, services) in futures_util::future::join_all(pulls).await {
            match id {
                Ok(id) => {
                    images.insert(image.to_owned(), id);
                }
                Err(error) => failures.extend(services.into_iter().map(|name| (name.to_owned(), error.to_string()))),
            }
        }
        images
    }

    async fn image(&self, image: &str, policy: &str, platform: Option<&str>) -> Result<String, WorkflowError> {
        let what = || format!("give the image `{image}`");
        let there = if policy == "always" { None } else { self.inspect_image(image).await? };
        if let Some(id) = there {
            return Ok(id);
        }
        if policy == "never" {
            let message = "it is not there, and `pull` is `never`".to_owned();
            return Err(WorkflowError::Docker { what: what(), message });
        }
        self.tell(image, "", "pulling", None);
        let named = image.rsplit_once('/').map_or(image, |(_, last)| last).contains([':', '@']);
        let options = CreateImageOptions {
            from_image: Some(if named { image.to_owned() } else { format!("{image}:latest") }),
            platform: platform.unwrap_or("").to_owned(),
            ..CreateImageOptions::default()
        };
        let mut pull = Box::pin(self.docker.create_image(Some(options), None, None));
        while let Some(step) = pull.next().await {
            step.map_err(|error| WorkflowError::docker(what(), error))?;
        }
        self.tell(image, "", "pulled", None);
        let missing = || WorkflowError::Docker { what: what(), message: "it is not there after the pull".into() };
        self.inspect_image(image).await?.ok_or_else(missing)
    }

    pub(crate) async fn inspect_image(&self, image: &str) -> Result<Option<String>, WorkflowError> {
        match self.docker.inspect_image(image).await {
            Ok(image) => Ok(Some(image.id.unwrap_or_default())),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(WorkflowError::docker(format!("inspect the image `{image}`"), error)),
        }
    }

    async fn networks(&self, project: &Project, plan: &Plan) -> Result<(), WorkflowError> {
        for key in &plan.networks {
            let Some(network) = project.networks.get(key) else { continue };
            let name = network.name.clone().unwrap_or_default();
            let scalars = |map: &BTreeMap<String, super::file::decode::Scalar>| -> Option<HashMap<String, String>> {
                (!map.is_empty()).then(|| map.iter().map(|(key, value)| (key.clone(), value.0.clone())).collect())
            };
            let ipam = network.ipam.as_ref().map(|ipam| Ipam {
                driver: ipam.driver.clone(),
                options: scalars(&ipam.options),
                config: Some(
                    ipam.config
                        .iter()
                        .map(|pool| IpamConfig {
                            subnet: pool.subnet.clone(),
                            ip_range: pool.ip_range.clone(),
                            gateway: pool.gateway.clone(),
                            auxiliary_addresses: (!pool.aux_addresses.is_empty())
                                .then(|| pool.aux_addresses.clone().into_iter().collect()),
                        })
                        .collect(),
                ),
            });
            let request = NetworkCreateRequest {
                name: name.clone(),
                driver: Some(network.driver.clone().unwrap_or_else(|| "bridge".into())),
                internal: Some(network.internal),
                attachable: Some(network.attachable),
                enable_ipv4: network.enable_ipv4,
                enable_ipv6: network.enable_ipv6,
                ipam,
                options: scalars(&network.driver_opts),
                labels: Some(body::resource_labels(project, label::NETWORK, key, &network.labels)),
                ..NetworkCreateRequest::default()
            };
            let made = self.docker.create_network(request).await;
            made.map_err(|error| WorkflowError::docker(format!("create the network `{name}`"), error))?;
            self.tell(&name, "", "created", None);
        }
        Ok(())
    }

    async fn volumes(&self, project: &Project, plan: &Plan) -> Result<(), WorkflowError> {
        for key in &plan.volumes {
            let Some(volume) = project.volumes.get(key) else { continue };
            let name = volume.name.clone().unwrap_or_default();
            let options = volume.driver_opts.iter().map(|(key, value)| (key.clone(), value.0.clone())).collect();
            let request = VolumeCreateRequest {
                name: Some(name.clone()),
                driver: volume.driver.clone(),
                driver_opts: (!volume.driver_opts.is_empty()).then_some(options),
                labels: Some(body::resource_labels(project, label::VOLUME, key, &volume.labels)),
                ..VolumeCreateRequest::default()
            };
            let made = self.docker.create_volume(request).await;
            made.map_err(|error| WorkflowError::docker(format!("create the volume `{name}`"), error))?;
            self.tell(&name, "", "created", None);
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "one call, from one place")]
    async fn service(
        &self,
        project: &Project,
        plan: &Plan,
        name: &str,
        tasks: &[Task],
        up: &Up,
        images: &BTreeMap<String, String>,
        stages: &Stages,
        ids: &Ids,
    ) -> Result<(), String> {
        let service = &project.services[name];
        let borrowed = [&service.network_mode, &service.ipc, &service.pid].into_iter().flatten();
        let borrows = borrowed.filter_map(|mode| mode.strip_prefix("service:")).chain(
            service
                .volumes_from
                .iter()
                .filter(|from| !from.starts_with("container:"))
                .filter_map(|from| from.split(':').next()),
        );
        for other in borrows {
            reached(stages, other, &Stage::Created).await?;
        }
        let namespace = |other: &str| {
            let ids = ids.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let id = ids.get(other).and_then(|list| list.first()).cloned().unwrap_or_default();
            format!("container:{id}")
        };
        let image = service.image.as_ref().and_then(|image| images.get(image)).cloned().unwrap_or_default();
        let mut to_start = Vec::new();
        let mut all = Vec::new();
        for task in tasks {
            let body = || {
                let mut body = body::body(project, name, task.number, &image, &namespace);
                let hash = plan.hashes.get(name).cloned().unwrap_or_default();
                body.create.labels.get_or_insert_default().insert(label::HASH.into(), hash);
                body
            };
            let id = match &task.action {
                Action::Keep(seen) => {
                    self.tell(&task.name, name, &seen.container.state, None);
                    all.push(seen.container.id.clone());
                    continue;
                }
                Action::Remove(seen) => {
                    self.remove_container(seen, false).await.map_err(|error| error.to_string())?;
                    continue;
                }
                Action::Start(seen) => seen.container.id.clone(),
                Action::Create => {
                    self.create(&task.name, name, body(), None).await.map_err(|error| error.to_string())?
                }
                Action::Recreate(seen) => {
                    self.create(&task.name, name, body(), Some(seen)).await.map_err(|error| error.to_string())?
                }
            };
            all.push(id.clone());
            to_start.push((task, id));
        }
        ids.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(name.to_owned(), all);
        stages[name].send_replace(Stage::Created);
        if !up.start {
            return Ok(());
        }
        for (other, dependency) in &service.depends_on.0 {
            if let Err(reason) = self.condition(other, dependency, stages, ids).await {
                let reason = format!("it waits for `{other}`: {reason}");
                if dependency.required {
                    return Err(reason);
                }
                self.tell(name, name, "goes on", Some(reason));
            }
        }
        let restarts = service.depends_on.0.iter().any(|(other, dependency)| {
            let made_anew = |task: &Task| matches!(task.action, Action::Recreate(_));
            dependency.restart && plan.services.get(other).is_some_and(|tasks| tasks.iter().any(made_anew))
        });
        if restarts {
            for task in tasks {
                if let Action::Keep(seen) = &task.action {
                    self.stop_container(seen, None).await.map_err(|error| error.to_string())?;
                    to_start.push((task, seen.container.id.clone()));
                }
            }
        }
        let starts = to_start.iter().map(|(task, id)| self.start_container(id, &task.name, name));
        for started in futures_util::future::join_all(starts).await {
            started.map_err(|error| error.to_string())?;
        }
        stages[name].send_replace(Stage::Started);
        Ok(())
    }

    /// Makes a container, in the place of an old one if there is one; what was in its anonymous volumes stays.
    async fn create(
        &self,
        container: &str,
        service: &str,
        body: body::Body,
        old: Option<&Seen>,
    ) -> Result<String, WorkflowError> {
        let mut create = body.create;
        if let Some(old) = old {
            let host = create.host_config.get_or_insert_default();
            let mounts = host.mounts.get_or_insert_default();
            for (volume, target) in &old.volumes {
                if !mounts.iter().any(|mount| mount.target.as_deref() == Some(target)) {
                    mounts.push(Mount {
                        target: Some(target.clone()),
                        source: Some(volume.clone()),
                        typ: Some(MountType::VOLUME),
                        ..Mount::default()
                    });
                }
            }
            if mounts.is_empty() {
                host.mounts = None;
            }
            self.stop_container(old, None).await?;
            self.remove_container(old, false).await?;
        }
        for directory in &body.directories {
            // Where it cannot be made, Docker says what is missing.
            let _ = tokio::fs::create_dir_all(directory).await;
        }
        let _turn = self.hub.turn().await?;
        self.tell(container, service, "creating", None);
        let options = CreateContainerOptions { name: Some(container.to_owned()), ..CreateContainerOptions::default() };
        let failed = |error| WorkflowError::docker(format!("create the container `{container}`"), error);
        let id = self.docker.create_container(Some(options), create).await.map_err(failed)?.id;
        for (network, endpoint) in body.later {
            let request = NetworkConnectRequest { container: id.clone(), endpoint_config: Some(endpoint) };
            let what = format!("connect `{container}` to the network `{network}`");
            self.docker.connect_network(&network, request).await.map_err(|error| WorkflowError::docker(what, error))?;
        }
        if !body.files.is_empty() {
            let options = UploadToContainerOptions { path: "/".into(), ..UploadToContainerOptions::default() };
            let archive = bollard::body_full(body::archive(&body.files).into());
            let what = format!("put files into `{container}`");
            let put = self.docker.upload_to_container(&id, Some(options), archive).await;
            put.map_err(|error| WorkflowError::docker(what, error))?;
        }
        self.tell(container, service, "created", None);
        Ok(id)
    }

    pub(crate) async fn start_container(&self, id: &str, container: &str, service: &str) -> Result<(), WorkflowError> {
        let _turn = self.hub.turn().await?;
        self.tell(container, service, "starting", None);
        self.hub.mark(id, false).await;
        match self.docker.start_container(id, None::<StartContainerOptions>).await {
            Ok(()) => {}
            Err(error) if is_conflict(&error) => {}
            Err(error) => return Err(WorkflowError::docker(format!("start the container `{container}`"), error)),
        }
        self.tell(container, service, "started", None);
        Ok(())
    }

    /// Waits until another service has come as far as the condition says.
    async fn condition(&self, other: &str, dependency: &Dependency, stages: &Stages, ids: &Ids) -> Result<(), String> {
        reached(stages, other, &Stage::Started).await?;
        let containers: Vec<String> = {
            let ids = ids.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            ids.get(other).cloned().unwrap_or_default()
        };
        if dependency.condition == "service_started" {
            return Ok(());
        }
        let healthy = dependency.condition == "service_healthy";
        let deadline = tokio::time::Instant::now() + self.patience;
        for id in containers {
            let mut events = self.hub.events();
            loop {
                match self.has_come_to(&id, healthy).await? {
                    true => break,
                    false if tokio::time::Instant::now() > deadline => {
                        return Err(format!("it has not become so within {}s", self.patience.as_secs()));
                    }
                    false => {}
                }
                let about = async {
                    loop {
                        match events.recv().await {
                            Ok(DockerEvent::Container(happened)) if happened.id != id => {}
                            _ => return,
                        }
                    }
                };
                let _ = tokio::time::timeout(LOOK, about).await;
            }
        }
        Ok(())
    }

    async fn has_come_to(&self, id: &str, healthy: bool) -> Result<bool, String> {
        use bollard::models::HealthStatusEnum as Health;
        let container = self.docker.inspect_container(id, None::<InspectContainerOptions>).await;
        let state = container.map_err(|error| error.to_string())?.state.unwrap_or_default();
        let runs = state.running == Some(true) || state.restarting == Some(true);
        let code = state.exit_code.unwrap_or(0);
        match (healthy, runs) {
            (true, true) => match state.health.and_then(|health| health.status) {
                Some(Health::HEALTHY) => Ok(true),
                Some(Health::UNHEALTHY) => Err("it is unhealthy".into()),
                Some(Health::STARTING) => Ok(false),
                _ => Err("it has no health check".into()),
            },
            (true, false) => Err(format!("it ended with {code} before it was healthy")),
            (false, true) => Ok(false),
            (false, false) if code == 0 => Ok(true),
            (false, false) => Err(format!("it ended with {code}")),
        }
    }
}

/// Waits until a service has come so far, or has failed.
async fn reached(stages: &Stages, name: &str, wanted: &Stage) -> Result<(), String> {
    let Some(stage) = stages.get(name) else { return Ok(()) };
    let mut stage = stage.subscribe();
    let enough = |stage: &Stage| match stage {
        Stage::Waiting => false,
        Stage::Created => *wanted == Stage::Created,
        Stage::Started | Stage::Failed(_) => true,
    };
    match stage.wait_for(enough).await {
        Ok(stage) => match &*stage {
            Stage::Failed(reason) => Err(reason.clone()),
            _ => Ok(()),
        },
        Err(_) => Err("it was given up".into()),
    }
}
