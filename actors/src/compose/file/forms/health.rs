//! `healthcheck` and `ulimits`.

use serde::Serialize;

use super::super::decode::{Decode, section};
use super::super::node::{Node, Value};
use super::super::report::{Report, Trail};
use super::super::units::Nanos;
use super::Strings;

section! {
    /// How Docker knows whether a container is well.
    Healthcheck {
        test: Option<HealthTest>, interval: Option<Nanos>, timeout: Option<Nanos>, retries: Option<i64>,
        start_period: Option<Nanos>, start_interval: Option<Nanos>, disable: bool,
    }
}

/// `["CMD", …]`, `["CMD-SHELL", line]` or `["NONE"]`.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub(crate) struct HealthTest(pub(crate) Vec<String>);

impl Decode for HealthTest {
    const WHAT: &'static str = "a command line or a list that begins with CMD, CMD-SHELL or NONE";

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        match &node.value {
            Value::Text(line) => Some(Self(vec!["CMD-SHELL".into(), line.clone()])),
            Value::List(_) => {
                let words = Strings::decode(node, trail, report)?.0;
                match words.first().map(String::as_str) {
                    Some("CMD" | "CMD-SHELL" | "NONE") => Some(Self(words)),
                    _ => Self::wrong(node, trail, report),
                }
            }
            _ => Self::wrong(node, trail, report),
        }
    }
}

/// A limit of resources of a process.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub(crate) struct Ulimit {
    /// What it has.
    pub(crate) soft: i64,
    /// What it may raise it to.
    pub(crate) hard: i64,
}

section! {
    UlimitLong { soft: Option<i64>, hard: Option<i64> }
}

impl Decode for Ulimit {
    const WHAT: &'static str = "a whole number, or `soft` and `hard`";

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        if node.as_map().is_none() {
            return i64::decode(node, trail, report).map(|limit| Self { soft: limit, hard: limit });
        }
        let UlimitLong { soft: Some(soft), hard: Some(hard) } = UlimitLong::decode(node, trail, report)? else {
            report.fault(&node.at, trail, "needs both `soft` and `hard`");
            return None;
        };
        Some(Self { soft, hard })
    }
}
