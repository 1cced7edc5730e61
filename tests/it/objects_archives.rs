//! Archives against other programs: theirs open ours, ours opens theirs, and what is packed and unpacked is the same.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::support::Engine;
use crate::support::objects::{bytes, tree};

/// A small generator: the same numbers for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % end
    }

    fn pick<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[usize::try_from(self.below(of.len() as u64)).expect("small")]
    }
}

/// What names are made of: what other programs trip over.
const NAMES: [&str; 14] = [
    "a",
    "Über",
    "日本語",
    "with space",
    "-dash",
    "🦀",
    ".hidden",
    "a.txt",
    "'quote",
    "e\u{301}",
    "%41",
    "x~1",
    "#",
    "CON",
];

/// Makes a random tree, and returns how many entries it has.
fn grow(random: &mut Random, directory: &Path, depth: u32) -> u64 {
    let mut entries = 0;
    for number in 0..random.below(5) + u64::from(depth == 0) {
        let path = directory.join(format!("{}{number}", random.pick(&NAMES)));
        entries += 1;
        if depth < 4 && random.below(3) == 0 {
            std::fs::create_dir(&path).expect("made");
            entries += grow(random, &path, depth + 1);
            std::fs::set_permissions(&path, PermissionsExt::from_mode([0o755, 0o700, 0o750][number as usize % 3]))
                .expect("set");
        } else {
            let length = [0, 1, 100, 5_000, 200_000][usize::try_from(random.below(5)).expect("small")];
            let content = if random.below(2) == 0 { bytes(random.below(1 << 40), length) } else { vec![b'z'; length] };
            std::fs::write(&path, content).expect("written");
            let mode = [0o644, 0o600, 0o755, 0o444][usize::try_from(random.below(4)).expect("small")];
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("set");
        }
        let modified =
            std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000 + random.below(700_000_000));
        std::fs::File::open(&path).and_then(|file| file.set_modified(modified)).expect("set");
    }
    entries
}

/// When each entry was modified.
fn times(directory: &Path) -> BTreeMap<PathBuf, i64> {
    tree(directory)
        .into_keys()
        .map(|path| {
            let modified = std::fs::symlink_metadata(directory.join(&path)).expect("there").mtime();
            (path, modified)
        })
        .collect()
}

/// The content alone: what a program that keeps no modes keeps.
fn contents(directory: &Path) -> BTreeMap<PathBuf, String> {
    let strip = |what: String| what.split_once(' ').map_or_else(|| "directory".to_owned(), |(_, rest)| rest.to_owned());
    tree(directory).into_iter().map(|(path, what)| (path, strip(what))).collect()
}

/// Runs a program, which must go well.
fn run(program: &str, arguments: &[&str], directory: &Path) {
    let output = std::process::Command::new(program)
        .args(arguments)
        .current_dir(directory)
        // Names are UTF-8 for all of them.
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&said));
}

const PYTHON_PACK: &str = "
import sys, zipfile, pathlib
with zipfile.ZipFile(sys.argv[1], 'w', zipfile.ZIP_DEFLATED) as archive:
    for path in sorted(pathlib.Path('t').rglob('*')):
        archive.write(path)
";

const PYTHON_UNPACK: &str = "
import sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as archive:
    assert archive.testzip() is None
    archive.extractall(sys.argv[2])
";

#[tokio::test]
async fn what_is_packed_and_unpacked_is_the_same() {
    let engine = Engine::start().await;
    let rounds = if std::env::var_os("DXFLOW_IT_LONG").is_some() { 500 } else { 25 };
    let mut total = 0;
    for seed in 0..rounds {
        let top = engine.volume().join("t");
        std::fs::create_dir(&top).expect("made");
        let entries = grow(&mut Random(seed), &top, 0);
        total += entries;
        let packed = engine.put("/object/fs/zip/", json!({ "identity": "t", "level": seed % 10 })).await.expect(200);
        assert_eq!(packed["entries"], entries + 1, "seed {seed}");
        let body = json!({ "identity": "t.zip", "destination": "out" });
        assert_eq!(engine.put("/object/fs/unzip/", body.clone()).await.expect(200)["entries"], entries + 1);
        let out = engine.volume().join("out/t");
        assert_eq!(tree(&out), tree(&top), "seed {seed}");
        assert_eq!(times(&out), times(&top), "seed {seed}");
        // Into what is there already: refused and untouched, then over it.
        if entries > 0 && tree(&top).values().any(|what| what.contains(' ')) {
            engine.put("/object/fs/unzip/", body).await.refusal(409);
        }
        let body = json!({ "identity": "t.zip", "destination": "out", "force": true });
        engine.put("/object/fs/unzip/", body).await.expect(200);
        assert_eq!(contents(&out), contents(&top), "seed {seed}");
        for identity in ["t", "t.zip", "out"] {
            engine.delete("/object/fs/", json!({ "identity": identity })).await.expect(200);
        }
    }
    println!("{rounds} trees with {total} entries");
}

