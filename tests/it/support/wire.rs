//! HTTP/1.1 as bytes on a connection that is kept: for many requests, and for those that no client library would send.

use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::within;

/// A connection to an engine.
pub struct Wire {
    address: SocketAddr,
    token: String,
    stream: Option<BufReader<TcpStream>>,
}

/// What came back.
pub struct Reply {
    /// The status; 0 when the connection broke off before it, twice.
    pub status: u16,
    /// The head, as it came.
    pub head: String,
    /// The body, without its framing.
    pub body: Vec<u8>,
    /// Whether the body came to its end: an archive made while it is sent breaks off where something goes wrong.
    pub whole: bool,
}

impl Wire {
    /// A connection to the engine at `address`, opened when it is first needed.
    pub fn new(address: SocketAddr, token: &str) -> Self {
        Self { address, token: token.into(), stream: None }
    }

    /// Sends a request and reads its answer. `target` goes out as it is.
    ///
    /// # Panics
    /// When the engine does not answer.
    pub async fn send(&mut self, method: &str, target: &str, headers: &str, body: &[u8]) -> Reply {
        let what = format!("{method} {target}");
        let mut error = None;
        // A kept connection may have been closed by the other end meanwhile: once more on a new one.
        for _ in 0..2 {
            match within(&what, self.try_send(method, target, headers, body)).await {
                Ok(reply) => return reply,
                Err(failed) => error = Some(failed),
            }
            self.stream = None;
        }
        match error {
            // Broken off before its head went out.
            Some(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                Reply { status: 0, head: String::new(), body: Vec::new(), whole: false }
            }
            error => panic!("{what}: {error:?}"),
        }
    }

    async fn try_send(&mut self, method: &str, target: &str, headers: &str, body: &[u8]) -> std::io::Result<Reply> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => {
                let stream = TcpStream::connect(self.address).await?;
                stream.set_nodelay(true)?;
                none.insert(BufReader::new(stream))
            }
        };
        let mut request = format!(
            "{method} {target} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n{headers}\r\n",
            self.address,
            self.token,
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        // An answer may come before all of the body was taken.
        let _ = stream.get_mut().write_all(&request).await;
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        let field = |name: &str| {
            head.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim().to_ascii_lowercase())
            })
        };
        let status: u16 = head.split(' ').nth(1).and_then(|text| text.parse().ok()).unwrap_or(0);
        let mut body = Vec::new();
        if method == "HEAD" || status == 304 {
            // None follows.
        } else if let Some(length) = field("content-length").and_then(|text| text.parse::<usize>().ok()) {
            body.resize(length, 0);
            stream.read_exact(&mut body).await?;
        } else if field("transfer-encoding").is_some_and(|value| value == "chunked") {
            loop {
                let mut line = String::new();
                if stream.read_line(&mut line).await? == 0 {
                    self.stream = None;
                    return Ok(Reply { status, head, body, whole: false });
                }
                let length = usize::from_str_radix(line.trim(), 16).map_err(std::io::Error::other)?;
                let from = body.len();
                body.resize(from + length, 0);
                stream.read_exact(&mut body[from..]).await?;
                line.clear();
                stream.read_line(&mut line).await?;
                if length == 0 {
                    break;
                }
            }
        } else {
            stream.read_to_end(&mut body).await?;
        }
        if field("connection").is_some_and(|value| value == "close") {
            self.stream = None;
        }
        Ok(Reply { status, head, body, whole: true })
    }
}
