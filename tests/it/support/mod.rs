//! The real engine, as a user starts it: its own data directory, a port of its own, and nothing left when it is dropped.
//!
//! Nothing here sleeps for a state: [`until`] asks again and again, up to a deadline.

pub mod credentials;
pub mod http;
pub mod objects;
pub mod process;
pub mod proxy;
pub mod socket;
pub mod wire;

use std::future::Future;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use ed25519_dalek::Signer;
use serde_json::{Value, json};
use tempfile::TempDir;

pub use http::{Answer, Client};

/// How long anything may take that a test waits for; generous, since machines are shared.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The program under test: the one that was built with the tests, or another build that `DXFLOW_IT_PROGRAM` names.
pub fn program() -> PathBuf {
    std::env::var_os("DXFLOW_IT_PROGRAM").map_or_else(|| env!("CARGO_BIN_EXE_dxflow").into(), PathBuf::from)
}

/// Asks until `check` gives a value.
///
/// # Panics
/// When it does not within [`PATIENCE`]; `what` says what was waited for.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut check: impl FnMut() -> F) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = check().await {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// As [`until`], for a check that need not wait.
pub async fn until_true(what: &str, mut check: impl FnMut() -> bool) {
    until(what, || std::future::ready(check().then_some(()))).await;
}

/// Waits for `future`, at most [`PATIENCE`].
///
/// # Panics
/// When it takes longer; `what` says what was waited for.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited in vain for: {what}"))
}

/// How an engine is started.
#[derive(Clone, Debug, Default)]
pub struct Options {
    config: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Options {
    /// Adds text to its `config.toml`.
    pub fn config(mut self, text: &str) -> Self {
        self.config.push_str(text);
        self.config.push('\n');
        self
    }

    /// Adds an argument to `boot up`.
    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Sets an environment variable.
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Starts the engine.
    pub async fn start(self) -> Engine {
        let dir = tempfile::Builder::new().prefix("dxflow-it-").tempdir().expect("a temporary directory");
        std::fs::write(dir.path().join("config.toml"), &self.config).expect("config.toml is written");
        std::fs::create_dir(dir.path().join("home")).expect("the home is made");
        let mut engine =
            Engine { child: None, address: ([0, 0, 0, 0], 0).into(), options: self, token: String::new(), dir };
        engine.boot().await;
        engine
    }
}

/// A running engine.
pub struct Engine {
    child: Option<Child>,
    /// Where it listens.
    pub address: SocketAddr,
    options: Options,
    /// A MASTER token.
    pub token: String,
    dir: TempDir,
}

impl Engine {
    /// Starts one with the default configuration.
    pub async fn start() -> Self {
        Self::options().start().await
    }

    /// Says how one is to be started. Public endpoints are not limited, so that many tests can sign in from one address.
    pub fn options() -> Options {
        Options::default()
            .environment("DXFLOW_SERVER_PUBLIC_RATE", "100000")
            .environment("DXFLOW_SERVER_PUBLIC_BURST", "100000")
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The directory beneath which all objects live.
    pub fn volume(&self) -> PathBuf {
        self.data_dir().join("volume")
    }

    /// The home of the engine, and of its shells.
    pub fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    /// A directory for the test's own files, beside the engine's.
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    /// The engine's process.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.as_ref().expect("the engine runs").id()).expect("a pid fits")
    }

    /// The program with the arguments that make it speak to this engine.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.current_dir(self.dir.path()).env_remove("DXFLOW_DATA_DIR").env_remove("SSH_AUTH_SOCK");
        // A panic on purpose is back before its backtrace would have been written.
        command.env_remove("RUST_BACKTRACE");
        command.arg("--data-dir").arg(self.data_dir()).arg("--config").arg(self.dir.path().join("config.toml"));
        command.args(arguments);
        // Shells read their owner's start-up files: the tests' are none.
        command.env("HOME", self.home());
        command.envs(self.options.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null());
        command
    }

    /// Runs the program against this engine, and waits for its end.
    pub async fn cli(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(arguments);
        let run = tokio::task::spawn_blocking(move || command.output().expect("the program runs"));
        within(&format!("{arguments:?}"), run).await.expect("the thread that waits does not panic")
    }

