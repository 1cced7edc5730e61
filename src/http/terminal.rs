//! One WebSocket that is attached to a shell.
//!
//! Two halves in one task: one reads what the client sends, one writes what the shell writes, each at its own speed, so
//! that a key goes in while output is stuck. Whatever ends either ends both; then the socket is closed with a code that says
//! why. A restart of the engine's tree is not seen here: the viewer goes on at its offset.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actors::keeper::signal_number;
use actors::shell::{Encoding, Event, Session, Settings, ShellError, Snapshot, Viewer};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message};
use tokio_tungstenite::tungstenite::{self};

use super::Phase;
use super::websocket::Socket;

/// The most output in one frame. What has come while the socket was busy goes together.
const FRAME: usize = 32 << 10;
/// How long the goodbye may take.
const GOODBYE: Duration = Duration::from_secs(2);

/// How many sockets each caller has attached in this process, and how many there are in all.
static OPEN: Mutex<Open> = Mutex::new(Open { all: 0, of: BTreeMap::new() });

#[derive(Debug)]
struct Open {
    all: usize,
    of: BTreeMap<String, usize>,
}

/// One of the sockets that may be open at once.
#[derive(Debug)]
pub(crate) struct Place(String);

/// Why there is none.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum NoPlace {
    /// All are taken.
    InAll,
    /// This caller has as many as one may.
    OfCaller,
}

