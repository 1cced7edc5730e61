//! `dxflow object upload`: files and directories to the engine, several at once, resumed after a break.
//!
//! A small file is one request. A large one goes in parts of a resumable upload whose name is made of what is sent and
//! where: the same command, run again after a break, a reboot or a change of network, goes on where it stopped. What the
//! engine says it got (SHA-256) is held against what was read.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Method, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, oneshot};

use super::progress::{FileBar, Progress};
use super::retry::Retry;
use super::{is_directory, join};
use crate::cli::args::Upload;
use crate::cli::client::{Body, Call, Client};
use crate::cli::error::{CliError, Done, REFUSED};
use crate::cli::output::{Output, cell, clean};

/// Larger files are sent in parts that can be resumed.
const RESUMABLE: u64 = 8 << 20;
/// The size of such a part.
const PART: u64 = 64 << 20;
/// How much is read at once.
const BLOCK: usize = 256 * 1024;
/// How many blocks wait to be sent.
const BLOCKS: usize = 4;
/// How often the bar of a file moves.
const TICK: Duration = Duration::from_millis(100);

/// What is to be done, in this order: directories that would be empty, then files.
#[derive(Debug, Default)]
struct Plan {
    directories: Vec<String>,
    files: Vec<Item>,
    bytes: u64,
}

#[derive(Debug)]
struct Item {
    local: PathBuf,
    remote: String,
    size: u64,
}

pub(super) async fn run(upload: &Upload, client: &Client, output: Output) -> Done {
    // Whoever cannot sign in is told so once, not for each file.
    client.token().await?;
    let (sources, target) = match upload.paths.as_slice() {
        [source] => (std::slice::from_ref(source), None),
        [sources @ .., target] => (sources, Some(target.as_str())),
        [] => return Err(CliError::Usage("say what to upload".into())),
    };
    if sources.iter().any(|source| source == "-") {
        let (Some(target), [_]) = (target, sources) else {
            return Err(CliError::Usage("say where the standard input goes: `object upload - PATH`".into()));
        };
        let object = standard_input(target, upload.force, client, output).await?;
        return if output.json {
            output.json(&json!([object]))
        } else {
            output.line(clean(&cell(&object["identity"])))
        };
    }
    let into = match target {
        None => true,
        Some(target) => sources.len() > 1 || target.ends_with('/') || is_directory(client, target).await?,
    };
    let mut plan = Plan::default();
    for source in sources {
        let path = Path::new(source);
        let remote = match target {
            Some(target) if !into => target.to_owned(),
            target => match name_of(path)? {
                // The content of the working directory, not the directory under a name.
                None => target.unwrap_or(".").to_owned(),
                Some(name) => join(target.unwrap_or("."), &name),
            },
        };
        plan.add(path, &remote, output)?;
    }
    send_all(plan, upload, client, output).await
}

/// The last name of a path; none for one that ends in dots.
fn name_of(path: &Path) -> Result<Option<String>, CliError> {
    match path.file_name() {
        None => Ok(None),
        Some(name) => name
            .to_str()
            .map(|name| Some(name.to_owned()))
            .ok_or_else(|| CliError::Failed(format!("`{}` has a name that is not UTF-8", path.display()))),
    }
}

