//! `extends`: a service that begins with what another one says, of the same file or of another.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::assemble::{Assembly, Text};
use super::forms::is_remote;
use super::interpolate::Variables;
use super::merge::{merge, prune};
use super::node::{At, Map, Node, Value};
use super::paths::absolute;
use super::report::nearest;

/// How long a chain of services that extend each other may be.
const MAX_CHAIN: usize = 64;

/// A service by the file that it stands in (none for the document itself) and its name.
type Key = (Option<PathBuf>, String);

/// Writes out what the services of one document extend.
pub(super) struct Extended<'s, 'a> {
    assembly: &'s mut Assembly<'a>,
    variables: &'s Variables,
    done: HashMap<Key, Node>,
    /// The trees of other files, read already.
    files: HashMap<PathBuf, Option<Node>>,
}

impl<'s, 'a> Extended<'s, 'a> {
    pub(super) fn new(assembly: &'s mut Assembly<'a>, variables: &'s Variables) -> Self {
        Self { assembly, variables, done: HashMap::new(), files: HashMap::new() }
    }

    /// Replaces every service that extends another by what it comes to.
    pub(super) fn write_out(&mut self, document: &mut Node) -> Option<()> {
        let Some(services) = document.as_map().and_then(|map| map.get("services")).and_then(Node::as_map) else {
            return Some(());
        };
        let extending: Vec<String> = services
            .iter()
            .filter(|(_, _, service)| service.as_map().is_some_and(|map| map.get("extends").is_some()))
            .map(|(name, ..)| name.to_owned())
            .collect();
        if extending.is_empty() {
            return Some(());
        }
        let before = services.clone();
        let mut whole = Vec::new();
        for name in extending {
            whole.push((name.clone(), self.service(&before, &(None, name), &mut Vec::new())?));
        }
        let services = document.as_map_mut()?.get_mut("services")?.as_map_mut()?;
        for (name, node) in whole {
            if let Some(place) = services.get_mut(&name) {
                *place = node;
            }
        }
        Some(())
    }

    /// A service with everything that it extends beneath it.
    fn service(&mut self, services: &Map, key: &Key, chain: &mut Vec<Key>) -> Option<Node> {
        if let Some(done) = self.done.get(key) {
            let done = done.clone();
            self.assembly.spend(&done)?;
            return Some(done);
        }
        let mut service = services.get(&key.1)?.clone();
        let Some(extends) = service.as_map_mut().and_then(|map| map.remove("extends")) else { return Some(service) };
        let trail = format!("services.{}.extends", key.1);
        if extends.is_null() || extends.tag.is_some() {
            return Some(service);
        }
        if chain.contains(key) || chain.len() >= MAX_CHAIN {
            let names: Vec<&str> = chain.iter().chain([key]).map(|(_, name)| name.as_str()).collect();
            let message = if chain.contains(key) { "a cycle" } else { "too long a chain" };
            self.assembly.report.fault(&extends.at, trail, format!("{message}: {}", names.join(" → ")));
            return None;
        }
        let (file, name) = self.named(&extends, &trail)?;
        chain.push(key.clone());
        let base = match file {
            None => self.base(services, &(key.0.clone(), name), &extends.at, &trail, chain),
            Some(file) => {
                let at = file.1;
                let others = self.file(&file.0, &at, &trail)?;
                let others = others.as_map().and_then(|map| map.get("services")).and_then(Node::as_map).cloned();
                self.base(&others.unwrap_or_default(), &(Some(file.0), name), &extends.at, &trail, chain)
            }
        }?;
        chain.pop();
        let mut base = base;
        prune(&mut base);
        let mut path = vec!["services".to_owned(), key.1.clone()];
        let whole = merge(base, service, &mut path, self.assembly.report);
        self.assembly.spend(&whole)?;
        self.done.insert(key.clone(), whole.clone());
        Some(whole)
    }

    fn base(&mut self, services: &Map, key: &Key, at: &At, trail: &str, chain: &mut Vec<Key>) -> Option<Node> {
        if services.get(&key.1).is_none() {
            let hint = nearest(&key.1, services.iter().map(|(name, ..)| name));
            let hint = hint.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
            self.assembly.report.fault(at, trail, format!("there is no service `{}`{hint}", key.1));
            return None;
        }
        self.service(services, key, chain)
    }

    /// What `extends` names: a file, where that was said, and a service.
    fn named(&mut self, extends: &Node, trail: &str) -> Option<(Option<(PathBuf, At)>, String)> {
        let report = &mut *self.assembly.report;
        let map = match &extends.value {
            Value::Text(name) => return Some((None, name.clone())),
            Value::Map(map) => map,
            _ => {
                report.fault(&extends.at, trail, format!("must be a name or a mapping, not {}", extends.kind()));
                return None;
            }
        };
        for (key, at, _) in map.iter().filter(|(key, ..)| !matches!(*key, "service" | "file")) {
            report.fault(at, trail, format!("unknown key `{key}`: there are `service` and `file`"));
        }
        let Some(name) = map.get("service").and_then(Node::as_text) else {
            report.fault(&extends.at, trail, "`service` is missing");
            return None;
        };
        let file = match map.get("file") {
            None => None,
            Some(node) if node.is_null() => None,
            Some(node) => {
                let Some(file) = node.as_text() else {
                    report.fault(&node.at, trail, format!("`file` must be a path, not {}", node.kind()));
                    return None;
                };
                if is_remote(file) {
                    report.fault(&node.at, trail, format!("`{file}` is not on this machine: nothing is fetched"));
                    return None;
                }
                Some((absolute(&node.at.file.directory, file), node.at.clone()))
            }
        };
        Some((file, name.to_owned()))
    }

    /// The tree of a file that is extended; what it includes is not looked at.
    fn file(&mut self, path: &Path, at: &At, trail: &str) -> Option<Node> {
        if let Some(read) = self.files.get(path) {
            return read.clone();
        }
        let directory = path.parent().unwrap_or(path).to_owned();
        let text: Option<Text> = self.assembly.read(path, &directory, at, trail);
        let mut whole: Option<Node> = None;
        for document in text.and_then(|text| self.assembly.documents(&text, self.variables)).unwrap_or_default() {
            whole = Some(match whole.take() {
                None => document,
                Some(before) => merge(before, document, &mut Vec::new(), self.assembly.report),
            });
        }
        self.files.insert(path.to_owned(), whole.clone());
        whole
    }
}
