//! The reader against files of the public, for those who have some: `DXFLOW_COMPOSE_CORPUS` names a directory in which
//! every compose file `F` has a sibling `F.ok`, what `docker compose config --format json` (all profiles, project `shop`)
//! made of it, or `F.err`, why that refused it.
//!
//! Those that it accepts must be read, but for one in two hundred, and come to the same; of those that it refuses not one
//! may be read without a reason that is known.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::*;

/// Everything is allowed: what is asked is whether a file is read, not whether it may run here.
fn permissive() -> Policy {
    Policy {
        roots: vec!["/".into()],
        privileged: true,
        devices: true,
        cap_add: true,
        host_namespaces: true,
        remote: true,
    }
}

fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            _ if path.is_symlink() => {}
            _ if path.is_dir() => files(&path, found),
            Some("ok" | "err") => found.push(path),
            _ => {}
        }
    }
}

#[test]
fn public_files_read_as_docker_compose_reads_them() {
    let Some(directory) = std::env::var_os("DXFLOW_COMPOSE_CORPUS") else { return };
    let mut verdicts = Vec::new();
    files(Path::new(&directory), &mut verdicts);
    verdicts.sort();
    let (mut accepted, mut refused, mut told) = ((0, 0, 0), (0, 0), Vec::new());
    for verdict in verdicts {
        let file = verdict.with_extension("");
        let content = std::fs::read_to_string(&file).expect("a compose file");
        let mut report = Report::default();
        let input = Input {
            name: "shop",
            file: &file.file_name().expect("a name").to_string_lossy(),
            content: &content,
            directory: file.parent().expect("a directory"),
            variables: &BTreeMap::new(),
            profiles: &["*".to_owned()],
            policy: &permissive(),
        };
        // What is read and cannot be run is told and counted apart.
        let project = read(&input, &mut report).filter(|_| report.faults.is_empty());
        told.extend(report.unrunnable.iter().take(1).map(|fault| format!("UNRUNNABLE {}: {fault}", file.display())));
        let ours = project.map(|project| serde_json::to_value(project).expect("JSON")).ok_or(report.faults);
        let text = std::fs::read_to_string(&verdict).expect("a verdict");
        let shown = file.display();
        match (verdict.extension().is_some_and(|extension| extension == "ok"), ours) {
            (true, Err(faults)) => {
                accepted.0 += 1;
                told.extend(faults.iter().take(1).map(|fault| format!("REFUSED {shown}: {fault}")));
            }
            (true, Ok(ours)) => {
                accepted = (accepted.0 + 1, accepted.1 + 1, accepted.2);
                let theirs: Value = serde_json::from_str(&text).expect("their JSON");
                let differences = differences(&theirs, &ours);
                accepted.2 += usize::from(differences.is_empty());
                told.extend(differences.iter().take(4).map(|difference| format!("DIFFERS {shown}: {difference}")));
            }
            (false, Ok(_)) if report.unrunnable.is_empty() => {
                refused.0 += 1;
                let reason = text.lines().next_back().unwrap_or("");
                told.push(format!("READ {shown}: {reason}"));
            }
            (false, _) => refused = (refused.0 + 1, refused.1 + 1),
        }
    }
    for line in &told {
        println!("{line}");
    }
    println!("accepted {}, read {}, the same {}", accepted.0, accepted.1, accepted.2);
    println!("refused {}, refused here too {}", refused.0, refused.1);
    assert!(accepted.0 > 0 && accepted.1 * 200 >= accepted.0 * 199, "{} of {} are read", accepted.1, accepted.0);
}

/// What the two make of the same file, where they differ.
fn differences(theirs: &Value, ours: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let names =
        |value: &Value| -> Vec<String> { value.as_object().map_or_else(Vec::new, |map| map.keys().cloned().collect()) };
    for section in ["services", "networks", "volumes"] {
        // They keep what nothing uses.
        let (mut left, right) = (names(&theirs[section]), names(&ours[section]));
        if section != "services" {
            left.retain(|name| right.contains(name));
        }
        if left != right {
            found.push(format!("{section}: {left:?} / {right:?}"));
        }
    }
    for name in names(&theirs["services"]) {
        let (theirs, ours) = (&theirs["services"][&name], &ours["services"][&name]);
        for key in SAME.iter().filter(|key| **key != "image" || theirs.get("image").is_some()) {
            let (left, right) = (canonical(key, &theirs[*key]), canonical(key, &ours[*key]));
            if left != right {
                found.push(format!("{name}.{key}: {left} / {right}"));
            }
        }
    }
    for section in ["networks", "volumes"] {
        for name in names(&ours[section]) {
            let (theirs, ours) = (&theirs[section][&name], &ours[section][&name]);
            for key in ["name", "driver", "internal", "attachable", "labels", "driver_opts", "external"] {
                let (left, right) = (canonical(key, &theirs[key]), canonical(key, &ours[key]));
                if left != right {
                    found.push(format!("{section}.{name}.{key}: {left} / {right}"));
                }
            }
        }
    }
    found
}