impl Plan {
    /// Adds a file, or a directory with all that is in it.
    fn add(&mut self, local: &Path, remote: &str, output: Output) -> Done {
        let failed = |error| CliError::failed(format!("failed to read `{}`", local.display()), error);
        let metadata = std::fs::metadata(local).map_err(failed)?;
        if metadata.is_file() {
            self.bytes += metadata.len();
            self.files.push(Item { local: local.to_owned(), remote: remote.to_owned(), size: metadata.len() });
            return Ok(());
        }
        if !metadata.is_dir() {
            return Err(CliError::Failed(format!("`{}` is neither a file nor a directory", local.display())));
        }
        // Depth first with a stack of our own: directories nest deeper than threads have stack.
        let mut left = vec![(local.to_owned(), remote.to_owned())];
        while let Some((directory, remote)) = left.pop() {
            let failed = |error| CliError::failed(format!("failed to read `{}`", directory.display()), error);
            let mut empty = true;
            for entry in std::fs::read_dir(&directory).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                let path = entry.path();
                let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
                    output.note(format!("dxflow: `{}` is left out: its name is not UTF-8", path.display()));
                    continue;
                };
                let below = join(&remote, &name);
                let kind = entry.file_type().map_err(failed)?;
                // A link to a file is sent as the file; one to a directory could lead in a circle.
                let file = std::fs::metadata(&path).ok().filter(std::fs::Metadata::is_file);
                match file {
                    Some(metadata) => {
                        self.bytes += metadata.len();
                        self.files.push(Item { local: path, remote: below, size: metadata.len() });
                    }
                    None if kind.is_dir() => left.push((path, below)),
                    None => {
                        output.note(format!("dxflow: `{}` is left out: it is not a file", path.display()));
                        continue;
                    }
                }
                empty = false;
            }
            if empty && remote != "." {
                self.directories.push(remote);
            }
        }
        Ok(())
    }
}

async fn send_all(plan: Plan, upload: &Upload, client: &Client, output: Output) -> Done {
    let (count, bytes) = (plan.files.len(), plan.bytes);
    let progress = Progress::new(output, "upload", Some(bytes));
    let mut objects = Vec::new();
    let mut worst: Option<CliError> = None;
    let mut failed = |name: &str, error: CliError, progress: &Progress| {
        progress.note(&format!("dxflow: {}: {error}", clean(name)));
        let stop = matches!(error, CliError::Unreachable { .. }) || matches!(error.status(), Some(401 | 403));
        if worst.is_none() || stop {
            worst = Some(CliError::Exit(if stop { error.exit_code() } else { REFUSED }));
        }
        stop
    };
    let mut stopped = false;
    for directory in &plan.directories {
        let body = json!({ "identity": directory, "directory": true });
        match client.value(Call::post("/object/fs/").json(&body)).await {
            Ok(object) => objects.push(object),
            // It is there, which is what was wanted.
            Err(error) if error.status() == Some(409) => {}
            Err(error) => {
                stopped = failed(directory, error, &progress);
                if stopped {
                    break;
                }
            }
        }
    }
    let mut done = 0;
    if !stopped {
        let sending = plan.files.iter().map(|item| {
            let progress = &progress;
            async move { (item, send(item, upload.force, client, progress).await) }
        });
        let mut sending = stream::iter(sending).buffer_unordered(usize::from(upload.jobs));
        while let Some((item, sent)) = sending.next().await {
            match sent {
                Ok(object) => {
                    done += 1;
                    if !output.json && !output.terminal {
                        output.line(clean(&cell(&object["identity"])))?;
                    }
                    objects.push(object);
                }
                Err(error) => {
                    if failed(&item.remote, error, &progress) {
                        break;
                    }
                }
            }
        }
    }
    if done == count {
        progress.finish("sent", count, bytes);
    } else {
        progress.clear();
    }
    if output.json {
        output.json(&Value::Array(objects))?;
    }
    worst.map_or(Ok(()), Err)
}

/// Sends one file, as often as it takes.
async fn send(item: &Item, force: bool, client: &Client, progress: &Progress) -> Result<Value, CliError> {
    let mut bar = progress.file(&item.remote, item.size);
    let mut retry = Retry::default();
    let mut id = None;
    loop {
        let mut reached = 0;
        let sent = if item.size < RESUMABLE {
            small(item, force, client, &mut bar).await
        } else {
            Box::pin(large(item, force, client, &mut bar, &mut id, &mut reached)).await
        };
        match sent {
            Ok(object) => return Ok(object),
            Err(error) => {
                if item.size < RESUMABLE {
                    bar.set(0);
                }
                retry.after(error, reached).await?;
            }
        }
    }
}

