//! What tests of objects need: the volume as the disk has it, content that nobody else makes.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{Engine, until_true};

/// Bytes that look random, and are the same for the same seed.
pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// The SHA-256 of bytes, in hex.
pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Every path beneath a directory with what it is, links as links: the whole of what a test can leave behind.
pub fn tree(directory: &Path) -> BTreeMap<PathBuf, String> {
    fn walk(root: &Path, at: &Path, found: &mut BTreeMap<PathBuf, String>) {
        for entry in std::fs::read_dir(at).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(meta) = path.symlink_metadata() else { continue };
            let mode = meta.permissions().mode();
            let what = if meta.is_dir() {
                format!("{mode:o}")
            } else if meta.is_symlink() {
                format!("-> {}", std::fs::read_link(&path).unwrap_or_default().display())
            } else if meta.is_file() && meta.len() <= 1 << 20 {
                format!("{mode:o} {}", sha256(&std::fs::read(&path).unwrap_or_default()))
            } else {
                format!("{mode:o} {}", meta.size())
            };
            found.insert(path.strip_prefix(root).unwrap_or(&path).to_owned(), what);
            if meta.is_dir() {
                walk(root, &path, found);
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(directory, directory, &mut found);
    found
}

/// The engine's own unfinished work beneath a directory.
pub fn unfinished(directory: &Path) -> Vec<PathBuf> {
    let is_own =
        |path: &PathBuf| path.components().any(|name| name.as_os_str().to_string_lossy().starts_with(".dxflow-"));
    tree(directory).into_keys().filter(is_own).collect()
}

/// Waits until nothing unfinished is left in the volume.
pub async fn until_finished(engine: &Engine) {
    let volume = engine.volume();
    until_true("the engine to tidy up", || unfinished(&volume).is_empty()).await;
}
