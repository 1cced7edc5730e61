//! The engine's own routes: health, pings, restart, facts and samples of the host, the supervision tree.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actors::engine::Health;
use actors::stats::{Attributes, CpuPoint, NetworkPoint, SampleSet, UsePoint};
use actors::supervision::{ChildInfo, ChildKind};
use futures_util::{StreamExt, stream};
use http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problem::Problem;
use super::request::Request;
use super::route::{Access, Answer, Route};

pub(crate) fn routes() -> Vec<Route> {
    let mut routes = vec![
        Route::get("/engine/healthcheck", Access::Public, healthcheck)
            .says("How the engine is, part by part; 503 when a part that everything needs is down.")
            .answers::<Healthcheck>(200)
            .answers::<Healthcheck>(503),
        Route::get("/engine/ping", Access::SignedIn, ping)
            .says("The engine's clock in Unix milliseconds, each time the actors have answered.")
            .query::<PingQuery>()
            .answers::<Vec<i64>>(200)
            .refuses(&[504]),
        Route::put("/engine/restart", Access::MASTER, restart)
            .says("Restarts the actors, or with `mode` `process` the whole process; nothing is refused meanwhile.")
            .takes::<RestartBody>()
            .answers::<String>(200),
        Route::get("/engine/parameter", Access::SignedIn, parameter)
            .says("How this engine was started.")
            .answers::<Parameter>(200),
        Route::get("/engine/attribute", Access::SignedIn, attribute)
            .says("What the host is; sizes in bytes.")
            .answers::<Attributes>(200),
        Route::get("/engine/stat/live", Access::SignedIn, stat_live)
            .says("The samples of the last seconds and, in the stream form, one set a second from then on.")
            .query::<LiveQuery>()
            .answers::<Vec<Sample>>(200),
        Route::get("/engine/stat/last/{kind}", Access::SignedIn, stat_last)
            .says("The newest sample of `cpu`, `memory`, `disk` or `network`.")
            .answers::<Sample>(200)
            .refuses(&[404]),
        Route::get("/engine/supervision", Access::MASTER, supervision)
            .says("The supervision tree as it is.")
            .answers::<Vec<Child>>(200),
    ];
    if cfg!(feature = "fault-injection") {
        routes.push(
            Route::post("/engine/fault", Access::MASTER, fault)
                .says("Makes the next message of an actor panic; only in builds for tests.")
                .takes::<FaultBody>()
                .answers::<FaultBody>(200),
        );
    }
    routes
}

/// How the engine is.
#[derive(Debug, JsonSchema, Serialize)]
struct Healthcheck {
    /// `healthy`, `degraded` or `unhealthy`.
    status: &'static str,
    version: &'static str,
    /// Seconds since the start, restarts included.
    uptime: f64,
    /// Which generation of the actors runs.
    generation: u64,
    components: BTreeMap<String, ComponentHealth>,
}

/// How a part is.
#[derive(Debug, JsonSchema, Serialize)]
struct ComponentHealth {
    status: &'static str,
    /// What is wrong and what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

/// Parts without which nothing works.
const NEEDED: [&str; 3] = ["store", "key-registry", "keeper"];

async fn healthcheck(request: Request) -> Answer {
    let engine = &request.engine;
    let components = engine.components().await;
    let down = components.is_empty()
        || components.iter().any(|part| part.health == Health::Unhealthy && NEEDED.contains(&&*part.name));
    let status = if down {
        Health::Unhealthy
    } else if components.iter().any(|part| part.health != Health::Healthy) {
        Health::Degraded
    } else {
        Health::Healthy
    };
    let parts = components
        .into_iter()
        .map(|part| (part.name.to_string(), ComponentHealth { status: part.health.name(), detail: part.detail }))
        .collect();
    let health = Healthcheck {
        status: status.name(),
        version: env!("CARGO_PKG_VERSION"),
        uptime: engine.uptime().as_secs_f64(),
        generation: engine.generation(),
        components: parts,
    };
    request.answer(if down { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }, &health)
}

/// How often, and how fast.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct PingQuery {
    /// How many pings, 1 to 300.
    count: u32,
    /// Milliseconds between them, 0 to 30000.
    interval: u64,
}

