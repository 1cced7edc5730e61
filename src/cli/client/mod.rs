//! The HTTP client of the command line: the same API as everybody's, over TCP or the engine's Unix socket.
//!
//! It signs in by itself when the engine asks for it, keeps its token in memory only, keeps idle connections for the next
//! call, and turns every refusal into one clear line. Bodies stream both ways; nothing is held whole unless it is asked
//! for whole.

pub(crate) mod agent;
pub(crate) mod chunks;
pub(crate) mod endpoint;
pub(crate) mod identity;
mod reply;
pub(crate) mod rsa;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde_json::Value;

pub(crate) use self::endpoint::Endpoint;
pub(crate) use self::reply::Reply;
use super::error::CliError;
use super::output::Output;
use super::settings::Settings;

/// How many idle connections are kept.
const IDLE_CONNECTIONS: usize = 16;
/// How long a 429 or 503 may ask us to wait before we rather tell it.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// How often an answer that says "try again" is followed.
const TRIES: u32 = 3;
/// What stands in a path or a query as itself.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

pub(crate) type Body = UnsyncBoxBody<Bytes, std::io::Error>;
type Sender = SendRequest<Body>;

/// Text as one segment of a path, or a value of a query.
pub(crate) fn encode(text: &str) -> String {
    utf8_percent_encode(text, PLAIN).to_string()
}

/// One call of the API.
pub(crate) struct Call {
    method: Method,
    path: String,
    query: Vec<(&'static str, String)>,
    headers: Vec<(HeaderName, HeaderValue)>,
    json: Option<Bytes>,
    body: Option<Body>,
    stream: bool,
}

impl Call {
    /// A call of this path, relative to the base, with its slashes: `/shell/`.
    pub(crate) fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            query: Vec::new(),
            headers: Vec::new(),
            json: None,
            body: None,
            stream: false,
        }
    }

    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    pub(crate) fn put(path: impl Into<String>) -> Self {
        Self::new(Method::PUT, path)
    }

    pub(crate) fn post(path: impl Into<String>) -> Self {
        Self::new(Method::POST, path)
    }

    pub(crate) fn delete(path: impl Into<String>) -> Self {
        Self::new(Method::DELETE, path)
    }

    #[must_use]
    pub(crate) fn query(mut self, name: &'static str, value: impl ToString) -> Self {
        self.query.push((name, value.to_string()));
        self
    }

    #[must_use]
    pub(crate) fn query_if(self, name: &'static str, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.query(name, value),
            None => self,
        }
    }

    #[must_use]
    pub(crate) fn header(mut self, name: HeaderName, value: impl AsRef<str>) -> Self {
        if let Ok(value) = HeaderValue::from_str(value.as_ref()) {
            self.headers.push((name, value));
        }
        self
    }

    /// A body of JSON.
    #[must_use]
    pub(crate) fn json<T: Serialize>(mut self, value: &T) -> Self {
        let bytes = serde_json::to_vec(value).expect("what the command line sends are plain maps and lists");
        self.json = Some(bytes.into());
        self
    }

    /// A body of bytes; such a call is sent once, for its body cannot be had again.
    #[must_use]
    pub(crate) fn body(mut self, body: Body) -> Self {
        self.body = Some(body);
        self
    }

    /// Asks for the stream form.
    #[must_use]
    pub(crate) fn streamed(mut self) -> Self {
        self.stream = true;
        self
    }

    fn target(&self, base: &str) -> String {
        let mut target = format!("{base}{}", self.path);
        for (index, (name, value)) in self.query.iter().enumerate() {
            target.push(if index == 0 { '?' } else { '&' });
            target.push_str(name);
            target.push('=');
            target.push_str(&encode(value));
        }
        target
    }
}

