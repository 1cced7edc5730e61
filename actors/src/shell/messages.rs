//! What a shell's actor is asked and told.

use super::error::ShellError;
use crate::call::Reply;
use crate::keeper::{Status, Usage};

/// Messages of the `Shell` actor.
#[derive(Debug)]
pub enum ShellMsg {
    /// Takes the shell over from the keeper. The actor's first message, from itself.
    Adopt,
    /// Sets the size of the terminal.
    Resize {
        /// Its width.
        columns: u16,
        /// Its height.
        rows: u16,
        /// Answered when the program has been told.
        reply: Reply<(), ShellError>,
    },
    /// Sends a signal to what runs.
    Kill {
        /// The signal's number.
        signal: i32,
        /// Answered when it has been sent.
        reply: Reply<(), ShellError>,
    },
    /// Starts the program if it does not run.
    Start {
        /// Answered when it runs.
        reply: Reply<(), ShellError>,
    },
    /// The keeper has seen the program end.
    Exited {
        /// Of which start.
        generation: u32,
        /// How.
        status: Status,
        /// What it used.
        usage: Option<Usage>,
    },
    /// The pump has ended: the pty gives nothing more, or it failed.
    PumpEnded {
        /// Which pump.
        number: u64,
        /// Why, unless the pty ended.
        failure: Option<String>,
    },
    /// The pty ended some time ago; if the program still runs, it may have opened its terminal again.
    PumpTick,
}
