//! HTTP: the accept loop, and one warp filter in front of the route table.
//!
//! TCP and the Unix socket are served alike; where a connection comes from travels with its requests. Connections are
//! bounded in number, and so are the requests that are handled at once.

pub(crate) mod answer;
mod audit;
mod audit_log;
mod auth;
mod dispatch;
mod engine;
mod exact;
mod idempotency;
mod listener;
mod metrics;
mod objects;
mod openapi;
mod origin;
pub(crate) mod problem;
mod query;
mod rate;
pub(crate) mod request;
pub(crate) mod route;
mod routes;
mod shells;
mod subject;
mod table;
mod terminal;
mod websocket;
mod workflows;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use actors::live::Live;
use tokio::sync::{Semaphore, watch};
use warp::Filter;

pub use listener::{Listeners, Reserved, Server};

use crate::config::Config;

/// Whether the engine goes on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    /// It serves.
    Serving,
    /// It goes down; connections that last are closed.
    Stopping {
        /// Whether clients should come back: the process only replaces itself.
        retry: bool,
    },
}

/// How the engine was started, as `GET /engine/parameter/` tells it.
#[derive(Clone, Debug)]
pub struct Start {
    /// The data directory.
    pub data_dir: std::path::PathBuf,
    /// The directory beneath which all objects live.
    pub volume: std::path::PathBuf,
    /// The configuration profile's name.
    pub profile: String,
}

/// What all requests share.
pub struct App {
    pub(crate) engine: Arc<actors::engine::Engine>,
    pub(crate) config: Live<Config>,
    pub(crate) table: table::Table,
    pub(crate) phase: watch::Sender<Phase>,
    pub(crate) limiter: rate::Limiter,
    pub(crate) refusals: audit::Refusals,
    pub(crate) in_flight: idempotency::InFlight,
    pub(crate) requests: Semaphore,
    pub(crate) openapi: bytes::Bytes,
    pub(crate) started: Instant,
    pub(crate) counters: metrics::Counters,
    pub(crate) start: Start,
    /// Random, so that ids of two runs differ.
    run: u32,
    count: AtomicU64,
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App").field("phase", &*self.phase.borrow()).finish_non_exhaustive()
    }
}

impl App {
    /// The application around `engine`.
    #[must_use]
    pub fn new(engine: Arc<actors::engine::Engine>, config: Live<Config>, start: Start) -> Arc<Self> {
        let routes = routes::all();
        let mut run = [0; 4];
        getrandom::fill(&mut run).expect("the kernel's random source answers after boot (getrandom(2))");
        Arc::new(Self {
            engine,
            requests: Semaphore::new(config.get().server.max_requests as usize),
            config,
            openapi: openapi::document(&routes).to_string().into(),
            table: table::Table::new(routes),
            phase: watch::Sender::new(Phase::Serving),
            limiter: rate::Limiter::default(),
            refusals: audit::Refusals::default(),
            in_flight: idempotency::InFlight::default(),
            started: Instant::now(),
            counters: metrics::Counters::default(),
            start,
            run: u32::from_ne_bytes(run),
            count: AtomicU64::new(0),
        })
    }

    /// Tells all connections that the engine goes down.
    pub fn stop(&self, retry: bool) {
        self.phase.send_replace(Phase::Stopping { retry });
    }

    /// Serves `/metrics` on a listener of its own until the engine goes down.
    pub async fn serve_metrics(self: Arc<Self>, listener: tokio::net::TcpListener) {
        let mut phase = self.phase.subscribe();
        tokio::select! {
            _ = phase.wait_for(|phase| *phase != Phase::Serving) => {}
            () = metrics::serve(Arc::clone(&self), listener) => {}
        }
    }

    fn request_id(&self) -> Arc<str> {
        format!("{:08x}-{:x}", self.run, self.count.fetch_add(1, Ordering::Relaxed)).into()
    }

    /// The one warp filter: everything of a request, then the table.
    fn filter(
        self: Arc<Self>,
    ) -> impl Filter<Extract = (warp::reply::Response,), Error = warp::Rejection> + Clone + Send + Sync + 'static {
        warp::any()
            .and(warp::ext::get::<dispatch::Arrival>())
            .and(warp::header::headers_cloned())
            .and(warp::body::stream())
            .then(move |arrival, headers, body| {
                let body = request::Body::new(body, &headers);
                dispatch::handle(Arc::clone(&self), arrival, headers, body)
            })
    }
}
