//! A WebSocket to a shell, speaking `dxflow.pty.v1`: events in, input and control messages out, offsets counted.
//!
//! It does not reconnect; whoever holds it knows the offset and opens another. Sending never waits for receiving, so that
//! a flood in one direction does not hold up the other.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use http::Uri;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::ClientRequestBuilder;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::cli::client::endpoint::ByteStream;
use crate::cli::client::{Client, encode};
use crate::cli::error::CliError;

/// The subprotocol.
const PROTOCOL: &str = "dxflow.pty.v1";
/// The longest message that is taken: a snapshot with its scrollback is far below it.
const LONGEST_MESSAGE: usize = 16 << 20;
/// How many messages wait to be sent before the sender waits.
const WAITING: usize = 64;
/// How long the engine may take to take a connection over.
const UPGRADE: Duration = Duration::from_secs(15);
/// The engine pings every 20 s; after this long without a word the connection is dead.
const SILENCE: Duration = Duration::from_secs(60);

type Socket = WebSocketStream<Box<dyn ByteStream>>;

/// What comes from the shell.
#[derive(Debug)]
pub(crate) enum Event {
    /// Attached: the next output is at this offset.
    Attached {
        /// The shell's size.
        columns: u16,
        /// The shell's size.
        rows: u16,
    },
    /// The whole screen, as bytes that draw it on a cleared terminal.
    Screen(Bytes),
    /// Output, in order.
    Output(Bytes),
    /// Somebody changed the size.
    Resized,
    /// Output between these offsets is gone; a screen follows.
    Gap {
        /// The first byte that is missing.
        from: u64,
        /// The first that is not.
        to: u64,
    },
    /// The process ended.
    Exit {
        /// With this code,
        code: Option<i64>,
        /// or by this signal.
        signal: Option<String>,
    },
    /// The engine is about to close.
    Closing {
        /// Why.
        reason: String,
    },
    /// Closed in order.
    Closed {
        /// The close code.
        code: u16,
        /// Why.
        reason: String,
    },
    /// The connection broke.
    Broken(String),
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Control {
    Attached {
        offset: u64,
        #[serde(default)]
        columns: u16,
        #[serde(default)]
        rows: u16,
        #[serde(default)]
        snapshot: bool,
    },
    Resized {},
    Gap {
        from: u64,
        to: u64,
    },
    Exit {
        #[serde(default)]
        code: Option<i64>,
        #[serde(default)]
        signal: Option<String>,
    },
    Closing {
        #[serde(default)]
        reason: String,
    },
    #[serde(other)]
    Other,
}

/// The size of the buffers: small for thousands of connections, larger for one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Buffers {
    One,
    Many,
}

