//! Hostile identities, links, races and archives over the network, by the ten thousand: nothing outside of the volume is
//! read, listed or changed, and the engine lives. `DXFLOW_IT_LONG=1` makes ten times as many. The volume's own suite
//! (`actors/src/fs/hostile.rs`) generates the rest.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Cursor, Read, Write as _};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::fs::RenameFlags;
use serde_json::{Value, json};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use crate::support::wire::{Reply, Wire};
use crate::support::{Engine, process};

/// What only files outside hold.
const SECRET: &str = "the-secret-that-is-outside";
/// A name that only a listing of the outside shows: no request asks for it.
const MARKER: &str = "seen-by-listing-only";
/// What the system's and the engine's own files hold, which links lead to as well.
const OTHERS: [&str; 3] = ["root:x:0:", "OPENSSH PRIVATE KEY", "SQLite format 3"];

const CONNECTIONS: usize = 8;

fn rounds(default: usize) -> usize {
    if std::env::var_os("DXFLOW_IT_LONG").is_some() { default * 10 } else { default }
}

/// The same numbers for the same seed (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("below a usize")
    }

    fn one_in(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }

    fn pick<'t, T>(&mut self, from: &'t [T]) -> &'t T {
        &from[self.below(from.len())]
    }
}

/// Makes what lies outside: beside the volume, with a name that begins like its own, and elsewhere.
fn make_outside(engine: &Engine) -> [PathBuf; 3] {
    let places = [engine.data_dir().join("volume2"), engine.scratch().join("outside")];
    for place in &places {
        std::fs::create_dir_all(place.join("sub/empty")).expect("made");
        for name in ["secret", "f", "sub/f", "sub/secret", MARKER] {
            std::fs::write(place.join(name), SECRET).expect("written");
        }
        std::fs::write(place.join("sub").join(MARKER), SECRET).expect("written");
    }
    let sibling = engine.data_dir().join("volume.secret");
    std::fs::write(&sibling, SECRET).expect("written");
    let [beside, elsewhere] = places;
    [beside, elsewhere, sibling]
}

/// All that lies outside, to the time of its last change.
fn snapshot(places: &[PathBuf]) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut left = places.to_vec();
    while let Some(path) = left.pop() {
        let meta = path.symlink_metadata().expect("it is there");
        let content = if meta.is_file() { std::fs::read(&path).expect("read") } else { Vec::new() };
        let what = (meta.mode(), meta.ino(), meta.nlink(), meta.mtime(), meta.mtime_nsec(), meta.ctime_nsec(), content);
        if meta.is_dir() {
            left.extend(std::fs::read_dir(&path).expect("read").flatten().map(|entry| entry.path()));
        }
        found.insert(path, format!("{what:?}"));
    }
    found
}

/// The volume as every round begins: files, and links of every kind.
fn lay_out(engine: &Engine) {
    let volume = engine.volume();
    for entry in std::fs::read_dir(&volume).expect("read").flatten() {
        let path = entry.path();
        std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir_all(&path)).expect("removed");
    }
    std::fs::create_dir_all(volume.join("d/sub")).expect("made");
    std::fs::create_dir_all(volume.join("race/sub/deep")).expect("made");
    for file in ["f", "d/f", "d/sub/f", "race/f", "race-leaf"] {
        std::fs::write(volume.join(file), "inside").expect("written");
    }
    std::fs::write(volume.join("good.zip"), archive(CompressionMethod::Deflated)).expect("written");
    let elsewhere = engine.scratch().join("outside");
    for (target, name) in [
        ("../volume2", "out"),
        ("../volume2/secret", "leaf"),
        ("../volume2/new", "dangling"),
        ("../volume.secret", "sibling"),
        (elsewhere.to_str().expect("UTF-8"), "absolute"),
        ("/proc/self/root", "root"),
        ("/proc/self/fd", "fds"),
        ("/proc/self/cwd", "cwd"),
        ("out", "chain1"),
        ("chain1/sub", "chain2"),
        ("chain2/f", "chain3"),
        ("loop2", "loop1"),
        ("loop1", "loop2"),
        ("d/../../volume2", "winding"),
        ("..", "up"),
        ("../..", "d/up"),
        ("../../volume2", "d/out"),
        ("d", "inside"),
        ("../volume2", "trap"),
        ("../volume2/f", "trap-leaf"),
    ] {
        symlink(target, volume.join(name)).expect("linked");
    }
}

