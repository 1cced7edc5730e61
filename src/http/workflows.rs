//! Compose workflows: their routes, and the types that travel.

use std::collections::BTreeMap;
use std::sync::Arc;

use actors::compose::{
    Container, CreateSpec, Executed, Execution, LogLine, LogQuery, Operation, Outcome, Progress, Request as Action,
    UpdateSpec, Workflow, WorkflowDescription, WorkflowEvent, Written,
};
use actors::ids::WorkflowId;
use actors::keeper::signal_number;
use futures_util::{Stream, StreamExt};
use http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use super::Phase;
use super::answer;
use super::problem::Problem;
use super::request::Request;
use super::route::{Access, Answer, Route};

/// How many workflows one batch may name.
const BATCH: usize = 1000;
/// The longest grace before a kill, in seconds.
const LONGEST_GRACE: u32 = 24 * 60 * 60;

pub(crate) fn routes() -> Vec<Route> {
    let act = |path, handler: fn(Request) -> Acting, says| {
        Route::put(path, Access::WORKFLOW, handler)
            .says(says)
            .takes::<Act>()
            .answers::<Outcome>(200)
            .answers::<Begun>(202)
            .refuses(&[409, 422, 502, 504])
    };
    vec![
        Route::get("/workflow/compose", Access::WORKFLOW, list)
            .says("Lists workflows, newest first; without `all` only those that are neither stopped nor exited.")
            .query::<All>()
            .answers::<Vec<Workflow>>(200),
        Route::post("/workflow/compose", Access::WORKFLOW, create)
            .says("Makes a workflow of a compose file: its networks, volumes and containers.")
            .takes::<Create>()
            .answers::<Outcome>(201)
            .refuses(&[409, 422, 502, 504]),
        Route::put("/workflow/compose/update", Access::WORKFLOW, update)
            .says("Applies another file to a workflow: only what it changes is made anew. The file becomes a revision.")
            .takes::<Update>()
            .answers::<Outcome>(200)
            .answers::<Begun>(202)
            .refuses(&[409, 422, 502, 504]),
        Route::put("/workflow/compose/rollback", Access::WORKFLOW, rollback)
            .says("Applies the file of an earlier revision, as a new one; without `revision`, of the one before.")
            .takes::<Rollback>()
            .answers::<Outcome>(200)
            .answers::<Begun>(202)
            .refuses(&[409, 422, 502, 504]),
        Route::delete("/workflow/compose", Access::WORKFLOW, remove)
            .says("Removes a workflow: containers and networks, and volumes on request.")
            .takes::<Remove>()
            .answers::<Outcome>(200)
            .refuses(&[409, 502, 504]),
        Route::delete("/workflow/compose/batch", Access::WORKFLOW, remove_batch)
            .says("Removes several workflows.")
            .takes::<RemoveBatch>()
            .answers::<Vec<Removed>>(200),
        act("/workflow/compose/start", start, "Brings Docker to what the file says, and starts it."),
        act("/workflow/compose/stop", stop, "Stops a workflow, what depends on others first."),
        act("/workflow/compose/restart", restart, "Stops a workflow and starts it again."),
        act("/workflow/compose/pause", pause, "Holds what runs of a workflow."),
        act("/workflow/compose/unpause", unpause, "Lets a paused workflow go on."),
        act("/workflow/compose/kill", kill, "Sends a signal to what runs of a workflow; KILL unless said otherwise."),
        Route::put("/workflow/compose/execute", Access::WORKFLOW, execute)
            .says("Runs a command in a container; in the stream form its output comes as it is written.")
            .takes::<Execute>()
            .answers::<Ran>(200)
            .refuses(&[409, 502, 504]),
        Route::get("/workflow/compose/containers", Access::WORKFLOW, containers)
            .says("The containers of a workflow.")
            .query::<Identity>()
            .answers::<Vec<Container>>(200)
            .refuses(&[502]),
        Route::get("/workflow/compose/logs", Access::WORKFLOW, logs)
            .says("What the containers of a workflow wrote; with `follow` also what they write from now on.")
            .query::<Logs>()
            .answers::<Vec<LogLine>>(200)
            .refuses(&[409, 502]),
        Route::get("/workflow/compose/events", Access::WORKFLOW, events)
            .says("What happens to a workflow from now on, until the client leaves.")
            .query::<Identity>()
            .answers::<Vec<WorkflowEvent>>(200)
            .refuses(&[502]),
        Route::get("/workflow/compose/{identity}", Access::WORKFLOW, describe)
            .says("A workflow with its file, and what a start would change and why.")
            .answers::<WorkflowDescription>(200)
            .refuses(&[502]),
    ]
}

