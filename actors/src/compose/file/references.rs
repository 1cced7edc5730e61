//! Names that must be there, and cycles.

use std::collections::{BTreeMap, BTreeSet};

use super::model::{Content, Network, Volume};
use super::node::Node;
use super::project::{Project, attachments};
use super::report::{Report, nearest};

/// Names that must be there, of the services that are left; what nothing uses is dropped.
pub(super) fn check(project: &mut Project, root: &Node, report: &mut Report) {
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
            let at = root.place(&["services", name, key]);
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
        let at = root.place(&["services", &cycle[0], "depends_on"]);
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
