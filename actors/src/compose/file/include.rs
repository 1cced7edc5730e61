//! `include`: other files, each a project of its own with its own directory and variables, whose parts become this one's.

use std::path::{Path, PathBuf};

use super::assemble::{Assembly, MAX_CHAIN, Text};
use super::decode::{Decode, section};
use super::dotenv;
use super::forms::{Strings, is_remote};
use super::interpolate::Variables;
use super::model::Model;
use super::node::{At, Map, Node, Source, Value};
use super::paths::absolute;
use super::report::{Report, Trail};

/// The parts that are taken over.
const SECTIONS: &[&str] = &["services", "networks", "volumes", "secrets", "configs", "models"];

section! {
    /// What is included.
    Include { path: Strings, project_directory: Option<String>, env_file: Strings }
}

impl Assembly<'_> {
    /// Puts what a document includes into it.
    pub(super) fn include(&mut self, document: &mut Node, variables: &Variables, chain: &[PathBuf]) -> Option<()> {
        let Some(include) = document.as_map_mut().and_then(|map| map.remove("include")) else { return Some(()) };
        if include.is_null() {
            return Some(());
        }
        let Value::List(items) = &include.value else {
            self.report.fault(&include.at, "include", format!("must be a list, not {}", include.kind()));
            return Some(());
        };
        for (index, item) in items.iter().enumerate() {
            let (root, place) = (Trail::Root, format!("include[{index}]"));
            let include = root.key("include");
            let wanted = match &item.value {
                Value::Text(path) => Include { path: Strings(vec![path.clone()]), ..Include::default() },
                _ => match Include::decode(item, include.index(index), self.report) {
                    Some(wanted) => wanted,
                    None => continue,
                },
            };
            if let Some(imported) = self.included(&wanted, &item.at, &place, variables, chain) {
                import(document, imported, &place, self.report);
            }
        }
        Some(())
    }

    fn included(
        &mut self,
        wanted: &Include,
        at: &At,
        place: &str,
        variables: &Variables,
        chain: &[PathBuf],
    ) -> Option<Node> {
        let here = at.file.directory.clone();
        let Some(first) = wanted.path.0.first() else {
            self.report.fault(at, place, "`path` is missing");
            return None;
        };
        if let Some(remote) = wanted.path.0.iter().find(|path| is_remote(path)) {
            let message = format!("`{remote}` is not on this machine: nothing is fetched");
            self.report.fault(at, place, message);
            return None;
        }
        let main = absolute(&here, first);
        let directory = match &wanted.project_directory {
            Some(directory) => absolute(&here, directory),
            None => main.parent().map_or_else(|| here.clone(), Path::to_owned),
        };
        if chain.contains(&main) || chain.len() >= MAX_CHAIN {
            let message = match chain.contains(&main) {
                true => format!("`{first}` includes itself"),
                false => format!("files include each other more than {MAX_CHAIN} deep"),
            };
            self.report.fault(at, place, message);
            return None;
        }
        let variables = self.variables(wanted, at, place, &directory, variables)?;
        let mut texts: Vec<Text> = Vec::new();
        for path in &wanted.path.0 {
            texts.push(self.read(&absolute(&here, path), &directory, at, place)?);
        }
        let mut chain = chain.to_vec();
        chain.push(main);
        self.tree(&texts, &variables, &chain)
    }

    /// The variables for what is included: of its own files, beneath those that are there already.
    fn variables(
        &mut self,
        wanted: &Include,
        at: &At,
        place: &str,
        directory: &Path,
        outer: &Variables,
    ) -> Option<Variables> {
        let here = &at.file.directory;
        let files: Vec<PathBuf> = if wanted.env_file.0.is_empty() {
            Some(directory.join(".env")).filter(|file| file.is_file()).into_iter().collect()
        } else {
            wanted.env_file.0.iter().filter(|file| *file != "/dev/null").map(|file| absolute(here, file)).collect()
        };
        let mut variables = Variables::new();
        for file in files {
            let text = self.read(&file, directory, at, place)?;
            match dotenv::parse(&text.text, outer) {
                Ok(entries) => variables.extend(entries),
                Err((line, message)) => {
                    let at = At { file: Source::named(text.source.name.clone()), line, column: 0 };
                    self.report.fault(&at, place, message);
                    return None;
                }
            }
        }
        variables.extend(outer.iter().map(|(name, value)| (name.clone(), value.clone())));
        Some(variables)
    }
}

/// Takes the parts of an included tree over; what is there already is a conflict, unless it is the same.
fn import(document: &mut Node, imported: Node, place: &str, report: &mut Report) {
    let Value::Map(mut imported) = imported.value else { return };
    for (key, at, _) in imported.iter() {
        if !Model::KEYS.contains(&key) {
            super::decode::unknown(key, at, Trail::Root, Model::KEYS, report);
        }
    }
    for section in SECTIONS {
        let Some(part) = imported.remove(section).filter(|part| !part.is_null()) else { continue };
        let at = part.at.clone();
        let Value::Map(entries) = part.value else {
            report.fault(&at, *section, "must be a mapping");
            continue;
        };
        let Some(target) = into_section(document, section, &at) else { continue };
        for (name, at, node) in entries.into_entries() {
            match target.get(&name) {
                None => target.push(name, at, node),
                Some(there) if *there == node => {}
                Some(_) => {
                    let message = format!("is there already and is included too ({place})");
                    report.fault(&at, format!("{section}.{name}"), message);
                }
            }
        }
    }
}

fn into_section<'n>(document: &'n mut Node, section: &str, at: &At) -> Option<&'n mut Map> {
    let map = document.as_map_mut()?;
    match map.get_mut(section) {
        Some(node) if node.is_null() => *node = Node::empty(at.clone()),
        Some(_) => {}
        None => map.push(section.to_owned(), at.clone(), Node::empty(at.clone())),
    }
    map.get_mut(section)?.as_map_mut()
}