/// Keys of a service that are compared.
const SAME: &[&str] = &[
    "build",
    "cap_add",
    "cap_drop",
    "command",
    "container_name",
    "cpus",
    "depends_on",
    "dns",
    "entrypoint",
    "environment",
    "expose",
    "extra_hosts",
    "healthcheck",
    "hostname",
    "image",
    "init",
    "labels",
    "links",
    "logging",
    "mem_limit",
    "network_mode",
    "networks",
    "pid",
    "platform",
    "ports",
    "privileged",
    "profiles",
    "read_only",
    "restart",
    "scale",
    "security_opt",
    "shm_size",
    "stdin_open",
    "stop_grace_period",
    "stop_signal",
    "sysctls",
    "tmpfs",
    "tty",
    "ulimits",
    "user",
    "volumes",
    "working_dir",
];

/// The same in one spelling: what is empty or usual is nothing, sizes are numbers, hosts have one separator.
fn canonical(key: &str, value: &Value) -> Value {
    match value {
        Value::Null | Value::Bool(false) => Value::Null,
        Value::String(text) if text.is_empty() => Value::Null,
        Value::String(text) => match key {
            "interval" | "timeout" | "start_period" | "start_interval" | "stop_grace_period" => {
                units::Nanos::parse(text).map_or(value.clone(), |nanos| nanos.0.into())
            }
            "mem_limit" | "shm_size" | "size" | "tmpfs_size" => {
                units::ByteSize::parse(text).map_or(value.clone(), |size| size.0.into())
            }
            // They write a dollar sign so that it would be read again.
            _ => text.replace("$$", "$").into(),
        },
        Value::Array(items) => {
            let mut items: Vec<Value> = items.iter().map(|item| canonical(key, item)).collect();
            if items.is_empty() {
                return Value::Null;
            }
            if matches!(key, "extra_hosts") {
                for item in &mut items {
                    *item = item.as_str().unwrap_or("").replacen([':', '='], "=", 1).into();
                }
            }
            if matches!(key, "ports" | "extra_hosts" | "cap_add" | "cap_drop") {
                items.sort_by_key(ToString::to_string);
            }
            items.into()
        }
        Value::Object(map) => {
            let mut map = map.clone();
            if key == "networks" && map.len() == 1 && map.get("default").is_some_and(Value::is_null) {
                return Value::Null;
            }
            if matches!(key, "ports" | "volumes" | "build" | "networks") {
                for usual in ["mode", "name", "app_protocol", "consistency"] {
                    if key != "build" {
                        map.remove(usual);
                    }
                }
            }
            if let Some(bind) = map.remove("bind").filter(|_| key == "volumes") {
                for (name, value) in bind.as_object().cloned().unwrap_or_default() {
                    if name != "selinux" {
                        map.insert(name, value);
                    }
                }
            }
            if let Some(volume) = map.remove("volume").filter(|_| key == "volumes") {
                map.extend(volume.as_object().cloned().unwrap_or_default());
            }
            if let Some(tmpfs) = map.remove("tmpfs").filter(|_| key == "volumes") {
                for (name, value) in tmpfs.as_object().cloned().unwrap_or_default() {
                    map.insert(format!("tmpfs_{name}"), value);
                }
            }
            let entries = map.iter().map(|(name, value)| {
                let of = if matches!(key, "environment" | "labels" | "args") { "" } else { name };
                let of = if matches!(key, "volumes" | "ports") && !name.ends_with("size") { key } else { of };
                (name.clone(), canonical(of, value))
            });
            let keep = matches!(key, "networks" | "labels");
            let map: serde_json::Map<String, Value> = entries.filter(|(_, value)| keep || !value.is_null()).collect();
            if map.is_empty() { Value::Null } else { map.into() }
        }
        other => other.clone(),
    }
}