impl Place {
    /// A place for `caller`, if one is left of `limit` in all and of `own` for each.
    ///
    /// # Errors
    /// Which limit is reached.
    pub(crate) fn take(caller: &str, limit: usize, own: usize) -> Result<Self, NoPlace> {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        if open.all >= limit {
            return Err(NoPlace::InAll);
        }
        if open.of.get(caller).copied().unwrap_or(0) >= own {
            return Err(NoPlace::OfCaller);
        }
        open.all += 1;
        *open.of.entry(caller.to_owned()).or_default() += 1;
        Ok(Self(caller.to_owned()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.all -= 1;
        if let Some(count) = open.of.get_mut(&self.0) {
            *count -= 1;
            if *count == 0 {
                open.of.remove(&self.0);
            }
        }
    }
}

/// How the client speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Framing {
    /// `dxflow.pty.v1`: raw bytes, and control messages.
    Control,
    /// Text or base64, and nothing else.
    Plain(Encoding),
}

/// What a socket is attached with.
pub(crate) struct Terminal {
    pub(crate) viewer: Viewer,
    pub(crate) snapshot: Option<Snapshot>,
    pub(crate) framing: Framing,
    /// Whether it may type.
    pub(crate) types: bool,
    pub(crate) settings: Arc<Settings>,
    pub(crate) shutdown: watch::Receiver<Phase>,
    pub(crate) place: Place,
}

/// Why a socket ends.
enum End {
    /// The client closed it, or is gone.
    Gone,
    /// Closed by us.
    Close(CloseCode, String),
    /// The engine goes down.
    Stopping { retry: bool },
}

impl End {
    fn not_allowed(reason: impl Into<String>) -> Self {
        Self::Close(CloseCode::Policy, reason.into())
    }
}

impl From<tungstenite::Error> for End {
    fn from(error: tungstenite::Error) -> Self {
        match error {
            tungstenite::Error::Capacity(_) => Self::not_allowed("the frame is too long"),
            _ => Self::Gone,
        }
    }
}

/// A control message of the client.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
enum Control {
    Resize { columns: u16, rows: u16 },
    Signal { signal: String },
    Ack { offset: u64 },
}

/// What the client has acknowledged; nothing until it does so for the first time.
struct Acks {
    offset: AtomicU64,
    more: Notify,
}

const NEVER: u64 = u64::MAX;

impl Terminal {
    /// Serves the socket until it ends. `signed_out` ends when the one who signed in may no longer be here.
    pub(crate) async fn serve(self, socket: Socket, signed_out: impl Future<Output = ()> + Send) {
        let Self { viewer, snapshot, framing, types, settings, mut shutdown, place } = self;
        let (mut sink, mut stream) = socket.split();
        let acks = Acks { offset: AtomicU64::new(NEVER), more: Notify::new() };
        let reader = Reader { session: Arc::clone(viewer.session()), framing, types, acks: &acks, size: None };
        let dead_after = settings.dead_after.0;
        let writer = Writer {
            viewer,
            framing,
            types,
            acks: &acks,
            window: settings.websocket_window.0,
            ping: settings.ping.0,
            text: Utf8::default(),
        };
        let end = {
            // Boxed: a future that is moved takes its place twice in the one around it, and every open socket holds them.
            let reading = Box::pin(reader.run(&mut stream, dead_after));
            let writing = Box::pin(writer.run(&mut sink, snapshot));
            let signed_out = Box::pin(signed_out);
            let stopping = shutdown.wait_for(|phase| *phase != Phase::Serving);
            tokio::select! {
                end = reading => end,
                end = writing => end,
                () = signed_out => End::not_allowed("signed out, or no longer allowed"),
                phase = stopping => End::Stopping { retry: matches!(phase.as_deref(), Ok(Phase::Stopping { retry: true })) },
            }
        };
        // A client that does not take its goodbye loses it.
        let _ = tokio::time::timeout(GOODBYE, Box::pin(goodbye(&mut sink, &mut stream, framing, end))).await;
        drop(place);
    }
}

async fn goodbye(sink: &mut SplitSink<Socket, Message>, stream: &mut SplitStream<Socket>, framing: Framing, end: End) {
    let (code, reason) = match end {
        End::Gone => return,
        End::Close(code, reason) => (code, reason),
        End::Stopping { retry } => {
            if framing == Framing::Control {
                let reason = if retry { "the engine restarts" } else { "the engine stops" };
                let _ = sink.send(control(&json!({"type": "closing", "reason": reason, "retry": retry}))).await;
            }
            (CloseCode::Away, "the engine goes down".into())
        }
    };
    // A reason is at most 123 bytes.
    let reason: String = reason.chars().take(60).filter(char::is_ascii).collect();
    if sink.send(Message::Close(Some(CloseFrame { code, reason: reason.into() }))).await.is_ok() {
        // Until the client has closed too: what it had on the way would reset the connection under our last frames.
        while let Some(Ok(_)) = stream.next().await {}
    }
}

fn control(message: &Value) -> Message {
    Message::Text(message.to_string().into())
}

/// The half that reads.
struct Reader<'a> {
    session: Arc<Session>,
    framing: Framing,
    types: bool,
    acks: &'a Acks,
    /// The size that this client last asked for.
    size: Option<(u16, u16)>,
}

