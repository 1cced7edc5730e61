//! A request as a handler sees it: who asks, from where, with which parameters, and in which form the answer is wanted.
//!
//! Authentication and permissions have been settled before a handler runs. Reading a body is bounded here, and every
//! field of it is accounted for: unknown, duplicated and mistyped ones are a 400 that names them.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use actors::engine::Engine;
use actors::ids::KeyId;
use actors::permission::{Permission, Permissions};
use bytes::{Buf, Bytes, BytesMut};
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, Stream, StreamExt};
use http::{HeaderMap, Method, StatusCode};
use serde::de::{DeserializeOwned, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::problem::Problem;
use crate::config::Config;

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Peer {
    /// Over TCP, from this address.
    Tcp(IpAddr),
    /// Over the Unix socket, from a process of the engine's own user or root: a MASTER session.
    Owner {
        /// The peer's process, as SO_PEERCRED tells it.
        pid: i32,
    },
}

/// Who asks.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// The key that signed in; none over the Unix socket.
    pub(crate) key: Option<KeyId>,
    /// What it may do.
    pub(crate) permissions: Permissions,
    /// When the token ends, Unix seconds; none over the Unix socket.
    pub(crate) expires_at: Option<i64>,
    /// The token's own name (`jti`), for revocation of open connections.
    pub(crate) token_id: Option<Arc<str>>,
}

impl Caller {
    /// The name for logs, audit and ownership: the key's, or `unix` for the owner's socket.
    pub(crate) fn name(&self) -> &str {
        self.key.as_ref().map_or("unix", KeyId::as_str)
    }

    /// Whether the caller may create, change and delete.
    pub(crate) fn writable(&self) -> bool {
        self.permissions.writable()
    }

    /// Whether the caller is MASTER.
    pub(crate) fn is_master(&self) -> bool {
        self.permissions.contains(Permission::Master)
    }
}

/// How many bytes of a body that nobody wants are read all the same, and for how long: a client that is still sending
/// when its connection is closed never sees the answer (RFC 9112, section 9.6).
const LINGER_BYTES: usize = 16 << 20;
/// See [`LINGER_BYTES`].
const LINGER: Duration = Duration::from_secs(5);

/// The bytes of a request's body as they arrive.
pub(crate) struct Body {
    /// None once it has ended.
    stream: Option<BoxStream<'static, Result<Bytes, Problem>>>,
    /// Whether the client waits to be asked for it (`Expect: 100-continue`), so that nothing of it is on its way.
    waits: bool,
}

impl Body {
    /// Makes a handler's body of what warp hands over.
    pub(crate) fn new<S, B>(stream: S, headers: &HeaderMap) -> Self
    where
        S: Stream<Item = Result<B, warp::Error>> + Send + 'static,
        B: Buf,
    {
        let stream = stream.map(|chunk| {
            chunk
                .map(|mut chunk| chunk.copy_to_bytes(chunk.remaining()))
                .map_err(|error| Problem::bad_request(format!("the body broke off: {error}")))
        });
        Self { stream: Some(stream.boxed()), waits: headers.contains_key(http::header::EXPECT) }
    }

    /// A body that has been read already.
    pub(crate) fn whole(bytes: Bytes) -> Self {
        Self { stream: Some(futures_util::stream::once(async { Ok(bytes) }).boxed()), waits: false }
    }

    const fn empty() -> Self {
        Self { stream: None, waits: false }
    }
}

impl Stream for Body {
    type Item = Result<Bytes, Problem>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(None) };
        let chunk = std::task::ready!(stream.poll_next_unpin(context));
        if !matches!(chunk, Some(Ok(_))) {
            self.stream = None;
        }
        Poll::Ready(chunk)
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let Some(mut stream) = self.stream.take().filter(|_| !self.waits) else { return };
        // Most requests have none: no task for them.
        let mut left = match stream.next().now_or_never() {
            Some(Some(Ok(chunk))) => LINGER_BYTES.saturating_sub(chunk.len()),
            Some(_) => return,
            None => LINGER_BYTES,
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(tokio::time::timeout(LINGER, async move {
                while left > 0
                    && let Some(Ok(chunk)) = stream.next().await
                {
                    left = left.saturating_sub(chunk.len());
                }
            }));
        }
    }
}

