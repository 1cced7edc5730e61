//! `build`: how the image of a service is made.

use std::collections::BTreeMap;

use serde::Serialize;

use super::super::decode::{Decode, Scalar, section};
use super::super::node::{Node, Value};
use super::super::paths::absolute;
use super::super::report::{Report, Trail};
use super::super::units::ByteSize;
use super::{Grants, Hosts, Pairs, Strings, Ulimit};

section! {
    /// How an image is made. A path alone has become `context` before it is read here.
    Build {
        /// Where the files for it are: an absolute path, or an address that the builder fetches.
        context: Context,
        /// The Dockerfile, relative to the context; `Dockerfile` where neither it nor `dockerfile_inline` is said.
        dockerfile: Option<String>,
        /// The text of the Dockerfile instead.
        dockerfile_inline: Option<String>,
        additional_contexts: Contexts,
        args: Pairs,
        cache_from: Strings,
        cache_to: Strings,
        entitlements: Vec<String>,
        extra_hosts: Hosts,
        isolation: Option<String>,
        labels: Pairs,
        network: Option<String>,
        no_cache: bool,
        no_cache_filter: Strings,
        platforms: Vec<String>,
        privileged: bool,
        provenance: Option<Scalar>,
        pull: bool,
        sbom: Option<Scalar>,
        secrets: Grants,
        shm_size: Option<ByteSize>,
        ssh: Pairs,
        /// Further names of the image.
        tags: Vec<String>,
        /// The stage that is built.
        target: Option<String>,
        ulimits: BTreeMap<String, Ulimit>,
    }
}

/// An absolute path, or what the builder fetches itself.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub(crate) struct Context(pub(crate) String);

impl Context {
    /// Whether it is not on this machine.
    pub(crate) fn is_remote(&self) -> bool {
        is_remote(&self.0)
    }

    fn of(node: &Node, text: &str) -> Self {
        if is_remote(text) || text.starts_with("service:") {
            return Self(text.to_owned());
        }
        Self(absolute(&node.at.file.directory, text).to_string_lossy().into_owned())
    }
}

/// Whether a text names something that is fetched: an address, a repository, an artifact of a registry.
pub(crate) fn is_remote(text: &str) -> bool {
    text.contains("://") || ["github.com/", "git@", "oci:"].iter().any(|prefix| text.starts_with(prefix))
}

impl Decode for Context {
    const WHAT: &'static str = "a path";

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        let text = node.scalar_text().or_else(|| Self::wrong(node, trail, report))?;
        Some(Self::of(node, &text))
    }
}

/// Contexts by name: a mapping, or a list of `name=path`.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub(crate) struct Contexts(pub(crate) BTreeMap<String, Context>);

impl Decode for Contexts {
    const WHAT: &'static str = "a mapping or a list of `name=path`";

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        let mut contexts = BTreeMap::new();
        match &node.value {
            Value::Map(map) => {
                for (name, _, node) in map.iter() {
                    contexts.insert(name.to_owned(), Context::decode(node, trail.key(name), report)?);
                }
            }
            Value::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    let Some((name, path)) = item.as_text().and_then(|text| text.split_once('=')) else {
                        return Self::wrong(item, trail.index(index), report);
                    };
                    contexts.insert(name.to_owned(), Context::of(item, path));
                }
            }
            _ => return Self::wrong(node, trail, report),
        }
        Some(Self(contexts))
    }
}
