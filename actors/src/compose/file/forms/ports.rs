//! `ports`: numbers, texts such as `127.0.0.1:8080-8081:80-81/udp`, and mappings.

use serde::Serialize;

use super::super::decode::{Decode, Scalar, section};
use super::super::node::{Node, Value};
use super::super::report::{Report, Trail};
use super::super::scalar::shorten;

/// How many ports one range may stand for.
const MAX_RANGE: u32 = 65_535;

/// A port of a container, and where it is published.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq, Serialize)]
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
                for (key, said) in [("name", &long.name), ("app_protocol", &long.app_protocol)] {
                    if said.is_some() {
                        report.warn(
                            "informational",
                            trail.key(key),
                            format!("`{key}` tells people something, not Docker"),
                        );
                    }
                }
                let mode = long.mode.as_deref().unwrap_or("ingress");
                if !matches!(mode, "ingress" | "host") {
                    report.fault(&item.at, trail.key("mode"), "must be `ingress` or `host`");
                }
                if long.host_ip.as_deref().is_some_and(|ip| ip.parse::<std::net::IpAddr>().is_err()) {
                    report.fault(&item.at, trail.key("host_ip"), "the address is not an IP address");
                }
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
        // The same said twice, by a file and the one that overrides it, is one.
        let mut seen = std::collections::HashSet::new();
        ports.retain(|port: &Port| seen.insert(port.clone()));
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
}
