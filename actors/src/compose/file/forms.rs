//! The short and long forms that the keys of a compose file may take, each read into its long form.

use std::collections::BTreeMap;

use serde::Serialize;

use super::decode::{Decode, Mode, Nanos, OrNull, Scalar, section};
use super::report::{Report, Trail};
use super::yaml::{Node, Value, shorten};

/// How many ports one range may stand for.
const MAX_RANGE: u32 = 65_535;

/// A list of texts, or one text alone.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub(crate) struct Strings(pub(crate) Vec<String>);

impl Decode for Strings {
    const WHAT: &'static str = "a text or a list of texts";

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        match &node.value {
            Value::List(_) => Vec::<Scalar>::decode(node, trail, report)
                .map(|list| Self(list.into_iter().map(|item| item.0).collect())),
            _ => Scalar::decode(node, trail, report).map(|text| Self(vec![text.0])),
        }
    }
}

/// A command: a list of words, or a line that is split as a shell splits it.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub(crate) struct Words(pub(crate) Vec<String>);

impl Decode for Words {
    const WHAT: &'static str = "a command line or a list of words";

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        match &node.value {
            Value::Text(line) => match split_words(line) {
                Some(words) => Some(Self(words)),
                None => {
                    report.fault(&node.at, trail, "a quote is not closed");
                    None
                }
            },
            Value::List(_) => Strings::decode(node, trail, report).map(|list| Self(list.0)),
            _ => Self::wrong(node, trail, report),
        }
    }
}

/// Splits a line into words as a shell does, without any expansion; nothing when a quote is not closed.
pub(crate) fn split_words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        '\'' => break,
                        c => word.push(c),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        '"' => break,
                        '\\' => match chars.next()? {
                            c @ ('"' | '\\' | '$' | '`') => word.push(c),
                            '\n' => {}
                            c => word.extend(['\\', c]),
                        },
                        c => word.push(c),
                    }
                }
            }
            '\\' => match chars.next()? {
                '\n' => {}
                c => word.get_or_insert_default().push(c),
            },
            c if c.is_whitespace() => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Some(words)
}

/// Names with values: a mapping, or a list of `NAME=value`. A name without value has none.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub(crate) struct Pairs(pub(crate) BTreeMap<String, Option<String>>);

impl Pairs {
    /// The names that have a value; one without has the empty one.
    pub(crate) fn filled(&self) -> BTreeMap<String, String> {
        self.0.iter().map(|(name, value)| (name.clone(), value.clone().unwrap_or_default())).collect()
    }
}

impl Decode for Pairs {
    const WHAT: &'static str = "a mapping or a list of `NAME=value`";

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        match &node.value {
            Value::Map(_) => BTreeMap::<String, super::decode::Maybe>::decode(node, trail, report)
                .map(|map| Self(map.into_iter().map(|(name, value)| (name, value.0)).collect())),
            Value::List(_) => {
                let items = Vec::<Scalar>::decode(node, trail, report)?;
                let pairs = items.into_iter().map(|item| match item.0.split_once('=') {
                    Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                    None => (item.0, None),
                });
                Some(Self(pairs.collect()))
            }
            _ => Self::wrong(node, trail, report),
        }
    }
}

/// Hosts: a mapping of names to addresses, or a list of `name:address` or `name=address`.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub(crate) struct Hosts(pub(crate) Vec<String>);

impl Decode for Hosts {
    const WHAT: &'static str = "a mapping or a list of `host:address`";

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        let mut hosts = Vec::new();
        match &node.value {
            Value::Map(map) => {
                for (name, _, node) in map.iter() {
                    let addresses = Strings::decode(node, trail.key(name), report)?;
                    hosts.extend(addresses.0.iter().map(|address| format!("{name}:{address}")));
                }
            }
            Value::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    let text = Scalar::decode(item, trail.index(index), report)?.0;
                    match text.split_once('=').or_else(|| text.split_once(':')) {
                        Some((name, address)) if !name.is_empty() && !address.is_empty() => {
                            hosts.push(format!("{name}:{}", address.trim_matches(['[', ']'])));
                        }
                        _ => report.fault(&item.at, trail.index(index), "must be `host:address` or `host=address`"),
                    }
                }
            }
            _ => return Self::wrong(node, trail, report),
        }
        Some(Self(hosts))
    }
}

