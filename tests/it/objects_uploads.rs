//! Uploads against everything that breaks them: kills of the engine, rivals for one name, a full disk.
//!
//! The sizes are those of a quick run; `DXFLOW_IT_LONG=1` kills 50 times during 8 uploads of 200 MB.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::objects::{bytes, sha256, tree, unfinished, until_finished};
use crate::support::{Client, Engine, until, until_true};

const UPLOADS: usize = 8;
/// Bytes that are sent between two pauses, so that an upload lasts and a kill finds it on its way.
const PIECE: usize = 128 << 10;

fn long() -> bool {
    std::env::var_os("DXFLOW_IT_LONG").is_some_and(|value| value == "1")
}

/// One upload by parts that does not give up.
struct Upload {
    address: SocketAddr,
    token: String,
    number: usize,
    content: Bytes,
    pause: Duration,
}

impl Upload {
    fn path(&self) -> String {
        format!("/object/fs/upload/?identity=dir/f{0}&upload=u{0}", self.number)
    }

    /// Where to go on: what the engine says, or 0 when it knows of nothing; `None` while it is away.
    async fn offset(&self) -> Option<usize> {
        let head = Client::new(self.address, Some(self.token.clone())).head(&self.path());
        let answer = head.try_send().await.ok()?;
        match answer.status.as_u16() {
            200 => {
                assert_eq!(answer.header("upload-length"), self.content.len().to_string());
                Some(answer.header("upload-offset").parse().expect("a number"))
            }
            404 => Some(0),
            other => panic!("HEAD: {other}"),
        }
    }

    /// Sends all from `offset` on; the answer, unless the connection breaks.
    async fn send(&self, offset: usize) -> std::io::Result<(u16, Value)> {
        let rest = &self.content[offset..];
        let mut stream = tokio::net::TcpStream::connect(self.address).await?;
        let head = format!(
            "PUT /api/v1{} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\
             Content-Range: bytes {offset}-{}/{}\r\nConnection: close\r\n\r\n",
            self.path(),
            self.address,
            self.token,
            rest.len(),
            self.content.len() - 1,
            self.content.len(),
        );
        stream.write_all(head.as_bytes()).await?;
        for piece in rest.chunks(PIECE) {
            stream.write_all(piece).await?;
            tokio::time::sleep(self.pause).await;
        }
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let broken = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        Ok((status.ok_or_else(broken)?, serde_json::from_str(body).map_err(|_| broken())?))
    }

