//! What has to be done so that Docker has what a project says: a pure function of the two, each step with its cause.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::Serialize;

use super::body;
use super::file::Project;
use super::observe::{Observed, Seen};

/// One step of a plan.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Step {
    /// What is done: `create network`, `recreate container`, …
    pub call: &'static str,
    /// To what.
    pub resource: String,
    /// Why.
    pub cause: String,
}

/// What is done about one container.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    Keep(Seen),
    Start(Seen),
    Create,
    Recreate(Seen),
    Remove(Seen),
}

/// One container of a service.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) number: usize,
    pub(crate) name: String,
    pub(crate) action: Action,
    pub(crate) cause: String,
}

/// What has to be done.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    /// Keys of the networks that are missing.
    pub(crate) networks: Vec<String>,
    /// Keys of the volumes that are missing.
    pub(crate) volumes: Vec<String>,
    pub(crate) services: BTreeMap<String, Vec<Task>>,
    /// The hash of each service.
    pub(crate) hashes: BTreeMap<String, String>,
    /// Containers of services that the file does not have.
    pub(crate) orphans: Vec<Seen>,
}

/// The services that are meant: those named, and what they wait for; all when none is named.
pub(crate) fn meant(project: &Project, named: &[String]) -> BTreeSet<String> {
    if named.is_empty() {
        return project.services.keys().cloned().collect();
    }
    let mut meant = BTreeSet::new();
    let mut open: Vec<String> = named.to_vec();
    while let Some(name) = open.pop() {
        let Some(service) = project.services.get(&name) else { continue };
        if meant.insert(name) {
            open.extend(service.depends_on.0.keys().cloned());
        }
    }
    meant
}

/// Makes the plan for these services; `images` are the ids of the images that are there.
pub(crate) fn plan(
    project: &Project,
    observed: &Observed,
    images: &BTreeMap<String, String>,
    meant: &BTreeSet<String>,
) -> Plan {
    let mut plan = Plan::default();
    let missing = |name: &Option<String>, there: &[String]| name.as_ref().is_some_and(|name| !there.contains(name));
    for (key, network) in project.networks.iter().filter(|(_, network)| !network.external.0) {
        if missing(&network.name, &observed.networks) {
            plan.networks.push(key.clone());
        }
    }
    for (key, volume) in project.volumes.iter().filter(|(_, volume)| !volume.external.0) {
        if missing(&volume.name, &observed.volumes) {
            plan.volumes.push(key.clone());
        }
    }
    for name in meant {
        let Some(service) = project.services.get(name) else { continue };
        let hash = body::config_hash(project, name);
        let image = service.image.as_ref().and_then(|image| images.get(image));
        let mut tasks = Vec::new();
        let mut there: Vec<&Seen> = observed.containers.iter().filter(|seen| seen.container.service == *name).collect();
        there.sort_by_key(|seen| seen.container.index);
        for number in 1..=project.scale(name) {
            let place = there.iter().position(|seen| usize::try_from(seen.container.index) == Ok(number));
            let seen = place.map(|place| there.remove(place).clone());
            let (action, cause) = match seen {
                None => (Action::Create, "there is none".to_owned()),
                Some(seen) if seen.hash != hash => (Action::Recreate(seen), "its configuration changed".to_owned()),
                Some(seen) if image.is_some_and(|image| *image != seen.image_id) => {
                    (Action::Recreate(seen), "its image changed".to_owned())
                }
                Some(seen) if seen.runs() => (Action::Keep(seen), "it runs as it should".to_owned()),
                Some(seen) => {
                    let cause = format!("it is {}", seen.container.state);
                    (Action::Start(seen), cause)
                }
            };
            let name = body::container_name(project, name, number);
            tasks.push(Task { number, name, action, cause });
        }
        for seen in there {
            tasks.push(Task {
                number: usize::try_from(seen.container.index).unwrap_or(0),
                name: seen.container.name.clone(),
                action: Action::Remove(seen.clone()),
                cause: "there are more than the file says".into(),
            });
        }
        plan.hashes.insert(name.clone(), hash);
        plan.services.insert(name.clone(), tasks);
    }
    plan.orphans = observed
        .containers
        .iter()
        .filter(|seen| !project.services.contains_key(&seen.container.service))
        .cloned()
        .collect();
    plan
}

impl Plan {
    /// The steps, for whoever wants to know beforehand. Containers that only have to be started are no change.
    pub(crate) fn steps(&self, project: &Project) -> Vec<Step> {
        let mut steps = Vec::new();
        let step = |call, resource: String, cause: &str| Step { call, resource, cause: cause.to_owned() };
        for key in &self.networks {
            let name = project.networks.get(key).and_then(|network| network.name.clone()).unwrap_or_default();
            steps.push(step("create network", name, "there is none"));
        }
        for key in &self.volumes {
            let name = project.volumes.get(key).and_then(|volume| volume.name.clone()).unwrap_or_default();
            steps.push(step("create volume", name, "there is none"));
        }
        for task in self.services.values().flatten() {
            let call = match task.action {
                Action::Keep(_) | Action::Start(_) => continue,
                Action::Create => "create container",
                Action::Recreate(_) => "recreate container",
                Action::Remove(_) => "remove container",
            };
            steps.push(step(call, task.name.clone(), &task.cause));
        }
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compose::file::model::Service;

    #[test]
    fn a_plan_says_what_and_why() {
        let service = Service { image: Some("x".into()), scale: Some(2), ..Service::default() };
        let mut project = Project { name: "p".into(), ..Project::default() };
        project.services.insert("web".into(), service);
        let meant = meant(&project, &[]);
        let first = plan(&project, &Observed::default(), &BTreeMap::new(), &meant);
        let steps: Vec<String> = first
            .steps(&project)
            .iter()
            .map(|step| format!("{} {}: {}", step.call, step.resource, step.cause))
            .collect();
        assert_eq!(steps, ["create container p-web-1: there is none", "create container p-web-2: there is none"]);
        let hash = body::config_hash(&project, "web");
        assert_eq!(hash, body::config_hash(&project, "web"), "the same service has the same hash");
        project.services.get_mut("web").expect("web").environment.0.insert("A".into(), Some("1".into()));
        assert_ne!(hash, body::config_hash(&project, "web"), "a change changes it");
    }
}