impl Default for PingQuery {
    fn default() -> Self {
        Self { count: 3, interval: 1000 }
    }
}

async fn ping(request: Request) -> Answer {
    let PingQuery { count, interval } = request.query()?;
    if !(1..=300).contains(&count) {
        return Err(Problem::bad_request("query parameter `count`: must be from 1 to 300"));
    }
    if interval > 30_000 {
        return Err(Problem::bad_request("query parameter `interval`: must be from 0 to 30000 milliseconds"));
    }
    let engine = Arc::clone(&request.engine);
    let pings = stream::iter(0..count).then(move |n| {
        let engine = Arc::clone(&engine);
        async move {
            if n > 0 {
                tokio::time::sleep(Duration::from_millis(interval)).await;
            }
            engine.ping().await.map_err(Problem::from)
        }
    });
    if request.stream {
        return request.list(Some(count.into()), pings).await;
    }
    let all: Vec<Result<i64, Problem>> = pings.collect().await;
    let all: Vec<i64> = all.into_iter().collect::<Result<_, _>>()?;
    request.ok(&all)
}

/// What is to be restarted.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct RestartBody {
    mode: RestartMode,
}

/// What is to be restarted.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum RestartMode {
    /// The actors, in this process.
    #[default]
    Actors,
    /// The process, by the program as it is on disk now.
    Process,
}

async fn restart(mut request: Request) -> Answer {
    let body: RestartBody = request.json().await?;
    tracing::info!(key = request.caller.name(), mode = ?body.mode, "a restart was asked for");
    let engine = Arc::clone(&request.engine);
    // The answer goes first.
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(20)).await;
        match body.mode {
            RestartMode::Actors => engine.restart(),
            RestartMode::Process => engine.replace_process(),
        }
    });
    request.ok(&"Engine restart initiated")
}

/// How this engine was started.
#[derive(Debug, JsonSchema, Serialize)]
struct Parameter {
    identity: String,
    directory: String,
    volume: String,
    config_profile: String,
    controllers: Vec<String>,
}

async fn parameter(request: Request) -> Answer {
    let start = &request.app.start;
    let identity = match &*request.config.engine.identity {
        "" => rustix::system::uname().nodename().to_string_lossy().into_owned(),
        identity => identity.to_owned(),
    };
    request.ok(&Parameter {
        identity,
        directory: start.data_dir.to_string_lossy().into_owned(),
        volume: start.volume.to_string_lossy().into_owned(),
        config_profile: start.profile.clone(),
        controllers: Vec::new(),
    })
}

async fn attribute(request: Request) -> Answer {
    let boot = actors::time::unix_now() - i64::try_from(request.engine.uptime().as_secs()).unwrap_or(0);
    let facts = actors::call::blocking(move || actors::stats::attributes(env!("CARGO_PKG_VERSION"), boot)).await;
    request.ok(&facts.map_err(Problem::internal)?)
}

/// One kind of sample at one moment.
#[derive(Clone, Debug, JsonSchema, Serialize)]
struct Sample {
    #[serde(rename = "type")]
    kind: &'static str,
    /// Unix seconds.
    time: i64,
    points: Points,
}

/// By core, by kind of memory, by path, by interface.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[serde(untagged)]
enum Points {
    Cpu(BTreeMap<String, CpuPoint>),
    Use(BTreeMap<String, UsePoint>),
    Network(BTreeMap<String, NetworkPoint>),
}

const KINDS: [&str; 4] = ["cpu", "memory", "disk", "network"];

fn sample(set: &SampleSet, kind: &'static str) -> Sample {
    let points = match kind {
        "cpu" => Points::Cpu(set.cpu.clone()),
        "memory" => Points::Use(set.memory.clone()),
        "disk" => Points::Use(set.disk.clone()),
        _ => Points::Network(set.network.clone()),
    };
    Sample { kind, time: set.time / 1000, points }
}

