//! `secrets` and `configs` of a service, and `external`.

use serde::Serialize;

use super::super::decode::{Decode, Scalar, section};
use super::super::node::{Node, Value};
use super::super::report::{Report, Trail};
use super::super::units::Mode;

section! {
    /// A secret or config as a service has it.
    Grant { source: String, target: Option<String>, uid: Option<Scalar>, gid: Option<Scalar>, mode: Option<Mode> }
}

/// The secrets or configs that a service gets.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Grants(pub(crate) Vec<Grant>);

impl Decode for Grants {
    const WHAT: &'static str = "a list of names or mappings";

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        let Value::List(items) = &node.value else { return Self::wrong(node, trail, report) };
        let mut grants = Vec::new();
        for (index, item) in items.iter().enumerate() {
            grants.extend(match &item.value {
                Value::Text(source) => Some(Grant { source: source.clone(), ..Grant::default() }),
                _ => Grant::decode(item, trail.index(index), report),
            });
        }
        Some(Self(grants))
    }
}

/// Whether something is made by somebody else, and its name there.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct External(pub(crate) bool, pub(crate) Option<String>);

impl Serialize for External {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bool(self.0)
    }
}

section! {
    ExternalLong { name: Option<String> }
}

impl Decode for External {
    const WHAT: &'static str = "`true` or `false`";

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        match node.as_map() {
            Some(_) => ExternalLong::decode(node, trail, report).map(|long| Self(true, long.name)),
            None => bool::decode(node, trail, report).map(|external| Self(external, None)),
        }
    }
}