/// One request.
pub(crate) struct Request {
    /// What the engine runs.
    pub(crate) engine: Arc<Engine>,
    /// The configuration in force when the request came.
    pub(crate) config: Arc<Config>,
    /// Its method.
    pub(crate) method: Method,
    /// The request id, also in `X-Request-Id`.
    pub(crate) id: Arc<str>,
    /// Who asks; for public routes whoever it may be, without permissions.
    pub(crate) caller: Caller,
    /// Where the connection comes from.
    pub(crate) peer: Peer,
    /// The headers.
    pub(crate) headers: HeaderMap,
    /// Whether the answer is wanted in the stream form.
    pub(crate) stream: bool,
    /// The decoded segments that vary, in the path's order.
    pub(crate) params: Vec<(&'static str, String)>,
    /// The decoded query, in its order, without the parameters that the server itself takes.
    pub(crate) query: Vec<(String, String)>,
    /// The body, until it is read.
    pub(crate) body: Option<Body>,
    /// The connection, where an upgrade is wanted.
    pub(crate) upgrade: Option<hyper::upgrade::OnUpgrade>,
    /// Ends when the engine goes down, with whether clients should come back.
    pub(crate) shutdown: tokio::sync::watch::Receiver<super::Phase>,
    /// The application that serves it.
    pub(crate) app: Arc<super::App>,
    /// What the call is about, for the audit.
    pub(crate) subject: super::subject::Subject,
}

impl Request {
    /// A segment of the path that varies.
    pub(crate) fn param(&self, name: &str) -> &str {
        self.params.iter().find(|(key, _)| *key == name).map_or("", |(_, value)| value)
    }

    /// A header's value, if it is there once and is text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The query as a `T`. Flags are `true`, `false`, `1`, `0`, or nothing for true; lists are repeated or
    /// comma-separated.
    ///
    /// A `T` whose fields are text, numbers, booleans, or lists of text, with `deny_unknown_fields`, says all there is to say.
    ///
    /// # Errors
    /// 400 that names the parameter.
    pub(crate) fn query<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        let mut fields = Map::new();
        for (name, value) in &self.query {
            add_parameter(&mut fields, name, value);
        }
        super::query::from_fields(fields)
    }

    /// The whole JSON body as a `T`, with `identity`, `identities`, `columns`, `rows` taken from the query where the body
    /// does not say them.
    ///
    /// # Errors
    /// 400, 413 or 415, saying what is wrong and where.
    pub(crate) async fn json<T: DeserializeOwned>(&mut self) -> Result<T, Problem> {
        let (limit, time) = (self.config.server.max_json_body.0, self.config.server.body_timeout.0);
        let bytes = tokio::time::timeout(time, self.bytes(limit)).await.map_err(|_| {
            Problem::new(StatusCode::REQUEST_TIMEOUT, "body-too-slow", "the body did not arrive in time")
        })??;
        if !bytes.is_empty() {
            self.expect_json()?;
        }
        let mut value =
            if bytes.iter().all(u8::is_ascii_whitespace) { Value::Object(Map::new()) } else { strict_json(&bytes)? };
        if let Value::Object(fields) = &mut value {
            let mut from_query = Map::new();
            for (name, text) in &self.query {
                match name.as_str() {
                    "identity" => {
                        from_query.insert(name.clone(), Value::String(text.clone()));
                    }
                    "identities" => add_list(&mut from_query, name, text),
                    "columns" | "rows" => {
                        let number: u64 = text
                            .parse()
                            .map_err(|_| Problem::bad_request(format!("`{name}` in the query is not a number")))?;
                        from_query.insert(name.clone(), number.into());
                    }
                    _ => return Err(Problem::bad_request(format!("unknown query parameter `{name}`"))),
                }
            }
            for (name, from_query) in from_query {
                fields.entry(name).or_insert(from_query);
            }
            self.subject.note_fields(fields);
        }
        typed(value)
    }