#[tokio::test]
async fn other_programs_open_ours_and_ours_opens_theirs() {
    let engine = Engine::start().await;
    let volume = engine.volume();
    for seed in 1000..1006 {
        let top = volume.join("t");
        std::fs::create_dir(&top).expect("made");
        grow(&mut Random(seed), &top, 0);
        let expected = contents(&top);

        engine.put("/object/fs/zip/", json!({ "identity": "t", "destination": "ours.zip" })).await.expect(200);
        run("unzip", &["-tq", "ours.zip"], &volume);
        run("7z", &["t", "-bd", "ours.zip"], &volume);
        run("unzip", &["-q", "ours.zip", "-d", "by-unzip"], &volume);
        assert_eq!(tree(&volume.join("by-unzip/t")), tree(&top), "unzip, seed {seed}");
        assert_eq!(times(&volume.join("by-unzip/t")), times(&top), "unzip, seed {seed}");
        run("python3", &["-c", PYTHON_UNPACK, "ours.zip", "by-python"], &volume);
        assert_eq!(contents(&volume.join("by-python/t")), expected, "Python, seed {seed}");
        run("7z", &["x", "-bd", "-oby-7z", "ours.zip"], &volume);
        assert_eq!(contents(&volume.join("by-7z/t")), expected, "7z, seed {seed}");

        run("zip", &["-qr", "info-zip.zip", "t"], &volume);
        run("7z", &["a", "-bd", "-tzip", "-mcu=on", "seven.zip", "t"], &volume);
        run("python3", &["-c", PYTHON_PACK, "python.zip"], &volume);
        // A stream: sizes after the content, where the entry's head has none.
        run("sh", &["-c", "zip -qr - t > streamed.zip"], &volume);
        for (archive, keeps_modes) in [("info-zip", true), ("seven", false), ("python", true), ("streamed", true)] {
            let body = json!({ "identity": format!("{archive}.zip"), "destination": format!("from-{archive}") });
            engine.put("/object/fs/unzip/", body).await.expect(200);
            let out = volume.join(format!("from-{archive}/t"));
            if keeps_modes && !tree(&top).is_empty() {
                assert_eq!(tree(&out), tree(&top), "{archive}, seed {seed}");
            } else if !expected.is_empty() {
                assert_eq!(contents(&out), expected, "{archive}, seed {seed}");
            }
        }
        let listed = engine.get("/object/fs/?all=true").await.expect(200);
        let names: Vec<String> =
            listed.as_array().expect("an array").iter().map(|object| object["identity"].to_string()).collect();
        let quoted = names.join(",");
        engine
            .delete("/object/fs/batch/", serde_json::from_str(&format!("{{\"identities\":[{quoted}]}}")).expect("JSON"))
            .await
            .expect(200);
        assert!(tree(&volume).is_empty());
    }
}

#[tokio::test]
async fn a_download_of_a_directory_is_such_an_archive_too() {
    let engine = Engine::start().await;
    let top = engine.volume().join("t");
    std::fs::create_dir(&top).expect("made");
    grow(&mut Random(77), &top, 0);
    let archive = engine.get("/object/fs/download/?identity=t").await;
    assert_eq!(archive.status, 200);
    std::fs::write(engine.scratch().join("t.zip"), &archive.body).expect("written");
    run("unzip", &["-q", "t.zip", "-d", "out"], engine.scratch());
    assert_eq!(tree(&engine.scratch().join("out/t")), tree(&top));
}

#[tokio::test]
async fn names_that_an_archive_cannot_tell_apart_are_refused() {
    let engine = Engine::start().await;
    std::fs::create_dir(engine.volume().join("t")).expect("made");
    std::fs::write(engine.volume().join("t/a\\b"), "one").expect("written");
    engine.put("/object/fs/zip/", json!({ "identity": "t" })).await.expect(200);
    std::fs::write(engine.volume().join("t/a_b"), "two").expect("written");
    let detail = engine.put("/object/fs/zip/", json!({ "identity": "t", "destination": "u.zip" })).await.refusal(422);
    assert!(detail.contains("a\\b"), "{detail}");
    assert!(!engine.volume().join("u.zip").exists());
}
