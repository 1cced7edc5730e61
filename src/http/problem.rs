//! The one map from what went wrong to what a client is told: a status, and `application/problem+json` (RFC 9457).
//!
//! The only file that knows which status an error has.

use std::time::Duration;

use actors::error::{ErrorKind, Failure};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde_json::{Map, Value};

/// A refusal on its way to the client.
#[derive(Debug)]
pub(crate) struct Problem {
    /// The HTTP status.
    pub(crate) status: StatusCode,
    /// A stable slug for the exact case.
    pub(crate) slug: &'static str,
    /// What is wrong and what to do.
    pub(crate) detail: String,
    /// Further members of the document. Boxed with the headers: refusals are rare, and results should stay small.
    pub(crate) more: Box<More>,
}

/// What only some problems carry.
#[derive(Debug, Default)]
pub(crate) struct More {
    /// Members beside the standard ones.
    pub(crate) members: Map<String, Value>,
    /// Headers that the answer carries (`Allow`, `Retry-After`).
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// The chain of causes, for the log only.
    pub(crate) cause: Option<String>,
}

impl Problem {
    /// A problem with these parts.
    pub(crate) fn new(status: StatusCode, slug: &'static str, detail: impl Into<String>) -> Self {
        Self { status, slug, detail: detail.into(), more: Box::default() }
    }

    /// 400: the request is malformed.
    pub(crate) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", detail)
    }

    /// 401: nobody is signed in.
    pub(crate) fn unauthenticated() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", "sign in: the token is missing or no longer good")
            .header(header::WWW_AUTHENTICATE, "Bearer")
    }

    /// 403: signed in, without the permission.
    pub(crate) fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", detail)
    }

    /// 404: no such thing.
    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", detail)
    }

    /// 409: it is there already, or in the wrong state.
    pub(crate) fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", detail)
    }

    /// 500: a fault of ours; `cause` is logged and not sent.
    pub(crate) fn internal(cause: impl Into<String>) -> Self {
        let mut problem = Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "a fault of the engine; its log names this request",
        );
        problem.more.cause = Some(cause.into());
        problem
    }

    /// Adds a header to the answer.
    #[must_use]
    pub(crate) fn header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.more.headers.push((name, value));
        }
        self
    }

    /// Adds `Retry-After`, in whole seconds, at least one.
    #[must_use]
    pub(crate) fn retry_after(self, after: Duration) -> Self {
        let seconds = after.as_secs().max(1);
        self.header(header::RETRY_AFTER, &seconds.to_string())
    }

    /// Adds a member to the document.
    #[must_use]
    pub(crate) fn member(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.more.members.insert(name.into(), value.into());
        self
    }

    /// The document, for the request called `instance`.
    pub(crate) fn document(&self, instance: &str) -> Value {
        let mut document = self.more.members.clone();
        document.insert("type".into(), self.slug.into());
        document.insert("title".into(), self.status.canonical_reason().unwrap_or("Error").into());
        document.insert("status".into(), self.status.as_u16().into());
        document.insert("detail".into(), self.detail.clone().into());
        document.insert("instance".into(), instance.into());
        Value::Object(document)
    }
}

/// Which status a kind of error has.
pub(crate) const fn status_of(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::Invalid => StatusCode::BAD_REQUEST,
        ErrorKind::Unauthenticated => StatusCode::UNAUTHORIZED,
        ErrorKind::Forbidden => StatusCode::FORBIDDEN,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Conflict => StatusCode::CONFLICT,
        ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorKind::Range => StatusCode::RANGE_NOT_SATISFIABLE,
        ErrorKind::Unprocessable => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorKind::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        ErrorKind::Overloaded | ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::BadGateway => StatusCode::BAD_GATEWAY,
        ErrorKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
        ErrorKind::InsufficientStorage => StatusCode::INSUFFICIENT_STORAGE,
        ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl<E: Failure> From<E> for Problem {
    fn from(error: E) -> Self {
        let mut problem = Self::new(status_of(error.kind()), error.slug(), error.to_string());
        problem.more.members = error.members();
        problem.more.cause = std::error::Error::source(&error).map(actors::error::chain);
        if problem.status == StatusCode::UNAUTHORIZED {
            // RFC 9110, 15.5.2: every 401 says how to sign in.
            problem = problem.header(header::WWW_AUTHENTICATE, "Bearer");
        }
        match error.retry_after() {
            Some(after) => problem.retry_after(after),
            None => problem,
        }
    }
}
