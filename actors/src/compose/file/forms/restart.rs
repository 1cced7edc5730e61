//! `restart`: when an ended container is started again.

use serde::{Serialize, Serializer};

use super::super::decode::Decode;
use super::super::node::Node;
use super::super::report::{Report, Trail};

/// When an ended container is started again.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Restart {
    /// Never.
    #[default]
    No,
    /// Whatever ended it.
    Always,
    /// Whatever ended it but somebody.
    UnlessStopped,
    /// When it failed; at most so often.
    OnFailure(Option<i64>),
}

impl Restart {
    /// Reads `no`, `always`, `unless-stopped` or `on-failure[:times]`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text.split_once(':') {
            Some(("on-failure", times)) => {
                times.parse().ok().filter(|times| *times >= 0).map(|n| Self::OnFailure(Some(n)))
            }
            Some(_) => None,
            None => match text {
                "no" | "" | "false" => Some(Self::No),
                "always" => Some(Self::Always),
                "unless-stopped" => Some(Self::UnlessStopped),
                "on-failure" => Some(Self::OnFailure(None)),
                _ => None,
            },
        }
    }
}

impl Decode for Restart {
    const WHAT: &'static str = "`no`, `always`, `unless-stopped` or `on-failure[:times]`";

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        match node.as_text().and_then(Self::parse) {
            Some(restart) => Some(restart),
            None => Self::wrong(node, trail, report),
        }
    }
}

impl Serialize for Restart {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::No => serializer.serialize_str("no"),
            Self::Always => serializer.serialize_str("always"),
            Self::UnlessStopped => serializer.serialize_str("unless-stopped"),
            Self::OnFailure(None) => serializer.serialize_str("on-failure"),
            Self::OnFailure(Some(times)) => serializer.serialize_str(&format!("on-failure:{times}")),
        }
    }
}
