//! Shells: their routes, and the types that travel.

use std::collections::BTreeMap;
use std::io::SeekFrom;
use std::sync::Arc;
use std::time::Duration;

use actors::ids::ShellId;
use actors::keeper::signal_number;
use actors::shell::{Description, Encoding, Recording, Session, ShellError, ShellSpec, ShellState};
use actors::units::Span;
use http::{HeaderValue, StatusCode, header};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::answer;
use super::problem::Problem;
use super::request::Request;
use super::route::{Access, Answer, Route};
use super::terminal::{Framing, NoPlace, Place, Terminal};
use super::websocket::{self, Upgrade};

/// How many shells one list holds unless it is said otherwise.
const LIST_LIMIT: usize = 1000;
/// The longest that a command is waited for.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 60 * 60);
/// How many shells one batch may name.
const BATCH: usize = 10_000;

pub(crate) fn routes() -> Vec<Route> {
    vec![
        Route::get("/shell", Access::SHELL, list)
            .says("Lists shells, newest first.")
            .query::<Page>()
            .answers::<Vec<Description>>(200),
        Route::post("/shell", Access::SHELL, create)
            .says("Makes a shell and starts its program.")
            .takes::<Create>()
            .answers::<Description>(201)
            .refuses(&[409, 422]),
        Route::delete("/shell", Access::SHELL, remove)
            .says("Hangs a shell up, kills what is left of it, and forgets it.")
            .takes::<Identity>()
            .answers::<Confirmation>(200),
        Route::delete("/shell/batch", Access::SHELL, remove_batch)
            .says("Removes several shells.")
            .takes::<Identities>()
            .answers::<Vec<Removed>>(200),
        Route::get("/shell/{identity}", Access::SHELL, attach)
            .says("Attaches to a shell by WebSocket; without an upgrade, describes it.")
            .query::<Attach>()
            .answers::<Description>(200)
            .answers_as(101, "application/octet-stream")
            .refuses(&[426, 429]),
        Route::put("/shell/resize", Access::SHELL, resize)
            .says("Sets the size of a shell's terminal.")
            .takes::<Resize>()
            .answers::<Confirmation>(200),
        Route::put("/shell/execute", Access::SHELL, execute)
            .says("Types a command, and waits for its result if asked to; without a command, starts the shell.")
            .takes::<Execute>()
            .answers::<Executed>(200)
            .refuses(&[409, 422, 504]),
        Route::put("/shell/kill", Access::SHELL, kill)
            .says("Sends a signal to what runs in a shell.")
            .takes::<Kill>()
            .answers::<Confirmation>(200)
            .refuses(&[409]),
        Route::get("/shell/recording", Access::SHELL, recordings)
            .says("Lists recordings, newest first.")
            .answers::<Vec<Recording>>(200),
        Route::delete("/shell/recording", Access::SHELL, delete_recording)
            .says("Deletes a recording.")
            .takes::<RecordingIdentity>()
            .answers::<RecordingRemoved>(200)
            .refuses(&[409]),
        Route::get("/shell/recording/{identity}", Access::SHELL, download_recording)
            .says("Downloads a recording as asciicast v2.")
            .answers_as(200, "application/x-asciicast"),
    ]
}

/// A part of a list.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Page {
    /// How many to leave out.
    offset: usize,
    /// How many to list.
    limit: Option<usize>,
}

/// A shell's name.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Identity {
    identity: ShellId,
}

/// Several shells' names.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Identities {
    identities: Vec<String>,
}

/// What was done to a shell, and how it is now.
#[derive(Debug, JsonSchema, Serialize)]
struct Confirmation {
    identity: ShellId,
    state: State,
}

/// How a shell is.
#[derive(Clone, Copy, Debug, JsonSchema, Serialize)]
#[serde(untagged)]
enum State {
    Present(ShellState),
    Removed(RemovedState),
}

/// It is no more.
#[derive(Clone, Copy, Debug, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
enum RemovedState {
    Removed,
}

impl From<Description> for Confirmation {
    fn from(shell: Description) -> Self {
        Self { identity: shell.identity, state: State::Present(shell.state) }
    }
}

