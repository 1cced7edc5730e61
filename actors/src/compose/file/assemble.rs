//! From texts to one tree: each document is read, its variables replaced, what it includes put in, what it extends
//! written out, and then laid over the documents before it.
//!
//! Every node keeps the file that it came from, so that a relative path means what it meant there. Everything that is
//! read is beneath the directories that workflows may read, nothing is fetched, and the whole is bounded: files, how deep
//! they name each other, and how much is written out in the end.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::canonical;
use super::extends::Extended;
use super::interpolate::{self, Variables};
use super::merge::{merge, prune};
use super::node::{At, Node, Source};
use super::paths::Roots;
use super::report::{Report, Trail};
use super::yaml::{self, weight};

/// How many files a project may be made of.
const MAX_FILES: usize = 256;
/// How deep files may include files.
pub(super) const MAX_CHAIN: usize = 16;
/// How many nodes all its parts may have, copies for `extends` counted.
const MAX_TOTAL: usize = 1_000_000;

/// A text and where it is from.
#[derive(Clone, Debug)]
pub(super) struct Text {
    pub(super) source: Arc<Source>,
    pub(super) text: String,
}

/// What reads and puts together.
pub(super) struct Assembly<'a> {
    pub(super) roots: &'a Roots,
    /// The project's directory, for names in messages.
    pub(super) home: &'a Path,
    pub(super) report: &'a mut Report,
    files: usize,
    nodes: usize,
}

impl<'a> Assembly<'a> {
    pub(super) fn new(roots: &'a Roots, home: &'a Path, report: &'a mut Report) -> Self {
        Self { roots, home, report, files: 0, nodes: 0 }
    }

    /// One tree of several texts, each over the ones before. `chain` are the files that are being included.
    pub(super) fn tree(&mut self, texts: &[Text], variables: &Variables, chain: &[PathBuf]) -> Option<Node> {
        let mut whole: Option<Node> = None;
        for text in texts {
            for mut document in self.documents(text, variables)? {
                self.include(&mut document, variables, chain)?;
                Extended::new(self, variables).write_out(&mut document)?;
                let mut merged = match whole.take() {
                    None => document,
                    Some(before) => merge(before, document, &mut Vec::new(), self.report),
                };
                prune(&mut merged);
                whole = Some(merged);
            }
        }
        whole
    }

    /// The documents of a text that say something, variables replaced.
    pub(super) fn documents(&mut self, text: &Text, variables: &Variables) -> Option<Vec<Node>> {
        self.files += 1;
        if self.files > MAX_FILES {
            let at = At::file(&text.source);
            self.report.fault(&at, Trail::Root, format!("a project of more than {MAX_FILES} files"));
            return None;
        }
        let before = self.report.faults.len();
        let mut documents = yaml::parse(&text.source, &text.text, self.report);
        documents.retain(|document| !document.is_null());
        for document in &mut documents {
            if document.as_map().is_none() {
                let message = format!("a compose file must be a mapping, not {}", document.kind());
                self.report.fault(&document.at, Trail::Root, message);
                continue;
            }
            self.spend(document)?;
            interpolate::tree(document, Trail::Root, variables, self.report);
            canonical::environment(document, variables);
        }
        (self.report.faults.len() == before || documents.iter().all(|document| document.as_map().is_some()))
            .then_some(documents)
    }

    /// The text of another file of the project.
    pub(super) fn read(&mut self, path: &Path, directory: &Path, at: &At, trail: &str) -> Option<Text> {
        match self.roots.read(path) {
            Ok(text) => {
                let name = path.strip_prefix(self.home).unwrap_or(path).display().to_string();
                Some(Text { source: Arc::new(Source { name, directory: directory.to_owned() }), text })
            }
            Err(reason) => {
                self.report.fault(at, trail, reason);
                None
            }
        }
    }

    /// Counts what is written out; nothing when it is too much.
    pub(super) fn spend(&mut self, node: &Node) -> Option<()> {
        self.nodes += weight(node).0;
        if self.nodes > MAX_TOTAL {
            self.report.fault(&node.at, Trail::Root, "too large once what it includes and extends is written out");
            return None;
        }
        Some(())
    }
}
