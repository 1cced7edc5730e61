//! A compose file, and one that it may include or extend: none may panic, none reaches out of its directory.
//!
//! Only the reader is built: the whole of `dxflow-actors` under a sanitizer takes long.

#![no_main]
#![allow(dead_code, unused_imports, reason = "the engine uses all of it, this does not")]

mod compose;

/// What the reader asks the keeper.
mod keeper {
    pub(crate) fn signal_number(name: &str) -> Option<i32> {
        name.starts_with("SIG").then_some(15)
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    thread_local! {
        static DIRECTORY: tempfile::TempDir = tempfile::tempdir().expect("a directory");
    }
    let text = String::from_utf8_lossy(data);
    let (text, other) = text.split_once('\0').unwrap_or((&text, "services: {b: {image: x}}\n"));
    DIRECTORY.with(|directory| compose::file::fuzzing::compose_file(directory.path(), text, other));
});
