//! Where an engine is, and how a byte stream to it is opened.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// How long a connection may take to come about.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// A peer that says nothing for this long is asked by the kernel whether it is still there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(20);
/// Between two such questions; after three without an answer the connection is broken.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// The base under which the API stands unless the address says another.
const BASE: &str = "/api/v1";

/// An engine's place.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Endpoint {
    /// Over TCP.
    Tcp {
        /// Name or address, as it stands in `Host`.
        authority: String,
        /// What is connected to.
        host: String,
        /// The port.
        port: u16,
        /// The path of the API.
        base: String,
    },
    /// Over a Unix socket.
    Unix(PathBuf),
}

impl Endpoint {
    /// Reads an address: `http://HOST:PORT[/BASE]`, `HOST:PORT`, or `unix:///PATH`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("`{text}` is not an engine's address: {why}");
        if let Some(path) = text.strip_prefix("unix://") {
            return if path.starts_with('/') {
                Ok(Self::Unix(path.into()))
            } else {
                Err(wrong("write it like unix:///PATH"))
            };
        }
        if text.starts_with("https://") {
            return Err(wrong("TLS is not spoken yet; go through an SSH tunnel, or a proxy on this machine"));
        }
        let rest = match text.split_once("://") {
            Some(("http", rest)) => rest,
            Some(_) => return Err(wrong("it must begin with http:// or unix://")),
            None => text,
        };
        let (authority, path) = rest.split_once('/').map_or((rest, ""), |(authority, path)| (authority, path));
        if path.contains(['?', '#']) || authority.contains('@') {
            return Err(wrong("write it like http://HOST:PORT"));
        }
        let parsed: http::uri::Authority = authority.parse().map_err(|_| wrong("write it like http://HOST:PORT"))?;
        if parsed.host().is_empty() {
            return Err(wrong("it names no host"));
        }
        let host = parsed.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = match authority[parsed.host().len()..].strip_prefix(':') {
            Some(port) => port.parse().map_err(|_| wrong("its port is not a number up to 65535"))?,
            None => 80,
        };
        let path = path.trim_end_matches('/');
        let base = if path.is_empty() { BASE.to_owned() } else { format!("/{path}") };
        Ok(Self::Tcp { authority: authority.to_owned(), host, port, base })
    }

    /// The path of the API.
    pub(crate) fn base(&self) -> &str {
        match self {
            Self::Tcp { base, .. } => base,
            Self::Unix(_) => BASE,
        }
    }

    /// What stands in `Host`.
    pub(crate) fn authority(&self) -> &str {
        match self {
            Self::Tcp { authority, .. } => authority,
            Self::Unix(_) => "localhost",
        }
    }

    /// Opens a byte stream.
    ///
    /// # Errors
    /// Nobody answers there.
    pub(crate) async fn connect(&self) -> std::io::Result<Box<dyn ByteStream>> {
        let connect = async {
            let stream: Box<dyn ByteStream> = match self {
                Self::Tcp { host, port, .. } => {
                    let stream = TcpStream::connect((host.as_str(), *port)).await?;
                    stream.set_nodelay(true)?;
                    keep_alive(&stream)?;
                    Box::new(stream)
                }
                Self::Unix(path) => Box::new(UnixStream::connect(path).await?),
            };
            Ok(stream)
        };
        match tokio::time::timeout(CONNECT_DEADLINE, connect).await {
            Ok(result) => result,
            Err(_) => Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "nobody answered in time")),
        }
    }
}

fn keep_alive(stream: &TcpStream) -> std::io::Result<()> {
    use rustix::net::sockopt;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, 3)?;
    Ok(())
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { authority, .. } => write!(f, "http://{authority}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

/// Bytes both ways, whatever carries them.
pub(crate) trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_people_write_them() {
        for (text, host, port, base) in [
            ("http://localhost:8080", "localhost", 8080, "/api/v1"),
            ("http://localhost:8080/", "localhost", 8080, "/api/v1"),
            ("10.0.0.1:9", "10.0.0.1", 9, "/api/v1"),
            ("http://[::1]:9/api", "::1", 9, "/api"),
            ("http://node.example/x/api/v1/", "node.example", 80, "/x/api/v1"),
        ] {
            match Endpoint::parse(text) {
                Ok(Endpoint::Tcp { host: h, port: p, base: b, .. }) => {
                    assert_eq!((&*h, p, &*b), (host, port, base), "{text}")
                }
                other => panic!("{text}: {other:?}"),
            }
        }
        assert_eq!(Endpoint::parse("unix:///run/e.sock"), Ok(Endpoint::Unix("/run/e.sock".into())));
        for text in [
            "",
            "https://a",
            "ftp://a",
            "http://",
            "http://a:b",
            "http://a:99999",
            "unix://x",
            "http://u@a",
            "http://a/?x",
            "http://a:",
        ] {
            assert!(Endpoint::parse(text).is_err(), "{text}");
        }
    }
}
