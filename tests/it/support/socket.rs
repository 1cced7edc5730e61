//! A WebSocket client for shells.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message};
use tokio_tungstenite::tungstenite::{self};

use super::{Engine, PATIENCE, within};

/// An attached shell.
pub struct Socket {
    stream: WebSocketStream<TcpStream>,
    /// The bytes that have come, without snapshots.
    pub bytes: Vec<u8>,
    /// The subprotocol that the engine chose.
    pub protocol: String,
}

/// What came over the socket.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Bytes of the terminal.
    Bytes(Vec<u8>),
    /// A text frame: a control message with `dxflow.pty.v1`, else the terminal's output.
    Text(String),
    /// The end, with its code and reason.
    Closed(u16, String),
}

impl Socket {
    /// Attaches to a shell with `dxflow.pty.v1`, as the holder of `token`; `query` begins with `?` or is empty.
    ///
    /// # Errors
    /// The refusal of the upgrade.
    pub async fn open(
        engine: &Engine,
        shell: &str,
        query: &str,
        token: &str,
        protocols: &str,
    ) -> Result<Self, Box<tungstenite::Error>> {
        Self::open_at(engine.address, shell, query, token, protocols).await
    }

    /// As [`open`](Self::open), at an address that leads to an engine.
    ///
    /// # Errors
    /// The refusal of the upgrade, or the connection's failure.
    pub async fn open_at(
        address: SocketAddr,
        shell: &str,
        query: &str,
        token: &str,
        protocols: &str,
    ) -> Result<Self, Box<tungstenite::Error>> {
        let url = format!("ws://{address}/api/v1/shell/{shell}/{query}");
        let mut request = url.into_client_request().map_err(Box::new)?;
        let headers = request.headers_mut();
        if !token.is_empty() {
            headers.insert("authorization", format!("Bearer {token}").parse().expect("a header value"));
        }
        if !protocols.is_empty() {
            headers.insert("sec-websocket-protocol", protocols.parse().expect("a header value"));
        }
        let tcp = TcpStream::connect(address).await.map_err(|error| Box::new(error.into()))?;
        tcp.set_nodelay(true).map_err(|error| Box::new(error.into()))?;
        let opened = within("the upgrade", tokio_tungstenite::client_async(request, tcp)).await;
        let (stream, response) = opened.map_err(Box::new)?;
        let protocol = response.headers().get("sec-websocket-protocol").and_then(|value| value.to_str().ok());
        Ok(Self { stream, bytes: Vec::new(), protocol: protocol.unwrap_or("").to_owned() })
    }

    /// Attaches as MASTER with `dxflow.pty.v1`, and takes the `attached` message.
    ///
    /// # Panics
    /// When the engine refuses, or says something else first.
    pub async fn attach(engine: &Engine, shell: &str, query: &str) -> (Self, Value) {
        let opened = Self::open(engine, shell, query, &engine.token, "dxflow.pty.v1").await;
        let mut socket = opened.unwrap_or_else(|error| panic!("the upgrade for `{shell}` failed: {error}"));
        let attached = match socket.next().await {
            Event::Text(text) => serde_json::from_str::<Value>(&text).expect("JSON"),
            other => panic!("expected `attached`, got {other:?}"),
        };
        assert_eq!(attached["type"], "attached", "{attached}");
        (socket, attached)
    }

    /// The next thing that comes; pings are answered and not shown.
    pub async fn next(&mut self) -> Event {
        self.next_after(PATIENCE).await
    }

    /// As [`next`](Self::next), over a connection that may be silent for so long.
    pub async fn next_after(&mut self, patience: Duration) -> Event {
        loop {
            let next = tokio::time::timeout(patience, self.stream.next()).await;
            match next.expect("the next frame comes in time") {
                Some(Ok(Message::Binary(bytes))) => return Event::Bytes(bytes.to_vec()),
                Some(Ok(Message::Text(text))) => return Event::Text(text.to_string()),
                Some(Ok(Message::Close(Some(CloseFrame { code, reason })))) => {
                    return Event::Closed(code.into(), reason.to_string());
                }
                Some(Ok(Message::Close(None))) => return Event::Closed(1005, String::new()),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Event::Closed(1006, error.to_string()),
                None => return Event::Closed(1006, "the connection ended".into()),
            }
        }
    }

    /// Types bytes.
    pub async fn type_bytes(&mut self, bytes: &[u8]) {
        let sent = self.stream.send(Message::Binary(bytes.to_vec().into()));
        within("a frame's sending", sent).await.expect("the engine reads");
    }

    /// Sends a text frame: a control message, or typing without the subprotocol.
    pub async fn send_text(&mut self, text: &str) {
        within("a frame's sending", self.stream.send(Message::Text(text.into()))).await.expect("the engine reads");
    }

    /// Sends a control message.
    pub async fn control(&mut self, message: &Value) {
        self.send_text(&message.to_string()).await;
    }

    /// Gathers bytes until `needle` has come since the call; returns all that came since the call.
    ///
    /// # Panics
    /// When the socket ends first.
    pub async fn read_until(&mut self, needle: &[u8]) -> Vec<u8> {
        let from = self.bytes.len();
        loop {
            let new = &self.bytes[from..];
            if new.windows(needle.len()).any(|window| window == needle) {
                return new.to_vec();
            }
            match self.next().await {
                Event::Bytes(bytes) => self.bytes.extend(bytes),
                Event::Text(_) => {}
                Event::Closed(code, reason) => panic!(
                    "closed ({code} {reason}) before {:?} came; so far: {:?}",
                    String::from_utf8_lossy(needle),
                    String::from_utf8_lossy(&self.bytes[from..])
                ),
            }
        }
    }

    /// Gathers bytes until a control message of this type comes.
    ///
    /// # Panics
    /// When the socket ends first.
    pub async fn control_of(&mut self, kind: &str) -> Value {
        loop {
            match self.next().await {
                Event::Bytes(bytes) => self.bytes.extend(bytes),
                Event::Text(text) => {
                    let message: Value = serde_json::from_str(&text).expect("a control message is JSON");
                    if message["type"] == kind {
                        return message;
                    }
                }
                Event::Closed(code, reason) => panic!("closed ({code} {reason}) before `{kind}` came"),
            }
        }
    }

    /// Gathers bytes until the end; returns the code and the reason.
    pub async fn closed(&mut self) -> (u16, String) {
        loop {
            match self.next().await {
                Event::Bytes(bytes) => self.bytes.extend(bytes),
                Event::Text(_) => {}
                Event::Closed(code, reason) => return (code, reason),
            }
        }
    }

    /// The raw stream, for tests that misbehave.
    pub fn raw(&mut self) -> &mut WebSocketStream<TcpStream> {
        &mut self.stream
    }
}