/// The future of one of the handlers that are alike.
type Acting = std::pin::Pin<Box<dyn Future<Output = Answer> + Send>>;

/// Which workflows.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct All {
    /// Stopped and exited ones too.
    all: bool,
}

/// A workflow's name.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Identity {
    identity: WorkflowId,
}

/// A workflow to be made.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Create {
    /// Its name: a Compose project name; generated without.
    identity: Option<WorkflowId>,
    /// The compose file.
    content: Option<String>,
    /// The compose file, or its directory, among the objects.
    source: Option<String>,
    /// Variables for the file; they win over `.env`.
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// The profiles that are switched on.
    #[serde(default)]
    profiles: Vec<String>,
    /// Whether it is started too.
    #[serde(default)]
    start: bool,
    /// When images are pulled; as the file says without.
    pull: Option<Pull>,
    /// Building images is not supported yet: `true` is refused.
    #[serde(default)]
    build: bool,
    /// Whether containers of services that the file does not have are removed.
    #[serde(default)]
    remove_orphans: bool,
}

/// When images are pulled.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Pull {
    Always,
    Missing,
    Never,
}

impl Pull {
    const fn name(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Missing => "missing",
            Self::Never => "never",
        }
    }
}

/// What a workflow is asked to do.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Act {
    identity: WorkflowId,
    /// Only these services; all without.
    #[serde(default)]
    service: Vec<String>,
    /// Seconds that a container has to stop by itself.
    timeout: Option<u32>,
    /// The signal of `kill`, by name or number.
    signal: Option<String>,
    /// Whether the answer waits for the end; true unless said otherwise.
    wait: Option<bool>,
}

/// An operation that goes on.
#[derive(Debug, JsonSchema, Serialize)]
struct Begun {
    identity: WorkflowId,
    /// Names it; `events` tells how it goes.
    operation: String,
}

async fn list(request: Request) -> Answer {
    let All { all } = request.query()?;
    let workflows = request.engine.workflows.list(all).await?;
    let total = workflows.len() as u64;
    request.list(Some(total), futures_util::stream::iter(workflows.into_iter().map(Ok))).await
}

async fn create(mut request: Request) -> Answer {
    let create: Create = request.json().await?;
    if create.build {
        return Err(Problem::bad_request("`build` is not supported: name images that are there or can be pulled"));
    }
    if create.content.is_some() == create.source.is_some() {
        return Err(Problem::bad_request("say either `content` or `source`"));
    }
    let identity = create.identity.unwrap_or_else(WorkflowId::generate);
    let spec = CreateSpec {
        content: create.content,
        source: create.source,
        env: create.env,
        profiles: create.profiles,
        start: create.start,
        pull: create.pull.map(|pull| pull.name().to_owned()),
        remove_orphans: create.remove_orphans,
    };
    let operation = request.engine.workflows.begin(&identity, Action::Create(Arc::new(spec))).await?;
    carry_out(&request, StatusCode::CREATED, operation).await
}

/// A file for a workflow that is there.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Update {
    identity: WorkflowId,
    /// The compose file.
    content: Option<String>,
    /// The compose file, or its directory, among the objects.
    source: Option<String>,
    /// Variables for the file; without, those it has.
    env: Option<BTreeMap<String, String>>,
    /// The profiles that are switched on; without, those it has.
    profiles: Option<Vec<String>>,
    /// Whether it is started too; without, it is when something of it runs.
    start: Option<bool>,
    /// When images are pulled; as the file says without.
    pull: Option<Pull>,
    /// Building images is not supported yet: `true` is refused.
    #[serde(default)]
    build: bool,
    /// Whether containers of services that no file of ours had are removed too; those of services that the file before had
    /// are in any case.
    #[serde(default)]
    remove_orphans: bool,
    /// Whether the answer waits for the end; true unless said otherwise.
    wait: Option<bool>,
}

