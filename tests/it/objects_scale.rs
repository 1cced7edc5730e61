//! Much in one directory, and much in one file: the engine's memory does not follow. By default 100,000 files and 1 GiB;
//! `DXFLOW_IT_LONG=1` makes it 1,000,000 files and 10 GiB. Times are printed, not judged: set `DXFLOW_IT_PROGRAM` to a
//! release build to read them.

use std::io::Write as _;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use http_body_util::BodyExt;
use serde_json::json;

use crate::support::http::Request;
use crate::support::{Engine, within};

/// What the engine may take more than before, in KiB.
const MORE: u64 = 32 * 1024;

fn long() -> bool {
    std::env::var_os("DXFLOW_IT_LONG").is_some()
}

/// A line of a process's status (proc_pid_status(5)), in KiB.
fn status(pid: i32, field: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the engine lives");
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).expect("there is such a line");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// The engine's memory from here on.
struct Memory {
    pid: i32,
    before: u64,
}

impl Memory {
    fn of(engine: &Engine) -> Self {
        let pid = engine.pid();
        // The peak begins anew (proc_pid_clear_refs(5)).
        std::fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("the peak is reset");
        Self { pid, before: status(pid, "VmRSS") }
    }

    /// The most that it was, over what it was at the beginning.
    #[track_caller]
    fn judge(&self, what: &str) -> u64 {
        let grown = status(self.pid, "VmHWM").saturating_sub(self.before);
        println!("{what}: memory + {grown} KiB, from {} KiB", self.before);
        assert!(grown < MORE, "{what}: memory + {grown} KiB");
        grown
    }
}

/// Reads an answer to its end without keeping it; returns its length.
async fn drain(request: Request) -> u64 {
    read(request, |_| {}).await
}

/// Reads an answer to its end, piece by piece; returns its length.
async fn read(request: Request, mut look: impl FnMut(&[u8])) -> u64 {
    let mut response = within("the head of the answer", request.open()).await.expect("an answer");
    assert!(response.status().is_success(), "{}", response.status());
    let mut length = 0;
    while let Some(frame) = within("the next piece", response.body_mut().frame()).await {
        let Ok(data) = frame.expect("a whole answer").into_data() else { continue };
        length += data.len() as u64;
        look(&data);
    }
    length
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_of_a_million_is_streamed_at_once_and_not_held() {
    let files: u64 = if long() { 1_000_000 } else { 100_000 };
    let engine = Engine::start().await;
    let directory = engine.volume().join("many");
    std::fs::create_dir(&directory).expect("made");
    for n in 0..files {
        std::fs::File::create(directory.join(format!("file-{n:07}"))).expect("made");
    }
    // What the first listing of all takes once is not what is measured.
    drain(engine.master().get("/object/fs/?depth=0").stream()).await;
    let memory = Memory::of(&engine);
    let list = || engine.master().get("/object/fs/?directory=many").stream();
    let mut firsts = Vec::new();
    for _ in 0..5 {
        let start = Instant::now();
        let mut response = within("the head", list().open()).await.expect("an answer");
        let mut text = Vec::new();
        while !String::from_utf8_lossy(&text).contains("\"entity\"") {
            let frame = within("an entry", response.body_mut().frame()).await.expect("more").expect("a piece");
            text.extend_from_slice(&frame.into_data().expect("data"));
        }
        firsts.push(start.elapsed());
        // A reader that leaves ends the listing.
    }
    let start = Instant::now();
    let mut lines = 0;
    let length = read(list(), |data| lines += data.iter().filter(|byte| **byte == b'\n').count() as u64).await;
    println!("{files} files: the first entry after {firsts:?}, all {length} bytes after {:?}", start.elapsed());
    // `[`, the status, the entries, `]`.
    assert_eq!(lines, files + 3);
    memory.judge("the stream form");
    let page = engine.get("/object/fs/?directory=many&limit=3&pattern=file-00000*").await;
    assert_eq!(page.expect(200).as_array().expect("an array").len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_file_is_never_held() {
    let length: u64 = if long() { 10 << 30 } else { 1 << 30 };
    let engine = Engine::start().await;
    let mut file = std::fs::File::create(engine.volume().join("sparse")).expect("made");
    file.write_all(b"begin").expect("written");
    file.set_len(length).expect("sparse");
    file.write_all_at(b"the end", length - 7).expect("written");
    drop(file);
    std::fs::write(engine.volume().join("small"), "small").expect("written");
    // What a first archive and a first download take once is not what is measured.
    engine.put("/object/fs/zip/", json!({"identity": "small"})).await.expect(200);
    drain(engine.master().get("/object/fs/download/?identity=small")).await;

    let memory = Memory::of(&engine);
    let listed = engine.get("/object/fs/").await.expect(200);
    let listed = listed.as_array().expect("an array").iter().find(|object| object["name"] == "sparse").expect("there");
    assert_eq!(listed["size"], length);
    let head = engine.master().head("/object/fs/download/?identity=sparse").send().await;
    assert_eq!(head.header("content-length"), length.to_string());
    assert_eq!(head.header("etag"), format!("\"{}\"", listed["etag"].as_str().expect("text")));
    for (range, expected) in [
        ("bytes=0-4".to_owned(), &b"begin"[..]),
        (format!("bytes={}-", length - 7), b"the end"),
        ("bytes=-7".to_owned(), b"the end"),
        (format!("bytes={}-{}", length / 2, length / 2 + 3), &[0; 4]),
    ] {
        let part = engine.master().get("/object/fs/download/?identity=sparse").header("range", &range).send().await;
        assert_eq!((part.status.as_u16(), &part.body[..]), (206, expected), "{range}");
    }
    memory.judge("listed, named and read in parts");

    let memory = Memory::of(&engine);
    let start = Instant::now();
    let sent = drain(engine.master().get("/object/fs/download/?identity=sparse")).await;
    assert_eq!(sent, length);
    println!("{length} bytes downloaded in {:?}", start.elapsed());
    memory.judge("downloaded");

    let memory = Memory::of(&engine);
    let start = Instant::now();
    let body = json!({"identity": "sparse", "level": 1});
    let zipped = engine.master().put("/object/fs/zip/").json(&body).try_send().await.expect("an answer");
    assert_eq!(zipped.expect(200)["entries"], 1);
    println!("{length} bytes zipped in {:?}", start.elapsed());
    memory.judge("zipped");
}
