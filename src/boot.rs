//! The engine as a process: it starts, says that it is ready, serves, and stops in order.
//!
//! ```text
//! lock the data directory → actors → listeners → `ready` → serve ─┬─ signal ──► stop accepting → drain → actors → end
//!                              ▲                                  └─ replace ─► the same, then execve of the program
//!                              └────────── the program cannot be executed: go on ──────────────────┘
//! ```
//!
//! Shells are the keeper's: they go on through all of it unless they are asked to end.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, IsTerminal, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use actors::engine::{Engine, EngineSettings};
use actors::live::Live;
use anyhow_lite::Failed;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;

use crate::config::{Config, LogFormat};
use crate::http::{App, Listeners, Reserved, Server};
use crate::sd_notify::Notifier;

/// How long the requests of a process that replaces itself may take to end.
const REPLACE_DRAIN: Duration = Duration::from_secs(3);
/// How long a daemon may take to be ready before `--daemon` gives up on it.
const DAEMON_READY: Duration = Duration::from_secs(30);

/// What `dxflow boot up` was asked.
#[derive(Clone, Debug)]
pub struct Up {
    /// The configuration file, if there is one.
    pub config_file: Option<PathBuf>,
    /// The data directory.
    pub data_dir: PathBuf,
    /// The configuration profile's name, as `GET /engine/parameter/` tells it.
    pub profile: String,
    /// `--listen`, over the configuration.
    pub listen: Option<String>,
    /// `--volume`, over the configuration.
    pub volume: Option<PathBuf>,
    /// Go into the background and return when ready.
    pub daemon: bool,
    /// More logs: once for debug, twice for trace.
    pub verbose: u8,
    /// No colours in logs.
    pub no_color: bool,
}

impl Up {
    /// Reads the configuration, and puts the flags over it.
    fn config(&self) -> Result<Config, crate::config::ConfigError> {
        let mut config = Config::load(self.config_file.as_deref(), std::env::vars())?;
        if let Some(listen) = &self.listen {
            config.server.listen.clone_from(listen);
        }
        if let Some(volume) = &self.volume {
            config.engine.volume = volume.to_string_lossy().into_owned();
        }
        match self.verbose {
            0 => {}
            1 => config.log.level = "debug,hyper=info,bollard=info".into(),
            _ => config.log.level = "trace".into(),
        }
        Ok(config)
    }

    fn settings(&self, config: &Config) -> EngineSettings {
        EngineSettings {
            data_dir: self.data_dir.clone(),
            volume: config.volume(&self.data_dir),
            auth: config.auth.clone(),
            keeper: config.keeper.clone(),
            shell: config.shell.clone(),
            object: config.object.clone(),
            workflow: config.workflow.clone(),
            stat: config.stat.clone(),
        }
    }
}

/// Small words for what ends the start: what was tried, and the chain of causes.
mod anyhow_lite {
    use std::error::Error;
    use std::fmt;

    /// What was tried, and why it failed.
    #[derive(Debug)]
    pub(super) struct Failed(String);

    impl fmt::Display for Failed {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(&self.0)
        }
    }

    impl Failed {
        pub(super) fn new(text: impl Into<String>) -> Self {
            Self(text.into())
        }

        pub(super) fn to(tried: impl fmt::Display, error: &(dyn Error + 'static)) -> Self {
            Self(format!("failed to {tried}: {}", actors::error::chain(error)))
        }
    }
}

/// Runs the engine until it is told to stop.
#[must_use]
pub fn up(up: &Up) -> ExitCode {
    let run = if up.daemon { daemonize(up) } else { foreground(up) };
    match run {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            // The one place beside `cli` that speaks to the terminal itself: logs may not be there yet.
            let _ = writeln!(io::stderr(), "dxflow: {failed}");
            ExitCode::FAILURE
        }
    }
}

/// How serving ended.
enum End {
    Stop,
    Replace,
}

