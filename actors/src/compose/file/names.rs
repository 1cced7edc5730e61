//! What stands where a file says nothing: names, and what one key says about another.

use super::forms::{Dependency, External};
use super::interpolate::Variables;
use super::project::Project;

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
    for (key, content) in project.secrets.iter_mut().chain(&mut project.configs) {
        content.name = Some(named(key, &content.name, &content.external));
    }
    for content in project.secrets.values_mut().chain(project.configs.values_mut()) {
        if let Some(name) = &content.environment {
            content.content = variables.get(name).cloned();
        }
    }
    let project_name = &project.name;
    for (name, service) in &mut project.services {
        if service.image.as_deref().unwrap_or("").is_empty() && service.build.is_some() {
            service.image = Some(format!("{project_name}-{name}"));
        }
        if let Some(build) = &mut service.build
            && build.dockerfile.is_none()
            && build.dockerfile_inline.is_none()
        {
            build.dockerfile = Some("Dockerfile".into());
        }
        let modes = [&service.network_mode, &service.ipc, &service.pid, &service.uts, &service.cgroup];
        let shared = modes.into_iter().flatten().filter_map(|mode| mode.strip_prefix("service:"));
        let linked = service.links.iter().filter_map(|link| link.split(':').next());
        let mounted = service.volumes_from.iter().filter_map(|from| from.split(':').next());
        // Who shares a namespace, or links an address, has to start again with the one that was made anew.
        let all = shared
            .chain(linked)
            .map(|name| (name.to_owned(), true))
            .chain(mounted.filter(|name| *name != "container").map(|name| (name.to_owned(), false)));
        for (name, restart) in all.collect::<Vec<_>>() {
            let dependency = || Dependency { restart, ..Dependency::started() };
            service.depends_on.0.entry(name).or_insert_with(dependency);
        }
    }
}
