//! Which `Host` and which `Origin` are ours: the guard against DNS rebinding and against pages of other sites.
//!
//! Both are parsed strictly and compared part by part, never as prefixes or patterns.

use std::net::IpAddr;

use http::{HeaderMap, StatusCode, header};

use super::problem::Problem;
use crate::config;

/// A host and, where it was written, a port.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Authority {
    host: Host,
    port: Option<u16>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Host {
    Address(IpAddr),
    Name(String),
}

impl Authority {
    /// Parses `host`, `host:port`, `[v6]:port`; nothing else, no userinfo, no path, no empty port.
    fn parse(text: &str) -> Option<Self> {
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (address, rest) = rest.split_once(']')?;
            (Host::Address(IpAddr::V6(address.parse().ok()?)), rest)
        } else {
            let end = text.find(':').unwrap_or(text.len());
            let (name, rest) = text.split_at(end);
            (Self::name(name)?, rest)
        };
        let port = match rest_of(port)? {
            None => None,
            Some(digits) if (1..=5).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit()) => {
                Some(digits.parse().ok()?)
            }
            Some(_) => return None,
        };
        Some(Self { host, port })
    }

    fn name(text: &str) -> Option<Host> {
        if let Ok(address) = text.parse::<std::net::Ipv4Addr>() {
            return Some(Host::Address(IpAddr::V4(address)));
        }
        let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        (!text.is_empty() && text.len() <= 253 && text.bytes().all(good)).then(|| Host::Name(text.to_ascii_lowercase()))
    }

    /// Whether it names this engine, reached at `local`.
    fn is_ours(&self, local: Option<IpAddr>, names: &[String]) -> bool {
        match &self.host {
            Host::Address(address) => {
                local.is_some_and(|local| local.to_canonical() == address.to_canonical())
                    || names.iter().any(|name| name.parse() == Ok(*address))
            }
            Host::Name(name) => name == "localhost" || names.iter().any(|ours| ours.eq_ignore_ascii_case(name)),
        }
    }
}

/// What follows the host: nothing, or a colon and a port.
fn rest_of(rest: &str) -> Option<Option<&str>> {
    if rest.is_empty() { Some(None) } else { rest.strip_prefix(':').map(Some) }
}

/// Refuses a request for another host: 421, or 400 where the name cannot be one.
///
/// # Errors
/// The refusal.
pub(crate) fn check_host(
    headers: &HeaderMap,
    uri: &http::Uri,
    local: Option<IpAddr>,
    server: &config::Server,
) -> Result<(), Problem> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (uri.authority(), hosts.next(), hosts.next()) {
        (_, Some(_), Some(_)) => return Err(Problem::bad_request("more than one `Host`")),
        (Some(authority), None, None) => authority.as_str(),
        (None, None, None) => return Err(Problem::bad_request("the `Host` header is missing")),
        (_, Some(host), None) => host.to_str().map_err(|_| Problem::bad_request("the `Host` header is not a host"))?,
        (_, None, Some(_)) => unreachable!("an iterator that ended gave nothing first"),
    };
    let foreign = || {
        Problem::new(
            StatusCode::MISDIRECTED_REQUEST,
            "misdirected",
            "this engine does not answer to that `Host`; add it to `server.hosts` if it should",
        )
    };
    let authority = Authority::parse(host).ok_or_else(foreign)?;
    let absolute = uri.authority().map(|authority| Authority::parse(authority.as_str()));
    if !authority.is_ours(local, &server.hosts)
        || absolute.is_some_and(|absolute| !absolute.is_some_and(|absolute| absolute.is_ours(local, &server.hosts)))
    {
        return Err(foreign());
    }
    Ok(())
}

/// What a request's `Origin` is to us.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Origin {
    /// There is none: not a browser, or a plain navigation.
    Absent,
    /// A page of the engine itself.
    Own,
    /// A page of a configured origin.
    Configured,
    /// Any other page.
    Foreign,
}

