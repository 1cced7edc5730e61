//! Recordings of shells: asciicast v2 files that any player reads.
//!
//! A recorder is a viewer that writes to a file. Every [`MARK_EVERY`] bytes, and whenever the shell falls silent, it writes a
//! marker event with the log's offset. After a kill or a restart the file is cut behind
//! its last marker and goes on there: nothing twice, nothing missing, as long as the ring still has the bytes. What the
//! recorder was too late for is told by a marker and followed by the screen as it is then. At every moment the file up to
//! its last whole line is a good recording.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::Settings;
use super::error::ShellError;
use super::session::Session;
use super::viewer::{Builders, Event, Viewer};
use crate::call::AbortOnDrop;
use crate::call::blocking;
use crate::ids::ShellId;
use crate::time::unix_now;

/// How many bytes of output are recorded between two markers at most.
const MARK_EVERY: u64 = 256 << 10;
/// How long a shell is silent before a marker is written.
const SILENCE: Duration = Duration::from_millis(200);
/// The most output in one event.
const CHUNK: usize = 32 << 10;
/// How long output is gathered for the next event. What a flood writes in that time is far less than the ring keeps.
const GATHER: Duration = Duration::from_millis(2);
/// The marker's label before the offset.
const MARK: &str = "dxflow-offset ";

/// A recording as it is told to clients.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Recording {
    /// Its name.
    pub identity: String,
    /// The shell that it is of.
    pub shell: String,
    /// Its size in bytes.
    pub size: u64,
    /// When it began, Unix seconds.
    pub created_at: i64,
    /// Whether it is being written.
    pub active: bool,
}

/// The directory of recordings.
#[derive(Clone, Debug)]
pub struct Recordings {
    directory: Arc<PathBuf>,
}

impl Recordings {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory: Arc::new(directory) }
    }

    /// A fresh name for a recording of this shell.
    pub(crate) fn name_for(&self, id: &ShellId) -> String {
        format!("{id}.{}.{}", unix_now(), ShellId::generate())
    }

    fn path(&self, name: &str) -> Result<PathBuf, ShellError> {
        let good = !name.is_empty()
            && name.len() <= 160
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
            && !name.starts_with('.');
        if !good {
            return Err(ShellError::NoRecording { name: name.chars().take(160).collect() });
        }
        Ok(self.directory.join(format!("{name}.cast")))
    }

    /// Every recording, newest first. `active` says whether one is being written.
    ///
    /// # Errors
    /// [`ShellError::File`].
    pub async fn list(&self, active: impl Fn(&str) -> bool + Send + 'static) -> Result<Vec<Recording>, ShellError> {
        let directory = Arc::clone(&self.directory);
        let listed = blocking(move || -> io::Result<Vec<Recording>> {
            let entries = match std::fs::read_dir(&*directory) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                Err(error) => return Err(error),
            };
            let mut list = Vec::new();
            for entry in entries.flatten() {
                let file = entry.file_name();
                let Some(name) = file.to_str().and_then(|name| name.strip_suffix(".cast")) else { continue };
                let Ok(meta) = entry.metadata() else { continue };
                let mut parts = name.rsplitn(3, '.').skip(1);
                let created_at = parts.next().and_then(|text| text.parse().ok()).unwrap_or(0);
                let shell = parts.next().unwrap_or(name).to_owned();
                list.push(Recording {
                    active: active(name),
                    identity: name.to_owned(),
                    shell,
                    size: meta.len(),
                    created_at,
                });
            }
            list.sort_by(|left, right| (right.created_at, &right.identity).cmp(&(left.created_at, &left.identity)));
            Ok(list)
        });
        let what = "list the recordings";
        listed.await.map_err(io::Error::other).flatten().map_err(|source| ShellError::File { what, source })
    }

    /// Opens a recording, and says how long it is.
    ///
    /// # Errors
    /// [`ShellError::NoRecording`], [`ShellError::File`].
    pub async fn open(&self, name: &str) -> Result<(File, u64), ShellError> {
        let path = self.path(name)?;
        let opened = blocking(move || -> io::Result<(File, u64)> {
            let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
            let size = file.metadata()?.len();
            Ok((file, size))
        });
        opened.await.map_err(io::Error::other).flatten().map_err(|source| missing(name, "read the recording", source))
    }

    /// Deletes a recording.
    ///
    /// # Errors
    /// [`ShellError::NoRecording`], [`ShellError::File`].
    pub async fn delete(&self, name: &str) -> Result<(), ShellError> {
        let path = self.path(name)?;
        let deleted = blocking(move || std::fs::remove_file(path));
        deleted
            .await
            .map_err(io::Error::other)
            .flatten()
            .map_err(|source| missing(name, "delete the recording", source))
    }

    /// Records a shell from now on, in a task.
    pub(crate) fn follow(&self, session: Arc<Session>, name: String, settings: &Settings) -> AbortOnDrop {
        let path = self.path(&name);
        let (scrollback, with_input) = (usize::from(settings.scrollback), settings.record_input);
        let task = tokio::spawn(async move {
            let id = session.id.clone();
            let recorded = match path {
                Ok(path) => record(session, path, scrollback, with_input).await,
                Err(error) => Err(error),
            };
            if let Err(error) = recorded {
                tracing::error!(shell = %id, recording = name, error = crate::error::chain(&error), "the recording ended");
            }
        });
        AbortOnDrop(task.abort_handle())
    }
}

