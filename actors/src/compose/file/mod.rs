//! From the text of a compose file to a [`Project`]: everything in its long form, every path absolute, every key
//! accounted for. Faults come as a list with path, line and column; what is read and not honoured is a named warning.
//!
//! The order is compose-go's: tree with positions (merge keys resolved) → variables → types → profiles → files of variables
//! and paths → meaning → policy.

pub(crate) mod decode;
pub(crate) mod dotenv;
pub(crate) mod forms;
pub(crate) mod interpolate;
pub(crate) mod meaning;
pub(crate) mod model;
pub(crate) mod paths;
pub(crate) mod policy;
pub(crate) mod report;
pub(crate) mod yaml;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use self::decode::Decode;
use self::forms::{Attachment, Attachments};
use self::interpolate::Variables;
use self::model::{Content, Model, NOT_HONOURED, Network, SWARM_ONLY, Service, Volume};
use self::paths::Roots;
pub(crate) use self::policy::Policy;
use self::report::Report;
use self::report::Trail;
pub use self::report::{Fault, Warning};
use self::yaml::{At, Node};

/// How many containers one service may have.
const MAX_SCALE: i64 = 1000;

/// A compose file and what surrounds it.
#[derive(Clone, Debug)]
pub(crate) struct Input<'a> {
    /// The project's name.
    pub(crate) name: &'a str,
    /// What the file is called in messages.
    pub(crate) file: &'a str,
    /// Its text.
    pub(crate) content: &'a str,
    /// What relative paths are relative to.
    pub(crate) directory: &'a Path,
    /// Variables of the request; they win over `.env`.
    pub(crate) variables: &'a BTreeMap<String, String>,
    /// The profiles that are switched on.
    pub(crate) profiles: &'a [String],
    /// What may be asked for.
    pub(crate) policy: &'a Policy,
}

/// A compose file as it is run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Project {
    /// Its name.
    pub(crate) name: String,
    /// What relative paths are relative to.
    pub(crate) directory: PathBuf,
    /// What runs, profiles applied.
    pub(crate) services: BTreeMap<String, Service>,
    /// The networks that the services use.
    pub(crate) networks: BTreeMap<String, Network>,
    /// The volumes that the services use.
    pub(crate) volumes: BTreeMap<String, Volume>,
    /// What only it may read; without the values.
    #[serde(serialize_with = "masked")]
    pub(crate) secrets: BTreeMap<String, Content>,
    /// What it reads.
    pub(crate) configs: BTreeMap<String, Content>,
}

fn masked<S: serde::Serializer>(secrets: &BTreeMap<String, Content>, serializer: S) -> Result<S::Ok, S::Error> {
    let masked = secrets.iter().map(|(name, secret)| {
        let content = secret.content.as_ref().map(|_| "***".to_owned());
        (name, Content { content, ..secret.clone() })
    });
    serializer.collect_map(masked)
}

/// A project, and what in its file is not honoured.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    /// The project.
    pub(crate) project: Project,
    /// What is not as one may think.
    pub(crate) warnings: Vec<Warning>,
}

impl Project {
    /// How many containers a service has.
    pub(crate) fn scale(&self, service: &str) -> usize {
        let scale = self.services.get(service).map_or(0, |service| {
            let deployed = service.deploy.as_ref().and_then(|deploy| deploy.replicas);
            service.scale.or(deployed).unwrap_or(1)
        });
        usize::try_from(scale).unwrap_or(0)
    }
}

/// Where the node at `path` was written; the nearest that is there.
pub(crate) fn place(root: &Node, path: &[&str]) -> At {
    let mut node = root;
    for key in path {
        match node.as_map().and_then(|map| map.get(key)) {
            Some(child) => node = child,
            None => break,
        }
    }
    node.at.clone()
}

/// Reads a compose file.
///
/// # Errors
/// Everything that is wrong with it, each with its place.
pub(crate) fn load(input: &Input<'_>) -> Result<Loaded, Vec<Fault>> {
    let mut report = Report::default();
    let project = read(input, &mut report);
    match project {
        Some(project) if report.faults.is_empty() => Ok(Loaded { project, warnings: report.warnings }),
        _ if report.faults.is_empty() => {
            report.fault(&At::file(&input.file.into()), Trail::Root, "it cannot be read");
            Err(report.faults)
        }
        _ => Err(report.faults),
    }
}

fn read(input: &Input<'_>, report: &mut Report) -> Option<Project> {
    let file: Arc<str> = input.file.into();
    let roots = Roots::new(input.directory, &input.policy.roots);
    let variables = variables(input, &roots, &file, report)?;
    let mut documents = yaml::parse(&file, input.content, report).into_iter();
    let mut root = documents.next()?;
    if let Some(second) = documents.next() {
        report.fault(&second.at, Trail::Root, "several documents in one file are not supported");
    }
    interpolate::tree(&mut root, Trail::Root, &variables, report);
    not_honoured(&root, report);
    let model = Model::decode(&root, Trail::Root, report)?;
    if model.services.is_empty() {
        report.fault(&root.at, "services", "there are no services");
    }
    let profiles = profiles(input, &variables);
    let mut project = Project {
        name: input.name.to_owned(),
        directory: input.directory.to_owned(),
        services: model.services,
        networks: model.networks.into_iter().map(|(name, network)| (name, network.0)).collect(),
        volumes: model.volumes.into_iter().map(|(name, volume)| (name, volume.0)).collect(),
        secrets: model.secrets,
        configs: model.configs,
    };
    meaning::defaults(&mut project, &variables);
    meaning::check(&project, &root, report);
    project.services.retain(|_, service| {
        service.profiles.is_empty()
            || profiles.contains("*")
            || service.profiles.iter().any(|profile| profiles.contains(profile.as_str()))
    });
    meaning::references(&mut project, &root, report);
    files(&mut project, &variables, &roots, &root, report);
    paths::resolve(&mut project, &roots, &root, report);
    policy::check(&project, input.policy, &roots, &root, report);
    Some(project)
}