fn foreground(up: &Up) -> Result<(), Failed> {
    let config = up.config().map_err(|error| Failed::new(actors::error::chain(&error)))?;
    let program = std::env::current_exe().map_err(|error| Failed::to("find this program", &error))?;
    make_private_dir(&up.data_dir)
        .map_err(|error| Failed::to(format_args!("make the data directory `{}`", up.data_dir.display()), &error))?;
    let lock = Lock::take(&up.data_dir)?;
    start_logging(&config, up.no_color);
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("dxflow")
        .build()
        .map_err(|error| Failed::to("start the runtime", &error))?;
    let mut listeners = None;
    loop {
        let (end, open) = runtime.block_on(serve(up, config.clone(), listeners.take()))?;
        match end {
            End::Stop => {
                Server::remove_unix_socket(&open);
                drop(open);
                runtime.shutdown_timeout(Duration::from_secs(1));
                drop(lock);
                return Ok(());
            }
            End::Replace => {
                let error = replace(&program, &open);
                error!(error = %error, "the program could not be executed anew; this process goes on");
                open.keep();
                listeners = Some(open);
            }
        }
    }
}

/// Starts the actors and the server, and serves until the end.
async fn serve(up: &Up, config: Config, listeners: Option<Listeners>) -> Result<(End, Listeners), Failed> {
    let notifier = Notifier::from_env();
    let listen = config.server.listen.clone();
    let stop_deadline = config.engine.stop_deadline.0;
    let cannot_listen = |error| Failed::to(format_args!("listen on `{listen}`"), &error);
    let reserved = match listeners {
        Some(listeners) => listeners.into(),
        None => Reserved::new(&listen, &up.data_dir.join("engine.sock")).map_err(cannot_listen)?,
    };
    let address = reserved.address().map_err(|error| Failed::to("learn the address", &error))?;
    make_private_dir_if_absent(&config.volume(&up.data_dir)).map_err(|error| Failed::to("make the volume", &error))?;
    let metrics = bind_metrics(&config.server.metrics_listen).await?;
    let engine = Engine::start(up.settings(&config))
        .await
        .map_err(|error| Failed::new(format!("failed to start: {}", actors::error::chain(&error))))?;
    let engine = Arc::new(engine);
    greet(&engine, &up.data_dir, address);
    let start = crate::http::Start {
        data_dir: up.data_dir.clone(),
        volume: config.volume(&up.data_dir),
        profile: up.profile.clone(),
    };
    let config = Live::new(config);
    let app = App::new(Arc::clone(&engine), config.clone(), start);
    let reload = {
        let (up, config) = (up.clone(), config.clone());
        move || reload(&up, &config)
    };
    engine.on_restart(reload);
    let server = Server::new(Arc::clone(&app), reserved.listen().map_err(cannot_listen)?);
    if let Some(listener) = metrics {
        tokio::spawn(Arc::clone(&app).serve_metrics(listener));
    }
    let mut stdout = io::stdout();
    let _ = writeln!(stdout, "ready http://{address}").and_then(|()| stdout.flush());
    info!(%address, data_dir = %up.data_dir.display(), version = env!("CARGO_PKG_VERSION"), "ready");
    notifier.send("READY=1");
    let (end, by) = {
        let watchdog = watchdog(&notifier, &engine);
        let serving = server.run();
        tokio::pin!(serving, watchdog);
        let told = told(&engine);
        tokio::select! {
            told = told => told,
            () = &mut serving => (End::Stop, "the listeners ended"),
            () = &mut watchdog => (End::Stop, "the watchdog ended"),
        }
    };
    notifier.send(if matches!(end, End::Stop) { "STOPPING=1" } else { "RELOADING=1" });
    info!(by, "stopping");
    app.stop(matches!(end, End::Replace));
    let stopping = async {
        let drain = if matches!(end, End::Stop) { stop_deadline } else { REPLACE_DRAIN };
        let listeners = server.drain(drain).await;
        let left = engine.stop(stop_deadline).await;
        (listeners, left)
    };
    let (listeners, left) = tokio::select! {
        stopped = stopping => stopped,
        () = second_signal() => {
            warn!("a second signal: ending at once");
            end_at_once();
        }
    };
    if matches!(end, End::Stop) {
        match left {
            0 => info!("stopped"),
            shells => {
                let _ = writeln!(
                    io::stderr(),
                    "{shells} shell(s) go on without the engine: `dxflow boot up` returns to them; to end them, \
                     run `dxflow boot down --kill-shells` while it runs"
                );
                info!(shells, "stopped; shells go on in the keeper");
            }
        }
    }
    Ok((end, listeners))
}