/// A file of variables.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub(crate) struct EnvFile {
    /// Where it is.
    pub(crate) path: String,
    /// Whether it must be there.
    pub(crate) required: bool,
}

section! {
    EnvFileLong { path: String, required: Option<bool>, format: Option<String> }
}

/// The files of variables of a service, in their order.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub(crate) struct EnvFiles(pub(crate) Vec<EnvFile>);

impl Decode for EnvFiles {
    const WHAT: &'static str = "a path or a list of paths";

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        let one = |node: &Node, trail: Trail<'_>, report: &mut Report| match &node.value {
            Value::Text(path) => Some(EnvFile { path: path.clone(), required: true }),
            Value::Map(_) => {
                let long = EnvFileLong::decode(node, trail, report)?;
                if long.format.as_deref().is_some_and(|format| format != "raw" && !format.is_empty()) {
                    report.fault(&node.at, trail.key("format"), "there is only the format `raw` beside the usual one");
                }
                if long.format.as_deref() == Some("raw") {
                    report.fault(&node.at, trail.key("format"), "the format `raw` is not supported");
                }
                Some(EnvFile { path: long.path, required: long.required.unwrap_or(true) })
            }
            _ => Self::wrong(node, trail, report),
        };
        match &node.value {
            Value::List(items) => {
                let mut files = Vec::new();
                for (index, item) in items.iter().enumerate() {
                    files.extend(one(item, trail.index(index), report));
                }
                Some(Self(files))
            }
            _ => Some(Self(vec![one(node, trail, report)?])),
        }
    }
}

/// A port of a container, and where it is published.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub(crate) struct Port {
    /// In the container.
    pub(crate) target: u16,
    /// On the host; any free one without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) published: Option<String>,
    /// The address on the host; all without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) host_ip: Option<String>,
    /// `tcp`, `udp` or `sctp`.
    pub(crate) protocol: String,
}

section! {
    PortLong {
        name: Option<String>, target: i64, published: Option<Scalar>, host_ip: Option<String>,
        protocol: Option<String>, mode: Option<String>, app_protocol: Option<String>,
    }
}

/// Ports, ranges written out.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub(crate) struct Ports(pub(crate) Vec<Port>);

impl Decode for Ports {
    const WHAT: &'static str = "a list of ports";

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        let Value::List(items) = &node.value else { return Self::wrong(node, trail, report) };
        let mut ports = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let trail = trail.index(index);
            if item.as_map().is_some() {
                let long = PortLong::decode(item, trail, report)?;
                let protocol = long.protocol.unwrap_or_else(|| "tcp".into());
                let target = u16::try_from(long.target).ok().filter(|port| *port > 0);
                let Some(target) = target else {
                    report.fault(&item.at, trail.key("target"), "must be a port from 1 to 65535");
                    continue;
                };
                let published = long.published.map(|port| port.0).filter(|port| !port.is_empty());
                if published.as_deref().is_some_and(|port| range(port).is_none()) {
                    report.fault(&item.at, trail.key("published"), "must be a port or a range of ports");
                    continue;
                }
                ports.push(Port { target, published, host_ip: long.host_ip, protocol });
                continue;
            }
            let Some(text) = item.scalar_text() else {
                report.fault(&item.at, trail, "must be a port such as `8080:80`, or a mapping");
                continue;
            };
            match short_ports(&text) {
                Ok(more) => ports.extend(more),
                Err(message) => report.fault(&item.at, trail, format!("`{}`: {message}", shorten(&text))),
            }
        }
        if let Some(port) = ports.iter().find(|port| !matches!(port.protocol.as_str(), "tcp" | "udp" | "sctp")) {
            report.fault(&node.at, trail, format!("there is no protocol `{}`", shorten(&port.protocol)));
        }
        Some(Self(ports))
    }
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse::<u16>().ok()?, last.parse::<u16>().ok()?);
    (first <= last).then_some((first, last))
}