fn archive(method: CompressionMethod) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(method);
    writer.add_directory("top", options).expect("written");
    for name in ["AAAAAAAAAAAA", "top/a", "top/b/c"] {
        writer.start_file(name, options).expect("written");
        writer.write_all(&[b'q'; 300]).expect("written");
    }
    writer.finish().expect("written").into_inner()
}

/// Bytes that were answered or written tell nothing of the outside; archives are looked into.
#[track_caller]
fn innocent(bytes: &[u8], what: &str) {
    // As text, whose search is the standard library's, and fast in a build without optimization too.
    let text = String::from_utf8_lossy(bytes);
    for needle in [SECRET, MARKER].iter().chain(&OTHERS) {
        assert!(!text.contains(needle), "{what} tells `{needle}`");
    }
    if !bytes.starts_with(b"PK\x03\x04") {
        return;
    }
    let Ok(mut archive) = ZipArchive::new(Cursor::new(bytes)) else { return };
    for index in 0..archive.len() {
        let mut content = Vec::new();
        if archive.by_index(index).is_ok_and(|mut entry| entry.read_to_end(&mut content).is_ok()) {
            innocent(&content, what);
        }
    }
}

#[track_caller]
fn innocent_tree(directory: &Path) {
    for entry in std::fs::read_dir(directory).expect("read").flatten() {
        let path = entry.path();
        let meta = path.symlink_metadata().expect("it is there");
        assert_ne!(entry.file_name(), MARKER, "copied in: {}", path.display());
        if meta.is_dir() {
            innocent_tree(&path);
        } else if meta.is_file() {
            innocent(&std::fs::read(&path).expect("read"), &path.display().to_string());
        }
    }
}

/// An identity that means ill, or only looks so.
fn identity(random: &mut Random) -> String {
    const PARTS: [&str; 58] = [
        "..",
        "..",
        "..",
        ".",
        "",
        "d",
        "d",
        "f",
        "sub",
        "secret",
        "volume2",
        "volume",
        "outside",
        "volume.secret",
        "new",
        "out",
        "leaf",
        "dangling",
        "sibling",
        "absolute",
        "root",
        "fds",
        "cwd",
        "chain1",
        "chain2",
        "chain3",
        "loop1",
        "loop2",
        "winding",
        "up",
        "inside",
        "keys",
        "signing",
        "admin",
        "etc",
        "passwd",
        "data",
        "dxflow.db",
        "%2e%2e",
        "%2e",
        "..%2f",
        "%252e%252e",
        "..\\",
        "\\..",
        "..;",
        ".. ",
        "...",
        "..\u{0}",
        "\u{0}",
        "\u{efae}\u{efae}",
        "\u{ef80}",
        "\u{ff0e}\u{ff0e}",
        "C:",
        "~",
        "-rf",
        "$(id)",
        ".dxflow-upload-x",
        "9",
    ];
    let mut text = String::from(*random.pick(&["", "", "", "", "", "", "", "/", "//", "./", "\\", "file:///"]));
    for n in 0..=random.below(6) {
        if n > 0 {
            let between: &&str = random.pick(&["/", "/", "/", "/", "//", "/./", "\\", "\u{2215}"]);
            text.push_str(between);
        }
        if random.one_in(60) {
            text.push_str(&"n".repeat(200 + random.below(100)));
        } else {
            let part: &&str = random.pick(&PARTS);
            text.push_str(part);
        }
    }
    if random.one_in(500) {
        text.push_str(&"/..".repeat(1500));
    }
    text
}

/// A text in a query: encoded where it must be, where it need not be, or twice.
fn encoded(random: &mut Random, text: &str) -> String {
    let (all, upper, twice) = (random.one_in(3), random.one_in(2), random.one_in(12));
    let mut out = String::new();
    for byte in text.bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
        if plain && !(all && random.one_in(2)) {
            out.push(char::from(byte));
        } else if upper {
            let _ = write!(out, "%{byte:02X}");
        } else {
            let _ = write!(out, "%{byte:02x}");
        }
    }
    if twice {
        out = out.replace('%', "%25");
    }
    // What is no UTF-8, an overlong `.`, a cut escape.
    if random.one_in(25) {
        let odd: &&str =
            random.pick(&["%ff", "%c0%ae%c0%ae", "%00", "%", "%2", "%u002e", "%e0%80%af", "/%2e%2e/secret"]);
        out.push_str(odd);
    }
    out
}

/// One request: method, target, headers, body.
type Asked = (&'static str, String, &'static str, Vec<u8>);