async fn update(mut request: Request) -> Answer {
    let update: Update = request.json().await?;
    if update.build {
        return Err(Problem::bad_request("`build` is not supported: name images that are there or can be pulled"));
    }
    if update.content.is_some() == update.source.is_some() {
        return Err(Problem::bad_request("say either `content` or `source`"));
    }
    let spec = UpdateSpec {
        content: update.content,
        source: update.source,
        env: update.env,
        profiles: update.profiles,
        start: update.start,
        pull: update.pull.map(|pull| pull.name().to_owned()),
        remove_orphans: update.remove_orphans,
    };
    begin(request, update.identity, Action::Update(Arc::new(spec)), update.wait).await
}

/// A revision to go back to.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Rollback {
    identity: WorkflowId,
    /// Its number, from 1; without, the one before that which applies.
    #[schemars(range(min = 1))]
    revision: Option<u32>,
    /// Whether the answer waits for the end; true unless said otherwise.
    wait: Option<bool>,
}

async fn rollback(mut request: Request) -> Answer {
    let Rollback { identity, revision, wait } = request.json().await?;
    if revision == Some(0) {
        return Err(Problem::bad_request("`revision` is at least 1"));
    }
    begin(request, identity, Action::Rollback(revision.map(i64::from)), wait).await
}

/// Begins an operation and answers with its outcome, or at once.
async fn begin(request: Request, identity: WorkflowId, action: Action, wait: Option<bool>) -> Answer {
    let operation = request.engine.workflows.begin(&identity, action).await?;
    if wait == Some(false) {
        return request.answer(StatusCode::ACCEPTED, &Begun { identity, operation: operation.id });
    }
    carry_out(&request, StatusCode::OK, operation).await
}

fn start(request: Request) -> Acting {
    Box::pin(act(request, |act| Ok(Action::Start(act.service))))
}

fn stop(request: Request) -> Acting {
    Box::pin(act(request, |act| Ok(Action::Stop(act.service, act.timeout))))
}

fn restart(request: Request) -> Acting {
    Box::pin(act(request, |act| Ok(Action::Restart(act.service, act.timeout))))
}

fn pause(request: Request) -> Acting {
    Box::pin(act(request, |act| Ok(Action::Pause(act.service))))
}

fn unpause(request: Request) -> Acting {
    Box::pin(act(request, |act| Ok(Action::Unpause(act.service))))
}

fn kill(request: Request) -> Acting {
    Box::pin(act(request, |act| {
        let signal = act.signal.as_deref().unwrap_or("KILL");
        let number = signal_number(signal).ok_or_else(|| {
            Problem::bad_request(format!("there is no signal `{}`", signal.chars().take(20).collect::<String>()))
        })?;
        Ok(Action::Kill(act.service, number))
    }))
}

async fn act(mut request: Request, action: fn(Act) -> Result<Action, Problem>) -> Answer {
    let act: Act = request.json().await?;
    if act.timeout.is_some_and(|timeout| timeout > LONGEST_GRACE) {
        return Err(Problem::bad_request(format!("`timeout` is at most {LONGEST_GRACE} seconds")));
    }
    let (identity, wait) = (act.identity.clone(), act.wait);
    begin(request, identity, action(act)?, wait).await
}

/// What the stream form of an operation holds: every change, and the outcome at the end.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Part {
    Change(Progress),
    Outcome(Box<Outcome>),
}

/// Answers with the outcome of an operation; in the stream form also with what happens on the way. The operation goes on
/// when the client leaves.
fn carry_out(
    request: &Request,
    status: StatusCode,
    operation: Operation,
) -> impl Future<Output = Answer> + Send + use<> {
    let in_stream = request.stream;
    async move {
        if !in_stream {
            let outcome = operation.outcome().await?;
            return answer::one(false, status, &outcome);
        }
        let parts = futures_util::stream::unfold(Some(operation), |state| async move {
            let mut operation = state?;
            match operation.progress.recv().await {
                Some(progress) => Some((Ok(Part::Change(progress)), Some(operation))),
                None => {
                    let outcome = operation.outcome().await;
                    Some((outcome.map(|outcome| Part::Outcome(Box::new(outcome))).map_err(Problem::from), None))
                }
            }
        });
        answer::list(true, status, None, parts).await
    }
}