fn missing(name: &str, what: &'static str, source: io::Error) -> ShellError {
    match source.kind() {
        io::ErrorKind::NotFound => ShellError::NoRecording { name: name.into() },
        _ => ShellError::File { what, source },
    }
}

async fn record(session: Arc<Session>, path: PathBuf, scrollback: usize, with_input: bool) -> Result<(), ShellError> {
    let failed = |source| ShellError::File { what: "write the recording", source };
    let description = session.describe();
    let mut typed = with_input.then(|| session.record_typed());
    let opened = blocking(move || Cast::open(&path, &description)).await;
    let (mut cast, since) = opened.map_err(io::Error::other).flatten().map_err(failed)?;
    let (mut viewer, snapshot) =
        Viewer::attach(session, Builders::default(), scrollback, Some(since.unwrap_or(0)), false).await?;
    if let Some(snapshot) = snapshot
        && (since.is_some() || snapshot.offset > 0)
    {
        cast.mark("output was lost here").map_err(failed)?;
        cast.output(&snapshot.bytes).map_err(failed)?;
    }
    let mut buffer = Vec::new();
    let mut marked = viewer.offset();
    loop {
        buffer.clear();
        let silent = marked == viewer.offset();
        let event = tokio::select! {
            event = viewer.next(CHUNK, &mut buffer) => event?,
            Some(bytes) = next_typed(&mut typed) => {
                cast.event("i", &String::from_utf8_lossy(&bytes)).map_err(failed)?;
                continue;
            }
            () = tokio::time::sleep(SILENCE), if !silent => {
                marked = viewer.offset();
                cast.mark_offset(marked).map_err(failed)?;
                continue;
            }
        };
        match event {
            Event::Output => {
                cast.output(&buffer).map_err(failed)?;
                if buffer.len() < CHUNK {
                    // A pty gives 4 KiB at a time; an event for each would cost a flood more than its bytes do.
                    tokio::time::sleep(GATHER).await;
                }
            }
            Event::Resized { columns, rows } => cast.resize(columns, rows).map_err(failed)?,
            Event::Gap { from, to, snapshot } => {
                cast.mark(&format!("{} bytes were lost here", to - from)).map_err(failed)?;
                cast.output(&snapshot.bytes).map_err(failed)?;
            }
            Event::Exit(_) => {
                cast.mark_offset(viewer.offset()).map_err(failed)?;
                marked = viewer.offset();
                // It may be started again: then it is recorded on.
                viewer.session().wait_for(|state| (!state.complete || state.removed).then_some(())).await;
            }
            Event::Removed => {
                return cast.mark_offset(viewer.offset()).map_err(failed);
            }
        }
        if viewer.offset() - marked >= MARK_EVERY {
            marked = viewer.offset();
            cast.mark_offset(marked).map_err(failed)?;
        }
    }
}

async fn next_typed(typed: &mut Option<mpsc::Receiver<Vec<u8>>>) -> Option<Vec<u8>> {
    match typed {
        Some(typed) => typed.recv().await,
        None => std::future::pending().await,
    }
}

/// An asciicast v2 file that is being written.
struct Cast {
    file: File,
    line: Vec<u8>,
    /// Seconds from the recording's beginning to `started`.
    base: f64,
    started: Instant,
    tail: Vec<u8>,
}

