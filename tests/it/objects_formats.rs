//! The forms that other programs give archives: sizes behind the entries, ZIP64 where it is not needed, from a pipe,
//! encrypted. `DXFLOW_IT_LONG=1` adds those that need ZIP64, by their size and by their entries.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde_json::json;

use crate::support::Engine;
use crate::support::objects::{bytes, sha256};

fn long() -> bool {
    std::env::var_os("DXFLOW_IT_LONG").is_some()
}

/// Runs a program to its end; what it said.
#[track_caller]
fn run(program: &str, arguments: &[&str], at: &Path) -> String {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(at)
        // Names are UTF-8 for unzip and zip only where the locale says so.
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap_or_else(|error| panic!("{program} runs: {error}"));
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    said
}

/// What is looked at of a file or directory.
#[derive(Clone, Copy)]
struct Look {
    modes: bool,
    times: bool,
}

const ALL: Look = Look { modes: true, times: true };
const CONTENT: Look = Look { modes: false, times: false };

/// Everything below a directory.
fn tree(root: &Path, look: Look) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(&directory).expect("read").flatten() {
            let path = entry.path();
            let meta = path.symlink_metadata().expect("it is there");
            let mut what = if meta.is_dir() {
                left.push(path.clone());
                "directory".to_owned()
            } else {
                sha256(&std::fs::read(&path).expect("read"))
            };
            if look.modes {
                what = format!("{what} {:o}", meta.mode() & 0o777);
            }
            if look.times {
                what = format!("{what} {}", meta.mtime());
            }
            found.insert(path.strip_prefix(root).expect("below").to_owned(), what);
        }
    }
    found
}

/// The same numbers for the same seed (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % end as u64).expect("below a usize")
    }

    fn pick<'t, T>(&mut self, from: &'t [T]) -> &'t T {
        &from[self.below(from.len())]
    }
}

/// A name; of any bytes where `text` is false.
fn name(random: &mut Random, text: bool) -> Vec<u8> {
    const PIECES: [&str; 22] = [
        "a", "b", "Z", "0", " ", ".", "-", "é", "e\u{301}", "日本", "🦀", "\u{202e}", "'", "\"", "$x", "*", "?", "\n",
        "ß", "&", "\u{efae}", "%41",
    ];
    let mut name = Vec::new();
    for _ in 0..=random.below(8) {
        if !text && random.below(5) == 0 {
            let byte = 0x80 | u8::try_from(random.below(0x80)).expect("below 0x80");
            name.push(byte);
        } else {
            let piece = *random.pick(&PIECES);
            name.extend_from_slice(if text && "\n\"*?".contains(piece) { b"q" } else { piece.as_bytes() });
        }
    }
    if random.below(30) == 0 {
        name.resize(255, b'n');
    }
    if name == b"." || name == b".." { b"dots".to_vec() } else { name }
}

/// Makes a random tree at `root`, which it makes.
fn plant(root: &Path, random: &mut Random, text: bool) {
    std::fs::create_dir(root).expect("made");
    // Python's zipfile knows no time before 1980.
    let from = if text { 400_000_000 } else { 0 };
    let mut directories = vec![root.to_owned()];
    for n in 0..random.below(25) {
        let path = random.pick(&directories).join(std::ffi::OsStr::from_bytes(&name(random, text)));
        if path.symlink_metadata().is_ok() || path.as_os_str().len() > 3000 {
            continue;
        }
        if random.below(3) == 0 {
            std::fs::create_dir(&path).expect("made");
            directories.push(path);
            continue;
        }
        let length = *random.pick(&[0, 1, 100, 5_000, 70_000, 600_000]);
        let content = if random.below(2) == 0 { bytes(n as u64, length) } else { vec![b'r'; length] };
        std::fs::write(&path, content).expect("written");
        let mode = 0o400 | u32::try_from(random.below(0o1000)).expect("small");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("set");
        set_time(&path, random, from);
    }
    // From the deepest up, since each change of an entry changes the time of the directory.
    for directory in directories.iter().rev() {
        let mode = 0o700 | u32::try_from(random.below(0o100)).expect("small");
        std::fs::set_permissions(directory, PermissionsExt::from_mode(mode)).expect("set");
        set_time(directory, random, from);
    }
}

/// Sets a time from `from` on, up to where 32 bits end.
fn set_time(path: &Path, random: &mut Random, from: usize) {
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs((from + random.below((1 << 31) - from)) as u64);
    // Directories can be opened to read only, which is enough to set times.
    std::fs::File::open(path).and_then(|file| file.set_modified(at)).expect("the time is set");
}

/// A tree with one of everything that archives know.
fn sample(root: &Path) {
    let mut random = Random(77);
    plant(root, &mut random, true);
    for directory in ["empty", "ünïcode/日本", "deep/er/est"] {
        std::fs::create_dir_all(root.join(directory)).expect("made");
    }
    std::fs::write(root.join("ünïcode/日本/ファイル.txt"), "text").expect("written");
    std::fs::write(root.join("deep/er/est/zeros"), vec![0; 3 << 20]).expect("written");
    std::fs::write(root.join("noise"), bytes(8, 1 << 20)).expect("written");
    std::fs::write(root.join("none"), "").expect("written");
    std::fs::write(root.join("run"), "#!/bin/sh\n").expect("written");
    std::fs::set_permissions(root.join("run"), PermissionsExt::from_mode(0o755)).expect("set");
}