fn short_ports(text: &str) -> Result<Vec<Port>, &'static str> {
    const FORM: &str = "must be `[[address:]published:]target[/protocol]`";
    let (text, protocol) = text.rsplit_once('/').unwrap_or((text, "tcp"));
    let (rest, target) = text.rsplit_once(':').map_or((None, text), |(rest, target)| (Some(rest), target));
    let (first, last) = range(target).filter(|(first, _)| *first > 0).ok_or(FORM)?;
    let (host_ip, published) = match rest {
        None => (None, None),
        Some(rest) => match rest.rsplit_once(':') {
            Some((host, published)) => (Some(host.trim_matches(['[', ']'])), Some(published)),
            None if rest.contains('.') => (Some(rest), None),
            None => (None, Some(rest)),
        },
    };
    if host_ip.is_some_and(|ip| ip.parse::<std::net::IpAddr>().is_err()) {
        return Err("the address is not an IP address");
    }
    let published = published.filter(|published| !published.is_empty());
    let count = u32::from(last - first) + 1;
    if count > MAX_RANGE {
        return Err("too many ports");
    }
    let made = |target: u16, published: Option<String>| Port {
        target,
        published,
        host_ip: host_ip.map(str::to_owned),
        protocol: protocol.to_ascii_lowercase(),
    };
    let Some(published) = published else { return Ok((first..=last).map(|port| made(port, None)).collect()) };
    let (from, to) = range(published).ok_or(FORM)?;
    if first == last {
        // A range for one port: Docker takes any that is free in it.
        return Ok(vec![made(first, Some(published.to_owned()))]);
    }
    if to - from != last - first {
        return Err("the two ranges are not of the same length");
    }
    Ok((first..=last).zip(from..=to).map(|(target, published)| made(target, Some(published.to_string()))).collect())
}

/// What is mounted into a container.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub(crate) struct VolumeMount {
    /// `volume`, `bind` or `tmpfs`.
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
    /// Whether a missing path on the host is made.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) create_host_path: bool,
    /// Whether a new volume is left empty.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) nocopy: bool,
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
    TmpfsLong { size: Option<super::decode::ByteSize>, mode: Option<Mode> }
}
section! {
    MountLong {
        kind as "type": String, source: Option<String>, target: String, read_only: bool, consistency: Option<String>,
        bind: Option<BindLong>, volume: Option<NamedLong>, tmpfs: Option<TmpfsLong>,
    }
}

impl Decode for VolumeMount {
    const WHAT: &'static str = "a text such as `data:/data`, or a mapping";

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        if node.as_map().is_none() {
            let text = node.as_text().or_else(|| Self::wrong(node, trail, report))?;
            return match short_mount(text) {
                Ok(mount) => Some(mount),
                Err(message) => {
                    report.fault(&node.at, trail, format!("`{}`: {message}", shorten(text)));
                    None
                }
            };
        }
        let long = MountLong::decode(node, trail, report)?;
        if !matches!(long.kind.as_str(), "volume" | "bind" | "tmpfs") {
            let message =
                format!("the type `{}` is not supported: there are volume, bind and tmpfs", shorten(&long.kind));
            report.fault(&node.at, trail.key("type"), message);
            return None;
        }
        if long.target.is_empty() {
            report.fault(&node.at, trail, "`target` is missing");
        }
        if long.kind == "bind" && long.source.as_deref().unwrap_or("").is_empty() {
            report.fault(&node.at, trail, "a bind needs a `source`");
        }
        let bind = long.bind.unwrap_or_default();
        for (key, set) in [("bind.selinux", bind.selinux.is_some()), ("bind.recursive", bind.recursive.is_some())] {
            if set {
                report.fault(&node.at, trail, format!("`{key}` is not supported"));
            }
        }
        let named = long.volume.unwrap_or_default();
        if named.subpath.is_some() || !named.labels.0.is_empty() {
            report.fault(&node.at, trail, "`volume.subpath` and `volume.labels` are not supported");
        }
        let tmpfs = long.tmpfs.unwrap_or_default();
        Some(Self {
            create_host_path: long.kind == "bind" && bind.create_host_path.unwrap_or(true),
            kind: long.kind,
            source: long.source,
            target: long.target,
            read_only: long.read_only,
            propagation: bind.propagation,
            nocopy: named.nocopy,
            tmpfs_size: tmpfs.size.map(|size| size.0),
            tmpfs_mode: tmpfs.mode.map(|mode| mode.0),
        })
    }
}

