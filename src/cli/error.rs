//! Why a command did not do what it was asked for, and the exit code that tells it.

use serde_json::Value;

/// The exit code when the engine said no, or a local step failed.
pub(crate) const REFUSED: u8 = 1;
/// The exit code for wrong usage.
pub(crate) const USAGE: u8 = 2;
/// The exit code when no engine answers.
pub(crate) const UNREACHABLE: u8 = 3;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The engine answered with a problem.
    #[error("{detail}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// What the engine says to do, on one line.
        detail: String,
        /// The problem document as it came.
        problem: Value,
    },
    /// No engine answers there, or it broke off.
    #[error("the engine at {address} cannot be reached: {reason}")]
    Unreachable {
        /// Where.
        address: String,
        /// Why.
        reason: String,
    },
    /// The command line asks for something that makes no sense.
    #[error("{0}")]
    Usage(String),
    /// Something here failed: a file, a key, the terminal.
    #[error("{0}")]
    Failed(String),
    /// Whoever reads our output has left: nothing to tell, and nobody to tell it to.
    #[error("the reader of the output has left")]
    OutputClosed,
    /// Everything was told already; only the exit code is left to give.
    #[error("exit code {0}")]
    Exit(u8),
}

impl CliError {
    /// A local step failed: what was attempted, and why not.
    pub(crate) fn failed(what: impl std::fmt::Display, why: impl std::fmt::Display) -> Self {
        Self::Failed(format!("{what}: {why}"))
    }

    /// The exit code of the process.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Refused { .. } | Self::Failed(_) => REFUSED,
            Self::Usage(_) => USAGE,
            Self::Unreachable { .. } => UNREACHABLE,
            Self::OutputClosed => 0,
            Self::Exit(code) => *code,
        }
    }

    /// The HTTP status of the engine's refusal.
    pub(crate) fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// The error as JSON, for `--json`: the engine's own problem document, or one of the same shape.
    pub(crate) fn to_json(&self) -> Value {
        match self {
            Self::Refused { problem, .. } if problem.is_object() => problem.clone(),
            _ => {
                let kind = match self {
                    Self::Refused { .. } => "refused",
                    Self::Unreachable { .. } => "unreachable",
                    Self::Usage(_) => "usage",
                    Self::Failed(_) | Self::OutputClosed | Self::Exit(_) => "failed",
                };
                serde_json::json!({ "type": kind, "title": kind, "status": self.status().unwrap_or(0), "detail": self.to_string() })
            }
        }
    }
}

pub(crate) type Done = Result<(), CliError>;

/// An error and its causes in one line; a cause that the error before it has told already is not told again.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once() {
        let inner = std::io::Error::other("reset");
        let outer = tokio_tungstenite::tungstenite::Error::Io(inner);
        assert_eq!(chain(&outer).matches("reset").count(), 1);
        assert_eq!(CliError::Unreachable { address: "a".into(), reason: "b".into() }.exit_code(), 3);
    }
}