const PYTHON_MAKE: &str = "
import os, sys, zipfile
target, root, method = sys.argv[1], sys.argv[2], int(sys.argv[3])
with zipfile.ZipFile(target, 'w', method) as z:
    for directory, _, files in os.walk(root):
        z.write(directory)
        for name in files:
            z.write(os.path.join(directory, name))
with zipfile.ZipFile(target, 'a', method) as z:
    # Of unknown length when it is begun, and in the ZIP64 form though it is small.
    with z.open(root + '/streamed', 'w', force_zip64=True) as f:
        f.write(b'x' * 100000)
";

#[tokio::test]
async fn archives_of_others_open_here() {
    let engine = Engine::start().await;
    let volume = engine.volume();
    let at = engine.scratch().to_owned();
    sample(&at.join("t"));
    let archive = |name: &str| volume.join(name).to_str().expect("UTF-8").to_owned();
    run("zip", &["-q", "-r", &archive("zip.zip"), "t"], &at);
    run("zip", &["-q", "-0", "-r", &archive("zip-stored.zip"), "t"], &at);
    run("7z", &["a", "-tzip", "-mcu=on", &archive("7z.zip"), "t"], &at);
    // From a pipe: sizes behind the entries, and ZIP64 where the length is not known beforehand.
    run("sh", &["-c", &format!("zip -q -r - t | cat > {}", archive("piped.zip"))], &at);
    let original = tree(&at.join("t"), CONTENT);
    for (method, name) in [("0", "python-stored.zip"), ("8", "python.zip")] {
        run("python3", &["-c", PYTHON_MAKE, &archive(name), "t", method], &at);
    }
    for name in ["zip.zip", "zip-stored.zip", "7z.zip", "piped.zip", "python-stored.zip", "python.zip"] {
        let destination = name.trim_end_matches(".zip");
        let body = json!({"identity": name, "destination": destination});
        engine.put("/object/fs/unzip/", body).await.expect(200);
        let mut found = tree(&volume.join(destination).join("t"), CONTENT);
        if name.starts_with("python") {
            assert_eq!(found.remove(Path::new("streamed")), Some(sha256(&[b'x'; 100_000])), "{name}");
        }
        assert_eq!(found, original, "{name}");
    }
    // The modes and times that Info-ZIP notes are put back.
    let there = tree(&volume.join("zip/t"), ALL);
    for (path, what) in tree(&at.join("t"), ALL) {
        if at.join("t").join(&path).is_file() {
            assert_eq!(there[&path], what, "{}", path.display());
        }
    }
    // Encrypted ones are refused, whoever made them.
    run("zip", &["-q", "-P", "word", &archive("secret.zip"), "t/noise"], &at);
    run("7z", &["a", "-tzip", "-pword", "-mem=AES256", &archive("aes.zip"), "t/noise"], &at);
    for name in ["secret.zip", "aes.zip"] {
        let refused = engine.put("/object/fs/unzip/", json!({"identity": name})).await;
        assert!(refused.refusal(422).contains("t/noise"), "{}", refused.text());
    }
}

/// Runs only in the long form: it moves gigabytes.
#[tokio::test]
async fn archives_larger_than_four_gigabytes_or_65535_entries_come_back() {
    if !long() {
        println!("only with DXFLOW_IT_LONG=1");
        return;
    }
    let engine = Engine::options().config("[object]\nmax_archive_ratio = 100000").start().await;
    let volume = engine.volume();
    std::fs::create_dir(volume.join("big")).expect("made");
    let length = (4_u64 << 30) + (1 << 20) + 7;
    let mut sparse = std::fs::File::create(volume.join("big/sparse")).expect("made");
    sparse.write_all(b"begin").expect("written");
    sparse.set_len(length).expect("sparse");
    std::fs::create_dir(volume.join("many")).expect("made");
    for n in 0..70_000 {
        std::fs::write(volume.join(format!("many/{n}")), "").expect("written");
    }
    for (what, entries) in [("big", 2), ("many", 70_001)] {
        let asked = engine.master().put("/object/fs/zip/").json(&json!({"identity": what, "level": 1}));
        let answer = asked.try_send().await.expect("an answer");
        assert_eq!(answer.expect(200)["entries"], entries);
        let path = volume.join(format!("{what}.zip"));
        let path = path.to_str().expect("UTF-8");
        let said = run("unzip", &["-tq", path], engine.scratch());
        assert!(said.contains("No errors detected"), "{said}");
        run("7z", &["t", path], engine.scratch());
        run(
            "python3",
            &["-c", "import sys,zipfile; assert zipfile.ZipFile(sys.argv[1]).testzip() is None", path],
            &volume,
        );
        let asked = engine.master().put("/object/fs/unzip/");
        let asked = asked.json(&json!({"identity": format!("{what}.zip"), "destination": "back"}));
        assert_eq!(asked.try_send().await.expect("an answer").expect(200)["entries"], entries);
        if what == "big" {
            assert_eq!(std::fs::metadata(volume.join("back/big/sparse")).expect("there").len(), length);
        } else {
            assert_eq!(std::fs::read_dir(volume.join("back/many")).expect("read").count(), 70_000);
        }
        std::fs::remove_dir_all(volume.join("back")).expect("removed");
    }
}