fn short_mount(text: &str) -> Result<VolumeMount, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [target] => (None, *target, ""),
        [source, target] => (Some(*source), *target, ""),
        [source, target, options] => (Some(*source), *target, *options),
        _ => return Err("must be `[source:]target[:options]`".into()),
    };
    if target.is_empty() || source == Some("") {
        return Err("must be `[source:]target[:options]`".into());
    }
    if !target.starts_with('/') {
        return Err("the path in the container must be absolute".into());
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
            // `z` and `Z` label for SELinux, the others say how macOS caches: neither changes anything here.
            "rw" | "z" | "Z" | "cached" | "delegated" | "consistent" => {}
            "nocopy" => mount.nocopy = true,
            "shared" | "slave" | "private" | "rshared" | "rslave" | "rprivate" => {
                mount.propagation = Some(option.into())
            }
            _ => return Err(format!("there is no option `{}`", shorten(option))),
        }
    }
    Ok(mount)
}

section! {
    /// How a service takes part in a network.
    Attachment {
        aliases: Vec<String>, ipv4_address: Option<String>, ipv6_address: Option<String>,
        link_local_ips: Vec<String>, mac_address: Option<String>, driver_opts: BTreeMap<String, Scalar>,
        priority: Option<i64>,
    }
}

/// The networks of a service.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Attachments(pub(crate) BTreeMap<String, Attachment>);

impl Decode for Attachments {
    const WHAT: &'static str = "a list or a mapping of networks";

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        match &node.value {
            Value::List(_) => Vec::<String>::decode(node, trail, report)
                .map(|names| Self(names.into_iter().map(|name| (name, Attachment::default())).collect())),
            _ => BTreeMap::<String, OrNull<Attachment>>::decode(node, trail, report)
                .map(|map| Self(map.into_iter().map(|(name, network)| (name, network.0)).collect())),
        }
    }
}

/// What a service waits for in another.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub(crate) struct Dependency {
    /// `service_started`, `service_healthy` or `service_completed_successfully`.
    pub(crate) condition: String,
    /// Whether the other must be there.
    pub(crate) required: bool,
    /// Whether it starts again when the other was made anew.
    pub(crate) restart: bool,
}

section! {
    DependencyLong { condition: Option<String>, required: Option<bool>, restart: bool }
}

/// What a service waits for, by service.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub(crate) struct Dependencies(pub(crate) BTreeMap<String, Dependency>);

impl Dependency {
    pub(crate) fn started() -> Self {
        Self { condition: "service_started".into(), required: true, restart: false }
    }
}

impl Decode for Dependencies {
    const WHAT: &'static str = "a list or a mapping of services";

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        if let Value::List(_) = &node.value {
            let names = Vec::<String>::decode(node, trail, report)?;
            return Some(Self(names.into_iter().map(|name| (name, Dependency::started())).collect()));
        }
        let Some(map) = node.as_map() else { return Self::wrong(node, trail, report) };
        let mut dependencies = BTreeMap::new();
        for (name, at, node) in map.iter() {
            let long = DependencyLong::decode(node, trail.key(name), report)?;
            let condition = long.condition.unwrap_or_else(|| "service_started".into());
            if !["service_started", "service_healthy", "service_completed_successfully"].contains(&condition.as_str()) {
                let message = format!("there is no condition `{}`", shorten(&condition));
                report.fault(at, trail.key(name), message);
            }
            let required = long.required.unwrap_or(true);
            dependencies.insert(name.to_owned(), Dependency { condition, required, restart: long.restart });
        }
        Some(Self(dependencies))
    }
}

section! {
    /// How Docker knows whether a container is well.
    Healthcheck {
        test: Option<HealthTest>, interval: Option<Nanos>, timeout: Option<Nanos>, retries: Option<i64>,
        start_period: Option<Nanos>, start_interval: Option<Nanos>, disable: bool,
    }
}

/// `["CMD", …]`, `["CMD-SHELL", line]` or `["NONE"]`.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub(crate) struct HealthTest(pub(crate) Vec<String>);

impl Decode for HealthTest {
    const WHAT: &'static str = "a command line or a list that begins with CMD, CMD-SHELL or NONE";

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        match &node.value {
            Value::Text(line) => Some(Self(vec!["CMD-SHELL".into(), line.clone()])),
            Value::List(_) => {
                let words = Strings::decode(node, trail, report)?.0;
                match words.first().map(String::as_str) {
                    Some("CMD" | "CMD-SHELL" | "NONE") => Some(Self(words)),
                    _ => Self::wrong(node, trail, report),
                }
            }
            _ => Self::wrong(node, trail, report),
        }
    }
}

