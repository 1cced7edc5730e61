//! `volumes` of a service: texts such as `data:/data:ro`, and mappings.

use std::path::Path;

use serde::Serialize;

use super::super::decode::{Decode, section};
use super::super::node::{Node, Value};
use super::super::paths::{absolute, meant};
use super::super::report::{Report, Trail};
use super::super::scalar::shorten;
use super::super::units::{ByteSize, Mode};
use super::Pairs;

/// What is mounted into a container.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub(crate) struct VolumeMount {
    /// `volume`, `bind`, `tmpfs` or `image`.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// The volume's name, or the path on the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) source: Option<String>,
    /// Where in the container.
    pub(crate) target: String,
    /// Whether it cannot be written.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) read_only: bool,
    /// How a bind takes part in later mounts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) propagation: Option<String>,
    /// How a bind treats what is mounted beneath it: `disabled`, `writable` or `readonly`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) recursive: Option<String>,
    /// Whether a missing path on the host is made.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) create_host_path: bool,
    /// Whether a new volume is left empty.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) nocopy: bool,
    /// The part of the volume or image that is mounted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subpath: Option<String>,
    /// The labels of a volume that is made for it.
    #[serde(skip_serializing_if = "super::super::decode::is_default")]
    pub(crate) labels: Pairs,
    /// The size of a tmpfs in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tmpfs_size: Option<i64>,
    /// The mode of a tmpfs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tmpfs_mode: Option<u32>,
}

section! {
    BindLong { propagation: Option<String>, create_host_path: Option<bool>, selinux: Option<String>, recursive: Option<String> }
}
section! {
    NamedLong { nocopy: bool, subpath: Option<String>, labels: Pairs }
}
section! {
    TmpfsLong { size: Option<ByteSize>, mode: Option<Mode> }
}
section! {
    ImageLong { subpath: Option<String> }
}
section! {
    MountLong {
        kind as "type": String, source: Option<String>, target: String, read_only: bool, consistency: Option<String>,
        bind: Option<BindLong>, volume: Option<NamedLong>, tmpfs: Option<TmpfsLong>, image: Option<ImageLong>,
    }
}

impl Decode for VolumeMount {
    const WHAT: &'static str = "a text such as `data:/data`, or a mapping";

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        let mut mount = match (&node.value, node.as_text()) {
            (Value::Map(_), _) => long_mount(node, trail, report)?,
            (_, Some(text)) => match short_mount(text, node, trail, report) {
                Ok(mount) => mount,
                Err(message) => {
                    report.fault(&node.at, trail, format!("`{}`: {message}", shorten(text)));
                    return None;
                }
            },
            _ => return Self::wrong(node, trail, report),
        };
        mount.target = clean(&mount.target);
        if mount.kind == "bind"
            && let Some(source) = &mut mount.source
        {
            let at = node.as_map().and_then(|map| map.get("source")).map_or(&node.at, |node| &node.at);
            let whole = meant(&at.file.directory, source);
            let whole = whole.map_err(|reason| report.fault(at, trail, reason)).ok()?;
            *source = whole.to_string_lossy().into_owned();
        }
        Some(mount)
    }
}