/// A workflow to be removed.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Remove {
    identity: WorkflowId,
    /// Its volumes too.
    #[serde(default)]
    volumes: bool,
    /// Whether a running one is stopped; true unless said otherwise. With `false` it is refused.
    stop: Option<bool>,
}

async fn remove(mut request: Request) -> Answer {
    let Remove { identity, volumes, stop } = request.json().await?;
    let action = Action::Remove { volumes, stop: stop.unwrap_or(true) };
    let operation = request.engine.workflows.begin(&identity, action).await?;
    carry_out(&request, StatusCode::OK, operation).await
}

/// Workflows to be removed.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RemoveBatch {
    identities: Vec<String>,
    /// Their volumes too.
    #[serde(default)]
    volumes: bool,
    /// Whether running ones are stopped; true unless said otherwise.
    stop: Option<bool>,
}

/// What became of one workflow of a batch.
#[derive(Debug, JsonSchema, Serialize)]
struct Removed {
    identity: String,
    removed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

async fn remove_batch(mut request: Request) -> Answer {
    let RemoveBatch { identities, volumes, stop } = request.json().await?;
    if identities.len() > BATCH {
        return Err(Problem::bad_request(format!("a batch names at most {BATCH} workflows")));
    }
    let workflows = request.engine.workflows.clone();
    let stop = stop.unwrap_or(true);
    let one = move |identity: String| {
        let workflows = workflows.clone();
        async move {
            let removed = match identity.parse::<WorkflowId>() {
                Ok(id) => {
                    let done = async { workflows.begin(&id, Action::Remove { volumes, stop }).await?.outcome().await };
                    done.await.map(drop).map_err(|error| error.to_string())
                }
                Err(error) => Err(error.to_string()),
            };
            Ok(Removed { identity, removed: removed.is_ok(), error: removed.err() })
        }
    };
    let total = identities.len() as u64;
    request.list(Some(total), futures_util::stream::iter(identities).map(one).buffered(4)).await
}

/// A command: a line for `sh -c`, or its words.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Command {
    Line(String),
    Words(Vec<String>),
}

/// A command for a container.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Execute {
    identity: WorkflowId,
    /// A line that `sh -c` runs, or an array of words that are run as they are.
    command: Command,
    /// In which service; may be left out where there is one.
    service: Option<String>,
    /// In which of its containers, from 1.
    index: Option<u32>,
    /// As whom.
    user: Option<String>,
    /// Where.
    workdir: Option<String>,
    /// Added to its environment.
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// Whether its end is not waited for.
    #[serde(default)]
    detach: bool,
}

/// What came of a command; of one that nobody waits for, only where it runs.
#[derive(Debug, JsonSchema, Serialize)]
#[serde(untagged)]
enum Ran {
    Ended(Executed),
    Detached { identity: WorkflowId, detached: bool },
}

async fn execute(mut request: Request) -> Answer {
    let body: Execute = request.json().await?;
    let identity = body.identity;
    let command = match body.command {
        Command::Line(line) => vec!["sh".to_owned(), "-c".to_owned(), line],
        Command::Words(words) => words,
    };
    if command.iter().all(String::is_empty) {
        return Err(Problem::bad_request("`command` is empty"));
    }
    let execution = Execution {
        command,
        service: body.service,
        index: body.index,
        user: body.user,
        workdir: body.workdir,
        env: body.env.iter().map(|(name, value)| format!("{name}={value}")).collect(),
    };
    let workflows = &request.engine.workflows;
    if body.detach {
        workflows.execute_detached(&identity, execution).await?;
        return request.ok(&Ran::Detached { identity, detached: true });
    }
    let limit = usize::try_from(workflows.settings().execute_output.0).unwrap_or(usize::MAX);
    let written = workflows.execute(&identity, execution).await?;
    if request.stream {
        return request.list(None, written.map(|part| part.map_err(Problem::from))).await;
    }
    let mut written = Box::pin(written);
    let mut executed = Executed::default();
    while let Some(part) = written.next().await {
        match part? {
            Written::Ended { exit_code } => executed.exit_code = exit_code,
            Written::Data { stream, data } => {
                let room = limit.saturating_sub(executed.stdout.len() + executed.stderr.len());
                let kept = data.floor_char_boundary(room.min(data.len()));
                executed.truncated |= kept < data.len();
                let to = if stream == "stderr" { &mut executed.stderr } else { &mut executed.stdout };
                to.push_str(&data[..kept]);
            }
        }
    }
    request.ok(&Ran::Ended(executed))
}