/// A request to one of the routes that take a path, with the given two in its fields.
fn request(random: &mut Random, one: &str, two: &str) -> Asked {
    let base = *random.pick(&["/api/v1/object/fs/", "/api/v1/artifact/fs/", "/api/object/fs/"]);
    let query = encoded(random, one);
    let body = |value: Value| value.to_string().into_bytes();
    let json = "Content-Type: application/json\r\n";
    let force = random.one_in(2);
    match random.below(20) {
        0..=2 => {
            let depth = random.below(3);
            ("GET", format!("{base}?directory={query}&all=true&depth={depth}&stream={force}"), "", Vec::new())
        }
        3 => ("GET", format!("{base}?depth=3&all=true&pattern={query}"), "", Vec::new()),
        4..=6 => ("GET", format!("{base}download/?identity={query}"), "", Vec::new()),
        7 => ("HEAD", format!("{base}download/?identity={query}"), "", Vec::new()),
        8 | 9 => ("PUT", format!("{base}upload/?identity={query}&force={force}"), "", b"uploaded".to_vec()),
        10 => {
            let target = format!("{base}upload/?identity={query}&upload=u&force={force}");
            ("PUT", target, "Content-Range: bytes 0-7/8\r\n", b"in parts".to_vec())
        }
        11 => ("POST", base.into(), json, body(json!({"identity": one, "content": "made", "force": force}))),
        12 => ("POST", base.into(), json, body(json!({"name": two, "directory": one, "force": force}))),
        13 => ("POST", base.into(), json, body(json!({"identity": one, "directory": true, "permission": "0777"}))),
        14 if force => ("DELETE", base.into(), json, body(json!({"identity": one}))),
        14 => ("DELETE", format!("{base}batch/"), json, body(json!({"identities": [one, two]}))),
        15 | 16 => {
            let fields = json!({"identity": one, "new_identity": two, "force": force});
            ("PUT", format!("{base}rename/"), json, body(fields))
        }
        17 => {
            let fields = json!({"identities": [one], "destination": two, "force": force, "level": 0});
            ("PUT", format!("{base}zip/"), json, body(fields))
        }
        18 => {
            let identity = if random.one_in(3) { one } else { "good.zip" };
            let fields = json!({"identity": identity, "destination": two, "force": force});
            ("PUT", format!("{base}unzip/"), json, body(fields))
        }
        _ => ("PUT", format!("{base}share/"), json, body(json!({"identities": [one], "writable": force}))),
    }
}

/// What every answer is held to.
#[track_caller]
fn judge(asked: &Asked, reply: &Reply) {
    let what = format!("{} {} {}", asked.0, asked.1, String::from_utf8_lossy(&asked.3));
    // All workers for archives may be busy, with so many at once.
    assert!(
        reply.status < 500 || reply.status == 503,
        "{what}: {} {}",
        reply.status,
        String::from_utf8_lossy(&reply.body)
    );
    innocent(&reply.body, &what);
    innocent(reply.head.as_bytes(), &what);
}