fn call(item: &Item, force: bool) -> Call {
    let call = Call::put("/object/fs/upload/").query("identity", &item.remote);
    let call = if force { call.query("force", true) } else { call };
    call.header(header::CONTENT_TYPE, "application/octet-stream")
}

async fn small(item: &Item, force: bool, client: &Client, bar: &mut FileBar) -> Result<Value, CliError> {
    let source = Source::open(item, 0, item.size, Sha256::new())?;
    let call = call(item, force).header(header::CONTENT_LENGTH, item.size.to_string());
    let (object, digest) = source.send(call, client, item, bar, 0).await?;
    check(&object, digest, item)?;
    bar.set(item.size);
    Ok(object)
}

/// One resumable upload, from wherever the engine has it. `reached` tells how far it got.
async fn large(
    item: &Item,
    force: bool,
    client: &Client,
    bar: &mut FileBar,
    known: &mut Option<String>,
    reached: &mut u64,
) -> Result<Value, CliError> {
    let (mut id, again) = match known.take() {
        Some(id) => (id, true),
        None => (upload_id(item)?, false),
    };
    let asked = Call::new(Method::HEAD, "/object/fs/upload/").query("identity", &item.remote).query("upload", &id);
    let mut offset = match client.send(asked).await {
        Ok(mut reply) => {
            let offset: u64 = reply.header("upload-offset").and_then(|text| text.parse().ok()).unwrap_or(0);
            reply.whole(0).await?;
            match (offset < item.size, again, force) {
                (true, ..) => offset,
                // Only the answer was lost: it is asked for again, by the last byte.
                (false, true, _) => item.size - 1,
                (false, false, true) => {
                    id.push_str(&format!("-{}", std::process::id()));
                    0
                }
                (false, false, false) => {
                    return Err(CliError::Failed("it is there already (--force replaces it)".into()));
                }
            }
        }
        Err(error) if error.status() == Some(404) => 0,
        Err(error) => return Err(error),
    };
    *known = Some(id.clone());
    *reached = offset;
    let mut digest = digest_before(item, offset).await?;
    loop {
        bar.set(offset);
        let end = (offset + PART).min(item.size);
        let source = Source::open(item, offset, end, digest)?;
        let call = call(item, force)
            .query("upload", &id)
            .header(header::CONTENT_LENGTH, (end - offset).to_string())
            .header(header::CONTENT_RANGE, format!("bytes {offset}-{}/{}", end - 1, item.size));
        match source.send(call, client, item, bar, offset).await {
            Ok((object, read)) if end == item.size => {
                bar.set(end);
                check(&object, read, item)?;
                return Ok(object);
            }
            Ok((_, read)) => (offset, digest) = (end, read),
            // A part arrived whose answer did not, or only some of it: the engine says where to go on.
            Err(CliError::Refused { status: 409, problem, detail }) => {
                match problem.get("offset").and_then(Value::as_u64) {
                    Some(there) if there < item.size && there != offset => offset = there,
                    _ => return Err(CliError::Refused { status: 409, problem, detail }),
                }
                digest = digest_before(item, offset).await?;
            }
            Err(error) => return Err(error),
        }
        *reached = offset;
    }
}

/// The digest of what was sent before, in this run or another.
async fn digest_before(item: &Item, offset: u64) -> Result<Sha256, CliError> {
    let local = item.local.clone();
    let read = move || read_blocks(&mut File::open(local)?, 0, offset, Sha256::new(), |_| true);
    match tokio::task::spawn_blocking(read).await {
        Ok(Ok(digest)) => Ok(digest),
        Ok(Err(error)) => Err(CliError::failed(format!("failed to read `{}`", item.local.display()), error)),
        Err(error) => Err(CliError::failed("failed to read", error)),
    }
}