    /// Starts the engine's process and waits until it is ready.
    pub async fn boot(&mut self) {
        let mut command = self.command(&["boot", "up", "--listen"]);
        // A second start takes the address of the first, as an operator's would.
        command.arg(self.address_to_listen());
        command.args(&self.options.arguments).stdout(Stdio::piped());
        let log = std::fs::File::options().create(true).append(true).open(self.dir.path().join("engine.log"));
        command.stderr(log.expect("the log opens"));
        let mut child = command.spawn().expect("the engine starts");
        let stdout = child.stdout.take().expect("piped above");
        self.child = Some(child);
        let line = tokio::task::spawn_blocking(move || {
            let mut lines = BufReader::new(stdout);
            let mut line = String::new();
            let _ = lines.read_line(&mut line);
            // What follows is read to its end, so that the engine never waits for us.
            std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
            line
        });
        let line = within("`ready` of the engine", line).await.expect("the reader does not panic");
        let address = line.trim().strip_prefix("ready http://").unwrap_or_else(|| panic!("{line:?}\n{}", self.log()));
        self.address = address.parse().expect("an address");
        self.token = self.sign_in(&self.data_dir().join("keys/admin")).await;
    }

    fn address_to_listen(&self) -> String {
        if self.address.port() == 0 { "127.0.0.1:0".into() } else { self.address.to_string() }
    }

    /// What the engine has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("engine.log")).unwrap_or_default()
    }

    /// Kills the engine's process as `kill -9` does. The keeper and its shells go on.
    pub async fn kill(&mut self) {
        let mut child = self.child.take().expect("the engine runs");
        child.kill().expect("the process can be killed");
        tokio::task::spawn_blocking(move || child.wait()).await.expect("no panic").expect("it ends");
    }

    /// Stops the engine as `SIGTERM` does, and waits for its end.
    pub async fn stop(&mut self) -> std::process::ExitStatus {
        process::signal(self.pid(), rustix::process::Signal::TERM);
        let mut child = self.child.take().expect("the engine runs");
        let ended = tokio::task::spawn_blocking(move || child.wait().expect("it can be waited for"));
        within("the end of the engine", ended).await.expect("no panic")
    }

    /// A client without a token.
    pub fn anonymous(&self) -> Client {
        Client::new(self.address, None)
    }

    /// A client with this token.
    pub fn client(&self, token: &str) -> Client {
        Client::new(self.address, Some(token.into()))
    }

    /// A MASTER client.
    pub fn master(&self) -> Client {
        self.client(&self.token)
    }

    /// GET as MASTER.
    pub async fn get(&self, path: &str) -> Answer {
        self.master().get(path).send().await
    }

    /// POST as MASTER.
    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.master().post(path).json(&body).send().await
    }

    /// PUT as MASTER.
    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.master().put(path).json(&body).send().await
    }

    /// PATCH as MASTER.
    pub async fn patch(&self, path: &str, body: Value) -> Answer {
        self.master().patch(path).json(&body).send().await
    }

    /// DELETE as MASTER.
    pub async fn delete(&self, path: &str, body: Value) -> Answer {
        self.master().delete(path).json(&body).send().await
    }

    /// Signs in with an OpenSSH private key file.
    pub async fn sign_in(&self, key: &Path) -> String {
        let text = std::fs::read_to_string(key).expect("the key can be read");
        self.sign_in_with(&text).await
    }

    /// Signs in with the text of an OpenSSH private key.
    pub async fn sign_in_with(&self, text: &str) -> String {
        let key = ssh_key::PrivateKey::from_openssh(text).expect("an OpenSSH private key");
        let pair = key.key_data().ed25519().expect("an Ed25519 key");
        let key = ed25519_dalek::SigningKey::from_bytes(&pair.private.to_bytes());
        let challenge = self.anonymous().get("/auth/challenge/").send().await.expect(200);
        let nonce = challenge["nonce"].as_str().expect("a nonce");
        let signature = base64::engine::general_purpose::STANDARD.encode(key.sign(nonce.as_bytes()).to_bytes());
        let body = json!({ "identity": challenge["identity"], "signature": signature });
        let verified = self.anonymous().post("/auth/verify/").json(&body).send().await.expect(200);
        verified["token"].as_str().expect("a token").to_owned()
    }

    /// Registers a key with these permissions, and signs in with it.
    pub async fn token_with(&self, identity: &str, permissions: &[&str]) -> String {
        let made = self.post("/auth/key/", json!({ "identity": identity, "permissions": permissions })).await;
        let made = made.expect(201);
        self.sign_in_with(made["private_key"].as_str().expect("a private key")).await
    }

    /// The processes that belong to this engine's keeper, the keeper first.
    pub fn keeper_processes(&self) -> Vec<i32> {
        process::keeper_tree(&self.data_dir())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        for pid in self.keeper_processes() {
            process::signal(pid, rustix::process::Signal::KILL);
        }
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            let mut stderr = std::io::stderr();
            let _ = writeln!(stderr, "--- the engine's last log lines");
            for line in tail.into_iter().rev() {
                let _ = writeln!(stderr, "{line}");
            }
        }
    }
}