/// The listener of `/metrics` alone, when one is configured. A process that replaces itself binds it anew.
async fn bind_metrics(address: &str) -> Result<Option<tokio::net::TcpListener>, Failed> {
    if address.is_empty() {
        return Ok(None);
    }
    let failed = |error| Failed::to(format_args!("listen on `{address}` (server.metrics_listen)"), &error);
    let listener = tokio::net::TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    info!(address = %bound, "metrics are at http://{bound}/metrics");
    Ok(Some(listener))
}

/// Waits until a signal or the API ends serving.
async fn told(engine: &Engine) -> (End, &'static str) {
    let on = |kind| signal(kind).map_err(|error| warn!(%error, "a signal cannot be listened for"));
    let mut interrupt = on(SignalKind::interrupt()).ok();
    let mut terminate = on(SignalKind::terminate()).ok();
    let mut hang_up = on(SignalKind::hangup()).ok();
    loop {
        tokio::select! {
            () = next(&mut interrupt) => return (End::Stop, "SIGINT"),
            () = next(&mut terminate) => return (End::Stop, "SIGTERM"),
            () = next(&mut hang_up) => {
                info!("SIGHUP: restarting the actors with the configuration as it is now");
                engine.restart();
            }
            () = engine.replacement_wanted() => return (End::Replace, "the API asked for a new process"),
        }
    }
}

async fn next(signal: &mut Option<tokio::signal::unix::Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

async fn second_signal() {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt()).ok(), signal(SignalKind::terminate()).ok());
    tokio::select! {
        () = next(&mut interrupt) => {}
        () = next(&mut terminate) => {}
    }
}

/// Reads the configuration anew for a restart; an invalid one keeps the old and says so.
fn reload(up: &Up, live: &Live<Config>) -> Result<EngineSettings, String> {
    match up.config() {
        Ok(mut config) => {
            // The listener stays: it belongs to the process, not to a generation of the actors.
            config.server.listen.clone_from(&live.get().server.listen);
            let settings = up.settings(&config);
            live.set(config);
            Ok(settings)
        }
        Err(error) => {
            let reason = actors::error::chain(&error);
            error!(reason, "the configuration is not valid; the one before stays in force");
            Err(reason)
        }
    }
}

#[expect(clippy::exit, reason = "a second signal asks for nothing else")]
fn end_at_once() -> ! {
    std::process::exit(130)
}

/// Tells the service manager that the engine lives, as long as its actors answer.
async fn watchdog(notifier: &Notifier, engine: &Engine) {
    let Some(interval) = notifier.watchdog_interval() else { return std::future::pending().await };
    let mut ticks = tokio::time::interval(interval);
    loop {
        ticks.tick().await;
        if tokio::time::timeout(interval, engine.ping()).await.is_ok_and(|answer| answer.is_ok()) {
            notifier.send("WATCHDOG=1");
        } else {
            warn!("the actors did not answer the watchdog's ping");
        }
    }
}

/// On the first start: says how to sign in, once.
fn greet(engine: &Engine, data_dir: &Path, address: std::net::SocketAddr) {
    if !engine.keys.made_admin_key() {
        return;
    }
    let key = data_dir.join("keys/admin");
    let _ = writeln!(
        io::stderr(),
        "A MASTER key was made: {key}\n\
         On this machine the command line needs no key (`dxflow shell list`). From elsewhere, copy it and say\n  \
         dxflow config set connection-address http://{address}\n  dxflow config set connection-key {key}",
        key = key.display(),
    );
}

/// Replaces this process by the program as it is on disk now. Returns only when that fails.
fn replace(program: &Path, listeners: &Listeners) -> io::Error {
    let (variable, value) = match listeners.inheritance() {
        Ok(inheritance) => inheritance,
        Err(error) => return error,
    };
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    Command::new(program).args(arguments).env(variable, value).exec()
}