    fn expect_json(&self) -> Result<(), Problem> {
        let Some(value) = self.headers.get(http::header::CONTENT_TYPE) else { return Ok(()) };
        let essence = value.to_str().unwrap_or("").split(';').next().unwrap_or("").trim().to_ascii_lowercase();
        // curl's -d sends the form type unless it is told otherwise, and so do the user's own examples in places.
        let known = ["", "application/json", "application/x-www-form-urlencoded", "text/plain"];
        if known.contains(&essence.as_str()) || essence.ends_with("+json") {
            return Ok(());
        }
        Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported-media-type",
            "the body must be `application/json`",
        ))
    }

    /// The body as it arrives; empty when it was taken already.
    pub(crate) fn take_body(&mut self) -> Body {
        self.body.take().unwrap_or_else(Body::empty)
    }

    /// The whole body, if it is not longer than `limit` bytes.
    ///
    /// # Errors
    /// 413 past the limit; 400 when the client breaks off.
    pub(crate) async fn bytes(&mut self, limit: u64) -> Result<Bytes, Problem> {
        let too_large = || {
            Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "body-too-large",
                format!("the body is longer than {limit} bytes"),
            )
        };
        let announced = self.header("content-length").and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        if announced > limit {
            return Err(too_large());
        }
        let mut body = self.take_body();
        let mut bytes = BytesMut::new();
        while let Some(chunk) = body.next().await {
            let chunk = chunk?;
            if (bytes.len() + chunk.len()) as u64 > limit {
                return Err(too_large());
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    }
}

fn add_parameter(fields: &mut Map<String, Value>, name: &str, text: &str) {
    match fields.get_mut(name) {
        None => {
            fields.insert(name.into(), Value::String(text.into()));
        }
        Some(Value::Array(list)) => list.push(Value::String(text.into())),
        Some(present) => {
            let first = present.take();
            *present = Value::Array(vec![first, Value::String(text.into())]);
        }
    }
}

fn add_list(fields: &mut Map<String, Value>, name: &str, text: &str) {
    let more = text.split(',').map(|item| Value::String(item.into()));
    match fields.entry(name).or_insert_with(|| Value::Array(Vec::new())) {
        Value::Array(list) => list.extend(more),
        other => *other = Value::Array(more.collect()),
    }
}

/// Turns a JSON value into a `T`; an error says the path.
///
/// # Errors
/// 400 that names the field.
pub(crate) fn typed<T: DeserializeOwned>(value: Value) -> Result<T, Problem> {
    serde_path_to_error::deserialize(super::exact::Exact(value)).map_err(|error| {
        let path = error.path().to_string();
        let reason = error.into_inner();
        if path == "." {
            Problem::bad_request(format!("the body does not fit: {reason}"))
        } else {
            Problem::bad_request(format!("`{path}` does not fit: {reason}")).member("field", path)
        }
    })
}

/// Reads JSON in which every name of every object stands once.
///
/// # Errors
/// 400 with line and column.
pub(crate) fn strict_json(bytes: &[u8]) -> Result<Value, Problem> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Strict
        .deserialize(&mut reader)
        .and_then(|value| reader.end().map(|()| value))
        .map_err(|error| Problem::bad_request(format!("the body is not good JSON: {error}")))?;
    Ok(value)
}

struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Self)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = entries.next_key::<String>()? {
            let value = entries.next_value_seed(Self)?;
            if map.contains_key(&name) {
                return Err(serde::de::Error::custom(format_args!("duplicate field `{name}`")));
            }
            map.insert(name, value);
        }
        Ok(Value::Object(map))
    }
}
