//! Where the text of a project is from: a request, a file, or a directory with a file and one that overrides it.
//!
//! What is kept of a project is one text. Where it was made of two files they are two documents of it, and the line
//! between them names the second: compose lays the documents of one file over each other as it does with files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::assemble::Text;
use super::node::Source;
use super::paths::{Roots, absolute};

/// What a compose file is called in a directory, the first that is there.
const FILES: [&str; 4] = ["compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml"];
/// What the file that overrides it is called.
const OVERRIDES: [&str; 4] =
    ["compose.override.yaml", "compose.override.yml", "docker-compose.override.yaml", "docker-compose.override.yml"];
/// What stands before a document that was a file of its own.
const SEPARATOR: &str = "--- # file: ";

/// The text of a file, or of the files of a directory, beneath the volume, and the directory that it is in.
///
/// # Errors
/// Why it cannot be read.
pub(crate) fn read_source(volume: &Path, source: &str) -> Result<(String, PathBuf), String> {
    let roots = Roots::new(volume, &[]);
    let place = absolute(volume, source.trim_start_matches('/'));
    // Before anything is asked about what is there: a link may lead out.
    let place = roots.allowed(&place).ok_or_else(|| format!("`{source}` is outside of the volume"))?;
    if !place.is_dir() {
        let text = roots.read(&place)?;
        let directory = place.parent().unwrap_or(volume).to_owned();
        return Ok((text, directory));
    }
    let find = |names: &[&'static str]| names.iter().copied().find(|name| place.join(name).is_file());
    let file = find(&FILES).ok_or_else(|| format!("`{source}` holds none of {}", FILES.join(", ")))?;
    let mut text = roots.read(&place.join(file))?;
    if let Some(name) = find(&OVERRIDES) {
        if !text.ends_with('\n') {
            text.push('\n');
        }
        let over = roots.read(&place.join(name))?;
        text.push_str(&format!("{SEPARATOR}{name}\n{}", over.strip_prefix('\u{feff}').unwrap_or(&over)));
    }
    Ok((text, place))
}

/// The text taken apart at the lines that name files.
pub(super) fn documents(file: &str, directory: &Path, content: &str) -> Vec<Text> {
    let source = |name: &str| Arc::new(Source { name: name.to_owned(), directory: directory.to_owned() });
    let mut texts = vec![Text { source: source(file), text: String::new() }];
    for line in content.split_inclusive('\n') {
        match line.strip_prefix(SEPARATOR) {
            Some(name) => texts.push(Text { source: source(name.trim()), text: String::new() }),
            None => {
                if let Some(text) = texts.last_mut() {
                    text.text.push_str(line);
                }
            }
        }
    }
    texts
}