/// What a shell may use, with all that it starts.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Limits {
    /// Memory in bytes.
    memory: Option<u64>,
    /// Processors, with fractions.
    cpu: Option<f64>,
    /// Processes and threads.
    pids: Option<u32>,
}

/// What a new shell runs, and how.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Config {
    /// The program.
    #[serde(alias = "path")]
    command: Option<String>,
    /// Its arguments.
    args: Option<Vec<String>>,
    /// Added to its environment.
    env: Option<BTreeMap<String, String>>,
    /// Where it starts.
    cwd: Option<String>,
    /// The width of the terminal.
    columns: Option<u16>,
    /// The height of the terminal.
    rows: Option<u16>,
    /// Whether its program is started at once; true unless said otherwise.
    start: Option<bool>,
    /// Whether it is recorded.
    record: Option<bool>,
    /// What it may use; needs delegated cgroups.
    limits: Option<Limits>,
}

/// A shell to be made. What `config` says may stand at the top as well; `config` wins.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Create {
    /// Its name; generated without.
    identity: Option<ShellId>,
    config: Option<Config>,
    #[serde(alias = "path")]
    command: Option<String>,
    args: Option<Vec<String>>,
    env: Option<BTreeMap<String, String>>,
    cwd: Option<String>,
    columns: Option<u16>,
    rows: Option<u16>,
    start: Option<bool>,
    record: Option<bool>,
    limits: Option<Limits>,
}

impl From<Create> for ShellSpec {
    fn from(create: Create) -> Self {
        let config = create.config.unwrap_or_default();
        let limits = config.limits.or(create.limits).map(|limits| actors::keeper::Limits {
            memory: limits.memory,
            cpu_millis: limits.cpu.map(|cpu| (cpu * 1000.0).clamp(1.0, f64::from(u32::MAX)) as u32),
            pids: limits.pids,
        });
        Self {
            identity: create.identity,
            command: config.command.or(create.command),
            args: config.args.or(create.args),
            env: config.env.or(create.env).unwrap_or_default(),
            cwd: config.cwd.or(create.cwd),
            columns: config.columns.or(create.columns),
            rows: config.rows.or(create.rows),
            wait_for_start: !config.start.or(create.start).unwrap_or(true),
            record: config.record.or(create.record).unwrap_or(false),
            limits,
        }
    }
}

async fn list(request: Request) -> Answer {
    let page: Page = request.query()?;
    let shells = &request.engine.shells;
    let total = shells.count() as u64;
    let sessions = shells.list(page.offset, page.limit.unwrap_or(LIST_LIMIT));
    let described =
        futures_util::stream::iter(sessions.into_iter().map(|session: Arc<Session>| Ok(session.describe())));
    request.list(Some(total), described).await
}

async fn create(mut request: Request) -> Answer {
    let create: Create = request.json().await?;
    let shell = request.engine.shells.create(create.into()).await?;
    request.answer(StatusCode::CREATED, &shell)
}

async fn remove(mut request: Request) -> Answer {
    let Identity { identity } = request.json().await?;
    request.engine.shells.remove(&identity).await?;
    request.ok(&Confirmation { identity, state: State::Removed(RemovedState::Removed) })
}

/// What became of one shell of a batch.
#[derive(Debug, JsonSchema, Serialize)]
struct Removed {
    identity: String,
    removed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

async fn remove_batch(mut request: Request) -> Answer {
    let Identities { identities } = request.json().await?;
    if identities.len() > BATCH {
        return Err(Problem::bad_request(format!("a batch names at most {BATCH} shells")));
    }
    let shells = request.engine.shells.clone();
    let one = move |identity: String| {
        let shells = shells.clone();
        async move {
            let removed = match identity.parse::<ShellId>() {
                Ok(id) => shells.remove(&id).await.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            Ok(Removed { identity, removed: removed.is_ok(), error: removed.err() })
        }
    };
    let total = identities.len() as u64;
    let results = futures_util::StreamExt::buffered(
        futures_util::StreamExt::map(futures_util::stream::iter(identities), one),
        16,
    );
    request.list(Some(total), results).await
}

/// A new size.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Resize {
    identity: ShellId,
    columns: u16,
    rows: u16,
}

async fn resize(mut request: Request) -> Answer {
    let Resize { identity, columns, rows } = request.json().await?;
    let shells = &request.engine.shells;
    shells.resize(&identity, columns, rows).await?;
    let shell = shells.get(&identity)?.describe();
    request.ok(&Confirmation::from(shell))
}

/// A command for a shell.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Execute {
    identity: ShellId,
    /// What is typed; without it, the shell is started.
    command: Option<String>,
    /// Whether the answer waits for the command's end.
    #[serde(default)]
    wait: bool,
    /// How long it waits at most; 30s unless said otherwise.
    timeout: Option<Span>,
}

