//! From a request to its answer: host, route, sign-in, permission, handler, in that order, in one place.
//!
//! Refusals come in the order 401, 403, then whatever the handler says. A handler that panics costs its request a 500
//! and nothing else.

use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use actors::permission::{Permission, Permissions};
use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use tracing::Instrument;
use warp::reply::Response;

use super::App;
use super::answer::{self, STREAM_TYPE};
use super::audit::{self, Pending};
use super::idempotency;
use super::origin::{self, Origin};
use super::problem::Problem;
use super::request::{Body, Caller, Peer, Request};
use super::route::{Access, Answer, Route};
use super::subject::Subject;

/// What arrives with a request beside its headers and its body.
#[derive(Clone)]
pub(crate) struct Arrival {
    pub(crate) peer: Peer,
    /// The address at which the client reached us.
    pub(crate) local: Option<IpAddr>,
    pub(crate) method: Method,
    pub(crate) uri: http::Uri,
    pub(crate) upgrade: Option<hyper::upgrade::OnUpgrade>,
}

/// The bases under which the API answers, the longer first.
const BASES: [&str; 2] = ["/api/v1", "/api"];

/// Answers one request.
pub(crate) async fn handle(app: Arc<App>, arrival: Arrival, headers: HeaderMap, body: Body) -> Response {
    let id = app.request_id();
    let span = tracing::info_span!("request", id = %id);
    async move {
        let started = Instant::now();
        let (method, path) = (arrival.method.clone(), arrival.uri.path().to_owned());
        let in_stream = wants_stream(&headers, arrival.uri.query());
        let origin = origin::origin_of(&headers, arrival.local, &app.config.get().server);
        let allow_origin = (origin == Origin::Configured).then(|| headers.get(header::ORIGIN).cloned()).flatten();
        let answer = answer(&app, arrival, headers, body, origin, in_stream, &id).await;
        let mut response = match answer {
            Ok(response) => response,
            Err(problem) => refusal(&problem, in_stream, &id),
        };
        finish(&mut response, &id, allow_origin);
        app.counters.answered(response.status());
        tracing::debug!(
            %method, path, status = response.status().as_u16(), micros = started.elapsed().as_micros() as u64,
            "answered"
        );
        response
    }
    .instrument(span)
    .await
}

async fn answer(
    app: &Arc<App>,
    arrival: Arrival,
    headers: HeaderMap,
    body: Body,
    origin: Origin,
    in_stream: bool,
    id: &Arc<str>,
) -> Answer {
    let config = app.config.get();
    let owner = matches!(arrival.peer, Peer::Owner { .. });
    if !owner {
        origin::check_host(&headers, &arrival.uri, arrival.local, &config.server)?;
    }
    let path = arrival.uri.path();
    if path == "/" {
        return redirect("/api/docs");
    }
    let rest = if path == "/metrics" || path == "/metrics/" {
        path
    } else {
        BASES
            .iter()
            .find_map(|base| path.strip_prefix(base).filter(|rest| rest.is_empty() || rest.starts_with('/')))
            .ok_or_else(|| Problem::not_found("the API is at `/api/v1`"))?
    };
    let found = app.table.find(rest)?;
    if arrival.method == Method::OPTIONS && origin == Origin::Configured {
        return preflight(&headers);
    }
    let route = found.route(&arrival.method)?;
    let Ok(_admitted) = app.requests.try_acquire() else {
        return Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "overloaded",
            format!("{} requests are being handled already; try again", config.server.max_requests),
        )
        .retry_after(std::time::Duration::from_secs(1)));
    };
    let caller = admit(app, route, &arrival, &headers, origin).inspect_err(|problem| {
        if matches!(problem.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            let key = caller_of(app, &headers);
            let action = format!("{} {}", arrival.method, route.path);
            audit::refused(app, action, arrival.peer, key.as_ref(), problem.status, id);
        }
    })?;
    let mut request = Request {
        engine: Arc::clone(&app.engine),
        config,
        method: arrival.method,
        id: Arc::clone(id),
        caller,
        peer: arrival.peer,
        headers,
        stream: in_stream,
        params: found.params,
        query: Vec::new(),
        body: Some(body),
        upgrade: arrival.upgrade,
        shutdown: app.phase.subscribe(),
        app: Arc::clone(app),
        subject: Subject::default(),
    };
    request.query = read_query(arrival.uri.query().unwrap_or(""))?;
    let audit = Pending::begin(route, &request.method, &request);
    if let Some(key) = idempotency::key_of(route, &request)? {
        return idempotency::once(&key, route, request, audit).await;
    }
    let answer = run(route, request).await;
    if let Some(audit) = audit {
        audit.end(&answer).await;
    }
    answer
}

/// Runs the handler; one that panics costs its request a 500.
pub(crate) async fn run(route: &Route, request: Request) -> Answer {
    let work = AssertUnwindSafe((route.handler)(request)).catch_unwind();
    work.await.unwrap_or_else(|panic| {
        Err(Problem::internal(format!("a handler panicked: {}", actors::call::panic_message(&*panic))))
    })
}

