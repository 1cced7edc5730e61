//! Shells: programs on terminals that outlive whoever looks at them, and the engine itself.
//!
//! ```text
//!  Shells (handle) ── registry of Sessions
//!                         │ one each
//!  ShellSupervisor        ▼
//!  ├── registrar      Session ◄── Viewers (offset + wake-up) ── sockets, recordings, execute
//!  └── Shell … ──owns──► Pump: pty ──► OutputLog (ring, shared with the keeper)
//! ```
//!
//! The keeper process owns programs and terminals; here are the actors that control them (`actor`), the tasks that move
//! their bytes (`pump`, `input`), what rebuilds their screens (`timeline`, `screen`, `modes`), and those who watch
//! (`viewer`, `execute`, `recording`). A terminal byte is never part of an actor's message. There is no thread and no
//! timer per shell.
//!
//! Failure: an actor that fails is started again by its supervisor and takes its shell over from the keeper as after any
//! restart; viewers see nothing of it. One that fails too often is left down: its shell is `failed`, the program goes on in
//! the keeper until it is removed.

mod actor;
mod environment;
mod error;
mod execute;
#[cfg(test)]
mod fuzzing;
mod handle;
mod input;
mod messages;
mod modes;
mod note;
mod pump;
mod recording;
mod registrar;
mod screen;
mod session;
mod skip;
mod timeline;
mod viewer;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use error::ShellError;
pub use execute::Outcome;
pub use handle::{ShellSpec, Shells};
pub use messages::ShellMsg;
pub use recording::{Recording, Recordings};
pub use session::{Accounting, Description, Exit, Session, ShellState};
pub use viewer::{Event, Snapshot, Viewer};

use crate::units::{Size, Span};

/// How long a call to a shell's actor may take.
const CALL_DEADLINE: Duration = Duration::from_secs(15);
/// How many calls to one shell's actor may wait at once.
const CALLS_PER_SHELL: usize = 64;

/// How terminal bytes travel in a WebSocket without subprotocol.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// As text.
    Text,
    /// As base64 in text frames, which the vendor's web console speaks.
    Base64,
}

/// Its part of the configuration.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The program of a shell that names none; without it, the login shell of the user that the engine runs as.
    pub command: Option<String>,
    /// The arguments of `command`.
    pub args: Vec<String>,
    /// Added to the environment of every shell.
    pub env: BTreeMap<String, String>,
    /// Where shells start that do not say; without it, the user's home directory.
    pub cwd: Option<PathBuf>,
    /// The width of a terminal that does not say, in characters.
    pub columns: u16,
    /// The height of a terminal that does not say, in characters.
    pub rows: u16,
    /// How many bytes of its last output each shell keeps.
    pub log_size: Size,
    /// How many lines above the screen a new viewer gets at most.
    pub scrollback: u16,
    /// How long a removed shell has between the hang-up and the kill.
    pub grace: Span,
    /// The longest pause in reading a shell's output for the sake of those who watch it.
    pub longest_pause: Span,
    /// How terminal bytes travel in a WebSocket without subprotocol, unless its query says.
    pub websocket_encoding: Encoding,
    /// The longest frame that a WebSocket's client may send.
    pub websocket_input: Size,
    /// How many bytes may be on their way to a client that acknowledges.
    pub websocket_window: Size,
    /// How many WebSockets may be open at once.
    pub websockets: usize,
    /// How many of them one key may have; more are refused with 429.
    pub websockets_per_key: usize,
    /// How many shells there may be, ended ones included; more are refused with 503.
    pub max_shells: usize,
    /// How often an idle WebSocket is pinged.
    pub ping: Span,
    /// How long a WebSocket's peer may say nothing.
    pub dead_after: Span,
    /// Whether every shell is recorded.
    pub record: bool,
    /// Whether recordings hold what is typed too; passwords included.
    pub record_input: bool,
    /// The most output of a waited-for command that is answered.
    pub execute_output: Size,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            command: None,
            args: Vec::new(),
            env: BTreeMap::new(),
            cwd: None,
            columns: 80,
            rows: 24,
            log_size: Size(256 << 10),
            scrollback: 1000,
            grace: Span::seconds(5),
            longest_pause: Span::seconds(2),
            websocket_encoding: Encoding::Text,
            websocket_input: Size(64 << 10),
            websocket_window: Size(256 << 10),
            websockets: 10_000,
            websockets_per_key: 10_000,
            max_shells: 20_000,
            ping: Span::seconds(20),
            dead_after: Span::seconds(60),
            record: false,
            record_input: false,
            execute_output: Size(1 << 20),
        }
    }
}