/// The name of the upload: of what is sent, and where to.
fn upload_id(item: &Item) -> Result<String, CliError> {
    let failed = |error| CliError::failed(format!("failed to read `{}`", item.local.display()), error);
    let path = std::fs::canonicalize(&item.local).map_err(failed)?;
    let metadata = std::fs::metadata(&path).map_err(failed)?;
    let mut hash = Sha256::new();
    for part in [path.as_os_str().as_encoded_bytes(), item.remote.as_bytes()] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    for number in
        [metadata.len(), metadata.ino(), metadata.mtime().cast_unsigned(), metadata.mtime_nsec().cast_unsigned()]
    {
        hash.update(number.to_le_bytes());
    }
    Ok(hex::encode(&hash.finalize()[..16]))
}

/// Holds what the engine says it got against what was read here.
fn check(object: &Value, read: Sha256, item: &Item) -> Done {
    let got = object.get("sha256").and_then(Value::as_str).unwrap_or_default();
    let read = hex::encode(read.finalize());
    if got.is_empty() || got.eq_ignore_ascii_case(&read) {
        return Ok(());
    }
    Err(CliError::Failed(format!(
        "`{}` arrived as something else (SHA-256 {got}, not {read}); did it change while it was sent?",
        item.local.display()
    )))
}

/// Moves the bar while a call runs.
async fn watched<T>(call: impl Future<Output = T>, bar: &mut FileBar, from: u64, sent: &AtomicU64) -> T {
    let mut call = std::pin::pin!(call);
    let mut ticks = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            result = &mut call => return result,
            _ = ticks.tick() => bar.set(from + sent.load(Ordering::Relaxed)),
        }
    }
}

/// A part of a file on its way into a body.
struct Source {
    body: Body,
    /// How many bytes of it were handed to the connection.
    sent: Arc<AtomicU64>,
    /// The digest of the file up to the part's end, or why it could not be read.
    read: oneshot::Receiver<std::io::Result<Sha256>>,
}

impl Source {
    /// Begins to read `from..to`; `digest` is of what lies before.
    fn open(item: &Item, from: u64, to: u64, digest: Sha256) -> Result<Self, CliError> {
        let mut file = File::open(&item.local)
            .map_err(|error| CliError::failed(format!("failed to open `{}`", item.local.display()), error))?;
        let (blocks, waiting) = mpsc::channel::<std::io::Result<Bytes>>(BLOCKS);
        let (tell, read) = oneshot::channel();
        let sent = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&sent);
        tokio::task::spawn_blocking(move || {
            let result = read_blocks(&mut file, from, to, digest, |block| {
                counter.fetch_add(block.len() as u64, Ordering::Relaxed);
                blocks.blocking_send(Ok(block)).is_ok()
            });
            // Told before the body ends, so that it is there when the answer is.
            let failed = result.is_err();
            let _ = tell.send(result);
            if failed {
                let _ = blocks.blocking_send(Err(std::io::ErrorKind::UnexpectedEof.into()));
            }
        });
        Ok(Self { body: body_of(waiting), sent, read })
    }

    /// Sends it. With the answer comes the digest of the file so far.
    async fn send(
        self,
        call: Call,
        client: &Client,
        item: &Item,
        bar: &mut FileBar,
        from: u64,
    ) -> Result<(Value, Sha256), CliError> {
        let answer = watched(client.value(call.body(self.body)), bar, from, &self.sent).await;
        match answer {
            Ok(answer) => match self.read.await {
                Ok(Ok(digest)) => Ok((answer, digest)),
                Ok(Err(error)) => Err(unreadable(item, error)),
                Err(_) => Err(CliError::Failed(format!("the engine took `{}` before its end", item.remote))),
            },
            // Why the file could not be read says more than that its body broke off.
            Err(error) => match { self.read }.try_recv() {
                Ok(Err(reason)) => Err(unreadable(item, reason)),
                _ => Err(error),
            },
        }
    }
}

fn unreadable(item: &Item, error: std::io::Error) -> CliError {
    CliError::failed(format!("failed to read `{}`", item.local.display()), error)
}

