//! What is known and not honoured: told by its name, as a warning where the project runs without it and as a fault where
//! it would be another project.

use super::node::Node;
use super::report::Report;

/// Keys of a service: with `true` the file is refused, else it is a warning.
const SERVICE: &[(&str, bool, &str)] = &[
    ("attach", false, "says only what a terminal shows; nothing is attached here"),
    ("cpu_count", false, "is for Windows containers only"),
    ("cpu_percent", false, "is for Windows containers only"),
    ("credential_spec", false, "is for Windows containers only"),
    ("develop", false, "is for `docker compose watch` only"),
    ("isolation", false, "is for Windows containers only"),
    ("models", true, "needs Docker Model Runner, which is not supported"),
    ("post_start", false, "is not run here"),
    ("pre_stop", false, "is not run here"),
    ("provider", true, "would run a program of the host outside of any container: it is not supported"),
    ("pull_refresh_after", false, "is not looked at: an image is pulled where it is missing"),
    ("use_api_socket", true, "would hand Docker itself to the container: bind its socket where that is allowed"),
];

/// Keys of `deploy` that mean something to a swarm only.
const SWARM: &[&str] = &["endpoint_mode", "labels", "placement", "rollback_config", "update_config"];

/// Keys of `build` that only `BuildKit` knows.
const BUILDKIT: &[&str] = &[
    "additional_contexts",
    "cache_to",
    "entitlements",
    "no_cache_filter",
    "privileged",
    "provenance",
    "sbom",
    "secrets",
    "ssh",
];

/// Names what is known and not honoured, where it stands.
pub(super) fn check(root: &Node, report: &mut Report) {
    let Some(map) = root.as_map() else { return };
    if map.get("version").is_some() {
        report.warn("obsolete-version", "version", "it is obsolete and says nothing");
    }
    if map.get("models").is_some() {
        report.warn("not-honoured", "models", "needs Docker Model Runner, which is not supported");
    }
    let services = map.get("services").and_then(Node::as_map).into_iter().flat_map(|services| services.iter());
    for (name, _, node) in services {
        service(name, node, report);
    }
    for section in ["secrets", "configs"] {
        let contents = map.get(section).and_then(Node::as_map).into_iter().flat_map(|contents| contents.iter());
        for (name, _, content) in contents {
            warn(content, &["labels", "template_driver"], &format!("{section}.{name}"), "swarm", report);
        }
    }
}

fn service(name: &str, service: &Node, report: &mut Report) {
    let Some(map) = service.as_map() else { return };
    let path = format!("services.{name}");
    for (key, refused, why) in SERVICE {
        let Some(node) = map.get(key).filter(|node| !node.is_null()) else { continue };
        let (path, message) = (format!("{path}.{key}"), format!("`{key}` {why}"));
        match refused {
            true => report.unrunnable(&node.at, path, message),
            false => report.warn("not-honoured", path, message),
        }
    }
    if let Some(build) = map.get("build").filter(|build| !build.is_null()) {
        let message = "nothing is built: the image must be there, or be pulled";
        report.warn("not-honoured", format!("{path}.build"), message);
        if let Some(ssh) = build.as_map().and_then(|build| build.get("ssh")).filter(|ssh| ssh.is_null()) {
            report.fault(
                &ssh.at,
                format!("{path}.build.ssh"),
                "must be a mapping or a list of `NAME=path`, not nothing",
            );
        }
        warn(build, BUILDKIT, &format!("{path}.build"), "builder of BuildKit", report);
        warn(build, &["isolation"], &format!("{path}.build"), "builder on Windows", report);
    }
    let Some(deploy) = map.get("deploy") else { return };
    warn(deploy, SWARM, &format!("{path}.deploy"), "swarm", report);
    if deploy.as_map().and_then(|deploy| deploy.get("mode")).and_then(Node::as_text) == Some("global") {
        report.warn("not-honoured", format!("{path}.deploy.mode"), "`global` means something to a swarm only");
    }
    let part = |key: &str| deploy.as_map().and_then(|deploy| deploy.get(key));
    if let Some(policy) = part("restart_policy") {
        warn(policy, &["delay", "window"], &format!("{path}.deploy.restart_policy"), "swarm", report);
    }
    let resources = part("resources").and_then(Node::as_map).into_iter().flat_map(|map| map.iter());
    for (kind, _, node) in resources {
        warn(node, &["generic_resources"], &format!("{path}.deploy.resources.{kind}"), "swarm", report);
        if kind == "reservations" {
            warn(node, &["cpus", "pids"], &format!("{path}.deploy.resources.{kind}"), "swarm", report);
        }
    }
}

fn warn(node: &Node, keys: &[&str], path: &str, whose: &str, report: &mut Report) {
    let Some(map) = node.as_map() else { return };
    for key in keys.iter().filter(|key| map.get(key).is_some_and(|node| !node.is_null())) {
        report.warn("not-honoured", format!("{path}.{key}"), format!("`{key}` means something to a {whose} only"));
    }
}