/// Sends it; of a share, uses what it opens.
async fn ask(wire: &mut Wire, asked: &Asked, done: &AtomicUsize) {
    let reply = wire.send(asked.0, &asked.1, asked.2, &asked.3).await;
    judge(asked, &reply);
    // An archive of a directory that is exchanged while it is made breaks off; nothing else may.
    assert!(reply.whole || asked.1.contains("download"), "{} {} broke off", asked.0, asked.1);
    done.fetch_add(1, Ordering::Relaxed);
    if reply.status != 200 || !asked.1.ends_with("share/") {
        return;
    }
    let shares: Value = serde_json::from_slice(&reply.body).expect("JSON");
    for share in shares.as_array().expect("an array") {
        let signature = share["signature"].as_str().expect("a signature");
        for (method, end) in [("GET", "download"), ("PUT", "upload")] {
            let target = format!("/api/v1/object/fs/presigned/{end}/?signature={signature}");
            let asked = (method, target, "", if method == "PUT" { b"by a share".to_vec() } else { Vec::new() });
            let reply = wire.send(asked.0, &asked.1, asked.2, &asked.3).await;
            judge(&asked, &reply);
            done.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Sends `each` requests over every connection at once.
async fn round(engine: &Engine, seed: u64, each: usize, done: &Arc<AtomicUsize>, make: fn(&mut Random) -> Asked) {
    let mut tasks = tokio::task::JoinSet::new();
    for connection in 0..CONNECTIONS {
        let mut wire = Wire::new(engine.address, &engine.token);
        let mut random = Random((seed * 100 + connection as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let done = Arc::clone(done);
        tasks.spawn(async move {
            for _ in 0..each {
                let asked = make(&mut random);
                ask(&mut wire, &asked, &done).await;
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_route_leads_out_of_the_volume() {
    let engine = Engine::start().await;
    let places = make_outside(&engine);
    let before = snapshot(&places);
    let done = Arc::new(AtomicUsize::new(0));
    let mut memory = 0;
    for number in 0..rounds(12) {
        lay_out(&engine);
        round(&engine, number as u64 + 1, 80, &done, |random| {
            let (one, two) = (identity(random), identity(random));
            request(random, &one, &two)
        })
        .await;
        assert_eq!(snapshot(&places), before, "the outside has changed");
        innocent_tree(&engine.volume());
        if number == 2 {
            memory = process::private_kib(engine.pid());
        }
    }
    let grown = process::private_kib(engine.pid()).saturating_sub(memory);
    println!("{} requests, memory + {grown} KiB", done.load(Ordering::Relaxed));
    assert!(grown < 128 * 1024, "memory has grown by {grown} KiB");
    innocent(engine.log().as_bytes(), "the log");
    assert!(!engine.log().contains("panicked"), "{}", engine.log());
    engine.get("/engine/healthcheck/").await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_race_leads_out_of_the_volume() {
    let engine = Engine::start().await;
    let places = make_outside(&engine);
    let before = snapshot(&places);
    let done = Arc::new(AtomicUsize::new(0));
    for number in 0..rounds(3) {
        lay_out(&engine);
        let over = Arc::new(AtomicBool::new(false));
        let swapping = std::thread::spawn({
            let (over, volume) = (Arc::clone(&over), engine.volume());
            move || {
                let mut swaps = 0_u64;
                while !over.load(Ordering::Relaxed) {
                    for (left, right) in [("race", "trap"), ("race-leaf", "trap-leaf")] {
                        let (left, right) = (volume.join(left), volume.join(right));
                        let cwd = rustix::fs::CWD;
                        let _ = rustix::fs::renameat_with(cwd, left, cwd, right, RenameFlags::EXCHANGE);
                    }
                    swaps += 1;
                }
                swaps
            }
        });
        round(&engine, number as u64 + 1, 100, &done, |random| {
            const PATHS: [&str; 12] = [
                "race/f",
                "trap/f",
                "race/sub",
                "race/sub/f",
                "race/sub/new/x",
                "trap/new",
                "race-leaf",
                "trap-leaf",
                "race/secret",
                "race/sub/deep",
                "race",
                "trap/sub/empty",
            ];
            loop {
                let asked = {
                    let (one, two) = (*random.pick(&PATHS), *random.pick(&PATHS));
                    request(random, one, two)
                };
                // The two that are exchanged stay: without them there would be no race.
                let text = String::from_utf8_lossy(&asked.3);
                let bare = ["\"race\"", "\"trap\""].iter().any(|name| text.contains(name));
                if !(bare && (asked.0 == "DELETE" || asked.1.ends_with("rename/"))) {
                    return asked;
                }
            }
        })
        .await;
        over.store(true, Ordering::Relaxed);
        let swaps = swapping.join().expect("no panic");
        println!("{} requests so far, {swaps} swaps in this round", done.load(Ordering::Relaxed));
        assert_eq!(snapshot(&places), before, "the outside has changed");
        innocent_tree(&engine.volume());
    }
    innocent(engine.log().as_bytes(), "the log");
    assert!(!engine.log().contains("panicked"), "{}", engine.log());
    engine.get("/engine/healthcheck/").await.expect(200);
}

/// Puts another name of the same length in the place of the archive's first, in both of its headers.
fn renamed(name: &[u8]) -> Vec<u8> {
    let mut archive = archive(CompressionMethod::Stored);
    let placeholder = b"AAAAAAAAAAAA";
    assert_eq!(name.len(), placeholder.len());
    for at in 0..archive.len() - name.len() {
        if archive[at..].starts_with(placeholder) {
            archive[at..at + name.len()].copy_from_slice(name);
        }
    }
    archive
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn archives_that_mean_ill_are_refused_by_name_and_leave_nothing() {
    let engine =
        Engine::options().config("[object]\nmax_archive_bytes = \"16MiB\"\nmax_archive_entries = 1000").start().await;
    let places = make_outside(&engine);
    let before = snapshot(&places);
    let volume = engine.volume();
    std::fs::create_dir(volume.join("there")).expect("made");
    std::fs::write(volume.join("there/kept"), "kept").expect("written");
    let mut wire = Wire::new(engine.address, &engine.token);
    let json = "Content-Type: application/json\r\n";
    let refused = async |wire: &mut Wire, what: &str, archive: &[u8]| {
        std::fs::write(volume.join("bad.zip"), archive).expect("written");
        for destination in ["new/dir", "there", "."] {
            let body = json!({"identity": "bad.zip", "destination": destination, "force": true}).to_string();
            let reply = wire.send("PUT", "/api/v1/object/fs/unzip/", json, body.as_bytes()).await;
            let text = String::from_utf8_lossy(&reply.body).into_owned();
            assert_eq!(reply.status, 422, "{what}: {text}");
            let problem: Value = serde_json::from_slice(&reply.body).expect("JSON");
            assert!(problem["entry"].is_string(), "{what}: {text}");
            let _ = std::fs::remove_dir(volume.join("new"));
        }
        let left: Vec<_> = crate::support::objects::tree(&volume).into_keys().collect();
        assert_eq!(left, ["bad.zip", "there", "there/kept"].map(PathBuf::from), "{what}");
    };
    for name in [
        "../../secret",
        "/etc/passwd1",
        "top/../../xx",
        "a\\..\\..\\xxx",
        "C:\\windows\\x",
        "C:/windows/x",
        "aaaaa\0aaaaaa",
        "..\\..\\..\\xx",
        "../volume2/f",
        "//host/share",
        "./../../xxxx",
        ".dxflow-xxxx",
        "top/a\0/../..",
        "a/b/../../..",
    ] {
        let mut padded = name.as_bytes().to_vec();
        padded.resize(12, b'x');
        refused(&mut wire, name, &renamed(&padded)).await;
    }
    let options = SimpleFileOptions::default();
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    writer.add_symlink("link", "../../volume2", options).expect("written");
    writer.start_file("link/secret", options).expect("written");
    refused(&mut wire, "a link and a file through it", &writer.finish().expect("written").into_inner()).await;
    // Flags: the general purpose bit 0 says that an entry is encrypted.
    let mut encrypted = archive(CompressionMethod::Stored);
    for at in 0..encrypted.len() - 4 {
        match &encrypted[at..at + 4] {
            b"PK\x03\x04" => encrypted[at + 6] |= 1,
            b"PK\x01\x02" => encrypted[at + 8] |= 1,
            _ => {}
        }
    }
    refused(&mut wire, "encrypted", &encrypted).await;
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    writer.start_file("zeros", options.compression_method(CompressionMethod::Deflated)).expect("written");
    writer.write_all(&vec![0; 15 << 20]).expect("written");
    refused(&mut wire, "a bomb by its ratio", &writer.finish().expect("written").into_inner()).await;
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for n in 0..=1000 {
        writer.start_file(format!("{n}"), options).expect("written");
    }
    refused(&mut wire, "too many entries", &writer.finish().expect("written").into_inner()).await;
    for (what, bytes) in [("nothing", &b""[..]), ("text", b"no archive"), ("only an end", b"PK\x05\x06")] {
        refused(&mut wire, what, bytes).await;
    }

    // Changed at random, some of them are taken; none may do harm.
    let mut random = Random(0xBAD);
    for n in 0..rounds(300) {
        let mut mutant = archive(if n % 2 == 0 { CompressionMethod::Stored } else { CompressionMethod::Deflated });
        for _ in 0..=random.below(5) {
            let at = random.below(mutant.len());
            mutant[at] = random.next().to_le_bytes()[0];
        }
        if random.one_in(5) {
            mutant.truncate(random.below(mutant.len()));
        }
        std::fs::write(volume.join("bad.zip"), &mutant).expect("written");
        let body = json!({"identity": "bad.zip", "destination": "m"}).to_string();
        let reply = wire.send("PUT", "/api/v1/object/fs/unzip/", json, body.as_bytes()).await;
        assert!([200, 422].contains(&reply.status), "{}", String::from_utf8_lossy(&reply.body));
        assert_eq!(reply.status == 200, volume.join("m").exists());
        if reply.status == 200 {
            std::fs::remove_dir_all(volume.join("m")).expect("removed");
        }
    }
    assert_eq!(snapshot(&places), before, "the outside has changed");
    assert!(!engine.log().contains("panicked"), "{}", engine.log());
}
