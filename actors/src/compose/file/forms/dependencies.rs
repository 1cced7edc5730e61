//! `depends_on`: what a service waits for.

use std::collections::BTreeMap;

use serde::Serialize;

use super::super::decode::{Decode, section};
use super::super::node::{Node, Value};
use super::super::report::{Report, Trail};
use super::super::scalar::shorten;

/// What a service waits for in another.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub(crate) struct Dependency {
    /// `service_started`, `service_healthy` or `service_completed_successfully`.
    pub(crate) condition: String,
    /// Whether the other must be there.
    pub(crate) required: bool,
    /// Whether it starts again when the other was made anew.
    pub(crate) restart: bool,
}

section! {
    DependencyLong { condition: Option<String>, required: Option<bool>, restart: bool }
}

/// What a service waits for, by service.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub(crate) struct Dependencies(pub(crate) BTreeMap<String, Dependency>);

impl Dependency {
    pub(crate) fn started() -> Self {
        Self { condition: "service_started".into(), required: true, restart: false }
    }
}

impl Decode for Dependencies {
    const WHAT: &'static str = "a list or a mapping of services";

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        if let Value::List(_) = &node.value {
            let names = Vec::<String>::decode(node, trail, report)?;
            return Some(Self(names.into_iter().map(|name| (name, Dependency::started())).collect()));
        }
        let Some(map) = node.as_map() else { return Self::wrong(node, trail, report) };
        let mut dependencies = BTreeMap::new();
        for (name, at, node) in map.iter() {
            let long = DependencyLong::decode(node, trail.key(name), report)?;
            let condition = long.condition.unwrap_or_else(|| "service_started".into());
            if !["service_started", "service_healthy", "service_completed_successfully"].contains(&condition.as_str()) {
                let message = format!("there is no condition `{}`", shorten(&condition));
                report.fault(at, trail.key(name), message);
            }
            let required = long.required.unwrap_or(true);
            dependencies.insert(name.to_owned(), Dependency { condition, required, restart: long.restart });
        }
        Some(Self(dependencies))
    }
}