impl Cast {
    /// Begins a recording, or goes on with one: then says from which offset.
    fn open(path: &Path, shell: &super::session::Description) -> io::Result<(Self, Option<u64>)> {
        if let Some(directory) = path.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)?;
        let found = last_mark(&file)?;
        let (base, since) = match found {
            Some(mark) => {
                file.set_len(mark.end)?;
                file.seek(SeekFrom::Start(mark.end))?;
                (unix_now().saturating_sub(mark.began).max(0) as f64, Some(mark.offset))
            }
            None => {
                file.set_len(0)?;
                file.seek(SeekFrom::Start(0))?;
                let header = json!({
                    "version": 2,
                    "width": shell.columns,
                    "height": shell.rows,
                    "timestamp": unix_now(),
                    "title": shell.identity,
                    "command": shell.path,
                    "env": {"TERM": "xterm-256color", "SHELL": shell.path},
                });
                writeln!(file, "{header}")?;
                (0.0, None)
            }
        };
        let cast = Self { file, line: Vec::new(), base, started: Instant::now(), tail: Vec::new() };
        Ok((cast, since))
    }

    fn event(&mut self, kind: &str, data: &str) -> io::Result<()> {
        let time = self.base + self.started.elapsed().as_secs_f64();
        self.line.clear();
        write!(self.line, "[{time:.6}, \"{kind}\", ")?;
        serde_json::to_writer(&mut self.line, data)?;
        self.line.extend_from_slice(b"]\n");
        // One call for the whole line: a kill leaves no half of it.
        self.file.write_all(&self.line)
    }

    fn output(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.tail.is_empty()
            && let Ok(text) = std::str::from_utf8(bytes)
        {
            return if text.is_empty() { Ok(()) } else { self.event("o", text) };
        }
        let mut whole = std::mem::take(&mut self.tail);
        whole.extend_from_slice(bytes);
        let mut text = String::with_capacity(whole.len());
        let mut chunks = whole.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            text.push_str(chunk.valid());
            let invalid = chunk.invalid();
            let unfinished = std::str::from_utf8(invalid).err().is_some_and(|error| error.error_len().is_none());
            if chunks.peek().is_none() && unfinished {
                self.tail = invalid.to_vec();
            } else if !invalid.is_empty() {
                text.push('\u{fffd}');
            }
        }
        if text.is_empty() { Ok(()) } else { self.event("o", &text) }
    }

    fn resize(&mut self, columns: u16, rows: u16) -> io::Result<()> {
        self.event("r", &format!("{columns}x{rows}"))
    }

    fn mark(&mut self, label: &str) -> io::Result<()> {
        self.event("m", label)
    }

    /// Says how far the recording is.
    fn mark_offset(&mut self, offset: u64) -> io::Result<()> {
        // The unfinished character, if there is one, is read again after a restart.
        let offset = offset - self.tail.len() as u64;
        self.event("m", &format!("{MARK}{offset}"))
    }
}

struct Mark {
    offset: u64,
    /// Where the marker's line ends in the file.
    end: u64,
    /// When the recording began, Unix seconds.
    began: i64,
}

/// The last marker with an offset, if the file is a recording of ours.
fn last_mark(file: &File) -> io::Result<Option<Mark>> {
    let mut reader = BufReader::with_capacity(256 << 10, file);
    let mut line = Vec::new();
    // A line is never longer than an event; a file of somebody else's does not make us read it whole into memory.
    let limit = 8 * CHUNK as u64 * 64;
    let mut read = |line: &mut Vec<u8>| -> io::Result<usize> {
        line.clear();
        (&mut reader).take(limit).read_until(b'\n', line)
    };
    let mut end = read(&mut line)? as u64;
    let Ok(header) = serde_json::from_slice::<Value>(&line) else { return Ok(None) };
    let Some(began) = header["timestamp"].as_i64() else { return Ok(None) };
    let mut found = None;
    loop {
        let count = read(&mut line)?;
        if count == 0 || line.last() != Some(&b'\n') {
            return Ok(found);
        }
        end += count as u64;
        let text = String::from_utf8_lossy(&line);
        if let Some(at) = text.find(&format!("\"m\", \"{MARK}"))
            && let Some(offset) = text[at + 6 + MARK.len()..].split('"').next().and_then(|text| text.parse().ok())
        {
            found = Some(Mark { offset, end, began });
        }
    }
}
