//! A project as Docker has it, and what state that is.

use std::collections::{BTreeMap, HashMap};

use bollard::Docker;
use bollard::models::ContainerSummary;
use bollard::query_parameters::{ListContainersOptions, ListNetworksOptions, ListVolumesOptions};
use schemars::JsonSchema;
use serde::Serialize;

use super::body::label;
use super::error::WorkflowError;
use super::hub::Hub;

/// The state of a workflow.
#[derive(Clone, Copy, Debug, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkflowState {
    /// It was made and has not run.
    Created,
    /// All that should run does.
    Running,
    /// It is held.
    Paused,
    /// Stopped by request.
    Stopped,
    /// All ended well.
    Exited,
    /// One ended badly.
    Failed,
    /// Only some of what should run does.
    Partial,
}

/// A container of a workflow.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Container {
    /// Docker's id of it.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its service.
    pub service: String,
    /// Its number within the service, from 1.
    pub index: u32,
    /// `created`, `running`, `paused`, `restarting`, `stopped`, `exited` or `failed`.
    pub state: String,
    /// The same in Docker's words.
    pub status: String,
    /// `starting`, `healthy` or `unhealthy`, where it has a health check.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<String>,
    /// What its program ended with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
    /// Its image.
    pub image: String,
    /// When it was made.
    pub created_at: String,
}

/// A container with what only we need to know of it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) container: Container,
    pub(crate) project: String,
    pub(crate) hash: String,
    pub(crate) image_id: String,
    pub(crate) depends_on: Vec<String>,
    pub(crate) created: i64,
    /// Anonymous volumes: name and target.
    pub(crate) volumes: Vec<(String, String)>,
}

impl Seen {
    pub(crate) fn is(&self, states: &[&str]) -> bool {
        states.contains(&self.container.state.as_str())
    }

    pub(crate) fn runs(&self) -> bool {
        self.is(&["running", "restarting"])
    }

    fn read(summary: ContainerSummary, hub: &Hub) -> Option<Self> {
        let mut labels = summary.labels?;
        if labels.get(label::ONEOFF).is_some_and(|oneoff| oneoff == "True") {
            return None;
        }
        let id = summary.id?;
        let status = summary.status.unwrap_or_default();
        let (mut state, exit_code) = match summary.state.map(|state| state.to_string()).unwrap_or_default().as_str() {
            state @ ("exited" | "dead") => {
                let code = exit_code(&status).unwrap_or(0);
                let signalled = matches!(code, 137 | 143);
                let state = match (state, code) {
                    _ if hub.was_stopped(&id) => "stopped",
                    (_, 0) => "exited",
                    _ if signalled => "stopped",
                    _ => "failed",
                };
                (state.to_owned(), Some(code))
            }
            state => (state.to_owned(), None),
        };
        if state == "removing" {
            state = "stopped".into();
        }
        let health = [("(healthy)", "healthy"), ("(unhealthy)", "unhealthy"), ("(health: starting)", "starting")]
            .iter()
            .find(|(text, _)| status.contains(text))
            .map(|(_, health)| (*health).to_owned());
        let depends_on = labels.remove(label::DEPENDS_ON).unwrap_or_default();
        let depends_on = depends_on.split(',').filter_map(|part| part.split(':').next());
        let created = summary.created.unwrap_or_default();
        let volumes = summary.mounts.into_iter().flatten().filter_map(|mount| {
            let name = mount.name?;
            let anonymous = name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
            anonymous.then_some((name, mount.destination?))
        });
        Some(Self {
            container: Container {
                name: summary
                    .names
                    .and_then(|names| names.into_iter().next())
                    .unwrap_or_default()
                    .trim_start_matches('/')
                    .to_owned(),
                id,
                service: labels.remove(label::SERVICE).unwrap_or_default(),
                index: labels.remove(label::NUMBER).and_then(|number| number.parse().ok()).unwrap_or(1),
                state,
                status,
                health,
                exit_code,
                image: summary.image.unwrap_or_default(),
                created_at: crate::time::iso(created),
            },
            project: labels.remove(label::PROJECT)?,
            hash: labels.remove(label::HASH).unwrap_or_default(),
            image_id: summary.image_id.unwrap_or_default(),
            depends_on: depends_on.filter(|name| !name.is_empty()).map(str::to_owned).collect(),
            created,
            volumes: volumes.collect(),
        })
    }
}

fn exit_code(status: &str) -> Option<i64> {
    status.split_once('(')?.1.split_once(')')?.0.parse().ok()
}

/// A project as Docker has it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observed {
    pub(crate) containers: Vec<Seen>,
    pub(crate) networks: Vec<String>,
    pub(crate) volumes: Vec<String>,
}

