//! `Idempotency-Key`: a changing request that is sent again has one effect, and the same answer for a day.
//!
//! - The key stands for one request of one caller: method, path, query, wanted form and body. With another: 422.
//! - While the first is being carried out: 409 with `Retry-After`. It goes on when its client leaves.
//! - Its answer is kept before it is sent: status, headers and body, sealed (see [`seal`]), through restarts and `kill -9`.
//!   One that is longer than `idempotency.max_answer` is not: then the retry gets a 409 that says that it was done.
//! - Cut off by the end of the process: 409 that says that the outcome is not known. It is never carried out twice.
//! - Not kept are 408, 429 and 503, after which nothing has happened, and refusals of uploads, which are never in part.
//! - The bytes of an upload are not part of what the key stands for: they are not held in memory to be hashed. Its length,
//!   range and digest are, as the headers say them.
//! - Public routes take no notice: a challenge works once as it is, and a stranger has no identity to keep answers for.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actors::store::idempotency::{Begun, RequestKey};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, TryStreamExt, stream};
use http::{HeaderName, HeaderValue, StatusCode};
use http_body_util::BodyExt;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use warp::reply::Response;

use super::audit::Pending;
use super::problem::Problem;
use super::request::{Body, Request};
use super::route::{Access, Answer, Route};
use super::{answer, dispatch};

/// The request's header.
pub(crate) const HEADER: &str = "idempotency-key";
/// Stands in an answer that was given before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// The longest key.
const MAX_KEY: usize = 255;
/// The headers that tell one upload from another.
const UPLOAD_HEADERS: [&str; 4] = ["content-length", "content-range", "digest", "x-content-sha256"];

/// The requests with a key that are being carried out.
#[derive(Debug, Default)]
pub(crate) struct InFlight(Mutex<HashSet<RequestKey>>);

/// One of them, until it is dropped.
struct Carried {
    app: Arc<super::App>,
    key: RequestKey,
}

