//! What a workflow may ask of the host. Everything that reaches out of a container is refused unless the configuration
//! allows it; the refusal names the key in the file and the setting.
//!
//! It is the whole project that is looked at, after everything was written out: however a file spells it, and in
//! whichever file it stands, what Docker would get is what is judged.

use std::path::{Path, PathBuf};

use super::forms::Build;
use super::model::{Content, Network, Service, Volume};
use super::node::Node;
use super::paths::{Roots, absolute};
use super::project::Project;
use super::report::Report;

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
    /// Contexts of builds that Docker fetches from elsewhere.
    pub(crate) remote: bool,
}

pub(super) fn check(project: &Project, policy: &Policy, roots: &Roots, root: &Node, report: &mut Report) {
    let mut check = Check { policy, roots, root, report };
    for (name, service) in &project.services {
        check.privileges(name, service);
        check.devices(name, service);
        check.namespaces(name, service);
        check.binds(name, service);
        if let Some(build) = &service.build {
            check.build(name, build);
        }
    }
    for (section, contents) in [("secrets", &project.secrets), ("configs", &project.configs)] {
        for (name, content) in contents {
            check.content(section, name, content);
        }
    }
    for (name, volume) in &project.volumes {
        check.volume(name, volume);
    }
    for (name, network) in &project.networks {
        check.network(name, network);
    }
}

struct Check<'a> {
    policy: &'a Policy,
    roots: &'a Roots,
    root: &'a Node,
    report: &'a mut Report,
}

