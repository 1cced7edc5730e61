//! What the types cannot say: names that must be there, cycles, keys that exclude each other, and what stands where the
//! file says nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::forms::{Dependency, External};
use super::interpolate::Variables;
use super::model::{Content, Network, Volume};
use super::report::{Report, nearest};
use super::yaml::Node;
use super::{MAX_SCALE, Project, attachments, place};

/// Fills in names, and what one key says about another.
pub(super) fn defaults(project: &mut Project, variables: &Variables) {
    let prefix = project.name.clone();
    let named = |key: &str, name: &Option<String>, external: &External| {
        name.clone().unwrap_or_else(|| match external {
            External(true, Some(name)) => name.clone(),
            External(true, None) => key.to_owned(),
            External(false, _) => format!("{prefix}_{key}"),
        })
    };
    for (key, network) in &mut project.networks {
        network.name = Some(named(key, &network.name, &network.external));
    }
    for (key, volume) in &mut project.volumes {
        volume.name = Some(named(key, &volume.name, &volume.external));
    }
    for content in project.secrets.values_mut().chain(project.configs.values_mut()) {
        if let Some(name) = &content.environment {
            content.content = variables.get(name).cloned();
        }
    }
    for service in project.services.values_mut() {
        let references = [&service.network_mode, &service.ipc, &service.pid]
            .into_iter()
            .flatten()
            .filter_map(|mode| mode.strip_prefix("service:"))
            .chain(service.links.iter().filter_map(|link| link.split(':').next()))
            .chain(service.volumes_from.iter().filter_map(|from| {
                let name = from.split(':').next().unwrap_or("");
                (name != "container").then_some(name)
            }));
        let references: Vec<String> = references.map(str::to_owned).collect();
        for name in references {
            service.depends_on.0.entry(name).or_insert_with(Dependency::started);
        }
    }
}

/// What is wrong with each service by itself, whether a profile has it or not.
pub(super) fn check(project: &Project, root: &Node, report: &mut Report) {
    for (name, service) in &project.services {
        let mut fault = |key: &str, message: String| {
            report.fault(&place(root, &["services", name, key]), format!("services.{name}.{key}"), message);
        };
        let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if name.is_empty() || !name.chars().all(valid) {
            fault("", "a service's name has letters, digits, `.`, `_` and `-` only".into());
        }
        if service.image.as_deref().unwrap_or("").is_empty() {
            fault("image", "an `image` is needed".into());
        }
        if service.network_mode.is_some() && service.networks.is_some() {
            fault("networks", "`networks` and `network_mode` exclude each other".into());
        }
        let replicas = service.deploy.as_ref().and_then(|deploy| deploy.replicas);
        if let (Some(scale), Some(replicas)) = (service.scale, replicas)
            && scale != replicas
        {
            fault("scale", "`scale` and `deploy.replicas` say different numbers".into());
        }
        let scale = service.scale.or(replicas).unwrap_or(1);
        if !(0..=MAX_SCALE).contains(&scale) {
            fault("scale", format!("must be from 0 to {MAX_SCALE}"));
        }
        if scale > 1 && service.container_name.is_some() {
            fault("container_name", "a service with a `container_name` can have one container only".into());
        }
        let mode = service.deploy.as_ref().and_then(|deploy| deploy.mode.as_deref());
        if mode.is_some_and(|mode| mode != "replicated") {
            fault("deploy", "there is only the mode `replicated` outside of a swarm".into());
        }
        if let Some(restart) = &service.restart
            && crate::compose::body::restart_policy(restart).is_none()
        {
            fault("restart", "must be `no`, `always`, `unless-stopped` or `on-failure[:times]`".into());
        }
        if let Some(policy) = &service.pull_policy
            && !["always", "never", "missing", "if_not_present", "build"].contains(&policy.as_str())
        {
            fault("pull_policy", "must be `always`, `missing` or `never`".into());
        }
        let signal = service.stop_signal.as_deref();
        if signal.is_some_and(|signal| crate::keeper::signal_number(signal).is_none()) {
            fault("stop_signal", "there is no such signal".into());
        }
        let health = service.healthcheck.as_ref();
        if health.is_some_and(|health| health.start_interval.is_some()) {
            report.warn(
                "needs-newer-docker",
                format!("services.{name}.healthcheck.start_interval"),
                "is passed on; Docker before 25 does not know it",
            );
        }
        for (key, long) in service.depends_on.0.iter().filter(|(_, long)| long.restart) {
            let _ = long;
            if key == name {
                report.fault(
                    &place(root, &["services", name, "depends_on"]),
                    format!("services.{name}"),
                    "waits for itself",
                );
            }
        }
    }
    for (section, contents) in [("secrets", &project.secrets), ("configs", &project.configs)] {
        for (name, content) in contents {
            let at = place(root, &[section, name]);
            let path = format!("{section}.{name}");
            let said = [content.file.is_some(), content.environment.is_some(), content.content.is_some()];
            if content.external.0 {
                report.fault(&at, path, "`external` ones are a swarm's and are not supported");
            } else if content.environment.is_some() && content.content.is_none() {
                report.fault(&at, path, "the variable that it is taken from is not set");
            } else if !said.contains(&true) {
                report.fault(&at, path, "needs `file`, `environment` or `content`");
            }
        }
    }
}