/// A limit of resources of a process.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub(crate) struct Ulimit {
    /// What it has.
    pub(crate) soft: i64,
    /// What it may raise it to.
    pub(crate) hard: i64,
}

section! {
    UlimitLong { soft: Option<i64>, hard: Option<i64> }
}

impl Decode for Ulimit {
    const WHAT: &'static str = "a whole number, or `soft` and `hard`";

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        if node.as_map().is_none() {
            return i64::decode(node, trail, report).map(|limit| Self { soft: limit, hard: limit });
        }
        let UlimitLong { soft: Some(soft), hard: Some(hard) } = UlimitLong::decode(node, trail, report)? else {
            report.fault(&node.at, trail, "needs both `soft` and `hard`");
            return None;
        };
        Some(Self { soft, hard })
    }
}

section! {
    /// A secret or config as a service has it.
    Grant { source: String, target: Option<String>, uid: Option<Scalar>, gid: Option<Scalar>, mode: Option<Mode> }
}

/// The secrets or configs that a service gets.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Grants(pub(crate) Vec<Grant>);

impl Decode for Grants {
    const WHAT: &'static str = "a list of names or mappings";

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        let Value::List(items) = &node.value else { return Self::wrong(node, trail, report) };
        let mut grants = Vec::new();
        for (index, item) in items.iter().enumerate() {
            grants.extend(match &item.value {
                Value::Text(source) => Some(Grant { source: source.clone(), ..Grant::default() }),
                _ => Grant::decode(item, trail.index(index), report),
            });
        }
        Some(Self(grants))
    }
}

/// Whether something is made by somebody else, and its name there.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub(crate) struct External(pub(crate) bool, #[serde(skip)] pub(crate) Option<String>);

section! {
    ExternalLong { name: Option<String> }
}

impl Decode for External {
    const WHAT: &'static str = "`true` or `false`";

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        match node.as_map() {
            Some(_) => ExternalLong::decode(node, trail, report).map(|long| Self(true, long.name)),
            None => bool::decode(node, trail, report).map(|external| Self(external, None)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_in_every_short_form() {
        let read = |text: &str| {
            short_ports(text).map(|ports| {
                let shown = ports.iter().map(|port| {
                    let host = port.host_ip.as_deref().unwrap_or("");
                    format!("{host}|{}|{}/{}", port.published.as_deref().unwrap_or(""), port.target, port.protocol)
                });
                shown.collect::<Vec<_>>().join(" ")
            })
        };
        for (text, expected) in [
            ("80", "||80/tcp"),
            ("8080:80", "|8080|80/tcp"),
            ("127.0.0.1:8080:80/udp", "127.0.0.1|8080|80/udp"),
            ("127.0.0.1::80", "127.0.0.1||80/tcp"),
            ("[::1]:8080:80", "::1|8080|80/tcp"),
            ("8000-8001:80-81", "|8000|80/tcp |8001|81/tcp"),
            ("8000-8009:80", "|8000-8009|80/tcp"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(expected), "{text}");
        }
        for text in ["", "x", "0", "80:x", "1-3:1-2", "999.1.1.1:80:80", "90000:80"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn command_lines_split_as_a_shell_splits_them() {
        for (line, words) in [
            ("a  b", vec!["a", "b"]),
            ("sh -c 'echo \"x\" $Y'", vec!["sh", "-c", "echo \"x\" $Y"]),
            ("a\\ b \"c\\\"d\" ''", vec!["a b", "c\"d", ""]),
            ("", vec![]),
        ] {
            assert_eq!(split_words(line), Some(words.into_iter().map(String::from).collect()), "{line}");
        }
        assert_eq!(split_words("'x"), None);
    }

    #[test]
    fn mounts_are_read_in_every_short_form() {
        let bind = short_mount("./data:/data:ro").expect("a bind");
        assert_eq!((bind.kind.as_str(), bind.read_only, bind.create_host_path), ("bind", true, true));
        assert_eq!(short_mount("data:/data").expect("a volume").kind, "volume");
        assert_eq!(short_mount("/data").expect("anonymous").source, None);
        for text in ["", ":/x", "a:", "a:b", "a:/b:what", "a:/b:ro:x"] {
            assert!(short_mount(text).is_err(), "{text}");
        }
    }
}
