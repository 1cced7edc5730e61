//! Texts: lists of them, command lines, names with values, hosts.

use std::collections::BTreeMap;

use serde::Serialize;

use super::super::decode::{Decode, Maybe, Scalar};
use super::super::node::{Node, Value};
use super::super::paths::meant;
use super::super::report::{Report, Trail};

/// A list of texts, or one text alone.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub(crate) struct Strings(pub(crate) Vec<String>);

impl Decode for Strings {
    const WHAT: &'static str = "a text or a list of texts";

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        match &node.value {
            Value::List(_) => Vec::<Scalar>::decode(node, trail, report)
                .map(|list| Self(list.into_iter().map(|item| item.0).collect())),
            _ => Scalar::decode(node, trail, report).map(|text| Self(vec![text.0])),
        }
    }
}

/// A command: a list of words, or a line that is split as a shell splits it.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub(crate) struct Words(pub(crate) Vec<String>);

impl Decode for Words {
    const WHAT: &'static str = "a command line or a list of words";

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        match &node.value {
            Value::Text(line) => match split_words(line) {
                Some(words) => Some(Self(words)),
                None => {
                    report.fault(&node.at, trail, "a quote is not closed");
                    None
                }
            },
            Value::List(_) => Strings::decode(node, trail, report).map(|list| Self(list.0)),
            _ => Self::wrong(node, trail, report),
        }
    }
}

/// Splits a line into words as a shell does, without any expansion; nothing when a quote is not closed.
pub(crate) fn split_words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        '\'' => break,
                        c => word.push(c),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        '"' => break,
                        '\\' => match chars.next()? {
                            c @ ('"' | '\\' | '$' | '`') => word.push(c),
                            '\n' => {}
                            c => word.extend(['\\', c]),
                        },
                        c => word.push(c),
                    }
                }
            }
            '\\' => match chars.next()? {
                '\n' => {}
                c => word.get_or_insert_default().push(c),
            },
            c if c.is_whitespace() => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Some(words)
}

/// A path of the host, absolute. A relative one is relative to the directory of the file that it stands in.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub(crate) struct HostPath(pub(crate) String);

impl Decode for HostPath {
    const WHAT: &'static str = "a path";

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        match node.as_text() {
            Some(text) if !text.is_empty() => {
                let whole = meant(&node.at.file.directory, text);
                let whole = whole.map_err(|reason| report.fault(&node.at, trail, reason)).ok()?;
                Some(Self(whole.to_string_lossy().into_owned()))
            }
            _ => Self::wrong(node, trail, report),
        }
    }
}

/// Paths of the host, or one alone.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub(crate) struct HostPaths(pub(crate) Vec<HostPath>);

impl Decode for HostPaths {
    const WHAT: &'static str = "a path or a list of paths";

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        match &node.value {
            Value::List(_) => Vec::decode(node, trail, report).map(Self),
            Value::Text(_) => HostPath::decode(node, trail, report).map(|path| Self(vec![path])),
            _ => Self::wrong(node, trail, report),
        }
    }
}

/// Names with values: a mapping, or a list of `NAME=value`. A name without value has none.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub(crate) struct Pairs(pub(crate) BTreeMap<String, Option<String>>);

impl Pairs {
    /// The names that have a value; one without has the empty one.
    pub(crate) fn filled(&self) -> BTreeMap<String, String> {
        self.0.iter().map(|(name, value)| (name.clone(), value.clone().unwrap_or_default())).collect()
    }
}

impl Decode for Pairs {
    const WHAT: &'static str = "a mapping or a list of `NAME=value`";

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        match &node.value {
            Value::Map(_) => BTreeMap::<String, Maybe>::decode(node, trail, report)
                .map(|map| Self(map.into_iter().map(|(name, value)| (name, value.0)).collect())),
            Value::List(_) => {
                let items = Vec::<Scalar>::decode(node, trail, report)?;
                let pairs = items.into_iter().map(|item| match item.0.split_once('=') {
                    Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                    None => (item.0, None),
                });
                Some(Self(pairs.collect()))
            }
            _ => Self::wrong(node, trail, report),
        }
    }
}

/// Hosts: a mapping of names to addresses, or a list of `name:address` or `name=address`.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub(crate) struct Hosts(pub(crate) Vec<String>);

impl Decode for Hosts {
    const WHAT: &'static str = "a mapping or a list of `host:address`";

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        let mut hosts = Vec::new();
        match &node.value {
            Value::Map(map) => {
                for (name, _, node) in map.iter() {
                    let addresses = Strings::decode(node, trail.key(name), report)?;
                    hosts.extend(addresses.0.iter().map(|address| format!("{name}:{address}")));
                }
            }
            Value::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    let text = Scalar::decode(item, trail.index(index), report)?.0;
                    match text.split_once('=').or_else(|| text.split_once(':')) {
                        Some((name, address)) if !name.is_empty() && !address.is_empty() => {
                            // Several addresses stand in one text.
                            let addresses = address.split(',').map(|address| address.trim_matches(['[', ']']));
                            hosts.extend(addresses.map(|address| format!("{name}:{address}")));
                        }
                        _ => report.fault(&item.at, trail.index(index), "must be `host:address` or `host=address`"),
                    }
                }
            }
            _ => return Self::wrong(node, trail, report),
        }
        Some(Self(hosts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_split_as_a_shell_splits_them() {
        for (line, words) in [
            ("a  b", vec!["a", "b"]),
            ("sh -c 'echo \"x\" $Y'", vec!["sh", "-c", "echo \"x\" $Y"]),
            ("a\\ b \"c\\\"d\" ''", vec!["a b", "c\"d", ""]),
            ("", vec![]),
        ] {
            assert_eq!(split_words(line), Some(words.into_iter().map(String::from).collect()), "{line}");
        }
        assert_eq!(split_words("'x"), None);
    }
}