fn profiles(input: &Input<'_>, variables: &Variables) -> BTreeSet<String> {
    let mut profiles: BTreeSet<String> = input.profiles.iter().cloned().collect();
    if profiles.is_empty()
        && let Some(named) = variables.get("COMPOSE_PROFILES")
    {
        profiles.extend(named.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned));
    }
    profiles
}

/// The variables for the file: of `.env`, then of the request, which wins.
fn variables(input: &Input<'_>, roots: &Roots, file: &Arc<str>, report: &mut Report) -> Option<Variables> {
    let mut outer: Variables = input.variables.clone();
    outer.insert("COMPOSE_PROJECT_NAME".into(), input.name.into());
    let place = input.directory.join(".env");
    if std::fs::symlink_metadata(&place).is_err() {
        return Some(outer);
    }
    let text = roots.read(&place).map_err(|reason| report.fault(&At::file(file), ".env", reason)).ok()?;
    let entries = dotenv::parse(&text, &outer)
        .map_err(|(line, message)| {
            report.fault(&At { file: ".env".into(), line, column: 0 }, Trail::Root, message);
        })
        .ok()?;
    let mut variables: Variables = entries.into_iter().collect();
    variables.extend(outer);
    Some(variables)
}

/// Names what is known and not honoured, where it stands.
fn not_honoured(root: &Node, report: &mut Report) {
    let Some(map) = root.as_map() else { return };
    if map.get("version").is_some() {
        report.warn("obsolete-version", "version", "it is obsolete and says nothing");
    }
    for key in ["include", "models"] {
        if let Some(node) = map.get(key) {
            report.fault(&node.at, key, "is not supported");
        }
    }
    let services = map.get("services").and_then(Node::as_map).into_iter().flat_map(|services| services.iter());
    for (name, _, service) in services {
        let Some(service) = service.as_map() else { continue };
        for (key, refused, why) in NOT_HONOURED {
            let Some(node) = service.get(key) else { continue };
            let path = format!("services.{name}.{key}");
            if *refused {
                report.fault(&node.at, path, format!("`{key}` {why}"));
            } else {
                report.warn("not-honoured", path, format!("`{key}` {why}"));
            }
        }
        if let Some(node) = service.get("build") {
            let path = format!("services.{name}.build");
            if service.get("image").is_none() {
                report.fault(
                    &node.at,
                    path,
                    "`build` is not supported: name an `image` that is there or can be pulled",
                );
            } else {
                report.warn("not-honoured", path, "`build` is not supported: the image is taken as it is, or pulled");
            }
        }
        let Some(deploy) = service.get("deploy").and_then(Node::as_map) else { continue };
        for key in SWARM_ONLY.iter().filter(|key| deploy.get(key).is_some()) {
            let path = format!("services.{name}.deploy.{key}");
            report.warn("not-honoured", path, format!("`{key}` means something to a swarm only"));
        }
        let reservations = deploy.get("resources").and_then(Node::as_map).into_iter().flat_map(|map| map.iter());
        for (kind, _, node) in reservations {
            for key in ["devices", "generic_resources"] {
                if let Some(node) = node.as_map().and_then(|map| map.get(key)) {
                    let path = format!("services.{name}.deploy.resources.{kind}.{key}");
                    report.fault(&node.at, path, format!("`{key}` is not supported"));
                }
            }
        }
    }
}

/// Reads files of variables into the environment of their service, and gives names without values the value that the
/// file's variables have.
fn files(project: &mut Project, variables: &Variables, roots: &Roots, root: &Node, report: &mut Report) {
    for (name, service) in &mut project.services {
        let mut environment = BTreeMap::new();
        for file in std::mem::take(&mut service.env_file.0) {
            let at = place(root, &["services", name, "env_file"]);
            let path = format!("services.{name}.env_file");
            let whole = paths::absolute(&project.directory, &file.path);
            if std::fs::symlink_metadata(&whole).is_err() {
                if file.required {
                    report.fault(&at, path, format!("the file `{}` is not there", file.path));
                }
                continue;
            }
            let text = match roots.read(&whole) {
                Ok(text) => text,
                Err(reason) => {
                    report.fault(&at, path, reason);
                    continue;
                }
            };
            match dotenv::parse(&text, variables) {
                Ok(entries) => environment.extend(entries.into_iter().map(|(name, value)| (name, Some(value)))),
                Err((line, message)) => {
                    let at = At { file: file.path.as_str().into(), line, column: 0 };
                    report.fault(&at, path, message);
                }
            }
        }
        environment.extend(std::mem::take(&mut service.environment.0));
        for (name, value) in &mut environment {
            if value.is_none() {
                *value = variables.get(name).cloned();
            }
        }
        // A name without a value anywhere is not in the environment at all.
        environment.retain(|_, value| value.is_some());
        service.environment.0 = environment;
    }
}

/// The networks of a service by name; none where it has a mode of its own.
pub(crate) fn attachments(service: &Service) -> Vec<(String, Attachment)> {
    match (&service.network_mode, &service.networks) {
        (Some(_), _) => Vec::new(),
        (None, Some(Attachments(networks))) => {
            let mut list: Vec<_> = networks.iter().map(|(name, network)| (name.clone(), network.clone())).collect();
            // The first is the one that the container is created with.
            list.sort_by_key(|(_, network)| std::cmp::Reverse(network.priority.unwrap_or(0)));
            list
        }
        (None, None) => vec![("default".into(), Attachment::default())],
    }
}

#[cfg(test)]
mod tests;
