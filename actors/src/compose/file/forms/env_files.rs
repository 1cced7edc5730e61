//! `env_file`: a path, a list of paths, or a list of mappings.

use serde::Serialize;

use super::super::decode::{Decode, section};
use super::super::node::{Node, Value};
use super::super::report::{Report, Trail};
use super::super::scalar::shorten;
use super::HostPath;

/// A file of variables.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub(crate) struct EnvFile {
    /// Where it is.
    pub(crate) path: HostPath,
    /// Whether it must be there.
    pub(crate) required: bool,
    /// Whether its values stand as they are, without quotes and variables.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) raw: bool,
}

section! {
    EnvFileLong { path: HostPath, required: Option<bool>, format: Option<String> }
}

/// The files of variables of a service, in their order.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub(crate) struct EnvFiles(pub(crate) Vec<EnvFile>);

impl Decode for EnvFile {
    const WHAT: &'static str = "a path, or a mapping with `path`";

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        if node.as_map().is_none() {
            let path = HostPath::decode(node, trail, report)?;
            return Some(Self { path, required: true, raw: false });
        }
        let long = EnvFileLong::decode(node, trail, report)?;
        if long.path.0.is_empty() {
            report.fault(&node.at, trail, "`path` is missing");
        }
        let raw = match long.format.as_deref() {
            Some("raw") => true,
            None | Some("" | "dotenv") => false,
            Some(other) => {
                let message = format!("there is no format `{}`: there is `raw` beside the usual one", shorten(other));
                report.fault(&node.at, trail.key("format"), message);
                false
            }
        };
        Some(Self { path: long.path, required: long.required.unwrap_or(true), raw })
    }
}

impl Decode for EnvFiles {
    const WHAT: &'static str = "a path or a list of paths";

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        match &node.value {
            Value::List(_) => Vec::decode(node, trail, report).map(Self),
            Value::Text(_) | Value::Map(_) => EnvFile::decode(node, trail, report).map(|file| Self(vec![file])),
            _ => Self::wrong(node, trail, report),
        }
    }
}
