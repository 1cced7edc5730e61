//! `develop`: what `docker compose watch` does with changed files. It is read so that what is wrong in it is told, and
//! nothing of it is done.

use super::super::decode::{Decode, section};
use super::super::node::Node;
use super::super::report::{Report, Trail};
use super::super::scalar::shorten;
use super::{Hook, Strings};

section! {
    /// What is done when files change.
    Develop { watch: Vec<Whole> }
}

/// A [`Watch`] that says what it must.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub(crate) struct Whole(Watch);

impl Decode for Whole {
    const WHAT: &'static str = "a mapping";

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        let watch = Watch::decode(node, trail, report)?;
        for (key, said) in [("path", !watch.path.is_empty()), ("action", !watch.action.0.is_empty())] {
            if !said {
                report.fault(&node.at, trail, format!("`{key}` is missing"));
            }
        }
        Some(Self(watch))
    }
}

section! {
    /// What is done when the files beneath one path change.
    Watch {
        path: String, action: Action, target: Option<String>, ignore: Strings, include: Strings,
        exec: Option<Hook>, initial_sync: bool,
    }
}

/// What is done.
#[derive(Clone, Debug, Default, Eq, PartialEq, serde::Serialize)]
pub(crate) struct Action(String);

impl Decode for Action {
    const WHAT: &'static str = "rebuild, sync, restart, sync+restart or sync+exec";

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        match node.as_text() {
            Some(text @ ("rebuild" | "sync" | "restart" | "sync+restart" | "sync+exec")) => Some(Self(text.into())),
            Some(text) => {
                report.fault(&node.at, trail, format!("`{}` must be {}", shorten(text), Self::WHAT));
                None
            }
            None => Self::wrong(node, trail, report),
        }
    }
}