/// How far back.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct LiveQuery {
    /// Seconds of history, at most what is kept.
    duration: u64,
}

impl Default for LiveQuery {
    fn default() -> Self {
        Self { duration: 60 }
    }
}

async fn stat_live(request: Request) -> Answer {
    let LiveQuery { duration } = request.query()?;
    let stats = request.engine.stats.clone();
    let mut follow = stats.follow();
    follow.mark_unchanged();
    let mut past = stats.history(Duration::from_secs(duration));
    if past.is_empty() {
        past.extend(stats.last().await);
    }
    let past = past.into_iter().flat_map(|set| KINDS.map(|kind| sample(&set, kind))).map(Ok);
    if !request.stream {
        let count = past.len_hint();
        return request.list(count, stream::iter(past.collect::<Vec<_>>())).await;
    }
    let phase = request.shutdown.clone();
    let live = stream::unfold(follow, |mut follow| async move {
        follow.changed().await.ok()?;
        let set = follow.borrow_and_update().clone()?;
        Some((stream::iter(KINDS.map(|kind| Ok(sample(&set, kind)))), follow))
    });
    let ending = async move {
        super::listener::stopping(phase).await;
    };
    let samples = stream::iter(past.collect::<Vec<_>>()).chain(live.flatten()).take_until(Box::pin(ending));
    request.list(None, samples).await
}

/// The exact length of an iterator that knows it.
trait LenHint {
    fn len_hint(&self) -> Option<u64>;
}

impl<I: Iterator> LenHint for I {
    fn len_hint(&self) -> Option<u64> {
        let (low, high) = self.size_hint();
        (Some(low) == high).then_some(low as u64)
    }
}

async fn stat_last(request: Request) -> Answer {
    let wanted = request.param("kind");
    let kind = KINDS.into_iter().find(|kind| *kind == wanted);
    let kind = kind.ok_or_else(|| Problem::not_found("samples are of `cpu`, `memory`, `disk` and `network`"))?;
    let set = tokio::time::timeout(Duration::from_secs(5), request.engine.stats.last()).await.ok().flatten();
    let set = set.ok_or_else(|| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "no-samples", "no samples have been taken yet; try again")
            .retry_after(Duration::from_secs(1))
    })?;
    request.ok(&sample(&set, kind))
}

/// One actor of the tree.
#[derive(Debug, JsonSchema, Serialize)]
struct Child {
    name: String,
    /// `worker` or `supervisor`.
    kind: &'static str,
    /// `running`, `starting`, `stopping`, `stopped` or `failed`.
    state: &'static str,
    restarts: u64,
    /// Why it last ended, if it did.
    last_exit: Option<String>,
    /// How many calls wait for it.
    mailbox: usize,
    /// Seconds that its present generation has run.
    age: f64,
    children: Vec<Child>,
}

fn child(info: ChildInfo) -> Child {
    Child {
        name: info.id.to_string(),
        kind: match info.kind {
            ChildKind::Worker => "worker",
            ChildKind::Supervisor => "supervisor",
        },
        state: info.state.name(),
        restarts: info.restarts,
        last_exit: info.last_exit,
        mailbox: info.mailbox,
        age: info.age.as_secs_f64(),
        children: info.children.into_iter().map(child).collect(),
    }
}

async fn supervision(request: Request) -> Answer {
    let tree: Vec<Child> = request.engine.tree().await.into_iter().map(child).collect();
    request.list(Some(tree.len() as u64), stream::iter(tree.into_iter().map(Ok))).await
}

/// Which actor is to fail.
#[derive(Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
struct FaultBody {
    /// The actor's name in the tree, `shell/<identity>`.
    actor: String,
}

async fn fault(mut request: Request) -> Answer {
    let body: FaultBody = request.json().await?;
    #[cfg(feature = "fault-injection")]
    actors::fault::arm(&body.actor);
    request.ok(&body)
}
