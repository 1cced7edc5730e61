//! A tree of values that knows where each part was written, and what relative paths in it are relative to.

use std::path::PathBuf;
use std::sync::Arc;

/// A file of the project.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Source {
    /// What it is called in messages.
    pub(crate) name: String,
    /// What relative paths in it are relative to.
    pub(crate) directory: PathBuf,
}

impl Source {
    /// A file in which nobody names paths.
    pub(crate) fn named(name: impl Into<String>) -> Arc<Self> {
        Arc::new(Self { name: name.into(), directory: PathBuf::new() })
    }
}

/// Where something was written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct At {
    /// The file.
    pub(crate) file: Arc<Source>,
    /// The line, from 1; 0 where there is none.
    pub(crate) line: u32,
    /// The column, from 1; 0 where there is none.
    pub(crate) column: u32,
}

impl At {
    /// A file as a whole.
    pub(crate) fn file(file: &Arc<Source>) -> Self {
        Self { file: Arc::clone(file), line: 0, column: 0 }
    }
}

/// What an override file asks of the value that it stands over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Tag {
    /// `!reset`: as if it had never been said.
    Reset,
    /// `!override`: instead of what was said, without merging.
    Override,
}

/// A value and where it was written.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) at: At,
    pub(crate) tag: Option<Tag>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Map),
}

/// Two nodes are equal when their values are, wherever they were written.
impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

/// The entries of a mapping, in the order in which they were written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Map {
    pub(super) entries: Vec<(String, At, Node)>,
}

impl PartialEq for Map {
    fn eq(&self, other: &Self) -> bool {
        self.entries.len() == other.entries.len()
            && self.entries.iter().all(|(key, _, node)| other.get(key).is_some_and(|other| other == node))
    }
}

impl Map {
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        self.entries.iter().find(|(name, ..)| name == key).map(|(_, _, node)| node)
    }

    pub(crate) fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        self.entries.iter_mut().find(|(name, ..)| name == key).map(|(_, _, node)| node)
    }

    /// Takes an entry out.
    pub(crate) fn remove(&mut self, key: &str) -> Option<Node> {
        let place = self.entries.iter().position(|(name, ..)| name == key)?;
        Some(self.entries.remove(place).2)
    }

    /// Adds an entry whose key is not there yet.
    pub(crate) fn push(&mut self, key: String, at: At, node: Node) {
        self.entries.push((key, at, node));
    }

    /// Keeps the entries that `keep` says yes to.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&Node) -> bool) {
        self.entries.retain(|(_, _, node)| keep(node));
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &At, &Node)> {
        self.entries.iter().map(|(key, at, node)| (key.as_str(), at, node))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (&str, &At, &mut Node)> {
        self.entries.iter_mut().map(|(key, at, node)| (key.as_str(), &*at, node))
    }

    pub(crate) fn into_entries(self) -> Vec<(String, At, Node)> {
        self.entries
    }
}

impl Node {
    /// A value without a tag.
    pub(crate) fn new(value: Value, at: At) -> Self {
        Self { value, at, tag: None }
    }

    /// An empty mapping.
    pub(crate) fn empty(at: At) -> Self {
        Self::new(Value::Map(Map::default()), at)
    }

    pub(crate) fn is_null(&self) -> bool {
        self.value == Value::Null
    }

    pub(crate) fn as_map_mut(&mut self) -> Option<&mut Map> {
        if let Value::Map(map) = &mut self.value { Some(map) } else { None }
    }

    pub(crate) fn as_text(&self) -> Option<&str> {
        if let Value::Text(text) = &self.value { Some(text) } else { None }
    }

    pub(crate) fn as_map(&self) -> Option<&Map> {
        if let Value::Map(map) = &self.value { Some(map) } else { None }
    }

    /// A scalar as text, the way Go prints it; none for null, lists and mappings.
    pub(crate) fn scalar_text(&self) -> Option<String> {
        match &self.value {
            Value::Text(text) => Some(text.clone()),
            Value::Bool(value) => Some(value.to_string()),
            Value::Int(value) => Some(value.to_string()),
            Value::Float(value) => Some(value.to_string()),
            Value::Null | Value::List(_) | Value::Map(_) => None,
        }
    }

    /// Where the node at `path` beneath this one was written; the nearest that is there.
    pub(crate) fn place(&self, path: &[&str]) -> At {
        let mut node = self;
        for key in path {
            match node.as_map().and_then(|map| map.get(key)) {
                Some(child) => node = child,
                None => break,
            }
        }
        node.at.clone()
    }

    /// What kind of value it is, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Int(_) | Value::Float(_) => "a number",
            Value::Text(_) => "a text",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    /// The same as JSON.
    #[cfg(test)]
    pub(crate) fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => (*value).into(),
            Value::Int(value) => (*value).into(),
            Value::Float(value) => (*value).into(),
            Value::Text(text) => text.clone().into(),
            Value::List(items) => items.iter().map(Self::to_json).collect(),
            Value::Map(map) => map.iter().map(|(key, _, node)| (key.to_owned(), node.to_json())).collect(),
        }
    }
}
