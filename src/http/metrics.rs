//! `/metrics`: what the engine counts, as Prometheus' text format 0.0.4.
//!
//! On the main listener it needs a token; a listener of its own (`server.metrics_listen`) needs none, and serves nothing
//! else.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::{Display, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actors::shell::ShellState;
use http::{HeaderValue, Method, StatusCode, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use warp::reply::Response;

use super::App;
use super::answer;
use super::request::Request;
use super::route::{Access, Answer, Route};

/// The media type of the text format.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Connections to the listener of its own at once; more wait in the kernel's backlog.
const MAX_SCRAPERS: usize = 32;
/// How long a scraper may take for its request, and between two.
const SCRAPER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the listener waits when it cannot accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(crate) fn routes() -> Vec<Route> {
    vec![
        Route::get("/metrics", Access::SignedIn, metrics)
            .says("What the engine counts, as Prometheus' text format; outside the base, at `/metrics`.")
            .answers_as(200, "text/plain"),
    ]
}

async fn metrics(request: Request) -> Answer {
    Ok(answer::bytes(StatusCode::OK, TEXT, render(&request.app).await))
}

/// What has been counted since the process began.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Answers by the first digit of their status, 1 to 5.
    answers: [AtomicU64; 5],
}

impl Counters {
    /// Counts an answer.
    pub(crate) fn answered(&self, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        self.answers[class].fetch_add(1, Ordering::Relaxed);
    }
}

/// The text, metric by metric.
struct Text(String);

impl Text {
    fn family(&mut self, kind: &str, name: &str, help: &str, values: &[(String, &dyn Display)]) {
        // Writing to a string does not fail.
        let _ = write!(self.0, "# HELP dxflow_{name} {help}\n# TYPE dxflow_{name} {kind}\n");
        for (labels, value) in values {
            let _ = writeln!(self.0, "dxflow_{name}{labels} {value}");
        }
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family("gauge", name, help, &[(String::new(), &value)]);
    }

    fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.family("counter", name, help, &[(String::new(), &value)]);
    }
}

/// Writes all metrics.
pub(crate) async fn render(app: &App) -> String {
    let mut text = Text(String::new());
    let version = format!("{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    text.family("gauge", "build_info", "Always 1; the label tells the version.", &[(version, &1)]);
    text.counter("uptime_seconds", "Seconds since this process began to serve.", app.started.elapsed().as_secs_f64());
    text.gauge("generation", "How many times the tree of actors has been started.", app.engine.generation());
    let components = app.engine.components().await;
    let health: Vec<(String, &dyn Display)> = components
        .iter()
        .map(|component| {
            let healthy: &dyn Display = if component.health.name() == "healthy" { &1 } else { &0 };
            (format!("{{component=\"{}\"}}", component.name), healthy)
        })
        .collect();
    text.family("gauge", "component_healthy", "1 while the part of the engine is as it should be.", &health);

    let limit = app.config.get().server.max_requests as usize;
    let in_flight = limit.saturating_sub(app.requests.available_permits());
    text.gauge("requests_in_flight", "Requests that are being handled.", in_flight);
    let classes = app.counters.answers.each_ref().map(|count| count.load(Ordering::Relaxed));
    let answers: Vec<(String, &dyn Display)> =
        (1..).zip(&classes).map(|(class, count)| (format!("{{class=\"{class}xx\"}}"), count as &dyn Display)).collect();
    text.family("counter", "answers_total", "Answers by the class of their status.", &answers);

    let states =
        [ShellState::Created, ShellState::Executed, ShellState::Exited, ShellState::Killed, ShellState::Failed];
    let mut states: BTreeMap<&str, usize> = states.into_iter().map(|state| (state.name(), 0)).collect();
    let (mut viewers, mut output) = (0, 0);
    for shell in app.engine.shells.list(0, usize::MAX) {
        let shell = shell.describe();
        *states.entry(shell.state.name()).or_default() += 1;
        viewers += shell.sessions;
        output += shell.bytes_out;
    }
    let shells: Vec<(String, &dyn Display)> =
        states.iter().map(|(state, count)| (format!("{{state=\"{state}\"}}"), count as &dyn Display)).collect();
    text.family("gauge", "shells", "Shells by their state.", &shells);
    text.gauge("shell_viewers", "Attached viewers of all shells.", viewers);
    text.gauge("shell_output_bytes", "Bytes that the shells which are there have printed.", output);

    if let Some(process) = actors::stats::own_process() {
        text.gauge("process_resident_memory_bytes", "Resident memory of the engine.", process.resident_bytes);
        text.gauge("process_open_fds", "Open file descriptors of the engine.", process.descriptors);
        text.gauge("process_threads", "Threads of the engine.", process.threads);
    }
    text.0
}

/// Serves the metrics, and nothing else, to whoever connects; ends with the task that runs it.
pub(crate) async fn serve(app: Arc<App>, listener: TcpListener) {
    let scrapers = Arc::new(Semaphore::new(MAX_SCRAPERS));
    loop {
        let Ok(permit) = Arc::clone(&scrapers).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::error!(%error, "failed to accept a scraper's connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let app = Arc::clone(&app);
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let app = Arc::clone(&app);
            async move { Ok::<_, Infallible>(scrape(&app, request.method(), request.uri().path()).await) }
        });
        tokio::spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(SCRAPER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::trace!(%error, "a scraper's connection ended badly");
            }
            drop(permit);
        });
    }
}

async fn scrape(app: &App, method: &Method, path: &str) -> Response {
    if !matches!(path, "/metrics" | "/metrics/") {
        return answer::bytes(StatusCode::NOT_FOUND, TEXT, "only /metrics is here\n");
    }
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut response = answer::bytes(StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET or HEAD\n");
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    answer::bytes(StatusCode::OK, TEXT, render(app).await)
}
