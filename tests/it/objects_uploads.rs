//! Uploads through everything that can go wrong: kills of the engine, rivals for one name, a full disk.
//! `DXFLOW_IT_LONG=1` makes it 50 kills during 8 uploads of 200 MB.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use serde_json::json;

use crate::support::objects::{bytes, sha256, tree, unfinished, until_finished};
use crate::support::{Client, Engine, until, until_true};

fn long() -> bool {
    std::env::var_os("DXFLOW_IT_LONG").is_some()
}

/// Uploads `content` in parts, whatever happens to the engine meanwhile; returns the digest that it was told, and how
/// often it had to ask where to go on.
async fn resume_until_done(
    client: Client,
    name: String,
    content: Bytes,
    part: usize,
    at: Arc<AtomicU64>,
) -> (String, usize) {
    let path = format!("/object/fs/upload/?identity={name}&upload=one");
    let total = content.len();
    let mut asked = 0;
    loop {
        // The engine may be away, or still busy with what is left of the broken connection.
        asked += 1;
        let mut offset = until("the upload's offset", async || {
            let answer = client.head(&path).try_send().await.ok()?;
            match answer.status.as_u16() {
                404 => Some(0),
                200 => answer.header("upload-offset").parse::<usize>().ok(),
                status => panic!("HEAD {path}: {status}"),
            }
        })
        .await;
        // At its total it is in its place: the last byte is asked for again, and answered with the object.
        offset = offset.min(total - 1);
        loop {
            at.store(offset as u64, Ordering::Relaxed);
            let end = (offset + part).min(total);
            let range = format!("bytes {offset}-{}/{total}", end - 1);
            let body = content.slice(offset..end);
            let Ok(answer) = client.put(&path).header("content-range", &range).body(body).try_send().await else {
                break;
            };
            match answer.status.as_u16() {
                200 | 201 if end == total => {
                    at.store(total as u64, Ordering::Relaxed);
                    return (answer.expect(answer.status.as_u16())["sha256"].as_str().expect("text").to_owned(), asked);
                }
                200 => offset = end,
                // Another offset, or a request of before the break that is not over yet.
                409 => break,
                status => panic!("{path} {range}: {status} {}", answer.text()),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_complete_through_kills_of_the_engine() {
    const UPLOADS: usize = 8;
    let (kills, size, part) = if long() { (50_u64, 200 << 20, 8 << 20) } else { (6, 8 << 20, 512 << 10) };
    let mut engine = Engine::start().await;
    let mut running = tokio::task::JoinSet::new();
    let mut reached = Vec::new();
    let mut hashes = Vec::new();
    for number in 0..UPLOADS {
        let content = Bytes::from(bytes(number as u64 + 1, size));
        let at = Arc::new(AtomicU64::new(0));
        reached.push(Arc::clone(&at));
        hashes.push(sha256(&content));
        let client = engine.master();
        running
            .spawn(async move { (number, resume_until_done(client, format!("d/u{number}"), content, part, at).await) });
    }
    let whole = (UPLOADS * size) as u64;
    let sum = || reached.iter().map(|at| at.load(Ordering::Relaxed)).sum::<u64>();
    let volume = engine.volume();
    let mut during = 0;
    for kill in 1..=kills {
        // The last of them when all bytes have been sent, and files are hashed and named.
        until_true("progress", || sum() >= whole / kills * kill - whole / kills / 2).await;
        engine.kill().await;
        during += usize::from(sum() < whole);
        for (number, hash) in hashes.iter().enumerate() {
            let there = volume.join(format!("d/u{number}"));
            if let Ok(content) = std::fs::read(&there) {
                assert_eq!(&sha256(&content), hash, "kill {kill}: part of an object under its name");
            }
        }
        engine.boot().await;
        let listed = engine.get("/object/fs/?all=true&depth=2").await.expect(200);
        for object in listed.as_array().expect("an array") {
            assert!(!object["identity"].as_str().expect("text").contains(".dxflow-"), "{object}");
        }
    }
    let mut breaks = 0;
    while let Some(ended) = running.join_next().await {
        let (number, (told, asked)) = ended.expect("no panic");
        breaks += asked - 1;
        assert_eq!(told, hashes[number], "u{number}");
        let content = std::fs::read(volume.join(format!("d/u{number}"))).expect("there");
        assert_eq!(sha256(&content), hashes[number], "u{number}");
    }
    println!("{kills} kills ({during} during uploads), {UPLOADS} uploads of {size} bytes, {breaks} resumed");
    assert!(breaks > 0, "nothing was broken off");
    assert_eq!(unfinished(&volume), Vec::<std::path::PathBuf>::new(), "something is left");
}

#[tokio::test]
async fn an_upload_whose_last_answer_was_lost_is_finished_by_its_last_byte() {
    let mut engine = Engine::start().await;
    let content = bytes(3, 100_000);
    let path = "/object/fs/upload/?identity=late&upload=x";
    let part = |client: &Client, from: usize, to: usize| {
        let range = format!("bytes {from}-{}/100000", to - 1);
        client.put(path).header("content-range", &range).body(content[from..to].to_vec())
    };
    part(&engine.master(), 0, 50_000).send().await.expect(200);
    engine.kill().await;
    // As an engine leaves it that dies after the last byte was written and before the file has its name.
    let own = unfinished(&engine.volume()).pop().expect("the file of the upload");
    std::fs::write(engine.volume().join(&own), &content).expect("written");
    engine.boot().await;
    assert!(!engine.volume().join("late").exists());
    let head = engine.master().head(path).send().await;
    assert_eq!((head.header("upload-offset"), head.header("upload-length")), ("99999", "100000"));
    part(&engine.master(), 50_000, 100_000).send().await.refusal(409);
    let placed = part(&engine.master(), 99_999, 100_000).send().await.expect(201);
    assert_eq!(placed["sha256"], sha256(&content));
    assert_eq!(std::fs::read(engine.volume().join("late")).expect("there"), content);
    // Now it is there, and stands at its total; the answer can be had again.
    let head = engine.master().head(path).send().await;
    assert_eq!(head.header("upload-offset"), "100000");
    let again = part(&engine.master(), 99_999, 100_000).send().await;
    assert_eq!(again.expect(201)["sha256"], sha256(&content));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_rivals_for_one_name_one_wins_whole() {
    const RIVALS: u64 = 12;
    let engine = Engine::start().await;
    let contents: Vec<Bytes> = (0..RIVALS).map(|seed| bytes(seed + 1, 1 << 20).into()).collect();
    let hashes: Arc<Vec<String>> = Arc::new(contents.iter().map(|content| sha256(content)).collect());
    for force in [true, false] {
        let path = format!("/object/fs/upload/?identity=name-{force}&force={force}");
        let won = Arc::new(AtomicUsize::new(0));
        let mut rivals = tokio::task::JoinSet::new();
        for content in &contents {
            let asked = engine.master().put(&path).body(content.clone());
            let won = Arc::clone(&won);
            rivals.spawn(async move {
                let answer = asked.send().await;
                match answer.status.as_u16() {
                    200 | 201 => drop(won.fetch_add(1, Ordering::Relaxed)),
                    409 if !force => {}
                    status => panic!("{status}: {}", answer.text()),
                }
            });
        }
        // Whoever looks meanwhile sees one of them whole, or none.
        let (reader, known) = (engine.master(), Arc::clone(&hashes));
        let reading = tokio::spawn(async move {
            for _ in 0..20 {
                let answer = reader.get(&format!("/object/fs/download/?identity=name-{force}")).send().await;
                if answer.status != 404 {
                    assert_eq!(answer.status, 200);
                    assert!(known.contains(&sha256(&answer.body)), "a mixture, or a part");
                }
            }
        });
        while let Some(ended) = rivals.join_next().await {
            ended.expect("no panic");
        }
        reading.await.expect("no panic");
        let content = std::fs::read(engine.volume().join(format!("name-{force}"))).expect("there");
        assert!(hashes.contains(&sha256(&content)));
        assert_eq!(won.load(Ordering::Relaxed), if force { contents.len() } else { 1 });
    }
    until_finished(&engine).await;
}

/// The variable that says that this is the test in its own namespace.
const INSIDE: &str = "DXFLOW_IT_MOUNTS";

/// Runs this test once more in a mount namespace of its own, where it may mount and nothing stays mounted; `false` says
/// that the system does not allow one.
fn in_own_namespace(test: &str) -> bool {
    let flags: &[&str] = if rustix::process::geteuid().is_root() { &["-m"] } else { &["-r", "-m"] };
    let can = Command::new("unshare").args(flags).args(["mount", "-t", "tmpfs", "none", "/mnt"]).output();
    match can {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            println!("not tested: no tmpfs can be mounted here: {}", String::from_utf8_lossy(&output.stderr));
            return false;
        }
        Err(error) => {
            println!("not tested: `unshare` cannot be run: {error}");
            return false;
        }
    }
    let myself = std::env::current_exe().expect("this program");
    let output = Command::new("unshare")
        .args(flags)
        .arg(myself)
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare runs");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    true
}

fn mount(directory: &Path, size: &str) {
    let output =
        Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"]).arg(directory).output();
    let output = output.expect("mount runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_full_disk_is_507_and_nothing_is_left() {
    if std::env::var_os(INSIDE).is_none() {
        in_own_namespace("objects_uploads::a_full_disk_is_507_and_nothing_is_left");
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(fill_the_disk());
}

async fn fill_the_disk() {
    let place = tempfile::tempdir().expect("a directory");
    mount(place.path(), "24m");
    let engine = Engine::options()
        .config("[object]\nmax_archive_ratio = 100000")
        .argument("--volume")
        .argument(place.path().to_str().expect("UTF-8"))
        .start()
        .await;
    let upload =
        |query: &str, length: usize| engine.master().put(&format!("/object/fs/upload/?{query}")).body(bytes(5, length));
    upload("identity=d/kept", 4 << 20).send().await.expect(201);
    let random = bytes(9, 12 << 20);
    std::fs::write(place.path().join("random"), &random).expect("written");
    let before = tree(place.path());
    let unchanged = async |what: &str| {
        until_true(what, || tree(place.path()) == before).await;
    };

    // By its length before the first byte, and without one in the middle.
    upload("identity=d/large", 32 << 20).send().await.refusal(507);
    unchanged("an upload").await;
    let mut child = Command::new("curl")
        .args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", "-T", "-", "-H", "Expect:", "-H"])
        .arg(format!("Authorization: Bearer {}", engine.token))
        .arg(format!("http://{}/api/v1/object/fs/upload/?identity=d/chunked", engine.address))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("curl runs");
    let mut stdin = child.stdin.take().expect("piped");
    let pouring = std::thread::spawn(move || {
        // Whoever is refused half-way no longer reads.
        let _ = std::io::Write::write_all(&mut stdin, &bytes(6, 32 << 20));
    });
    let output =
        tokio::task::spawn_blocking(move || child.wait_with_output()).await.expect("no panic").expect("it ends");
    pouring.join().expect("no panic");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "507", "{}", String::from_utf8_lossy(&output.stderr));
    unchanged("a chunked upload").await;
    upload("identity=d/kept&force=true", 32 << 20).send().await.refusal(507);
    unchanged("an upload in the place of another").await;

    engine.put("/object/fs/zip/", json!({"identity": "random", "destination": "d/r.zip"})).await.refusal(507);
    unchanged("an archive").await;

    // The archive itself lies elsewhere in the volume's file system, which then has no room for what is in it.
    std::fs::remove_file(place.path().join("random")).expect("removed");
    std::fs::write(place.path().join("zeros"), vec![7; 15 << 20]).expect("written");
    engine.put("/object/fs/zip/", json!({"identity": "zeros", "destination": "z.zip"})).await.expect(200);
    let before = tree(place.path());
    engine.put("/object/fs/unzip/", json!({"identity": "z.zip", "destination": "out/put"})).await.refusal(507);
    let left: Vec<_> = tree(place.path()).into_keys().filter(|path| !before.contains_key(path)).collect();
    assert!(left.iter().all(|path| path == Path::new("out")), "left behind: {left:?}");

    // A part that finds no room keeps what was written, to go on once there is room; it is never listed.
    let part = |from: usize, to: usize| {
        let range = format!("bytes {from}-{}/{}", to - 1, 16 << 20);
        engine
            .master()
            .put("/object/fs/upload/?identity=parts&upload=p")
            .header("content-range", &range)
            .body(bytes(11, 16 << 20)[from..to].to_vec())
    };
    part(0, 16 << 20).send().await.refusal(507);
    assert!(!place.path().join("parts").exists());
    std::fs::remove_file(place.path().join("zeros")).expect("removed");
    let offset = until("the offset", async || {
        let head = engine.master().head("/object/fs/upload/?identity=parts&upload=p").send().await;
        head.header("upload-offset").parse::<usize>().ok()
    })
    .await;
    assert!(offset > 0 && offset < 16 << 20, "{offset}");
    let done = part(offset, 16 << 20).send().await.expect(201);
    assert_eq!(done["sha256"], sha256(&bytes(11, 16 << 20)));
    assert_eq!(unfinished(place.path()), Vec::<std::path::PathBuf>::new());
}