/// Starts the engine as a process of its own, and waits until it is ready.
fn daemonize(up: &Up) -> Result<(), Failed> {
    make_private_dir(&up.data_dir).map_err(|error| Failed::to("make the data directory", &error))?;
    let program = std::env::current_exe().map_err(|error| Failed::to("find this program", &error))?;
    let log_path = up.data_dir.join("engine.log");
    let mut log = OpenOptions::new()
        .create(true)
        .append(true)
        .read(true)
        .mode(0o600)
        .open(&log_path)
        .map_err(|error| Failed::to(format_args!("open `{}`", log_path.display()), &error))?;
    let before = log.seek(io::SeekFrom::End(0)).unwrap_or(0);
    let errors = log.try_clone().map_err(|error| Failed::to("open the log twice", &error))?;
    let arguments = std::env::args_os().skip(1).filter(|argument| argument != "--daemon");
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors).process_group(0);
    let mut child = command.spawn().map_err(|error| Failed::to("start the engine", &error))?;
    let stdout = child.stdout.take().expect("its stdout is a pipe, said above");
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let _ = io::BufReader::new(stdout).read_line(&mut line);
        let _ = sender.send(line);
    });
    match receiver.recv_timeout(DAEMON_READY) {
        Ok(line) if line.starts_with("ready ") => {
            let _ = write!(io::stdout(), "{line}");
            Ok(())
        }
        Ok(_) => {
            let _ = child.wait();
            let mut said = String::new();
            let _ = log.seek(io::SeekFrom::Start(before)).and_then(|_| log.read_to_string(&mut said));
            Err(Failed::new(format!("the engine did not start:\n{}", said.trim_end())))
        }
        Err(_) => Err(Failed::new(format!(
            "the engine (pid {}) is not ready after {DAEMON_READY:?}; see `{}`",
            child.id(),
            log_path.display()
        ))),
    }
}

/// The lock that makes one engine of a data directory; its file holds the pid.
#[derive(Debug)]
struct Lock {
    file: File,
}

impl Lock {
    fn take(data_dir: &Path) -> Result<Self, Failed> {
        let path = data_dir.join("engine.pid");
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| Failed::to(format_args!("open `{}`", path.display()), &error))?;
        if file.try_lock().is_err() {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            return Err(Failed::new(format!(
                "another engine (pid {}) runs on the data directory `{}`; `dxflow boot down` stops it",
                pid.trim(),
                data_dir.display()
            )));
        }
        let written = file
            .set_len(0)
            .and_then(|()| file.seek(io::SeekFrom::Start(0)))
            .and_then(|_| writeln!(file, "{}", std::process::id()));
        written.map_err(|error| Failed::to("write the pid", &error))?;
        Ok(Self { file })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = self.file.set_len(0);
    }
}

/// Makes a directory that only its owner can enter, or takes others' rights from one that is there.
fn make_private_dir(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let mode = std::fs::metadata(path)?.permissions().mode();
    if mode & 0o077 != 0 {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Makes a directory for its owner; one that is there is somebody's choice and stays as it is.
fn make_private_dir_if_absent(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Shells, connections and logs each need descriptors: as many as the system allows.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        warn!(%error, "the limit of open files cannot be raised");
    }
}

/// Logs go to stderr: text on a terminal, JSON otherwise, unless it is said.
fn start_logging(config: &Config, no_color: bool) {
    let filter = EnvFilter::try_new(&config.log.level).unwrap_or_else(|_| EnvFilter::new("info"));
    let terminal = io::stderr().is_terminal();
    let json = match config.log.format {
        LogFormat::Auto => !terminal,
        LogFormat::Json => true,
        LogFormat::Text => false,
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let started = if json {
        builder.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init()
    } else {
        let color = terminal && !no_color && std::env::var_os("NO_COLOR").is_none();
        builder.with_ansi(color).with_target(false).try_init()
    };
    drop(started);
}
