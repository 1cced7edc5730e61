//! A client that hides nothing: every request a connection of its own, the answer as it came.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use super::within;

/// Where requests go, and with which token.
#[derive(Clone, Debug)]
pub struct Client {
    address: SocketAddr,
    token: Option<String>,
}

impl Client {
    /// A client of the engine at `address`.
    pub fn new(address: SocketAddr, token: Option<String>) -> Self {
        Self { address, token }
    }

    /// A request; `path` follows `/api/v1` unless it begins with `/api` or `/metrics` itself.
    pub fn request(&self, method: Method, path: &str) -> Request {
        let whole = path.starts_with("/api") || path.starts_with("/metrics") || path.starts_with("http");
        let target = if whole { path.to_owned() } else { format!("/api/v1{path}") };
        let mut headers = HeaderMap::new();
        let host = HeaderValue::from_str(&self.address.to_string()).expect("an address is a header value");
        headers.insert(header::HOST, host);
        let request = Request { address: self.address, method, target, headers, body: Bytes::new() };
        match &self.token {
            Some(token) => request.header("authorization", &format!("Bearer {token}")),
            None => request,
        }
    }

    /// GET.
    pub fn get(&self, path: &str) -> Request {
        self.request(Method::GET, path)
    }

    /// HEAD.
    pub fn head(&self, path: &str) -> Request {
        self.request(Method::HEAD, path)
    }

    /// POST.
    pub fn post(&self, path: &str) -> Request {
        self.request(Method::POST, path)
    }

    /// PUT.
    pub fn put(&self, path: &str) -> Request {
        self.request(Method::PUT, path)
    }

    /// PATCH.
    pub fn patch(&self, path: &str) -> Request {
        self.request(Method::PATCH, path)
    }

    /// DELETE.
    pub fn delete(&self, path: &str) -> Request {
        self.request(Method::DELETE, path)
    }
}

/// A request on its way.
#[derive(Clone, Debug)]
pub struct Request {
    address: SocketAddr,
    method: Method,
    target: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Request {
    /// Sets a header in place of one of its name.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let name: HeaderName = name.parse().expect("a header name");
        self.headers.insert(name, HeaderValue::from_str(value).expect("a header value"));
        self
    }

    /// A JSON body.
    pub fn json(self, body: &Value) -> Self {
        self.header("content-type", "application/json").body(body.to_string())
    }

    /// A body as it is.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Asks for the stream form.
    pub fn stream(self) -> Self {
        self.header("accept", "application/stream+json")
    }

    /// Sends it, and returns as soon as the head of the answer is there.
    ///
    /// # Errors
    /// When the connection fails.
    pub async fn open(self) -> Result<http::Response<Incoming>, Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let mut request = http::Request::builder().method(self.method).uri(self.target).body(Full::new(self.body))?;
        *request.headers_mut() = self.headers;
        Ok(sender.send_request(request).await?)
    }

    /// Sends it, and reads the whole answer.
    ///
    /// # Errors
    /// When the connection fails.
    pub async fn try_send(self) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
        let response = self.open().await?;
        let (head, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Answer { status: head.status, headers: head.headers, body })
    }

    /// Sends it, and reads the whole answer.
    ///
    /// # Panics
    /// When the connection fails.
    pub async fn send(self) -> Answer {
        let what = format!("{} {}", self.method, self.target);
        within(&what, self.try_send()).await.unwrap_or_else(|error| panic!("{what}: {error}"))
    }
}

/// An answer, whole.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Panics
    /// When the status is another, or the body is not JSON.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The detail of a refusal with this status, whose document is checked for all that a refusal must say.
    ///
    /// # Panics
    /// When it is no such refusal.
    #[track_caller]
    pub fn refusal(&self, status: u16) -> String {
        let document = self.expect(status);
        assert_eq!(self.header("content-type"), "application/problem+json");
        for member in ["type", "title", "detail", "instance"] {
            assert!(document[member].as_str().is_some_and(|text| !text.is_empty()), "`{member}` in {document}");
        }
        assert_eq!(document["status"], status);
        assert_eq!(document["instance"], self.header("x-request-id"));
        assert!(!self.header("x-error-message").is_empty(), "{document}");
        document["detail"].as_str().unwrap_or_default().to_owned()
    }

    /// A header's text; empty when it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The chunks of the stream form, whose frame is checked line by line.
    ///
    /// # Panics
    /// When the body is not in the stream form.
    #[track_caller]
    pub fn chunks(&self) -> Vec<Value> {
        let text = self.text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.first(), Some(&"["), "{text}");
        assert_eq!(lines.last(), Some(&"]"), "{text}");
        let inner = &lines[1..lines.len() - 1];
        let chunks = inner.iter().enumerate().map(|(n, line)| {
            let line = if n == 0 { line } else { line.strip_prefix(',').unwrap_or_else(|| panic!("{line}")) };
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
        });
        let chunks: Vec<Value> = chunks.collect();
        assert_eq!(chunks[0]["kind"], "status", "{text}");
        chunks
    }

    /// The payloads of the stream form's entities.
    #[track_caller]
    pub fn entities(&self) -> Vec<Value> {
        self.chunks()
            .into_iter()
            .filter(|chunk| chunk["kind"] == "entity")
            .map(|chunk| chunk["payload"].clone())
            .collect()
    }
}
