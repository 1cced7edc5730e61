//! What is large costs the engine no memory: a directory of very many files, and a file larger than memory should be.
//!
//! The sizes are those of a quick run; `DXFLOW_IT_LONG=1` takes a million files and 10 GiB.

use std::time::Instant;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::support::Engine;

/// What the engine may take beyond what it has, for one request of any size.
const GROWTH: u64 = 32 << 20;

fn long() -> bool {
    std::env::var_os("DXFLOW_IT_LONG").is_some_and(|value| value == "1")
}

/// A field of `/proc/<pid>/status`, in bytes.
fn memory(engine: &Engine, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", engine.pid())).expect("the engine runs");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("the kernel tells it");
    let kibibytes: u64 =
        line.trim_start_matches(':').split_whitespace().next().expect("a number").parse().expect("one");
    kibibytes << 10
}

/// Runs `work`; fails if the engine's resident memory was ever more than [`GROWTH`] above what it was before.
async fn within_memory<T>(engine: &Engine, what: &str, work: impl Future<Output = T>) -> T {
    let before = memory(engine, "VmRSS");
    // Lets the kernel measure the peak anew (proc(5), clear_refs).
    std::fs::write(format!("/proc/{}/clear_refs", engine.pid()), "5").expect("our own child");
    let started = Instant::now();
    let done = work.await;
    let peak = memory(engine, "VmHWM").saturating_sub(before);
    println!("{what}: {} ms, + {} KiB", started.elapsed().as_millis(), peak >> 10);
    assert!(peak < GROWTH, "{what}: {peak} bytes more");
    done
}

/// Takes each piece of a body in turn.
async fn each(response: http::Response<Incoming>, mut take: impl FnMut(&[u8])) {
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.expect("the body goes on").into_data() {
            take(&data);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_of_very_many_files_is_listed_at_once_and_without_memory() {
    let engine = Engine::start().await;
    let count: usize = if long() { 1_000_000 } else { 50_000 };
    let directory = engine.volume().join("many");
    std::fs::create_dir(&directory).expect("made");
    for n in 0..count {
        std::fs::File::create(directory.join(format!("{n:07}"))).expect("made");
    }
    // What the first request of all takes is not what is measured.
    engine.get("/object/fs/").await.expect(200);
    let listed = within_memory(&engine, "the stream form", async {
        let started = Instant::now();
        let response = engine.master().get("/object/fs/?directory=many").stream().open().await.expect("an answer");
        let (mut first, mut lines) = (None, 0);
        each(response, |data| {
            if first.is_none() && data.windows(8).any(|word| word == b"\"entity\"") {
                first = Some(started.elapsed());
            }
            lines += data.iter().filter(|byte| **byte == b'\n').count();
        })
        .await;
        println!("the first entry after {:?}", first.expect("there are entries"));
        // The bracket, the status, and the bracket have a line each.
        lines - 3
    })
    .await;
    assert_eq!(listed, count);
    let pages = within_memory(&engine, "a page of the plain form", async {
        let page = engine.get(&format!("/object/fs/?directory=many&offset={}&limit=10", count - 5)).await;
        assert_eq!(page.header("x-total-count"), count.to_string());
        page.expect(200).as_array().expect("an array").len()
    });
    assert_eq!(pages.await, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_any_size_is_read_and_archived_without_memory() {
    let engine = Engine::start().await;
    let size: u64 = if long() { 10 << 30 } else { 512 << 20 };
    let file = std::fs::File::create(engine.volume().join("large")).expect("made");
    file.set_len(size).expect("sparse");
    std::os::unix::fs::FileExt::write_all_at(&file, b"middle", size / 2).expect("written");
    engine.get("/object/fs/").await.expect(200);
    within_memory(&engine, "listed", async {
        assert_eq!(engine.get("/object/fs/").await.expect(200)[0]["size"], size);
    })
    .await;
    let range = within_memory(&engine, "a range", async {
        let range = format!("bytes={}-{}", size / 2, size / 2 + 5);
        engine.master().get("/object/fs/download/?identity=large").header("range", &range).send().await.text()
    });
    assert_eq!(range.await, "middle");
    let digest = within_memory(&engine, "downloaded and hashed", async {
        let response = engine.master().get("/object/fs/download/?identity=large").open().await.expect("an answer");
        let (mut hash, mut length) = (Sha256::new(), 0_u64);
        each(response, |data| {
            hash.update(data);
            length += data.len() as u64;
        })
        .await;
        assert_eq!(length, size);
        hash.finalize()
    })
    .await;
    let zipped = within_memory(&engine, "zipped", async {
        engine.put("/object/fs/zip/", json!({ "identity": "large", "level": 1 })).await.expect(200)
    });
    assert_eq!(zipped.await["entries"], 1);
    let archive = std::fs::read(engine.volume().join("large.zip")).expect("it is small");
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(archive)).expect("an archive");
    let mut entry = archive.by_name("large").expect("the entry");
    let mut hash = Sha256::new();
    std::io::copy(&mut entry, &mut hash).expect("read");
    assert_eq!(hash.finalize(), digest, "what was archived is what was there");
}