/// An open connection.
pub(crate) struct Link {
    incoming: SplitStream<Socket>,
    outgoing: mpsc::Sender<Message>,
    /// Ends the sending task with the link.
    _sending: AbortOnDrop,
    /// The offset of the next byte of output.
    offset: u64,
    screen_follows: bool,
    heard: tokio::time::Instant,
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Link {
    /// Connects to a shell, at an offset or at its screen as it is now.
    ///
    /// # Errors
    /// The engine refuses, or is out of reach.
    pub(crate) async fn open(
        client: &Client,
        identity: &str,
        since: Option<u64>,
        view: bool,
        buffers: Buffers,
    ) -> Result<Self, CliError> {
        let token = client.token().await?;
        match Self::open_with(client, identity, since, view, buffers, token.as_deref()).await {
            // The token may have run out since.
            Err(error) if error.status() == Some(401) && token.is_some() => {
                client.forget_token();
                let token = client.token().await?;
                Self::open_with(client, identity, since, view, buffers, token.as_deref()).await
            }
            result => result,
        }
    }

    async fn open_with(
        client: &Client,
        identity: &str,
        since: Option<u64>,
        view: bool,
        buffers: Buffers,
        token: Option<&str>,
    ) -> Result<Self, CliError> {
        let endpoint = client.endpoint();
        let mut query = Vec::new();
        query.extend(since.map(|offset| format!("since={offset}")));
        query.extend(view.then(|| "mode=view".to_owned()));
        let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
        let target = format!("ws://{}{}/shell/{}/{query}", endpoint.authority(), endpoint.base(), encode(identity));
        let uri: Uri = target.parse().map_err(|error| CliError::Usage(format!("`{target}`: {error}")))?;
        let mut request = ClientRequestBuilder::new(uri).with_sub_protocol(PROTOCOL);
        if let Some(token) = token {
            request = request.with_header("Authorization", format!("Bearer {token}"));
        }
        let config = WebSocketConfig::default()
            .read_buffer_size(if buffers == Buffers::Many { 4 << 10 } else { 64 << 10 })
            .write_buffer_size(0)
            .max_message_size(Some(LONGEST_MESSAGE))
            .max_frame_size(Some(LONGEST_MESSAGE));
        let stream = endpoint.connect().await.map_err(|error| client.unreachable(error))?;
        let connecting = tokio_tungstenite::client_async_with_config(request, stream, Some(config));
        let socket = match tokio::time::timeout(UPGRADE, Box::pin(connecting)).await {
            Ok(Ok((socket, _))) => socket,
            Ok(Err(Error::Http(response))) => return Err(refusal(&response)),
            Ok(Err(error)) => return Err(client.unreachable(error)),
            Err(elapsed) => return Err(client.unreachable(elapsed)),
        };
        let (sink, incoming) = socket.split();
        let (outgoing, waiting) = mpsc::channel(WAITING);
        let sending = AbortOnDrop(tokio::spawn(send_all(sink, waiting)));
        Ok(Self {
            incoming,
            outgoing,
            _sending: sending,
            offset: since.unwrap_or(0),
            screen_follows: false,
            heard: tokio::time::Instant::now(),
        })
    }

    /// The offset of the next byte of output.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Where messages are put to be sent; [`input`], [`resize`] and [`ack`] make them.
    pub(crate) fn outgoing(&self) -> &mpsc::Sender<Message> {
        &self.outgoing
    }

    /// The next event. May be dropped and called again.
    pub(crate) async fn next(&mut self) -> Event {
        loop {
            let message = match tokio::time::timeout_at(self.heard + SILENCE, self.incoming.next()).await {
                Err(_) => return Event::Broken("the engine says nothing any more".into()),
                Ok(None) => return Event::Broken("the connection ended".into()),
                Ok(Some(Err(error))) => return Event::Broken(crate::cli::error::chain(&error)),
                Ok(Some(Ok(message))) => message,
            };
            self.heard = tokio::time::Instant::now();
            match message {
                Message::Binary(bytes) if self.screen_follows => {
                    self.screen_follows = false;
                    return Event::Screen(bytes);
                }
                Message::Binary(bytes) => {
                    self.offset += bytes.len() as u64;
                    return Event::Output(bytes);
                }
                Message::Text(text) => {
                    if let Some(event) = self.control(&text) {
                        return event;
                    }
                }
                Message::Close(frame) => {
                    let (code, reason) =
                        frame.map_or((1005, String::new()), |frame| (u16::from(frame.code), frame.reason.to_string()));
                    return Event::Closed { code, reason };
                }
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }

    fn control(&mut self, text: &str) -> Option<Event> {
        // What a newer engine adds is none of our business.
        match serde_json::from_str(text).ok()? {
            Control::Attached { offset, columns, rows, snapshot } => {
                self.offset = offset;
                self.screen_follows = snapshot;
                Some(Event::Attached { columns, rows })
            }
            Control::Resized {} => Some(Event::Resized),
            Control::Gap { from, to } => {
                self.offset = to;
                self.screen_follows = true;
                Some(Event::Gap { from, to })
            }
            Control::Exit { code, signal } => Some(Event::Exit { code, signal }),
            Control::Closing { reason } => Some(Event::Closing { reason }),
            Control::Other => None,
        }
    }

    /// Says goodbye.
    pub(crate) async fn close(self) {
        let frame = tokio_tungstenite::tungstenite::protocol::CloseFrame { code: CloseCode::Normal, reason: "".into() };
        let goodbye = self.outgoing.send(Message::Close(Some(frame)));
        if tokio::time::timeout(Duration::from_millis(500), goodbye).await.is_ok_and(|sent| sent.is_ok()) {
            // Until the peer's answer, or long enough for it to have gone out.
            let mut incoming = self.incoming;
            let answered = async { while incoming.next().await.is_some_and(|message| message.is_ok()) {} };
            let _ = tokio::time::timeout(Duration::from_millis(500), answered).await;
        }
    }
}

async fn send_all(mut sink: SplitSink<Socket, Message>, mut waiting: mpsc::Receiver<Message>) {
    while let Some(message) = waiting.recv().await {
        let last = matches!(message, Message::Close(_));
        if sink.send(message).await.is_err() || last {
            // The receiving side sees why.
            return;
        }
    }
}

/// Bytes to type.
pub(crate) fn input(bytes: impl Into<Bytes>) -> Message {
    Message::Binary(bytes.into())
}

/// The terminal's size.
pub(crate) fn resize(columns: u16, rows: u16) -> Message {
    Message::Text(json!({ "type": "resize", "columns": columns, "rows": rows }).to_string().into())
}

/// How far the output has been taken.
pub(crate) fn ack(offset: u64) -> Message {
    Message::Text(json!({ "type": "ack", "offset": offset }).to_string().into())
}

/// The refusal of an upgrade.
fn refusal(response: &http::Response<Option<Vec<u8>>>) -> CliError {
    let status = response.status();
    let header = response.headers().get("x-error-message").and_then(|text| text.to_str().ok());
    let problem: serde_json::Value =
        response.body().as_deref().and_then(|body| serde_json::from_slice(body).ok()).unwrap_or_default();
    let detail = header
        .map(|text| percent_decode_str(text).decode_utf8_lossy().into_owned())
        .or_else(|| problem["detail"].as_str().map(str::to_owned))
        .unwrap_or_else(|| format!("the engine answered with {status}"));
    CliError::Refused { status: status.as_u16(), detail: crate::cli::output::clean(&detail), problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_messages_are_understood_and_unknown_ones_are_not_an_error() {
        for (text, known) in [
            (r#"{"type":"attached","offset":7,"columns":80,"rows":24,"snapshot":true,"mode":"type"}"#, true),
            (r#"{"type":"resized","columns":80,"rows":24}"#, true),
            (r#"{"type":"gap","from":1,"to":2}"#, true),
            (r#"{"type":"exit","code":null,"signal":"TERM"}"#, true),
            (r#"{"type":"closing","reason":"restart","retry":true}"#, true),
            (r#"{"type":"weather","rain":true}"#, false),
        ] {
            let control: Control = serde_json::from_str(text).expect(text);
            assert_eq!(!matches!(control, Control::Other), known, "{text}");
        }
    }
}