/// Who asks, if the route is open to them.
///
/// # Errors
/// 401, 403, or 429 on public routes.
fn admit(app: &App, route: &Route, arrival: &Arrival, headers: &HeaderMap, origin: Origin) -> Result<Caller, Problem> {
    let foreign = || Problem::forbidden("pages of that `Origin` may not use this engine; see `server.origins`");
    let address = match arrival.peer {
        Peer::Owner { .. } => {
            return Ok(Caller { key: None, permissions: Permissions::MASTER, expires_at: None, token_id: None });
        }
        Peer::Tcp(address) => address,
    };
    let upgrades = headers.contains_key(header::UPGRADE);
    let acts = upgrades || !matches!(arrival.method, Method::GET | Method::HEAD);
    if route.access == Access::Public {
        let server = &app.config.get().server;
        app.limiter.take(address, server.public_rate, server.public_burst, Instant::now()).map_err(|wait| {
            Problem::new(
                StatusCode::TOO_MANY_REQUESTS,
                "rate-limited",
                "too many requests from this address; slow down",
            )
            .retry_after(wait)
        })?;
        if acts && origin == Origin::Foreign {
            return Err(foreign());
        }
        return Ok(Caller { key: None, permissions: Permissions::default(), expires_at: None, token_id: None });
    }
    let (token, by_cookie) = presented_token(headers, upgrades).ok_or_else(Problem::unauthenticated)?;
    let session = app.engine.keys.verify_token(&token).map_err(|_| Problem::unauthenticated())?;
    if acts && (origin == Origin::Foreign || by_cookie && origin == Origin::Absent) {
        return Err(foreign());
    }
    let caller = Caller {
        key: Some(session.key),
        permissions: session.permissions,
        expires_at: Some(session.expires_at),
        token_id: Some(session.jti),
    };
    if let Access::Needs(permission) = route.access
        && !caller.permissions.grants(permission)
    {
        return Err(Problem::forbidden(format!("this needs the permission {}", permission.name())));
    }
    if route.changes && !caller.writable() {
        return Err(Problem::forbidden("the key is READ_ONLY, and this changes something"));
    }
    Ok(caller)
}

/// Whose token a refused request carries, if it is good.
fn caller_of(app: &App, headers: &HeaderMap) -> Option<actors::ids::KeyId> {
    let (token, _) = presented_token(headers, headers.contains_key(header::UPGRADE))?;
    app.engine.keys.verify_token(&token).ok().map(|session| session.key)
}

/// The token of a request, and whether a cookie brought it: header, then cookie, then (for a WebSocket) subprotocol.
fn presented_token(headers: &HeaderMap, upgrades: bool) -> Option<(String, bool)> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
        return scheme.eq_ignore_ascii_case("bearer").then(|| (token.trim().to_owned(), false));
    }
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let cookie = cookies.flat_map(|line| line.split(';')).find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        let value = value.trim().trim_matches('"');
        (name.trim() == "authorization" && !value.is_empty()).then_some(value)
    });
    if let Some(cookie) = cookie {
        let decoded = percent_encoding::percent_decode_str(cookie).decode_utf8().ok()?;
        let token = decoded.strip_prefix("Bearer ").unwrap_or(&decoded).trim();
        if !token.is_empty() {
            return Some((token.to_owned(), true));
        }
    }
    let protocols = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let mut offered = protocols.flat_map(|line| line.split(',')).map(str::trim);
    let token = offered.find_map(|protocol| protocol.strip_prefix("bearer."))?;
    upgrades.then(|| (token.to_owned(), false))
}

/// Whether the stream form is wanted: `?stream=` wins over `Accept`.
fn wants_stream(headers: &HeaderMap, query: Option<&str>) -> bool {
    let asked = query.unwrap_or("").split('&').find_map(|pair| match pair.split_once('=').unwrap_or((pair, "")) {
        ("stream", "" | "true" | "1") => Some(true),
        ("stream", _) => Some(false),
        _ => None,
    });
    asked.unwrap_or_else(|| {
        headers
            .get_all(header::ACCEPT)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|line| line.split(','))
            .any(|item| item.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(STREAM_TYPE)))
    })
}

/// The most parameters that a query may have.
const MAX_PARAMETERS: usize = 1024;

/// Decodes a query. `stream` has been read; `authorization` and `token` are never looked at.
fn read_query(query: &str) -> Result<Vec<(String, String)>, Problem> {
    let mut parameters = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = decode(name)?;
        match name.as_str() {
            "authorization" | "token" => continue,
            "stream" => {
                if !matches!(value, "" | "true" | "false" | "1" | "0") {
                    return Err(Problem::bad_request("query parameter `stream`: must be `true` or `false`"));
                }
                continue;
            }
            _ => {}
        }
        if parameters.len() == MAX_PARAMETERS {
            return Err(Problem::bad_request(format!("more than {MAX_PARAMETERS} query parameters")));
        }
        parameters.push((name, decode(value)?));
    }
    Ok(parameters)
}