    /// Resumes until it is complete; how often it had to.
    async fn run(self) -> usize {
        let mut resumed = 0;
        loop {
            let offset = until("the engine to be there", async || self.offset().await).await;
            // At its total it is in its place, and only the answer was lost: the last byte is answered with it again.
            let offset = offset.min(self.content.len() - 1);
            match self.send(offset).await {
                Ok((200 | 201, object)) => {
                    assert_eq!(object["sha256"], sha256(&self.content), "{object}");
                    return resumed;
                }
                // What is left of the broken request still writes.
                Ok((409, _)) | Err(_) => resumed += 1,
                Ok((status, body)) => panic!("{status}: {body}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_survive_kills_and_nothing_is_ever_half_there() {
    let (kills, size) = if long() { (50, 200 << 20) } else { (5, 8 << 20) };
    let mut engine = Engine::start().await;
    let base = Bytes::from(bytes(7, size + UPLOADS));
    let done = Arc::new(AtomicUsize::new(0));
    let mut uploads = tokio::task::JoinSet::new();
    for number in 0..UPLOADS {
        let content = base.slice(number..number + size);
        // Together they last about as long as the kills.
        let pause = Duration::from_millis(if long() { 60 } else { 25 });
        let upload = Upload { address: engine.address, token: engine.token.clone(), number, content, pause };
        let done = Arc::clone(&done);
        uploads.spawn(async move {
            let resumed = upload.run().await;
            done.fetch_add(1, Ordering::SeqCst);
            resumed
        });
    }
    let directory = engine.volume().join("dir");
    let mut killed = 0;
    while killed < kills && done.load(Ordering::SeqCst) < UPLOADS {
        tokio::time::sleep(Duration::from_millis(150 + 97 * (killed % 5))).await;
        engine.kill().await;
        killed += 1;
        for number in 0..UPLOADS {
            let Ok(content) = std::fs::read(directory.join(format!("f{number}"))) else { continue };
            assert!(content == base[number..number + size], "f{number} is there, and not whole");
        }
        engine.boot().await;
    }
    let resumed: usize = uploads.join_all().await.into_iter().sum();
    println!("{killed} kills, {UPLOADS} uploads of {size} bytes, resumed {resumed} times");
    assert!(resumed > 0, "no kill hit an upload");
    for number in 0..UPLOADS {
        let content = std::fs::read(directory.join(format!("f{number}"))).expect("it is there");
        assert!(content == base[number..number + size], "f{number}");
    }
    until_finished(&engine).await;
    assert_eq!(tree(&engine.volume()).len(), UPLOADS + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_rivals_for_one_name_one_wins_whole() {
    let engine = Engine::start().await;
    let contents: Vec<Vec<u8>> = (0..8).map(|seed| bytes(seed + 1, 3 << 20)).collect();
    for round in 0..3 {
        let mut rivals = tokio::task::JoinSet::new();
        for content in contents.clone() {
            let request = engine.master().put("/object/fs/upload/?identity=one&force=true").body(content);
            rivals.spawn(async move { request.send().await.status.as_u16() });
        }
        let seen = until("somebody to have won", async || {
            let seen = engine.get("/object/fs/download/?identity=one").await;
            (seen.status == 200).then_some(seen.body)
        })
        .await;
        assert!(contents.iter().any(|content| *content == seen), "round {round}: a mixture was seen");
        assert!(rivals.join_all().await.iter().all(|status| [200, 201].contains(status)));
        let last = std::fs::read(engine.volume().join("one")).expect("there");
        assert!(contents.contains(&last), "round {round}: a mixture was left");
    }
    // Without force one is first, and the others are told.
    let mut rivals = tokio::task::JoinSet::new();
    for content in contents.clone() {
        let request = engine.master().put("/object/fs/upload/?identity=two").body(content);
        rivals.spawn(async move { request.send().await.status.as_u16() });
    }
    let mut answers = rivals.join_all().await;
    answers.sort_unstable();
    assert_eq!(answers, [201, 409, 409, 409, 409, 409, 409, 409]);
    until_finished(&engine).await;
}

/// A file system of a few megabytes, for as long as it is kept.
struct Small(PathBuf);

impl Small {
    fn mount(directory: &Path) -> Self {
        let path = directory.join("small");
        std::fs::create_dir(&path).expect("made");
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=4m,mode=0700", "tmpfs"])
            .arg(&path)
            .output()
            .expect("`mount` runs");
        let said = String::from_utf8_lossy(&mounted.stderr);
        assert!(mounted.status.success(), "a full disk needs a small one, which only root can mount: {said}");
        Self(path)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_full_disk_is_told_and_nothing_is_left_on_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let small = Small::mount(directory.path());
    let volume = small.0.to_str().expect("UTF-8");
    let engine = Engine::options().environment("DXFLOW_ENGINE_VOLUME", volume).start().await;
    let empty = |what: &'static str| {
        let volume = small.0.clone();
        async move { until_true(what, || tree(&volume).is_empty()).await }
    };
    let large = bytes(3, 6 << 20);
    let put = |query: &str| engine.master().put(&format!("/object/fs/upload/?{query}"));
    put("identity=a").body(large.clone()).send().await.refusal(507);
    empty("nothing of an upload to be left").await;
    let part = put("identity=a&upload=x").header("content-range", "bytes 0-6291455/6291456").body(large.clone());
    part.send().await.refusal(507);
    let progress = engine.master().head("/object/fs/upload/?identity=a&upload=x").send().await;
    assert_eq!(progress.header("upload-offset"), "0", "the disk has its room back");
    engine.delete("/object/fs/", json!({ "identity": "a" })).await.refusal(404);
    put("identity=c").body(bytes(4, 1 << 20)).send().await.expect(201);
    // An archive that does not fit, made and unpacked.
    let body = json!({ "identity": "c", "destination": "d.zip", "level": 0 });
    engine.put("/object/fs/zip/", body.clone()).await.expect(200);
    put("identity=filler").body(bytes(5, 3 << 19)).send().await.expect(201);
    engine.put("/object/fs/zip/", json!({ "identity": "c", "destination": "e.zip", "level": 0 })).await.refusal(507);
    engine.put("/object/fs/unzip/", json!({ "identity": "d.zip" })).await.refusal(507);
    let names: Vec<PathBuf> = tree(&small.0).into_keys().filter(|path| !is_upload(path)).collect();
    assert_eq!(names, ["c", "d.zip", "filler"].map(PathBuf::from));
    // With room again it goes on as if nothing had been.
    for identity in ["c", "d.zip", "filler"] {
        engine.delete("/object/fs/", json!({ "identity": identity })).await.expect(200);
    }
    put("identity=f").body(bytes(6, 1 << 20)).send().await.expect(201);
    drop(engine);
}

/// What a resumable upload keeps until it is resumed or expires.
fn is_upload(path: &Path) -> bool {
    path.to_string_lossy().starts_with(".dxflow-")
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