/// What came of a command; only `identity` and `state` when it was not waited for.
#[derive(Debug, JsonSchema, Serialize)]
#[serde(untagged)]
enum Executed {
    /// It was waited for.
    Ended {
        identity: ShellId,
        exit_code: i32,
        /// What it wrote, without echo and prompt.
        output: String,
        /// Seconds.
        duration: f64,
        /// There was more output than is answered.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        truncated: bool,
    },
    /// It was not.
    Typed(Confirmation),
}

async fn execute(mut request: Request) -> Answer {
    let Execute { identity, command, wait, timeout } = request.json().await?;
    let shells = &request.engine.shells;
    let timeout = timeout.map_or(Duration::from_secs(30), |timeout| timeout.0);
    if timeout > LONGEST_WAIT {
        return Err(Problem::bad_request("`timeout` is at most 24h"));
    }
    let executed = match command {
        None if wait => return Err(Problem::bad_request("`wait` needs a `command`")),
        None => Executed::Typed(shells.start(&identity).await?.into()),
        Some(command) if wait => {
            let outcome = shells.execute(&identity, &command, timeout).await?;
            Executed::Ended {
                identity,
                exit_code: outcome.exit_code,
                output: outcome.output,
                duration: outcome.duration.as_secs_f64(),
                truncated: outcome.truncated,
            }
        }
        Some(command) => Executed::Typed(shells.type_line(&identity, &command).await?.into()),
    };
    request.ok(&executed)
}

/// A signal for a shell.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Kill {
    identity: ShellId,
    /// Its name, with or without `SIG`, or number; KILL unless said otherwise.
    signal: Option<String>,
}

async fn kill(mut request: Request) -> Answer {
    let Kill { identity, signal } = request.json().await?;
    let signal = signal.as_deref().unwrap_or("KILL");
    let number = signal_number(signal).ok_or_else(|| {
        Problem::bad_request(format!("there is no signal `{}`", signal.chars().take(20).collect::<String>()))
    })?;
    let shell = request.engine.shells.kill(&identity, number).await?;
    request.ok(&Confirmation::from(shell))
}

/// How a client attaches.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Attach {
    /// The offset to go on from.
    since: Option<u64>,
    /// `view` may not type.
    mode: Option<Mode>,
    /// How bytes travel without subprotocol.
    encoding: Option<TextEncoding>,
    /// Ignored: existing clients send it beside the cookie.
    #[schemars(skip)]
    authorization: Option<String>,
    /// Ignored, as `authorization`.
    #[schemars(skip)]
    token: Option<String>,
}

/// What an attached client may do.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Mode {
    View,
    Control,
}

/// How bytes travel without subprotocol.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "lowercase")]
enum TextEncoding {
    Text,
    Base64,
}