impl Check<'_> {
    /// Refuses what stands at `keys`, unless `setting` allows it.
    fn refuse(&mut self, keys: &[&str], what: &str, setting: &str) {
        let message = format!("{what} is not allowed here; `{setting}` in [workflow] of the engine's configuration");
        self.report.fault(&self.root.place(keys), keys.join("."), message);
    }

    fn privileges(&mut self, name: &str, service: &Service) {
        if !self.policy.cap_add && !service.cap_add.is_empty() {
            self.refuse(&["services", name, "cap_add"], "`cap_add`", "allow_cap_add");
        }
        if self.policy.privileged {
            return;
        }
        let harmless = |option: &&String| !option.starts_with("no-new-privileges");
        if let Some(option) = service.security_opt.iter().find(harmless) {
            self.refuse(&["services", name, "security_opt"], &format!("`{option}`"), "allow_privileged");
        }
        for (key, set) in [
            ("privileged", service.privileged),
            ("cgroup_parent", service.cgroup_parent.is_some()),
            ("oom_kill_disable", service.oom_kill_disable == Some(true)),
            ("oom_score_adj", service.oom_score_adj.is_some_and(|adjust| adjust < 0)),
            ("runtime", service.runtime.as_deref().is_some_and(|runtime| runtime != "runc")),
            ("cpu_rt_runtime", service.cpu_rt_runtime.is_some()),
            ("cpu_rt_period", service.cpu_rt_period.is_some()),
            ("post_start", service.post_start.iter().any(|hook| hook.privileged)),
            ("pre_stop", service.pre_stop.iter().any(|hook| hook.privileged)),
        ] {
            if set {
                self.refuse(&["services", name, key], &format!("`{key}`"), "allow_privileged");
            }
        }
    }

    fn devices(&mut self, name: &str, service: &Service) {
        let reserved = service.deploy.as_ref().and_then(|deploy| deploy.resources.as_ref()).is_some_and(|resources| {
            [&resources.limits, &resources.reservations].into_iter().flatten().any(|part| !part.devices.is_empty())
        });
        for (key, asked) in [
            ("devices", !service.devices.is_empty()),
            ("device_cgroup_rules", !service.device_cgroup_rules.is_empty()),
            ("gpus", !service.gpus.0.is_empty()),
            ("deploy", reserved),
        ] {
            if asked && !self.policy.devices {
                self.refuse(&["services", name, key], &format!("`{key}` with devices"), "allow_devices");
            }
        }
    }

    fn namespaces(&mut self, name: &str, service: &Service) {
        if self.policy.host_namespaces {
            return;
        }
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
                self.refuse(&["services", name, key], &format!("`{key}: {mode}`"), "allow_host_namespaces");
            }
        }
        if service.volumes_from.iter().any(|from| from.starts_with("container:")) {
            self.refuse(&["services", name, "volumes_from"], "a container of others", "allow_host_namespaces");
        }
    }

    fn binds(&mut self, name: &str, service: &Service) {
        for mount in service.volumes.iter().filter(|mount| mount.kind == "bind") {
            let source = mount.source.as_deref().unwrap_or("");
            if self.roots.allowed(Path::new(source)).is_none() {
                self.refuse(&["services", name, "volumes"], &format!("the path `{source}`"), "allow_binds");
            }
        }
    }

    fn build(&mut self, name: &str, build: &Build) {
        if build.network.as_deref() == Some("host") && !self.policy.host_namespaces {
            self.refuse(&["services", name, "build", "network"], "`network: host`", "allow_host_namespaces");
        }
        let all = build.additional_contexts.0.values().map(|context| ("additional_contexts", context));
        for (key, context) in all.chain([("context", &build.context)]) {
            let keys = ["services", name, "build", key];
            if context.0.starts_with("service:") {
                continue;
            }
            if context.is_remote() {
                if !self.policy.remote {
                    self.refuse(&keys, &format!("what is elsewhere (`{}`)", context.0), "allow_remote");
                }
            } else if self.roots.allowed(Path::new(&context.0)).is_none() {
                self.refuse(&keys, &format!("the path `{}`", context.0), "allow_binds");
            }
        }
        if let Some(dockerfile) = &build.dockerfile
            && !build.context.is_remote()
            && self.roots.allowed(&absolute(Path::new(&build.context.0), dockerfile)).is_none()
        {
            let keys = ["services", name, "build", "dockerfile"];
            self.refuse(&keys, &format!("the path `{dockerfile}`"), "allow_binds");
        }
    }

    fn content(&mut self, section: &str, name: &str, content: &Content) {
        let Some(file) = content.file.as_ref().map(|file| &file.0) else { return };
        let keys = [section, name, "file"];
        match self.roots.allowed(Path::new(file)) {
            None => self.refuse(&keys, &format!("the path `{file}`"), "allow_binds"),
            Some(whole) if !whole.exists() => {
                let message = format!("there is no file `{file}`");
                self.report.unrunnable(&self.root.place(&keys), keys.join("."), message);
            }
            Some(_) => {}
        }
    }

    fn volume(&mut self, name: &str, volume: &Volume) {
        let option = |key: &str| volume.driver_opts.get(key).map_or("", |option| option.0.as_str());
        let own = match volume.driver.as_deref().unwrap_or("local") {
            "local" => match option("type") {
                "tmpfs" | "nfs" | "nfs4" | "cifs" => true,
                "" if volume.driver_opts.is_empty() => true,
                "none" | "" => {
                    let flags = option("o").split(',').all(|flag| matches!(flag, "bind" | "rbind" | "ro" | "rw"));
                    flags && self.roots.allowed(Path::new(option("device"))).is_some()
                }
                _ => false,
            },
            _ => false,
        };
        if !own && !self.policy.privileged {
            let what = "what it mounts from the host (`allow_binds` has no part of it)";
            self.refuse(&["volumes", name, "driver_opts"], what, "allow_privileged");
        }
    }

    /// A network by its name in Docker: `host` is the host's own, whatever it is called in the file.
    fn network(&mut self, name: &str, network: &Network) {
        if self.policy.host_namespaces {
            return;
        }
        let named = network.name.as_deref().unwrap_or("");
        if named == "host" || named.starts_with("container:") {
            self.refuse(&["networks", name], &format!("the network `{named}`"), "allow_host_namespaces");
        }
        let driver = network.driver.as_deref().unwrap_or("bridge");
        if matches!(driver, "host" | "macvlan" | "ipvlan") {
            let what = format!("the driver `{driver}`, which is on the host's own network,");
            self.refuse(&["networks", name, "driver"], &what, "allow_host_namespaces");
        }
    }
}