fn body_of(waiting: mpsc::Receiver<std::io::Result<Bytes>>) -> Body {
    let frames = stream::unfold(waiting, |mut waiting| async move {
        waiting.recv().await.map(|block| (block.map(Frame::data), waiting))
    });
    BodyExt::boxed_unsync(StreamBody::new(frames))
}

/// Reads `from..to` in blocks, and the digest along. Whoever takes the blocks may stop it.
fn read_blocks(
    file: &mut File,
    from: u64,
    to: u64,
    mut digest: Sha256,
    mut take: impl FnMut(Bytes) -> bool,
) -> std::io::Result<Sha256> {
    file.seek(SeekFrom::Start(from))?;
    let mut left = to - from;
    while left > 0 {
        let mut block = vec![0; BLOCK.min(usize::try_from(left).unwrap_or(BLOCK))];
        let length = file.read(&mut block)?;
        if length == 0 {
            return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "it became shorter while it was sent"));
        }
        block.truncate(length);
        digest.update(&block);
        left -= length as u64;
        if !take(block.into()) {
            break;
        }
    }
    Ok(digest)
}

/// Sends the standard input, in one go: it cannot be read twice.
async fn standard_input(target: &str, force: bool, client: &Client, output: Output) -> Result<Value, CliError> {
    let (blocks, waiting) = mpsc::channel::<Result<Bytes, std::io::Error>>(BLOCKS);
    let sent = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&sent);
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        loop {
            let mut block = vec![0; BLOCK];
            let read = match input.read(&mut block) {
                Ok(0) => return,
                Ok(length) => {
                    block.truncate(length);
                    counter.fetch_add(length as u64, Ordering::Relaxed);
                    Ok(block.into())
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let last = read.is_err();
            if blocks.blocking_send(read).is_err() || last {
                return;
            }
        }
    });
    let progress = Progress::new(output, "upload", None);
    let mut bar = progress.file(target, 0);
    let call = Call::put("/object/fs/upload/").query("identity", target);
    let call = if force { call.query("force", true) } else { call };
    let call = call.header(header::CONTENT_TYPE, "application/octet-stream").body(body_of(waiting));
    let object = watched(client.value(call), &mut bar, 0, &sent).await;
    drop(bar);
    match &object {
        Ok(_) => progress.finish("sent", 1, sent.load(Ordering::Relaxed)),
        Err(_) => progress.clear(),
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output() -> Output {
        Output { json: true, color: false, terminal: false, verbose: 0 }
    }

    #[test]
    fn a_tree_becomes_files_and_empty_directories() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(dir.path().join("t/a/empty")).expect("made");
        std::fs::write(dir.path().join("t/one"), "1").expect("written");
        std::fs::write(dir.path().join("t/a/.two"), "22").expect("written");
        std::os::unix::fs::symlink("one", dir.path().join("t/link")).expect("linked");
        std::os::unix::fs::symlink("..", dir.path().join("t/a/circle")).expect("linked");
        let mut plan = Plan::default();
        plan.add(&dir.path().join("t"), "x/t", output()).expect("read");
        let mut files: Vec<_> = plan.files.iter().map(|item| (item.remote.as_str(), item.size)).collect();
        files.sort_unstable();
        assert_eq!(files, [("x/t/a/.two", 2), ("x/t/link", 1), ("x/t/one", 1)]);
        assert_eq!(plan.directories, ["x/t/a/empty"]);
        assert_eq!(plan.bytes, 4);
    }

    #[test]
    fn an_upload_keeps_its_name_until_the_file_changes() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let item = |remote: &str| Item { local: file.path().to_owned(), remote: remote.into(), size: 0 };
        let id = upload_id(&item("a")).expect("an id");
        assert_eq!(upload_id(&item("a")).expect("an id"), id);
        assert_ne!(upload_id(&item("b")).expect("an id"), id);
        std::fs::write(file.path(), "changed").expect("written");
        assert_ne!(upload_id(&item("a")).expect("an id"), id);
    }
}