async fn attach(mut request: Request) -> Answer {
    let identity: ShellId = request
        .param("identity")
        .parse()
        .map_err(|error: actors::ids::IdError| Problem::bad_request(error.to_string()))?;
    let query: Attach = request.query()?;
    if !websocket::is_wanted(&request) {
        let shell = request.engine.shells.get(&identity)?.describe();
        return request.ok(&shell);
    }
    let settings = request.engine.shells.settings();
    // Known before the handshake, so that a 404 is a 404.
    request.engine.shells.get(&identity)?;
    let upgrade = Upgrade::check(&mut request)?;
    let taken = Place::take(request.caller.name(), settings.websockets, settings.websockets_per_key);
    let place = taken.map_err(|none| {
        let problem = match none {
            NoPlace::InAll => {
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", "too many WebSockets are open; try again")
            }
            NoPlace::OfCaller => Problem::new(
                StatusCode::TOO_MANY_REQUESTS,
                "too-many-websockets",
                "this key has as many WebSockets open as it may (`shell.websockets_per_key`); close some",
            ),
        };
        problem.retry_after(Duration::from_secs(1))
    })?;
    let (viewer, snapshot) = request.engine.shells.attach(&identity, query.since).await?;
    let framing = match (upgrade.has_control(), query.encoding) {
        (true, _) => Framing::Control,
        (false, Some(TextEncoding::Text)) => Framing::Plain(Encoding::Text),
        (false, Some(TextEncoding::Base64)) => Framing::Plain(Encoding::Base64),
        (false, None) => Framing::Plain(settings.websocket_encoding),
    };
    let longest_frame = usize::try_from(settings.websocket_input.0).unwrap_or(usize::MAX);
    let terminal = Terminal {
        viewer,
        snapshot,
        framing,
        types: request.caller.writable() && query.mode != Some(Mode::View),
        settings,
        shutdown: request.shutdown.clone(),
        place,
    };
    let signed_out = signed_out(&request);
    Ok(upgrade.accept(longest_frame, move |socket| terminal.serve(socket, signed_out)))
}

/// Ends when the caller may no longer be attached.
fn signed_out(request: &Request) -> impl Future<Output = ()> + Send + use<> {
    let caller = &request.caller;
    let session = match (&caller.key, caller.expires_at, &caller.token_id) {
        (Some(key), Some(expires_at), Some(jti)) => Some(actors::key_registry::Session {
            key: key.clone(),
            permissions: caller.permissions,
            expires_at,
            jti: Arc::clone(jti),
        }),
        // Over the Unix socket: the owner needs no token.
        _ => None,
    };
    let keys = request.engine.keys.clone();
    async move {
        match session {
            Some(session) => keys.watch(&session).await,
            None => std::future::pending().await,
        }
    }
}

async fn recordings(request: Request) -> Answer {
    let shells = request.engine.shells.clone();
    let active = {
        let shells = shells.clone();
        move |name: &str| shells.is_recording(name)
    };
    let list = shells.recordings().list(active).await?;
    let total = list.len() as u64;
    request.list(Some(total), futures_util::stream::iter(list.into_iter().map(Ok))).await
}

/// A recording's name.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RecordingIdentity {
    identity: String,
}

/// A recording that was deleted.
#[derive(Debug, JsonSchema, Serialize)]
struct RecordingRemoved {
    identity: String,
    state: RemovedState,
}

async fn delete_recording(mut request: Request) -> Answer {
    let RecordingIdentity { identity } = request.json().await?;
    let shells = &request.engine.shells;
    if shells.is_recording(&identity) {
        return Err(ShellError::RecordingInUse { name: identity }.into());
    }
    shells.recordings().delete(&identity).await?;
    request.ok(&RecordingRemoved { identity, state: RemovedState::Removed })
}

async fn download_recording(request: Request) -> Answer {
    let name = request.param("identity");
    let (file, size) = request.engine.shells.recordings().open(name).await?;
    let mut file = tokio::fs::File::from_std(file);
    file.seek(SeekFrom::Start(0)).await.map_err(|error| Problem::internal(error.to_string()))?;
    // What is written meanwhile does not belong to what was announced.
    let body = futures_util::stream::try_unfold(file.take(size), |mut file| async move {
        let mut chunk = Vec::with_capacity(64 << 10);
        let count = (&mut file).take(64 << 10).read_to_end(&mut chunk).await?;
        Ok::<_, std::io::Error>((count > 0).then(|| (bytes::Bytes::from(chunk), file)))
    });
    let mut response = answer::streamed("application/x-asciicast", body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(size));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Ok(disposition) = HeaderValue::from_str(&format!("attachment; filename=\"{name}.cast\"")) {
        headers.insert(header::CONTENT_DISPOSITION, disposition);
    }
    Ok(response)
}