/// An engine, as a command talks to it.
pub(crate) struct Client {
    endpoint: Endpoint,
    key: Option<PathBuf>,
    /// Whether the peer knows who we are without a token.
    trusted: bool,
    token: Mutex<Option<String>>,
    sign_in: tokio::sync::Mutex<()>,
    idle: Arc<Mutex<VecDeque<Sender>>>,
    output: Output,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Client {
    /// The engine that the settings mean: a remote one, or that of the data directory.
    ///
    /// # Errors
    /// The configured address makes no sense.
    pub(crate) fn new(settings: &Settings, output: Output) -> Result<Arc<Self>, CliError> {
        let address = &settings.sections.connection.address;
        let endpoint = if address.is_empty() {
            Endpoint::Unix(settings.socket())
        } else {
            Endpoint::parse(address).map_err(CliError::Usage)?
        };
        Ok(Arc::new(Self {
            trusted: matches!(endpoint, Endpoint::Unix(_)),
            endpoint,
            key: settings.key(),
            token: Mutex::new(None),
            sign_in: tokio::sync::Mutex::new(()),
            idle: Arc::default(),
            output,
        }))
    }

    /// The engine of the data directory, whatever remote is configured.
    pub(crate) fn local(settings: &Settings, output: Output) -> Result<Arc<Self>, CliError> {
        let mut settings = settings.clone();
        settings.sections.connection.address.clear();
        Self::new(&settings, output)
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Sends a call and gives back its answer, once it is known to be good.
    ///
    /// Signs in where the engine asks for it, and waits and tries again where it is told to (a call whose body is a
    /// stream is not repeated).
    ///
    /// # Errors
    /// The engine's refusal, or that it is out of reach.
    pub(crate) async fn send(&self, mut call: Call) -> Result<Reply, CliError> {
        let repeatable = call.body.is_none();
        if !repeatable && !self.trusted && lock(&self.token).is_none() {
            self.renew_token(None).await?;
        }
        let mut tries = 0;
        loop {
            tries += 1;
            let token = lock(&self.token).clone();
            let reply = self.exchange(&mut call, token.as_deref()).await?;
            let status = reply.status().as_u16();
            if status < 400 {
                return Ok(reply);
            }
            let retry_after = reply.retry_after();
            let refusal = reply.into_refusal().await;
            if !repeatable || tries > TRIES {
                return Err(refusal);
            }
            match status {
                401 if !call.path.starts_with("/auth/verify") => {
                    self.renew_token(token.as_deref()).await.map_err(|error| {
                        // Without any key the engine's own words are the better ones.
                        if self.trusted { refusal } else { error }
                    })?
                }
                429 | 503 if retry_after.is_some_and(|wait| wait <= LONGEST_WAIT) => {
                    tokio::time::sleep(retry_after.unwrap_or_default().max(Duration::from_millis(100))).await;
                }
                _ => return Err(refusal),
            }
        }
    }

    /// The JSON value that a call answers with.
    pub(crate) async fn value(&self, call: Call) -> Result<Value, CliError> {
        self.send(call).await?.value().await
    }

    /// One exchange on one connection, whatever its answer.
    async fn exchange(&self, call: &mut Call, token: Option<&str>) -> Result<Reply, CliError> {
        let request = self.request(call, token)?;
        self.output.detail(format!("{} {}", request.method(), self.endpoint_target(request.uri())));
        let mut request = request;
        loop {
            let (mut sender, fresh) = match self.idle_sender().await {
                Some(sender) => (sender, false),
                None => (self.open().await?, true),
            };
            match sender.try_send_request(request).await {
                Ok(response) => {
                    self.output.detail(format!("  {}", response.status()));
                    return Ok(Reply::new(response, sender, self.idle.clone(), self.endpoint.to_string()));
                }
                Err(mut error) => match error.take_message() {
                    // The idle connection had been closed in the meantime, and nothing was sent.
                    Some(unsent) if !fresh => request = unsent,
                    _ => return Err(self.unreachable(error.into_error())),
                },
            }
        }
    }

    fn endpoint_target(&self, uri: &http::Uri) -> String {
        format!("{}{uri}", self.endpoint)
    }

    fn request(&self, call: &mut Call, token: Option<&str>) -> Result<Request<Body>, CliError> {
        let target = call.target(self.endpoint.base());
        let body = match (call.body.take(), &call.json) {
            (Some(body), _) => body,
            (None, json) => whole(json.clone().unwrap_or_default()),
        };
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(&target)
            .header(header::HOST, self.endpoint.authority())
            .header(header::USER_AGENT, concat!("dxflow/", env!("CARGO_PKG_VERSION")))
            .header(header::ACCEPT, if call.stream { "application/stream+json" } else { "application/json" });
        if call.json.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        for (name, value) in &call.headers {
            request = request.header(name, value);
        }
        request.body(body).map_err(|error| CliError::Usage(format!("`{target}` cannot be asked for: {error}")))
    }

    async fn idle_sender(&self) -> Option<Sender> {
        loop {
            let mut sender = lock(&self.idle).pop_back()?;
            // At once for a connection whose last answer has been read, an error for one that was closed.
            if sender.ready().await.is_ok() {
                return Some(sender);
            }
        }
    }

    async fn open(&self) -> Result<Sender, CliError> {
        let stream = self.endpoint.connect().await.map_err(|error| self.unreachable(error))?;
        let io = hyper_util::rt::TokioIo::new(stream);
        let (sender, connection) =
            hyper::client::conn::http1::handshake(io).await.map_err(|error| self.unreachable(error))?;
        tokio::spawn(async move {
            // Its end is seen by whoever waits for an answer on it.
            let _ = connection.await;
        });
        Ok(sender)
    }

    /// The error that says that nobody answers there, and for the local engine what to do.
    pub(crate) fn unreachable(&self, error: impl std::error::Error) -> CliError {
        let mut reason = crate::cli::error::chain(&error);
        if let Endpoint::Unix(path) = &self.endpoint
            && (!path.exists() || reason.contains("refused"))
        {
            reason = "it does not run (start it with `dxflow boot up`)".into();
        }
        CliError::Unreachable { address: self.endpoint.to_string(), reason }
    }

    /// Signs in anew, unless somebody else just did since `stale` was used.
    async fn renew_token(&self, stale: Option<&str>) -> Result<(), CliError> {
        let _turn = self.sign_in.lock().await;
        if lock(&self.token).as_deref() != stale {
            return Ok(());
        }
        let token = self.new_token(None).await?;
        *lock(&self.token) = Some(token);
        Ok(())
    }

    /// The token for connections of one's own (WebSockets); none where the peer knows us without.
    pub(crate) async fn token(&self) -> Result<Option<String>, CliError> {
        if self.trusted {
            return Ok(None);
        }
        if lock(&self.token).is_none() {
            self.renew_token(None).await?;
        }
        Ok(lock(&self.token).clone())
    }

    /// Forgets the token: the engine no longer takes it.
    pub(crate) fn forget_token(&self) {
        *lock(&self.token) = None;
    }

    /// Signs in and gives the token.
    pub(crate) async fn new_token(&self, lifetime: Option<String>) -> Result<String, CliError> {
        let mut failure = None;
        for identity in identity::candidates(self.key.as_deref()).await? {
            match self.sign_in_as(&identity, lifetime.as_deref()).await {
                Ok(token) => return Ok(token),
                Err(error) if error.status() == Some(401) => {
                    self.output.detail(format!("the engine does not know the key {identity}"));
                    failure.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(failure.unwrap_or_else(|| {
            CliError::Failed(
                "there is no key to sign in with: say which (`dxflow config set connection-key PATH`, or DXFLOW_KEY), or \
                 add one to the ssh-agent"
                    .into(),
            )
        }))
    }

    async fn sign_in_as(&self, identity: &identity::Identity, lifetime: Option<&str>) -> Result<String, CliError> {
        let challenge = self.public(&mut Call::get("/auth/challenge/")).await?;
        let text = |name: &str| challenge.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let signature = identity.sign(text("nonce").as_bytes()).await?;
        let mut answer = serde_json::json!({ "identity": text("identity"), "signature": signature });
        if let Some(lifetime) = lifetime {
            answer["lifetime"] = lifetime.into();
        }
        let verified = self.public(&mut Call::post("/auth/verify/").json(&answer)).await?;
        match verified.get("token").and_then(Value::as_str) {
            Some(token) => Ok(token.to_owned()),
            None => Err(CliError::Failed("the engine answered the sign-in without a token".into())),
        }
    }

    /// A call without a token. A sign-in must not sign in.
    async fn public(&self, call: &mut Call) -> Result<Value, CliError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let reply = self.exchange(call, None).await?;
            if reply.status().is_success() {
                return reply.value().await;
            }
            let wait = reply.retry_after().filter(|wait| *wait <= LONGEST_WAIT && tries <= TRIES);
            match wait {
                Some(wait) => tokio::time::sleep(wait.max(Duration::from_millis(100))).await,
                None => return Err(reply.into_refusal().await),
            }
        }
    }
}

/// A body that is there as a whole.
pub(crate) fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}