/// Decodes `%xx` and `+`, once.
fn decode(text: &str) -> Result<String, Problem> {
    let text = text.replace('+', " ");
    percent_encoding::percent_decode_str(&text)
        .decode_utf8()
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| Problem::bad_request("the query is not UTF-8"))
}

fn redirect(location: &'static str) -> Answer {
    let mut response = answer::bytes(StatusCode::FOUND, "text/plain; charset=utf-8", "see /api/docs\n");
    response.headers_mut().insert(header::LOCATION, HeaderValue::from_static(location));
    Ok(response)
}

/// Tells the browser of a configured origin what its pages may send.
fn preflight(headers: &HeaderMap) -> Answer {
    let mut response = answer::bytes(StatusCode::OK, "application/json", "{}");
    let answered = response.headers_mut();
    answered
        .insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE"));
    if let Some(wanted) = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        answered.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
    }
    answered.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    Ok(response)
}

/// Writes a refusal in the form that was asked for.
pub(crate) fn refusal(problem: &Problem, in_stream: bool, id: &str) -> Response {
    if let Some(cause) = &problem.more.cause {
        if problem.status.is_server_error() {
            tracing::error!(status = problem.status.as_u16(), cause, "{}", problem.detail);
        } else {
            tracing::debug!(status = problem.status.as_u16(), cause, "{}", problem.detail);
        }
    }
    let mut response = if in_stream {
        let mut body = b"[\n".to_vec();
        body.extend(answer::status_chunk(problem.status, &problem.detail));
        body.extend_from_slice(b"\n]\n");
        answer::bytes(problem.status, STREAM_TYPE, body)
    } else {
        let body = problem.document(id).to_string();
        answer::bytes(problem.status, "application/problem+json", body)
    };
    let headers = response.headers_mut();
    headers.insert("x-error-message", one_line(&problem.detail));
    for (name, value) in &problem.more.headers {
        headers.insert(name.clone(), value.clone());
    }
    response
}

/// A text as a header value: ASCII as it is, the rest and what controls percent-encoded.
fn one_line(text: &str) -> HeaderValue {
    const KEPT: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS.add(b'%');
    let text: String = percent_encoding::utf8_percent_encode(text, KEPT).take(200).collect();
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("error"))
}

/// What every answer carries.
fn finish(response: &mut Response, id: &str, allow_origin: Option<HeaderValue>) {
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert("x-request-id", id);
    }
    headers.entry(header::X_CONTENT_TYPE_OPTIONS).or_insert(HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if let Some(origin) = allow_origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        headers.insert(
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static("X-Request-Id, X-Total-Count, X-Error-Message, ETag, Content-Disposition"),
        );
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
    }
}

/// Whether a set of permissions opens a route, for the tables that are made of it.
pub(crate) const fn permission_of(access: Access) -> Option<Permission> {
    match access {
        Access::Needs(permission) => Some(permission),
        Access::Public | Access::SignedIn => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_taken_from_where_it_may_stand() {
        let headers = |pairs: &[(&'static str, &str)]| -> HeaderMap {
            pairs
                .iter()
                .map(|(name, value)| {
                    (http::HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"))
                })
                .collect()
        };
        let check = |pairs: &[(&'static str, &str)], upgrades, expected: Option<(&str, bool)>| {
            let token = presented_token(&headers(pairs), upgrades);
            assert_eq!(token, expected.map(|(token, cookie)| (token.to_owned(), cookie)), "{pairs:?}");
        };
        check(&[("authorization", "Bearer a.b.c")], false, Some(("a.b.c", false)));
        check(&[("authorization", "bearer a"), ("cookie", "authorization=b")], false, Some(("a", false)));
        check(&[("authorization", "Basic a"), ("cookie", "authorization=b")], false, None);
        check(&[("cookie", "x=1; authorization=a%2Eb")], false, Some(("a.b", true)));
        check(&[("cookie", "authorization=")], false, None);
        check(&[("cookie", "xauthorization=a")], false, None);
        check(&[("sec-websocket-protocol", "dxflow.pty.v1, bearer, bearer.tok")], true, Some(("tok", false)));
        check(&[("sec-websocket-protocol", "bearer.tok")], false, None);
        check(&[], true, None);
    }

    #[test]
    fn queries_are_decoded_once_and_tokens_in_them_are_not_seen() {
        let read = |query| read_query(query).map_err(|problem| problem.status.as_u16());
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(read("a=%2541&b=x+y&all"), Ok(vec![pair("a", "%41"), pair("b", "x y"), pair("all", "")]));
        assert_eq!(read("authorization=secret&token=secret&stream=true"), Ok(vec![]));
        assert_eq!(read("a=%ff"), Err(400));
        assert_eq!(read("stream=perhaps"), Err(400));
        assert_eq!(read(&"a&".repeat(2000)), Err(400));
    }
}
