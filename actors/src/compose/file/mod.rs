//! From the text of a compose file to a [`Project`]: everything in its long form, every path absolute, every key
//! accounted for. Faults come as a list with path, line and column; what is read and not honoured is a named warning.
//!
//! The order is compose-go's: for each file a tree with positions (merge keys resolved) → variables → what it includes →
//! what it extends, and then all of them laid over each other (`assemble`); of the whole → types → profiles → files of
//! variables and links → meaning → policy.

mod assemble;
mod canonical;
mod check;
pub(crate) mod decode;
mod dotenv;
mod environment;
mod extends;
pub(crate) mod forms;
mod include;
mod interpolate;
mod merge;
pub(crate) mod model;
mod names;
mod node;
pub(crate) mod paths;
mod policy;
mod project;
mod references;
mod report;
mod scalar;
mod sources;
mod support;
mod unique;
pub(crate) mod units;
mod yaml;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use self::assemble::Assembly;
use self::decode::Decode;
use self::interpolate::Variables;
use self::model::Model;
use self::node::{At, Source};
use self::paths::Roots;
pub(crate) use self::policy::Policy;
pub(crate) use self::project::{Loaded, Project, attachments};
pub use self::report::{Fault, Warning};
use self::report::{Report, Trail};
pub(crate) use self::sources::read_source;

/// A compose file and what surrounds it.
#[derive(Clone, Debug)]
pub(crate) struct Input<'a> {
    /// The project's name.
    pub(crate) name: &'a str,
    /// What the file is called in messages.
    pub(crate) file: &'a str,
    /// Its text. Several documents are laid over each other; see [`read_source`] for how files become documents.
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

/// Reads a compose file.
///
/// # Errors
/// Everything that is wrong with it, each with its place.
pub(crate) fn load(input: &Input<'_>) -> Result<Loaded, Vec<Fault>> {
    let mut report = Report::default();
    let project = read(input, &mut report);
    report.faults.append(&mut report.unrunnable);
    match project {
        Some(project) if report.faults.is_empty() => Ok(Loaded { project, warnings: report.warnings }),
        _ if report.faults.is_empty() => {
            report.fault(&At::file(&Source::named(input.file)), Trail::Root, "there is nothing in it");
            Err(report.faults)
        }
        _ => Err(report.faults),
    }
}

fn read(input: &Input<'_>, report: &mut Report) -> Option<Project> {
    let roots = Roots::new(input.directory, &input.policy.roots);
    let variables = environment::variables(input.name, input.directory, input.variables, &roots, report)?;
    let texts = sources::documents(input.file, input.directory, input.content);
    let chain = [input.directory.join(input.file)];
    let mut root = Assembly::new(&roots, input.directory, report).tree(&texts, &variables, &chain)?;
    canonical::write_out(&mut root);
    support::check(&root, report);
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
    unique::enforce(&mut project);
    names::defaults(&mut project, &variables);
    check::services(&project, &root, report);
    check::contents(&project, &root, report);
    project.services.retain(|_, service| {
        service.profiles.is_empty()
            || profiles.contains("*")
            || service.profiles.iter().any(|profile| profiles.contains(profile.as_str()))
    });
    references::check(&mut project, &root, report);
    environment::files(&mut project, &variables, &roots, &root, report);
    paths::resolve(&mut project, &roots);
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

#[cfg(test)]
mod corpus;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
#[cfg(test)]
mod schema;
#[cfg(test)]
mod tests;
