//! What the types cannot say about one part by itself: keys that exclude each other, values that cannot be.

use std::collections::BTreeSet;

use super::model::Service;
use super::node::Node;
use super::project::Project;
use super::report::Report;
use super::units::Nanos;

/// How many containers one service may have.
const MAX_SCALE: i64 = 1000;

/// What is wrong with each service by itself, whether a profile has it or not.
pub(super) fn services(project: &Project, root: &Node, report: &mut Report) {
    for (name, service) in &project.services {
        let trail = format!("services.{name}");
        let mut warnings = Vec::new();
        let mut fault = |key: &str, message: String| {
            report.fault(&root.place(&["services", name, key]), format!("services.{name}.{key}"), message);
        };
        let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if name.is_empty() || !name.chars().all(valid) {
            fault("", "a service's name has letters, digits, `.`, `_` and `-` only".into());
        }
        let provided =
            root.as_map().and_then(|map| map.get("services")).and_then(Node::as_map).and_then(|map| map.get(name));
        let provided = provided.and_then(Node::as_map).is_some_and(|service| service.get("provider").is_some());
        if service.image.as_deref().unwrap_or("").is_empty() && !provided {
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
        if mode.is_some_and(|mode| !matches!(mode, "" | "replicated" | "global")) {
            fault("deploy", "there are only the modes `replicated` and `global`".into());
        }
        if let Some(policy) = &service.pull_policy
            && !["always", "never", "missing", "if_not_present", "build"].contains(&policy.as_str())
        {
            match periodic(policy) {
                false => fault("pull_policy", "must be `always`, `missing`, `never` or `build`".into()),
                true => warnings.push(format!("`{policy}`: no image is pulled for its age, only where it is missing")),
            }
        }
        let signal = service.stop_signal.as_deref();
        if signal.is_some_and(|signal| crate::keeper::signal_number(signal).is_none()) {
            fault("stop_signal", "there is no such signal".into());
        }
        for message in warnings {
            report.warn("not-honoured", format!("{trail}.pull_policy"), message);
        }
        let health = service.healthcheck.as_ref();
        if health.is_some_and(|health| health.start_interval.is_some()) {
            report.warn(
                "needs-newer-docker",
                format!("services.{name}.healthcheck.start_interval"),
                "is passed on; Docker before 25 does not know it",
            );
        }
        service_build(name, service, root, report);
        mounts(name, service, root, report);
    }
}

/// What is wrong with secrets and configs.
pub(super) fn contents(project: &Project, root: &Node, report: &mut Report) {
    for (section, contents) in [("secrets", &project.secrets), ("configs", &project.configs)] {
        for (name, content) in contents {
            let at = root.place(&[section, name]);
            let path = format!("{section}.{name}");
            let from = [content.file.is_some(), content.environment.is_some()];
            let said = from.iter().filter(|said| **said).count()
                + usize::from(content.content.is_some() && content.environment.is_none());
            if content.external.0 {
                report.unrunnable(&at, path, "`external` ones are a swarm's: no Docker Engine by itself has them");
            } else if content.environment.is_some() && content.content.is_none() {
                report.unrunnable(&at, path, "the variable that it is taken from is not set");
            } else if said > 1 {
                report.fault(&at, path, "`file`, `environment` and `content` exclude each other");
            } else if said == 0 {
                report.fault(&at, path, "needs `file`, `environment` or `content`");
            }
        }
    }
}

/// `refresh`, `daily`, `weekly`, `every_12h`.
fn periodic(policy: &str) -> bool {
    matches!(policy, "refresh" | "daily" | "weekly")
        || policy.strip_prefix("every_").is_some_and(|every| Nanos::parse(every).is_some_and(|nanos| nanos.0 > 0))
}

fn service_build(name: &str, service: &Service, root: &Node, report: &mut Report) {
    let Some(build) = &service.build else { return };
    if build.dockerfile.is_some() && build.dockerfile_inline.is_some() {
        let at = root.place(&["services", name, "build", "dockerfile_inline"]);
        let path = format!("services.{name}.build");
        report.fault(&at, path, "`dockerfile` and `dockerfile_inline` exclude each other");
    }
    let platform = service.platform.as_deref();
    if let Some(platform) =
        platform.filter(|platform| !build.platforms.is_empty() && !build.platforms.iter().any(|one| one == platform))
    {
        let at = root.place(&["services", name, "build", "platforms"]);
        let path = format!("services.{name}.build.platforms");
        report.fault(&at, path, format!("do not hold the service's `platform`, `{platform}`"));
    }
}

/// One place in a container has one mount.
fn mounts(name: &str, service: &Service, root: &Node, report: &mut Report) {
    let mut seen = BTreeSet::new();
    for (index, mount) in service.volumes.iter().enumerate() {
        if !seen.insert(&mount.target) {
            let at = root.place(&["services", name, "volumes"]);
            let path = format!("services.{name}.volumes[{index}]");
            report.fault(&at, path, format!("`{}` is mounted twice", mount.target));
        }
    }
}