impl Carried {
    fn enter(request: &Request, key: &RequestKey) -> Result<Self, Problem> {
        let mut present = request.app.in_flight.0.lock().unwrap_or_else(PoisonError::into_inner);
        if present.len() >= request.config.server.max_requests as usize {
            let detail = "too many requests with a key are being carried out; try again";
            let busy = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", detail);
            return Err(busy.retry_after(Duration::from_secs(1)));
        }
        if !present.insert(key.clone()) {
            let detail = "the request with this `Idempotency-Key` is being carried out; ask again for its answer";
            let busy = Problem::new(StatusCode::CONFLICT, "idempotency-in-flight", detail);
            return Err(busy.retry_after(Duration::from_secs(1)));
        }
        Ok(Self { app: Arc::clone(&request.app), key: key.clone() })
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        self.app.in_flight.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

/// The client's key, where the route takes one.
///
/// # Errors
/// 400 for one that is none.
pub(crate) fn key_of(route: &Route, request: &Request) -> Result<Option<String>, Problem> {
    if !route.changes || route.access == Access::Public {
        return Ok(None);
    }
    let mut values = request.headers.get_all(HEADER).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let text = value.to_str().ok().filter(|text| (1..=MAX_KEY).contains(&text.len()));
    match text.filter(|_| values.next().is_none()) {
        Some(text) => Ok(Some(text.to_owned())),
        None => {
            Err(Problem::bad_request(format!("`Idempotency-Key` must stand once, 1 to {MAX_KEY} ASCII characters")))
        }
    }
}

/// Carries the request out, unless it was before.
pub(crate) async fn once(text: &str, route: &Route, mut request: Request, audit: Option<Pending>) -> Answer {
    let (found, carried, secret) = match begin(text, route, &mut request).await {
        Ok(begun) => begun,
        Err(problem) => return recorded(audit, Err(problem)).await,
    };
    match found {
        Begun::New => {}
        other => return recorded(audit, again(other, &secret)).await,
    }
    // A task of its own: it goes on when the client leaves.
    let route = route.clone();
    let work = tokio::spawn(tracing::Instrument::in_current_span(async move {
        let (in_stream, id) = (request.stream, Arc::clone(&request.id));
        let settings = request.config.idempotency;
        let uploads = route.docs.raw_body;
        let answer = recorded(audit, dispatch::run(&route, request).await).await;
        let response = answer.unwrap_or_else(|problem| dispatch::refusal(&problem, in_stream, &id));
        keep(&carried, response, &secret, uploads, settings.max_answer.0).await
    }));
    work.await.unwrap_or_else(|error| Err(Problem::internal(error.to_string())))
}

async fn recorded(audit: Option<Pending>, answer: Answer) -> Answer {
    if let Some(audit) = audit {
        audit.end(&answer).await;
    }
    answer
}

/// What opens the kept answer, and tells requests apart; made of the client's key, and kept nowhere.
type Secret = [u8; 32];

fn digest_of(label: &str, parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in [label.as_bytes()].iter().chain(parts) {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// Finds out what is known of the request, and writes it down where nothing is.
async fn begin(text: &str, route: &Route, request: &mut Request) -> Result<(Begun, Carried, Secret), Problem> {
    // Keys of one name that were registered one after the other are not one caller.
    let registration = request.caller.token_id.as_deref().map_or("", |jti| jti.split('-').next().unwrap_or(""));
    let caller = format!("{}#{registration}", request.caller.name());
    let secret = digest_of("dxflow idempotency seal 1", &[caller.as_bytes(), text.as_bytes()]);
    let key =
        RequestKey { digest: digest_of("dxflow idempotency key 1", &[caller.as_bytes(), text.as_bytes()]), caller };
    let fingerprint = fingerprint(route, request, &secret).await?;
    let carried = Carried::enter(request, &key)?;
    let begun = request.engine.store.begin_once(key, fingerprint, request.config.idempotency).await?;
    Ok((begun, carried, secret))
}

async fn fingerprint(route: &Route, request: &mut Request, secret: &Secret) -> Result<[u8; 32], Problem> {
    let mut parts: Vec<Vec<u8>> =
        vec![secret.to_vec(), route.method.as_str().into(), route.path.into(), vec![u8::from(request.stream)]];
    for (name, value) in &request.params {
        parts.extend([name.as_bytes().to_vec(), value.as_bytes().to_vec()]);
    }
    for (name, value) in &request.query {
        parts.extend([name.as_bytes().to_vec(), value.as_bytes().to_vec()]);
    }
    if route.docs.raw_body {
        let told = |name| request.headers.get(name).map_or_else(Vec::new, |value| value.as_bytes().to_vec());
        parts.extend(UPLOAD_HEADERS.map(told));
    } else {
        let (limit, time) = (request.config.server.max_json_body.0, request.config.server.body_timeout.0);
        let body = tokio::time::timeout(time, request.bytes(limit)).await.map_err(|_| {
            Problem::new(StatusCode::REQUEST_TIMEOUT, "body-too-slow", "the body did not arrive in time")
        })??;
        request.body = Some(Body::whole(body.clone()));
        parts.push(body.to_vec());
    }
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    Ok(digest_of("dxflow idempotency request 1", &parts))
}

/// The answer to a request that is not carried out.
fn again(found: Begun, secret: &Secret) -> Answer {
    let conflict = |slug, detail| Problem::new(StatusCode::CONFLICT, slug, detail);
    let full = |status, slug, detail| Problem::new(status, slug, detail).retry_after(Duration::from_secs(60));
    Err(match found {
        Begun::Answered { status, sealed: Some(sealed) } => {
            match open(secret, sealed).and_then(|kept| kept.answer(status)) {
                Some(response) => return Ok(response),
                None => Problem::internal("a kept answer cannot be opened"),
            }
        }
        Begun::Answered { sealed: None, status } => {
            conflict("idempotency-answer-not-kept", "the request was carried out; its answer was too long to be kept")
                .member("answered", status)
        }
        Begun::Unanswered | Begun::New => conflict(
            "idempotency-outcome-unknown",
            "the engine ended while it carried the request out, and does not know how far it came; look at what it was \
             about, and use another key",
        ),
        Begun::Another => Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency-key-reused",
            "this `Idempotency-Key` was used for another request; use another key",
        ),
        Begun::CallerFull => full(
            StatusCode::TOO_MANY_REQUESTS,
            "idempotency-too-many",
            "this key has used `Idempotency-Key` as often as it may (`idempotency.max_records_per_key`)",
        ),
        Begun::Full => full(
            StatusCode::SERVICE_UNAVAILABLE,
            "idempotency-full",
            "no more answers can be kept (`idempotency.max_records`, `idempotency.max_bytes`)",
        ),
    })
}

/// An answer as it is kept, beside its status.
#[derive(Deserialize, Serialize)]
struct Kept {
    headers: Vec<(String, String)>,
    body: serde_bytes_as_base64::Base64,
}

mod serde_bytes_as_base64 {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    /// Bytes in JSON.
    pub(super) struct Base64(pub(super) Vec<u8>);

    impl Serialize for Base64 {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_str(&STANDARD.encode(&self.0))
        }
    }

    impl<'de> Deserialize<'de> for Base64 {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let text = String::deserialize(deserializer)?;
            STANDARD.decode(text).map(Self).map_err(serde::de::Error::custom)
        }
    }
}

impl Kept {
    fn answer(self, status: u16) -> Option<Response> {
        let mut response = answer::bytes(StatusCode::from_u16(status).ok()?, "application/json", self.body.0);
        for (name, value) in self.headers {
            let (name, value) = (name.parse::<HeaderName>().ok()?, HeaderValue::from_str(&value).ok()?);
            response.headers_mut().insert(name, value);
        }
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
        Some(response)
    }
}

/// Keeps the answer, and gives it back to be sent.
async fn keep(carried: &Carried, response: Response, secret: &Secret, uploads: bool, limit: u64) -> Answer {
    let store = &carried.app.engine.store;
    let status = response.status();
    let (head, mut body) = response.into_parts();
    let mut bytes = BytesMut::new();
    let mut whole = true;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Problem::internal(error.to_string()))?;
        if let Ok(data) = frame.into_data() {
            bytes.extend_from_slice(&data);
        }
        if bytes.len() as u64 > limit {
            whole = false;
            break;
        }
    }
    let bytes = bytes.freeze();
    let retry =
        matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
    let done = if retry || uploads && !status.is_success() {
        store.forget_request(carried.key.clone()).await
    } else {
        let headers = head.headers.iter().filter_map(|(name, value)| {
            let length = *name == http::header::CONTENT_LENGTH || *name == http::header::TRANSFER_ENCODING;
            (!length).then(|| value.to_str().ok().map(|value| (name.to_string(), value.to_owned())))?
        });
        let kept = Kept { headers: headers.collect(), body: serde_bytes_as_base64::Base64(bytes.to_vec()) };
        let sealed = whole.then(|| seal(secret, &kept)).flatten();
        store.keep_answer(carried.key.clone(), status.as_u16(), sealed).await
    };
    if let Err(error) = done {
        tracing::error!(error = actors::error::chain(&error), "an answer could not be kept for its `Idempotency-Key`");
    }
    let mut response = if whole {
        answer::bytes(status, "application/json", bytes)
    } else {
        let first = stream::once(async move { Ok::<Bytes, std::io::Error>(bytes) });
        let rest = body.into_data_stream().map_err(std::io::Error::other);
        answer::streamed("application/json", first.chain(rest))
    };
    *response.status_mut() = status;
    *response.headers_mut() = head.headers;
    Ok(response)
}

/// Seals an answer: whoever reads the database learns nothing of it, nor of the client's key.
fn seal(secret: &Secret, kept: &Kept) -> Option<Vec<u8>> {
    let mut nonce = [0; NONCE_LEN];
    getrandom::fill(&mut nonce).ok()?;
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, secret).ok()?);
    let mut text = serde_json::to_vec(kept).ok()?;
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut text).ok()?;
    Some([&nonce[..], &text].concat())
}

fn open(secret: &Secret, sealed: Vec<u8>) -> Option<Kept> {
    let (nonce, text) = sealed.split_at_checked(NONCE_LEN)?;
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, secret).ok()?);
    let mut text = text.to_vec();
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let text = key.open_in_place(nonce, Aad::empty(), &mut text).ok()?;
    serde_json::from_slice(text).ok()
}