impl Reader<'_> {
    async fn run(mut self, stream: &mut SplitStream<Socket>, dead_after: Duration) -> End {
        loop {
            let Ok(next) = tokio::time::timeout(dead_after, stream.next()).await else { return End::Gone };
            let taken = match next {
                None => return End::Gone,
                Some(Err(error)) => return error.into(),
                Some(Ok(Message::Binary(bytes))) => self.typed(&bytes).await,
                // Boxed: seldom, and much larger than the rest.
                Some(Ok(Message::Text(text))) if self.framing == Framing::Control => {
                    Box::pin(self.control(&text)).await
                }
                Some(Ok(Message::Text(text))) => self.typed(text.as_bytes()).await,
                // tungstenite answers pings and closes itself.
                Some(Ok(Message::Close(_))) => return End::Gone,
                Some(Ok(_)) => Ok(()),
            };
            if let Err(end) = taken {
                return end;
            }
        }
    }

    async fn typed(&mut self, bytes: &[u8]) -> Result<(), End> {
        if !self.types {
            return Ok(());
        }
        if let Some(size) = self.size
            && size != self.session.size()
        {
            // Who types sees the terminal as it is for them.
            Box::pin(self.resize(size)).await?;
        }
        match self.session.write(bytes).await {
            // What is typed into a shell that has ended goes nowhere.
            Ok(()) | Err(ShellError::NotRunning { .. }) => Ok(()),
            Err(error) => Err(End::Close(CloseCode::Error, error.to_string())),
        }
    }

    async fn resize(&mut self, (columns, rows): (u16, u16)) -> Result<(), End> {
        match self.session.resize(columns, rows).await {
            Err(ShellError::Invalid { reason }) => Err(End::not_allowed(reason)),
            // A shell that has ended, or an engine that is busy: the size is tried again with the next key.
            _ => Ok(()),
        }
    }

    async fn control(&mut self, text: &str) -> Result<(), End> {
        let message: Control =
            serde_json::from_str(text).map_err(|error| End::not_allowed(format!("not a control message: {error}")))?;
        match message {
            Control::Ack { offset } => {
                self.acks.offset.store(offset.min(NEVER - 1), Ordering::Relaxed);
                self.acks.more.notify_one();
            }
            Control::Resize { columns, rows } => {
                if self.types {
                    self.size = Some((columns, rows));
                    self.resize((columns, rows)).await?;
                }
            }
            Control::Signal { signal } => {
                let number = signal_number(&signal).ok_or_else(|| End::not_allowed("there is no such signal"))?;
                if self.types {
                    // One that has ended needs none.
                    let _ = self.session.signal(number).await;
                }
            }
        }
        Ok(())
    }
}

/// The half that writes.
struct Writer<'a> {
    viewer: Viewer,
    framing: Framing,
    types: bool,
    acks: &'a Acks,
    window: u64,
    ping: Duration,
    text: Utf8,
}

impl Writer<'_> {
    async fn run(mut self, sink: &mut SplitSink<Socket, Message>, snapshot: Option<Snapshot>) -> End {
        match self.serve(sink, snapshot).await {
            Ok(end) => end,
            Err(error) => error.into(),
        }
    }

    async fn serve(
        &mut self,
        sink: &mut SplitSink<Socket, Message>,
        snapshot: Option<Snapshot>,
    ) -> Result<End, tungstenite::Error> {
        if self.framing == Framing::Control {
            let (columns, rows) = match &snapshot {
                Some(snapshot) => (snapshot.columns, snapshot.rows),
                None => self.viewer.session().size(),
            };
            let attached = json!({
                "type": "attached",
                "offset": self.viewer.offset(),
                "columns": columns,
                "rows": rows,
                "snapshot": snapshot.is_some(),
                "mode": if self.types { "control" } else { "view" },
            });
            sink.send(control(&attached)).await?;
        }
        if let Some(snapshot) = snapshot {
            self.send(sink, snapshot.bytes).await?;
        }
        let mut next_ping = tokio::time::Instant::now() + self.ping;
        let mut buffer = Vec::new();
        loop {
            let acked = self.acks.offset.load(Ordering::Relaxed);
            let room = match acked {
                NEVER => self.window,
                acked => self.window.saturating_sub(self.viewer.offset().saturating_sub(acked)),
            };
            let most = usize::try_from(room).unwrap_or(FRAME).min(FRAME);
            tokio::select! {
                event = self.viewer.next(most, &mut buffer), if most > 0 => {
                    let event = match event {
                        Ok(event) => event,
                        Err(error) => return Ok(End::Close(CloseCode::Error, error.to_string())),
                    };
                    if let Event::Output = event {
                        self.send(sink, std::mem::take(&mut buffer)).await?;
                    } else if let Some(end) = Box::pin(self.tell(sink, event)).await? {
                        return Ok(end);
                    }
                }
                () = self.acks.more.notified(), if most == 0 => {}
                () = tokio::time::sleep_until(next_ping) => {
                    sink.send(Message::Ping(Bytes::new())).await?;
                    next_ping = tokio::time::Instant::now() + self.ping;
                }
            }
        }
    }

    async fn tell(
        &mut self,
        sink: &mut SplitSink<Socket, Message>,
        event: Event,
    ) -> Result<Option<End>, tungstenite::Error> {
        let with_control = self.framing == Framing::Control;
        match event {
            Event::Output => {}
            Event::Resized { columns, rows } => {
                if with_control {
                    sink.send(control(&json!({"type": "resized", "columns": columns, "rows": rows}))).await?;
                }
            }
            Event::Gap { from, to, snapshot } => {
                if with_control {
                    sink.send(control(&json!({"type": "gap", "from": from, "to": to}))).await?;
                }
                self.text = Utf8::default();
                self.send(sink, snapshot.bytes).await?;
            }
            Event::Exit(exit) => {
                if with_control {
                    sink.send(control(&json!({"type": "exit", "code": exit.code, "signal": exit.signal}))).await?;
                }
                return Ok(Some(End::Close(CloseCode::Normal, "the shell ended".into())));
            }
            Event::Removed => return Ok(Some(End::Close(CloseCode::Normal, "the shell was removed".into()))),
        }
        Ok(None)
    }

    async fn send(&mut self, sink: &mut SplitSink<Socket, Message>, bytes: Vec<u8>) -> Result<(), tungstenite::Error> {
        let message = match self.framing {
            Framing::Control => Message::Binary(bytes.into()),
            Framing::Plain(Encoding::Base64) => Message::Text(STANDARD.encode(bytes).into()),
            Framing::Plain(Encoding::Text) => {
                let text = self.text.decode(bytes);
                if text.is_empty() {
                    return Ok(());
                }
                Message::Text(text.into())
            }
        };
        sink.send(message).await
    }
}

