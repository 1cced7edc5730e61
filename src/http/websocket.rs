//! The WebSocket handshake: what is checked before 101, and which subprotocol is answered.
//!
//! The upgrade is taken from hyper and run by tungstenite with small buffers; warp's own WebSockets hold 150 KiB each.
//! Authentication, permission and `Origin` have been settled before a handler runs, so before 101.

use std::time::Duration;

use http::{HeaderValue, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use warp::Reply;
use warp::reply::Response;

use super::problem::Problem;
use super::request::Request;

/// The subprotocol with control messages.
pub(crate) const PTY_V1: &str = "dxflow.pty.v1";
/// How much is read from a socket at once: a few keys, or a piece of what is pasted. Every open socket holds this much.
const READ_BUFFER: usize = 1 << 10;
/// How long a client may take from 101 to a connection.
const UPGRADE: Duration = Duration::from_secs(10);

/// A socket that was upgraded.
pub(crate) type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

/// An upgrade that was found good.
pub(crate) struct Upgrade {
    on_upgrade: hyper::upgrade::OnUpgrade,
    accept: String,
    protocol: Option<&'static str>,
}

/// Whether the client asks for a WebSocket.
pub(crate) fn is_wanted(request: &Request) -> bool {
    request.header("upgrade").is_some_and(|value| tokens(value).any(|token| token.eq_ignore_ascii_case("websocket")))
}

fn tokens(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim)
}

impl Upgrade {
    /// Checks the handshake.
    ///
    /// # Errors
    /// 400 that says what is missing; 426 for another version.
    pub(crate) fn check(request: &mut Request) -> Result<Self, Problem> {
        let connection = request.header("connection").unwrap_or("");
        if !tokens(connection).any(|token| token.eq_ignore_ascii_case("upgrade")) {
            return Err(Problem::bad_request("a WebSocket needs `Connection: Upgrade`"));
        }
        let Some(version) = request.header("sec-websocket-version") else {
            return Err(Problem::bad_request("a WebSocket needs `Sec-WebSocket-Version: 13` and `Sec-WebSocket-Key`"));
        };
        if version != "13" {
            let problem = Problem::new(StatusCode::UPGRADE_REQUIRED, "websocket-version", "only version 13 is spoken");
            return Err(problem.header(http::HeaderName::from_static("sec-websocket-version"), "13"));
        }
        let key = request.header("sec-websocket-key").unwrap_or("").trim();
        let good = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, key)
            .is_ok_and(|bytes| bytes.len() == 16);
        if !good {
            return Err(Problem::bad_request("`Sec-WebSocket-Key` must be 16 bytes in base64"));
        }
        let accept = derive_accept_key(key.as_bytes());
        let protocol = choose_protocol(request);
        let on_upgrade = request
            .upgrade
            .take()
            .ok_or_else(|| Problem::bad_request("this connection cannot become a WebSocket; use HTTP/1.1"))?;
        Ok(Self { on_upgrade, accept, protocol })
    }

    /// Whether the client speaks `dxflow.pty.v1`.
    pub(crate) fn has_control(&self) -> bool {
        self.protocol == Some(PTY_V1)
    }

    /// Answers 101, and hands the socket to `serve` once the connection is there.
    pub(crate) fn accept<F, S>(self, longest_frame: usize, serve: S) -> Response
    where
        S: FnOnce(Socket) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
        let headers = response.headers_mut();
        headers.remove(header::CONTENT_TYPE);
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        if let Ok(accept) = HeaderValue::from_str(&self.accept) {
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        }
        if let Some(protocol) = self.protocol {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        }
        tokio::spawn(async move {
            let Ok(Ok(upgraded)) = tokio::time::timeout(UPGRADE, self.on_upgrade).await else { return };
            let config = WebSocketConfig::default()
                .read_buffer_size(READ_BUFFER)
                .write_buffer_size(0)
                .max_message_size(Some(longest_frame))
                .max_frame_size(Some(longest_frame));
            let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
            Box::pin(serve(socket)).await;
        });
        response
    }
}

/// `dxflow.pty.v1` if it is offered; else `bearer` where the token came as `bearer.<token>`, which is never echoed.
fn choose_protocol(request: &Request) -> Option<&'static str> {
    let offers = request.headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    choose(offers.flat_map(tokens))
}

fn choose<'a>(offers: impl Iterator<Item = &'a str>) -> Option<&'static str> {
    let mut bearer = false;
    for offer in offers {
        if offer == PTY_V1 {
            return Some(PTY_V1);
        }
        bearer |= offer == "bearer" || offer.starts_with("bearer.");
    }
    bearer.then_some("bearer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_never_chosen_as_subprotocol() {
        for (offers, chosen) in [
            ("", None),
            ("chat", None),
            ("bearer.abc", Some("bearer")),
            ("bearer, bearer.abc", Some("bearer")),
            ("bearer.abc, dxflow.pty.v1", Some(PTY_V1)),
            ("dxflow.pty.v1", Some(PTY_V1)),
        ] {
            assert_eq!(choose(tokens(offers)), chosen, "{offers}");
        }
    }
}