/// Tells what the request's `Origin` is to us.
pub(crate) fn origin_of(headers: &HeaderMap, local: Option<IpAddr>, server: &config::Server) -> Origin {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let Some(origin) = origins.next() else { return Origin::Absent };
    let Ok(text) = origin.to_str() else { return Origin::Foreign };
    if origins.next().is_some() {
        return Origin::Foreign;
    }
    if server.origins.iter().any(|configured| same_origin(configured, text)) {
        return Origin::Configured;
    }
    let Some(authority) = text.strip_prefix("http://").and_then(Authority::parse) else { return Origin::Foreign };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).and_then(Authority::parse);
    let same_port = host.is_some_and(|host| host.port.unwrap_or(80) == authority.port.unwrap_or(80));
    if same_port && authority.is_ours(local, &server.hosts) { Origin::Own } else { Origin::Foreign }
}

/// Whether two origins are one: scheme, host and port, with the scheme's default port filled in.
fn same_origin(left: &str, right: &str) -> bool {
    let parts = |text: &str| {
        let (scheme, authority) = text.trim_end_matches('/').split_once("://")?;
        let authority = Authority::parse(authority)?;
        let default = if scheme.eq_ignore_ascii_case("https") { 443 } else { 80 };
        Some((scheme.to_ascii_lowercase(), authority.host, authority.port.unwrap_or(default)))
    };
    // The configured side may end in a slash; what a browser sends never does.
    !right.ends_with('/') && matches!((parts(left), parts(right)), (Some(left), Some(right)) if left == right)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    const LOCAL: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));

    fn server() -> config::Server {
        config::Server {
            hosts: vec!["node.example".into()],
            origins: vec!["https://console.example".into(), "http://dev.example:3000".into()],
            ..config::Server::default()
        }
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value")))
            .collect()
    }

    #[test]
    fn only_our_hosts_are_answered() {
        let uri = http::Uri::from_static("/api");
        for host in ["localhost", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:8080", "node.example", "Node.Example:99"] {
            assert!(check_host(&headers(&[("host", host)]), &uri, LOCAL, &server()).is_ok(), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "127.0.0.2",
            "localhost:",
            "localhost:x",
            "user@localhost",
            "[::1]",
            "localhost/",
            "",
            "node.example.",
            "127.1",
            "2130706433",
            "localhost:99999",
        ] {
            let refusal = check_host(&headers(&[("host", host)]), &uri, LOCAL, &server()).expect_err(host);
            assert_eq!(refusal.status, StatusCode::MISDIRECTED_REQUEST, "{host}");
        }
        assert!(check_host(&headers(&[]), &uri, LOCAL, &server()).is_err());
        let absolute = http::Uri::from_static("http://evil.example/api");
        assert!(check_host(&headers(&[("host", "localhost")]), &absolute, LOCAL, &server()).is_err());
    }

    #[test]
    fn only_our_origins_are_trusted() {
        let host = ("host", "127.0.0.1:8080");
        for (origin, is) in [
            ("http://127.0.0.1:8080", Origin::Own),
            ("http://localhost:8080", Origin::Own),
            ("http://node.example:8080", Origin::Own),
            ("http://127.0.0.1", Origin::Foreign),
            ("http://127.0.0.1:8081", Origin::Foreign),
            ("https://127.0.0.1:8080", Origin::Foreign),
            ("https://console.example", Origin::Configured),
            ("https://CONSOLE.example:443", Origin::Configured),
            ("https://console.example.evil", Origin::Foreign),
            ("https://console.example:444", Origin::Foreign),
            ("http://console.example", Origin::Foreign),
            ("http://dev.example:3000", Origin::Configured),
            ("http://dev.example:30001", Origin::Foreign),
            ("http://user@127.0.0.1:8080", Origin::Foreign),
            ("http://127.0.0.1:8080/", Origin::Foreign),
            ("http://127.0.0.1:8080.evil.example", Origin::Foreign),
            ("null", Origin::Foreign),
            ("", Origin::Foreign),
            ("file://", Origin::Foreign),
        ] {
            assert_eq!(origin_of(&headers(&[host, ("origin", origin)]), LOCAL, &server()), is, "{origin}");
        }
        assert_eq!(origin_of(&headers(&[host]), LOCAL, &server()), Origin::Absent);
        let two = headers(&[host, ("origin", "http://127.0.0.1:8080")]);
        let mut two = two;
        two.append(header::ORIGIN, HeaderValue::from_static("http://127.0.0.1:8080"));
        assert_eq!(origin_of(&two, LOCAL, &server()), Origin::Foreign);
    }
}
