//! What is wrong with a compose file, and where: every fault that was found, not only the first.

use std::fmt;

use serde::Serialize;

use super::node::At;

/// How many faults are told; more than that help nobody.
const MAX_FAULTS: usize = 100;
/// How many warnings are told.
const MAX_WARNINGS: usize = 100;

/// One thing that makes a file unusable.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, schemars::JsonSchema)]
pub struct Fault {
    /// Where in the model, `services.web.ports[0]`; empty for the file as a whole.
    pub path: String,
    /// The file.
    pub file: String,
    /// The line, from 1; 0 where there is none.
    pub line: u32,
    /// The column, from 1; 0 where there is none.
    pub column: u32,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.file, self.line, self.column)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// Something in the file that is not honoured, or not as one may think.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, schemars::JsonSchema)]
pub struct Warning {
    /// A stable name, `unset-variable`.
    pub name: &'static str,
    /// Where in the model.
    pub path: String,
    /// What it means.
    pub message: String,
}

/// What a load has found so far.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) faults: Vec<Fault>,
    pub(crate) warnings: Vec<Warning>,
    /// What is well said and cannot be run here; as good as a fault, but not one of the file.
    pub(crate) unrunnable: Vec<Fault>,
}

impl Report {
    pub(crate) fn fault(&mut self, at: &At, path: impl fmt::Display, message: impl Into<String>) {
        if self.faults.len() < MAX_FAULTS {
            let fault = Fault {
                path: path.to_string(),
                file: at.file.name.clone(),
                line: at.line,
                column: at.column,
                message: message.into(),
            };
            // One cause is told once, though several passes may stumble over it.
            if !self.faults.contains(&fault) {
                self.faults.push(fault);
            }
        }
    }

    /// Something that no Docker Engine by itself can run.
    pub(crate) fn unrunnable(&mut self, at: &At, path: impl fmt::Display, message: impl Into<String>) {
        let faults = std::mem::take(&mut self.faults);
        self.fault(at, path, message);
        self.unrunnable.extend(std::mem::replace(&mut self.faults, faults));
        self.unrunnable.truncate(MAX_FAULTS);
    }

    pub(crate) fn warn(&mut self, name: &'static str, path: impl fmt::Display, message: impl Into<String>) {
        let warning = Warning { name, path: path.to_string(), message: message.into() };
        if self.warnings.len() < MAX_WARNINGS && !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }
}

/// A place in the model, as a chain from the leaf to the root.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Trail<'a> {
    Root,
    Key(&'a Trail<'a>, &'a str),
    Index(&'a Trail<'a>, usize),
}

impl<'a> Trail<'a> {
    pub(crate) fn key(&'a self, key: &'a str) -> Trail<'a> {
        Trail::Key(self, key)
    }

    pub(crate) fn index(&'a self, index: usize) -> Trail<'a> {
        Trail::Index(self, index)
    }
}

impl fmt::Display for Trail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Key(Self::Root, key) => f.write_str(key),
            Self::Key(parent, key) => write!(f, "{parent}.{key}"),
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// The candidate that `word` was most likely meant to be, if one is near.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word: Vec<char> = word.chars().take(64).collect();
    let allowed = (word.len() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .map(|candidate| (distance(&word, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Edits (with transpositions) between two words.
fn distance(left: &[char], right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.iter().enumerate() {
        let mut next = vec![i + 1];
        for (j, r) in right.iter().enumerate() {
            let mut best = (row[j] + usize::from(l != r)).min(row[j + 1] + 1).min(next[j] + 1);
            if i > 0 && j > 0 && *l == right[j - 1] && left[i - 1] == *r {
                best = best.min(before[j - 1] + 1);
            }
            next.push(best);
        }
        before = std::mem::replace(&mut row, next);
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_found() {
        for (word, expected) in
            [("prots", Some("ports")), ("volume", Some("volumes")), ("imgae", Some("image")), ("zzz", None)]
        {
            assert_eq!(nearest(word, ["ports", "volumes", "image"]), expected, "{word}");
        }
    }

    #[test]
    fn trails_read_as_paths() {
        let root = Trail::Root;
        let (services, web) = (root.key("services"), "web.1");
        let web = services.key(web);
        let ports = web.key("ports");
        assert_eq!(ports.index(2).to_string(), "services.web.1.ports[2]");
    }
}