fn long_mount(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<VolumeMount> {
    let long = MountLong::decode(node, trail, report)?;
    if matches!(long.kind.as_str(), "npipe" | "cluster") {
        let message = format!("the type `{}` is for Windows or a swarm only", long.kind);
        report.unrunnable(&node.at, trail.key("type"), message);
    } else if !matches!(long.kind.as_str(), "volume" | "bind" | "tmpfs" | "image") {
        let message =
            format!("the type `{}` is not supported: there are volume, bind, tmpfs and image", shorten(&long.kind));
        report.fault(&node.at, trail.key("type"), message);
        return None;
    }
    if long.target.is_empty() {
        report.fault(&node.at, trail, "`target` is missing");
    }
    if matches!(long.kind.as_str(), "bind" | "image") && long.source.as_deref().unwrap_or("").is_empty() {
        report.fault(&node.at, trail, format!("a mount of the type {} needs a `source`", long.kind));
    }
    let bind = long.bind.unwrap_or_default();
    if let Some(label) = &bind.selinux {
        warn_selinux(label, trail, report);
    }
    if let Some(how) = &bind.recursive
        && !matches!(how.as_str(), "enabled" | "disabled" | "writable" | "readonly")
    {
        report.fault(&node.at, trail.key("bind"), "`recursive` must be enabled, disabled, writable or readonly");
    }
    let named = long.volume.unwrap_or_default();
    let tmpfs = long.tmpfs.unwrap_or_default();
    let size = node.as_map().and_then(|map| map.get("tmpfs")).and_then(Node::as_map).and_then(|map| map.get("size"));
    if let Some(node) = size.filter(|node| matches!(node.value, Value::Float(_))) {
        report.fault(&node.at, trail.key("tmpfs"), "`size` must be a whole number of bytes, or a size such as `64m`");
    }
    if tmpfs.size.is_some_and(|size| size.0 < 0) {
        report.fault(&node.at, trail.key("tmpfs"), "`size` must not be negative");
    }
    if long.consistency.is_some() {
        report.warn("not-honoured", trail, "`consistency` says how macOS caches: nothing changes here");
    }
    Some(VolumeMount {
        create_host_path: long.kind == "bind" && bind.create_host_path.unwrap_or(true),
        kind: long.kind,
        source: long.source.filter(|source| !source.is_empty()),
        target: long.target,
        read_only: long.read_only,
        propagation: bind.propagation,
        recursive: bind.recursive.filter(|how| how != "enabled"),
        nocopy: named.nocopy,
        subpath: named.subpath.or(long.image.and_then(|image| image.subpath)),
        labels: named.labels,
        tmpfs_size: tmpfs.size.map(|size| size.0).filter(|size| *size != 0),
        tmpfs_mode: tmpfs.mode.map(|mode| mode.0),
    })
}

fn warn_selinux(label: &str, trail: Trail<'_>, report: &mut Report) {
    let message = format!("`{}` labels for SELinux, which is left to the host here", shorten(label));
    report.warn("not-honoured", trail, message);
}

/// A path in a container without `.`, `..` and doubled slashes.
fn clean(target: &str) -> String {
    if target.is_empty() { String::new() } else { absolute(Path::new("/"), target).to_string_lossy().into_owned() }
}

fn short_mount(text: &str, node: &Node, trail: Trail<'_>, report: &mut Report) -> Result<VolumeMount, String> {
    const FORM: &str = "must be `[source:]target[:options]`";
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [target] => (None, *target, ""),
        [source, target] => (Some(*source), *target, ""),
        [source, target, options] => (Some(*source), *target, *options),
        _ => return Err(FORM.into()),
    };
    if target.is_empty() || source == Some("") {
        return Err(FORM.into());
    }
    if !target.starts_with('/') {
        report.fault(&node.at, trail, "the path in the container must be absolute");
    }
    let is_path = source.is_some_and(|source| source.starts_with(['.', '/', '~']));
    let mut mount = VolumeMount {
        kind: if is_path { "bind" } else { "volume" }.into(),
        source: source.map(str::to_owned),
        target: target.into(),
        create_host_path: is_path,
        ..VolumeMount::default()
    };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => mount.read_only = true,
            "z" | "Z" => warn_selinux(option, trail, report),
            "rw" => mount.read_only = false,
            "nocopy" => mount.nocopy = true,
            "shared" | "slave" | "private" | "rshared" | "rslave" | "rprivate" => {
                mount.propagation = Some(option.into());
            }
            _ => {
                let message = format!("there is no option `{}`: it is left out", shorten(option));
                report.warn("unknown-option", trail, message);
            }
        }
    }
    Ok(mount)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_in_every_short_form() {
        let mut report = Report::default();
        let node =
            Node::new(Value::Null, super::super::super::node::At::file(&super::super::super::node::Source::named("x")));
        let mut short_mount = |text: &str| short_mount(text, &node, Trail::Root, &mut report);
        let bind = short_mount("./data:/data:ro").expect("a bind");
        assert_eq!((bind.kind.as_str(), bind.read_only, bind.create_host_path), ("bind", true, true));
        assert_eq!(short_mount("data:/data").expect("a volume").kind, "volume");
        assert_eq!(short_mount("/data").expect("anonymous").source, None);
        for text in ["", ":/x", "a:", "a:/b:ro:x"] {
            assert!(short_mount(text).is_err(), "{text}");
        }
    }
}