async fn containers(request: Request) -> Answer {
    let Identity { identity } = request.query()?;
    let containers = request.engine.workflows.containers(&identity).await?;
    let total = containers.len() as u64;
    request.list(Some(total), futures_util::stream::iter(containers.into_iter().map(Ok))).await
}

/// Which lines.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Logs {
    identity: WorkflowId,
    /// Only of these services.
    #[serde(default)]
    service: Vec<String>,
    /// Whether more is waited for.
    #[serde(default)]
    follow: bool,
    /// Only so many of the last lines of each container, or `all`.
    tail: Option<String>,
    /// Only from then on: Unix seconds, ISO 8601, or a duration before now.
    since: Option<String>,
    /// Only up to then: as `since`.
    until: Option<String>,
}

fn moment(name: &str, text: &str) -> Result<i32, Problem> {
    let seconds = text
        .parse::<i64>()
        .ok()
        .or_else(|| text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_second))
        .or_else(|| {
            let span: actors::units::Span = serde_json::from_value(text.into()).ok()?;
            Some(actors::time::unix_now() - i64::try_from(span.0.as_secs()).ok()?)
        });
    seconds.and_then(|seconds| i32::try_from(seconds).ok()).ok_or_else(|| {
        Problem::bad_request(format!("`{name}` is Unix seconds, a moment in ISO 8601, or a duration such as `10m`"))
    })
}

async fn logs(request: Request) -> Answer {
    let logs: Logs = request.query()?;
    let tail = match logs.tail.as_deref() {
        None | Some("all") => None,
        Some(count) => {
            let count = count.parse::<u32>();
            Some(count.map_err(|_| Problem::bad_request("`tail` is a number of lines, or `all`"))?)
        }
    };
    let query = LogQuery {
        services: logs.service,
        follow: logs.follow,
        tail,
        since: logs.since.as_deref().map(|text| moment("since", text)).transpose()?,
        until: logs.until.as_deref().map(|text| moment("until", text)).transpose()?,
    };
    let lines = request.engine.workflows.logs(&logs.identity, query).await?;
    let lines = until_stopped(&request, lines.map(|line| line.map_err(Problem::from)));
    request.list(None, lines).await
}

async fn events(request: Request) -> Answer {
    let Identity { identity } = request.query()?;
    let events = request.engine.workflows.events(&identity).await?;
    let events = futures_util::stream::unfold(events, |mut events| async move {
        loop {
            match events.recv().await {
                Ok(event) => return Some((Ok(event), events)),
                // What a client was too slow for is gone; what comes is still told.
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    });
    let events = until_stopped(&request, events);
    request.list(None, events).await
}

/// Ends a stream that has no end of its own when the engine goes down.
fn until_stopped<T: Send + 'static>(
    request: &Request,
    items: impl Stream<Item = Result<T, Problem>> + Send + 'static,
) -> impl Stream<Item = Result<T, Problem>> + Send + 'static {
    let mut phase = request.shutdown.clone();
    items.take_until(async move {
        let _ = phase.wait_for(|phase| *phase != Phase::Serving).await;
    })
}

async fn describe(request: Request) -> Answer {
    let identity: WorkflowId = request
        .param("identity")
        .parse()
        .map_err(|error: actors::ids::IdError| Problem::bad_request(error.to_string()))?;
    let workflow = request.engine.workflows.describe(&identity).await?;
    request.ok(&workflow)
}
