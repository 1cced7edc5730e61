//! What a workflow may ask of the host. Everything that reaches out of a container is refused unless the configuration
//! allows it; the refusal names the key in the file and the setting.

use std::path::{Path, PathBuf};

use super::paths::Roots;
use super::report::Report;
use super::yaml::Node;
use super::{Project, place};

/// What may be asked for.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Policy {
    /// Directories beneath which binds and files may be, beside the project's own.
    pub(crate) roots: Vec<PathBuf>,
    /// `privileged`, and security options that take protection away.
    pub(crate) privileged: bool,
    /// `devices` and `device_cgroup_rules`.
    pub(crate) devices: bool,
    /// `cap_add`.
    pub(crate) cap_add: bool,
    /// Namespaces of the host or of containers of others.
    pub(crate) host_namespaces: bool,
}

pub(super) fn check(project: &Project, policy: &Policy, roots: &Roots, root: &Node, report: &mut Report) {
    for (name, service) in &project.services {
        let mut refuse = |key: &str, what: &str, setting: &str| {
            let at = place(root, &["services", name, key]);
            let message =
                format!("{what} is not allowed here; `{setting}` in [workflow] of the engine's configuration");
            report.fault(&at, format!("services.{name}.{key}"), message);
        };
        if !policy.privileged {
            if service.privileged {
                refuse("privileged", "`privileged`", "allow_privileged");
            }
            let harmless = |option: &&String| !option.starts_with("no-new-privileges");
            if let Some(option) = service.security_opt.iter().find(harmless) {
                refuse("security_opt", &format!("`{option}`"), "allow_privileged");
            }
            for (key, set) in [
                ("cgroup_parent", service.cgroup_parent.is_some()),
                ("oom_kill_disable", service.oom_kill_disable == Some(true)),
                ("oom_score_adj", service.oom_score_adj.is_some_and(|adjust| adjust < 0)),
                ("runtime", service.runtime.as_deref().is_some_and(|runtime| runtime != "runc")),
                ("cpu_rt_runtime", service.cpu_rt_runtime.is_some()),
                ("cpu_rt_period", service.cpu_rt_period.is_some()),
            ] {
                if set {
                    refuse(key, &format!("`{key}`"), "allow_privileged");
                }
            }
        }
        if !policy.devices {
            for (key, list) in [("devices", &service.devices), ("device_cgroup_rules", &service.device_cgroup_rules)] {
                if !list.is_empty() {
                    refuse(key, &format!("`{key}`"), "allow_devices");
                }
            }
        }
        if !policy.cap_add && !service.cap_add.is_empty() {
            refuse("cap_add", "`cap_add`", "allow_cap_add");
        }
        if !policy.host_namespaces {
            for (key, mode) in [
                ("network_mode", &service.network_mode),
                ("pid", &service.pid),
                ("ipc", &service.ipc),
                ("uts", &service.uts),
                ("userns_mode", &service.userns_mode),
                ("cgroup", &service.cgroup),
            ] {
                let Some(mode) = mode else { continue };
                let own = mode.starts_with("service:")
                    || matches!(mode.as_str(), "" | "none" | "bridge" | "private" | "shareable" | "default");
                if !own {
                    refuse(key, &format!("`{key}: {mode}`"), "allow_host_namespaces");
                }
            }
        }
        if !policy.host_namespaces && service.volumes_from.iter().any(|from| from.starts_with("container:")) {
            refuse("volumes_from", "a container of others", "allow_host_namespaces");
        }
        for mount in service.volumes.iter().filter(|mount| mount.kind == "bind") {
            let source = mount.source.as_deref().unwrap_or("");
            if roots.allowed(Path::new(source)).is_none() {
                refuse("volumes", &format!("the path `{source}`"), "allow_binds");
            }
        }
    }
    for (section, contents) in [("secrets", &project.secrets), ("configs", &project.configs)] {
        for (name, content) in contents {
            let Some(file) = &content.file else { continue };
            let (at, path) = (place(root, &[section, name, "file"]), format!("{section}.{name}.file"));
            match roots.allowed(Path::new(file)) {
                None => {
                    let message = format!("the path `{file}` is not allowed here; `allow_binds` in [workflow]");
                    report.fault(&at, path, message);
                }
                Some(whole) if !whole.is_file() => report.fault(&at, path, format!("there is no file `{file}`")),
                Some(_) => {}
            }
        }
    }
    for (name, volume) in &project.volumes {
        let (at, path) = (place(root, &["volumes", name, "driver_opts"]), format!("volumes.{name}.driver_opts"));
        let option = |key: &str| volume.driver_opts.get(key).map_or("", |option| option.0.as_str());
        let own = match volume.driver.as_deref().unwrap_or("local") {
            "local" => match option("type") {
                "tmpfs" | "nfs" | "nfs4" | "cifs" => true,
                "" if volume.driver_opts.is_empty() => true,
                "none" | "" => {
                    let flags = option("o").split(',').all(|flag| matches!(flag, "bind" | "rbind" | "ro" | "rw"));
                    flags && roots.allowed(Path::new(option("device"))).is_some()
                }
                _ => false,
            },
            _ => false,
        };
        if !own && !policy.privileged {
            let message =
                "what it mounts from the host is not allowed here; `allow_binds` and `allow_privileged` in [workflow]";
            report.fault(&at, path, message);
        }
    }
}
