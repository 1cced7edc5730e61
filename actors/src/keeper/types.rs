//! What the engine and the keeper say about a shell. The same types travel in the protocol.

use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use crate::ids::ShellId;
use crate::output_log::OutputLog;

/// A shell to be made.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SpawnSpec {
    /// Its name.
    pub id: ShellId,
    /// The program: a path, or a name that is looked for in the `PATH` of `env`.
    pub path: String,
    /// Its arguments, without the program's own name.
    pub args: Vec<String>,
    /// Its whole environment: nothing of the keeper's or the engine's is added.
    pub env: Vec<(String, String)>,
    /// The directory it starts in.
    pub cwd: String,
    /// The width of the terminal in character cells.
    pub columns: u16,
    /// The height of the terminal in character cells.
    pub rows: u16,
    /// How many bytes of output are kept.
    pub log_capacity: u64,
    /// The engine's own note, kept unread; at most [`MAX_NOTE`] bytes.
    #[serde(with = "base64_bytes")]
    pub note: Vec<u8>,
    /// Whether the program is started at once.
    pub start: bool,
    /// What the whole tree may use; refused where the system cannot enforce it.
    pub limits: Option<Limits>,
}

/// The longest note, in bytes.
pub const MAX_NOTE: usize = 16 << 10;

/// What a shell and everything it starts may use together.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Memory in bytes.
    pub memory: Option<u64>,
    /// Processor time, in thousandths of one processor.
    pub cpu_millis: Option<u32>,
    /// The number of processes and threads.
    pub pids: Option<u32>,
}

/// What a shell is doing.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Status {
    /// Made, never started.
    Created,
    /// Its program runs.
    Running,
    /// Its program ended by itself.
    Exited {
        /// What it ended with.
        code: i32,
    },
    /// Its program was ended by a signal.
    Signalled {
        /// The signal's number.
        signal: i32,
    },
    /// Its program could not be started.
    Failed {
        /// Why.
        reason: String,
    },
}

impl Status {
    /// Whether the program runs.
    pub fn is_running(&self) -> bool {
        matches!(self, Self::Running)
    }
}

/// What the program used while it ran, with those of its children that it waited for.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Usage {
    /// Processor time in seconds.
    pub cpu_seconds: f64,
    /// The largest resident size of one process, in bytes.
    pub memory_peak: u64,
}

/// A shell as the keeper knows it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Record {
    /// Its name.
    pub id: ShellId,
    /// The program as it was asked for.
    pub path: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// The directory it started in.
    pub cwd: String,
    /// The width of the terminal.
    pub columns: u16,
    /// The height of the terminal.
    pub rows: u16,
    /// The process, while it runs.
    pub pid: Option<i32>,
    /// How many times it was started.
    pub generation: u32,
    /// What it is doing.
    pub status: Status,
    /// Unix seconds.
    pub created_at: i64,
    /// When the program ended, Unix seconds.
    pub ended_at: Option<i64>,
    /// The engine's own note.
    #[serde(with = "base64_bytes")]
    pub note: Vec<u8>,
    /// What the program used, once it has ended.
    pub usage: Option<Usage>,
}

/// A shell in the engine's hands.
#[derive(Debug)]
pub struct Adopted {
    /// What it is.
    pub record: Record,
    /// Our end of its terminal, non-blocking and close-on-exec; none before the first start. The open file is shared by
    /// all who hold it. After the program has ended it still gives what was not read yet, then `EIO`.
    pub pty: Option<OwnedFd>,
    /// Its output.
    pub log: OutputLog,
}

/// Whom a signal is for.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// The terminal's foreground process group, as a key on the keyboard would.
    Foreground,
    /// The foreground process group, and the shell itself.
    Shell,
    /// Everything that the shell has started, wherever it went, and the shell.
    Tree,
}

/// What happens in the keeper without being asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum KeeperEvent {
    /// A shell's program has ended.
    Exited {
        /// Which.
        id: ShellId,
        /// Of which start.
        generation: u32,
        /// How.
        status: Status,
        /// What it used.
        usage: Option<Usage>,
    },
    /// The connection was lost and made anew: what happened meanwhile was not told. `list` says what is there now; after
    /// the keeper itself died that is nothing.
    Reconnected,
}

/// Bytes as base64 text.
pub(super) mod base64_bytes {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD_NO_PAD;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(in crate::keeper) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD_NO_PAD.encode(bytes))
    }

    pub(in crate::keeper) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        STANDARD_NO_PAD.decode(text.as_bytes()).map_err(serde::de::Error::custom)
    }
}
