//! `/metrics`: what the engine counts, as Prometheus' text format 0.0.4.
//!
//! On the main listener it needs a token; a listener of its own (`server.metrics_listen`) needs none, and serves nothing
//! else.

use std::fmt::Write as _;

use http::StatusCode;

use super::App;
use super::answer;
use super::request::Request;
use super::route::{Access, Answer, Route};

/// The media type of the text format.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

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

/// Writes all metrics.
pub(crate) async fn render(app: &App) -> String {
    let mut text = String::new();
    let mut gauge = |name: &str, help: &str, value: f64| {
        // Writing to a string does not fail.
        let _ = write!(text, "# HELP dxflow_{name} {help}\n# TYPE dxflow_{name} gauge\ndxflow_{name} {value}\n");
    };
    gauge("uptime_seconds", "Seconds since this process began to serve.", app.started.elapsed().as_secs_f64());
    let limit = app.config.get().server.max_requests as usize;
    let in_flight = limit.saturating_sub(app.requests.available_permits());
    gauge("requests_in_flight", "Requests that are being handled.", in_flight as f64);
    text
}