/// Makes text of bytes: a character is never split over two pieces, and what is no text becomes U+FFFD.
#[derive(Debug, Default)]
struct Utf8 {
    tail: Vec<u8>,
}

impl Utf8 {
    fn decode(&mut self, bytes: Vec<u8>) -> String {
        let mut whole = std::mem::take(&mut self.tail);
        if whole.is_empty() {
            whole = bytes;
        } else {
            whole.extend_from_slice(&bytes);
        }
        let whole = match String::from_utf8(whole) {
            Ok(text) => return text,
            Err(error) => error.into_bytes(),
        };
        let mut text = String::with_capacity(whole.len());
        let mut chunks = whole.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            text.push_str(chunk.valid());
            let invalid = chunk.invalid();
            let unfinished = std::str::from_utf8(invalid).err().is_some_and(|error| error.error_len().is_none());
            if unfinished && chunks.peek().is_none() {
                self.tail = invalid.to_vec();
            } else if !invalid.is_empty() {
                text.push('\u{fffd}');
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn text_in_pieces_is_the_text(bytes in prop_oneof![any::<String>().prop_map(String::into_bytes), prop::collection::vec(any::<u8>(), 0..60)], size in 1usize..7) {
            let mut utf8 = Utf8::default();
            let mut text = String::new();
            for piece in bytes.chunks(size) {
                text.push_str(&utf8.decode(piece.to_vec()));
            }
            text.push_str(&String::from_utf8_lossy(&utf8.tail));
            prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn any_text_is_a_message_or_refused(text: String) {
            let _ = serde_json::from_str::<Control>(&text);
        }
    }

    #[test]
    fn control_messages_are_read() {
        for (text, good) in [
            (r#"{"type":"resize","columns":80,"rows":24}"#, true),
            (r#"{"type":"signal","signal":"INT"}"#, true),
            (r#"{"type":"ack","offset":7}"#, true),
            (r#"{"type":"resize","columns":80}"#, false),
            (r#"{"type":"resize","columns":80,"rows":24,"x":1}"#, false),
            (r#"{"type":"shout"}"#, false),
            ("", false),
        ] {
            assert_eq!(serde_json::from_str::<Control>(text).is_ok(), good, "{text}");
        }
    }
}