/// Names that must be there, of the services that are left; what nothing uses is dropped.
pub(super) fn references(project: &mut Project, root: &Node, report: &mut Report) {
    let mut networks: BTreeMap<String, Network> = BTreeMap::new();
    let mut volumes: BTreeMap<String, Volume> = BTreeMap::new();
    let names: BTreeSet<String> = project.services.keys().cloned().collect();
    let declared: BTreeSet<String> = root
        .as_map()
        .and_then(|map| map.get("services"))
        .and_then(Node::as_map)
        .map_or_else(BTreeSet::new, |services| services.iter().map(|(name, ..)| name.to_owned()).collect());
    let (mut secrets, mut configs) = (BTreeMap::new(), BTreeMap::new());
    for (name, service) in &mut project.services {
        let mut missing = |key: &str, what: &str, wanted: &str, known: &mut dyn Iterator<Item = &str>| {
            let hint = nearest(wanted, known).map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
            let at = place(root, &["services", name, key]);
            report.fault(&at, format!("services.{name}.{key}"), format!("there is no {what} `{wanted}`{hint}"));
        };
        for (wanted, _) in attachments(service) {
            match project.networks.get(&wanted) {
                Some(network) => {
                    networks.insert(wanted, network.clone());
                }
                None if wanted == "default" => {
                    let network = Network { name: Some(format!("{}_default", project.name)), ..Network::default() };
                    networks.insert(wanted, network);
                }
                None => missing("networks", "network", &wanted, &mut project.networks.keys().map(String::as_str)),
            }
        }
        for mount in service.volumes.iter().filter(|mount| mount.kind == "volume") {
            let Some(source) = &mount.source else { continue };
            match project.volumes.get(source) {
                Some(volume) => {
                    volumes.insert(source.clone(), volume.clone());
                }
                None => missing("volumes", "volume", source, &mut project.volumes.keys().map(String::as_str)),
            }
        }
        let mut grants = |key: &str,
                          wanted: &str,
                          from: &BTreeMap<String, Content>,
                          to: &mut BTreeMap<String, Content>| match from.get(wanted) {
            Some(content) => {
                to.insert(wanted.to_owned(), content.clone());
            }
            None => missing(key, key.trim_end_matches('s'), wanted, &mut from.keys().map(String::as_str)),
        };
        for grant in &service.secrets.0 {
            grants("secrets", &grant.source, &project.secrets, &mut secrets);
        }
        for grant in &service.configs.0 {
            grants("configs", &grant.source, &project.configs, &mut configs);
        }
        let gone: Vec<String> =
            service.depends_on.0.keys().filter(|wanted| !names.contains(*wanted)).cloned().collect();
        for wanted in gone {
            let required = service.depends_on.0.remove(&wanted).is_some_and(|dependency| dependency.required);
            if !declared.contains(&wanted) {
                missing("depends_on", "service", &wanted, &mut declared.iter().map(String::as_str));
            } else if required {
                missing("depends_on", "service in the profiles that are switched on", &wanted, &mut std::iter::empty());
            }
        }
    }
    (project.networks, project.volumes, project.secrets, project.configs) = (networks, volumes, secrets, configs);
    if let Some(cycle) = cycle(project) {
        let at = place(root, &["services", &cycle[0], "depends_on"]);
        report.fault(&at, format!("services.{}.depends_on", cycle[0]), format!("a cycle: {}", cycle.join(" → ")));
    }
}

/// Services that wait for each other, if any do.
fn cycle(project: &Project) -> Option<Vec<String>> {
    fn visit<'a>(project: &'a Project, name: &'a str, path: &mut Vec<&'a str>, done: &mut BTreeSet<&'a str>) -> bool {
        if path.contains(&name) {
            path.push(name);
            return true;
        }
        if !done.insert(name) {
            return false;
        }
        path.push(name);
        let dependencies = project.services.get(name).into_iter().flat_map(|service| service.depends_on.0.keys());
        for next in dependencies {
            if visit(project, next, path, done) {
                return true;
            }
        }
        path.pop();
        false
    }
    let mut done = BTreeSet::new();
    for name in project.services.keys() {
        let mut path = Vec::new();
        if visit(project, name, &mut path, &mut done) {
            let last = *path.last()?;
            let start = path.iter().position(|name| *name == last)?;
            return Some(path[start..].iter().map(|name| (*name).to_owned()).collect());
        }
    }
    None
}