fn by_project(project: Option<&str>) -> HashMap<String, Vec<String>> {
    let label = project.map_or_else(|| label::PROJECT.to_owned(), |project| format!("{}={project}", label::PROJECT));
    HashMap::from([("label".to_owned(), vec![label])])
}

/// The containers of one project, or of all; in the order of services and numbers.
pub(crate) async fn containers(docker: &Docker, hub: &Hub, project: Option<&str>) -> Result<Vec<Seen>, WorkflowError> {
    let options = ListContainersOptions { all: true, filters: Some(by_project(project)), ..Default::default() };
    let list = docker.list_containers(Some(options)).await;
    let list = list.map_err(|error| WorkflowError::docker("list containers", error))?;
    let mut containers: Vec<Seen> = list.into_iter().filter_map(|summary| Seen::read(summary, hub)).collect();
    containers.sort_by(|a, b| {
        (&a.container.service, a.container.index, a.created).cmp(&(&b.container.service, b.container.index, b.created))
    });
    Ok(containers)
}

/// Everything of one project.
pub(crate) async fn observe(docker: &Docker, hub: &Hub, project: &str) -> Result<Observed, WorkflowError> {
    let filters = by_project(Some(project));
    let networks = docker.list_networks(Some(ListNetworksOptions { filters: Some(filters.clone()) }));
    let volumes = docker.list_volumes(Some(ListVolumesOptions { filters: Some(filters) }));
    let containers = containers(docker, hub, Some(project));
    let (containers, networks, volumes) = tokio::join!(containers, networks, volumes);
    let networks = networks.map_err(|error| WorkflowError::docker("list networks", error))?;
    let volumes = volumes.map_err(|error| WorkflowError::docker("list volumes", error))?;
    Ok(Observed {
        containers: containers?,
        networks: networks.into_iter().filter_map(|network| network.name).collect(),
        volumes: volumes.volumes.into_iter().flatten().map(|volume| volume.name).collect(),
    })
}

/// What state containers make, where `missing` says whether one that should be there is not.
pub(crate) fn state(containers: &[&Container], missing: bool) -> WorkflowState {
    let count =
        |states: &[&str]| containers.iter().filter(|container| states.contains(&container.state.as_str())).count();
    let (running, paused) = (count(&["running", "restarting"]), count(&["paused"]));
    let (ended, created) = (count(&["exited"]), count(&["created"]));
    let (failed, stopped) = (count(&["failed"]), count(&["stopped"]));
    match () {
        () if running > 0 && paused == 0 && failed == 0 && stopped == 0 && created == 0 && !missing => {
            WorkflowState::Running
        }
        () if running > 0 => WorkflowState::Partial,
        () if paused > 0 => WorkflowState::Paused,
        () if failed > 0 => WorkflowState::Failed,
        () if stopped > 0 => WorkflowState::Stopped,
        () if ended > 0 => WorkflowState::Exited,
        () => WorkflowState::Created,
    }
}

/// How many containers are in which state, `running(2), exited(1)`.
pub(crate) fn summary(containers: &[&Container]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for container in containers {
        *counts.entry(&container.state).or_default() += 1;
    }
    counts.iter().map(|(state, count)| format!("{state}({count})")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_that_of_what_should_run() {
        let made = |state: &str| Container {
            id: String::new(),
            name: String::new(),
            service: String::new(),
            index: 1,
            state: state.into(),
            status: String::new(),
            health: None,
            exit_code: None,
            image: String::new(),
            created_at: String::new(),
        };
        for (states, missing, expected) in [
            ("", false, WorkflowState::Created),
            ("created", false, WorkflowState::Created),
            ("running", false, WorkflowState::Running),
            ("running exited", false, WorkflowState::Running),
            ("running", true, WorkflowState::Partial),
            ("running stopped", false, WorkflowState::Partial),
            ("running failed", false, WorkflowState::Partial),
            ("paused", false, WorkflowState::Paused),
            ("paused exited", false, WorkflowState::Paused),
            ("running paused", false, WorkflowState::Partial),
            ("exited exited", false, WorkflowState::Exited),
            ("exited stopped", false, WorkflowState::Stopped),
            ("exited failed stopped", false, WorkflowState::Failed),
        ] {
            let containers: Vec<Container> = states.split_whitespace().map(made).collect();
            let containers: Vec<&Container> = containers.iter().collect();
            assert_eq!(state(&containers, missing), expected, "{states}");
        }
        assert_eq!(exit_code("Exited (137) 3 seconds ago"), Some(137));
        assert_eq!(exit_code("Created"), None);
    }
}
