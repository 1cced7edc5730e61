//! Bytes in and out: uploads that are never half there, and reads with large buffers.
//!
//! An upload is written by a blocking thread that takes its bytes from a bounded channel. A plain one has no name until
//! it is complete (`O_TMPFILE`), so that nothing is left of it whatever dies; one that can be resumed has a name of the
//! engine's own, a row in the database, and goes on from its length. Both are synced before they get their name, and
//! their directory after.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, oneshot};

use super::error::FsError;
use super::path::ObjectPath;
use super::volume::{Object, Volume, object, sync_directory};

/// Chunks that may wait for the disk.
const CHANNEL: usize = 16;
/// Bytes that are read from a file at once.
const READ_BYTES: usize = 512 * 1024;
/// After how many bytes the disk is told to begin with them, so that the sync at the end has little left to wait for.
const FLUSH_EACH: u64 = 8 << 20;
/// Announced lengths from which space is reserved before the first byte is written.
const RESERVE_FROM: u64 = 1 << 20;

/// How an upload is to end.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) path: ObjectPath,
    /// Whether something may be replaced.
    pub(super) replace: bool,
    /// The most bytes that are taken.
    pub(super) limit: u64,
    /// The announced length.
    pub(super) length: Option<u64>,
    /// What the content's SHA-256 must be.
    pub(super) sha256: Option<[u8; 32]>,
    /// The mode of a new file.
    pub(super) mode: u32,
}

/// A complete upload.
#[derive(Clone, Debug)]
pub struct Uploaded {
    /// The object as it is now.
    pub object: Object,
    /// Whether something was replaced.
    pub replaced: bool,
    /// The SHA-256 of its content, in hex.
    pub sha256: String,
}

/// What the writing thread is sent.
enum Piece {
    Bytes(Bytes),
    End,
}

/// An upload under way. Dropped before [`finish`](Self::finish), it leaves nothing behind (a resumable part keeps what
/// has been written).
#[derive(Debug)]
pub struct Sink<T> {
    pieces: mpsc::Sender<Piece>,
    result: oneshot::Receiver<Result<T, FsError>>,
}

impl<T: Send + 'static> Sink<T> {
    /// Starts a writing thread that runs `work` with a source of pieces.
    pub(super) fn start(work: impl FnOnce(&mut Source) -> Result<T, FsError> + Send + 'static) -> Self {
        let (pieces, receiver) = mpsc::channel(CHANNEL);
        let (sender, result) = oneshot::channel();
        tokio::task::spawn_blocking(move || {
            let mut source = Source { receiver, ended: false };
            let result = work(&mut source);
            let _ = sender.send(result);
        });
        Self { pieces, result }
    }

    /// Hands over bytes; waits while the disk is behind. Once the writing has failed it takes no more: `false`.
    pub async fn write(&mut self, bytes: Bytes) -> bool {
        self.pieces.send(Piece::Bytes(bytes)).await.is_ok()
    }

    /// Ends the upload and waits for what became of it.
    ///
    /// # Errors
    /// Whatever went wrong; nothing is left then.
    pub async fn finish(self) -> Result<T, FsError> {
        let _ = self.pieces.send(Piece::End).await;
        drop(self.pieces);
        self.result.await.unwrap_or_else(|_| Err(FsError::Fault(std::io::Error::other("the writing thread panicked"))))
    }
}

/// Where the writing thread gets its bytes from.
pub(super) struct Source {
    receiver: mpsc::Receiver<Piece>,
    ended: bool,
}

impl Source {
    /// The next bytes; `None` at the end, or when the client left ([`complete`](Self::complete) tells which).
    pub(super) fn next(&mut self) -> Option<Bytes> {
        match self.receiver.blocking_recv() {
            Some(Piece::Bytes(bytes)) => Some(bytes),
            Some(Piece::End) => {
                self.ended = true;
                None
            }
            None => None,
        }
    }

    /// Whether the client sent all that it wanted to.
    pub(super) fn complete(&self) -> bool {
        self.ended
    }
}

/// A file that has no name yet, or a name of the engine's own.
pub(super) struct Unplaced {
    pub(super) file: File,
    directory: OwnedFd,
    /// Its own name, where the filesystem cannot do without.
    name: Option<String>,
}

impl Unplaced {
    /// Makes a file in the directory of `path`, and the directory where it is not there.
    pub(super) fn create(volume: &Volume, path: &ObjectPath) -> Result<Self, FsError> {
        let (parent, _) = path.split("replaced")?;
        let directory = volume.make_directories(&parent)?;
        let identity = path.to_string();
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        match rustix::fs::openat(&directory, c".", flags | OFlags::TMPFILE, Mode::from_raw_mode(0o600)) {
            Ok(file) => return Ok(Self { file: file.into(), directory, name: None }),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) => {}
            Err(error) => return Err(FsError::system(error, &identity)),
        }
        let name = own_name("tmp");
        let file = rustix::fs::openat(
            &directory,
            name.as_str(),
            flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW,
            Mode::from_raw_mode(0o600),
        );
        let file = file.map_err(|error| FsError::system(error, &identity))?;
        Ok(Self { file: file.into(), directory, name: Some(name) })
    }

    /// Syncs it and gives it its name, in one step; says whether something was replaced.
    pub(super) fn place(mut self, path: &ObjectPath, replace: bool, mode: u32) -> Result<bool, FsError> {
        let identity = path.to_string();
        let system = |error| FsError::system(error, &identity);
        let (_, name) = path.split("replaced")?;
        let before = rustix::fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW).ok();
        if before.is_some() && !replace {
            return Err(FsError::Exists(identity));
        }
        // What replaces a file keeps its mode.
        let mode = before
            .as_ref()
            .filter(|stat| stat.st_mode & 0o170_000 == 0o100_000)
            .map_or(mode, |stat| stat.st_mode & 0o777);
        rustix::fs::fchmod(&self.file, Mode::from_raw_mode(mode)).map_err(system)?;
        rustix::fs::fsync(&self.file).map_err(system)?;
        if self.name.is_none() {
            let own = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            let link = |to: &[u8]| {
                rustix::fs::linkat(rustix::fs::CWD, own.as_str(), &self.directory, to, AtFlags::SYMLINK_FOLLOW)
            };
            if !replace {
                link(name).map_err(system)?;
                sync_directory(&self.directory);
                return Ok(false);
            }
            let named = own_name("tmp");
            link(named.as_bytes()).map_err(system)?;
            self.name = Some(named);
        }
        let own = self.name.as_deref().expect("it has a name of its own by now");
        let flags = if replace { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        rustix::fs::renameat_with(&self.directory, own, &self.directory, name, flags).map_err(system)?;
        self.name = None;
        sync_directory(&self.directory);
        Ok(before.is_some())
    }
}

impl Drop for Unplaced {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            let _ = rustix::fs::unlinkat(&self.directory, name.as_str(), AtFlags::empty());
        }
    }
}

/// A name of the engine's own, that is never listed.
pub(super) fn own_name(what: &str) -> String {
    format!(".dxflow-{what}-{}", crate::ids::random_name())
}

/// Writes a whole upload: the work of its thread.
pub(super) fn upload(volume: &Volume, plan: &Plan, source: &mut Source) -> Result<Uploaded, FsError> {
    let identity = plan.path.to_string();
    let too_large = || FsError::TooLarge { limit: plan.limit };
    if plan.length.is_some_and(|length| length > plan.limit) {
        return Err(too_large());
    }
    let mut unplaced = Unplaced::create(volume, &plan.path)?;
    if let Some(length) = plan.length.filter(|length| *length >= RESERVE_FROM) {
        let reserved = rustix::fs::fallocate(&unplaced.file, FallocateFlags::KEEP_SIZE, 0, length);
        // A filesystem that cannot reserve is no reason to refuse.
        if let Err(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) = reserved {
            return Err(FsError::Full);
        }
    }
    let (mut written, mut flushed, mut hash) = (0_u64, 0_u64, Sha256::new());
    while let Some(bytes) = source.next() {
        written += bytes.len() as u64;
        if written > plan.limit {
            return Err(too_large());
        }
        unplaced.file.write_all(&bytes).map_err(|error| FsError::io(&error, &identity))?;
        hash.update(&bytes);
        if written - flushed >= FLUSH_EACH {
            start_writing(&unplaced.file, flushed, written - flushed);
            flushed = written;
        }
    }
    if !source.complete() || plan.length.is_some_and(|length| length != written) {
        return Err(FsError::Cancelled);
    }
    let sha256: [u8; 32] = hash.finalize().into();
    if plan.sha256.is_some_and(|wanted| wanted != sha256) {
        return Err(FsError::Checksum);
    }
    let replaced = unplaced.place(&plan.path, plan.replace, plan.mode)?;
    let stat = volume.look(&plan.path)?;
    Ok(Uploaded { object: object(&plan.path, &stat), replaced, sha256: hex::encode(sha256) })
}

/// Has the system begin to write a stretch of the file to the disk; waits for nothing. Where it cannot, the sync does it all.
#[expect(unsafe_code, reason = "no crate here has sync_file_range")]
fn start_writing(file: &File, from: u64, length: u64) {
    let (Ok(from), Ok(length)) = (i64::try_from(from), i64::try_from(length)) else { return };
    // SAFETY: the descriptor is open for as long as `file` is borrowed; the call touches no memory of ours.
    unsafe { libc::sync_file_range(file.as_raw_fd(), from, length, libc::SYNC_FILE_RANGE_WRITE) };
}

/// The SHA-256 of a file's whole content.
pub(super) fn digest(file: &File) -> std::io::Result<[u8; 32]> {
    let (mut hash, mut at, mut buffer) = (Sha256::new(), 0, vec![0; READ_BYTES]);
    loop {
        match file.read_at(&mut buffer, at)? {
            0 => return Ok(hash.finalize().into()),
            length => {
                hash.update(&buffer[..length]);
                at += length as u64;
            }
        }
    }
}

/// A piece of what is sent to a client.
#[derive(Clone, Debug)]
pub enum Segment {
    /// These bytes.
    Bytes(Bytes),
    /// These of the file.
    File {
        /// The first.
        start: u64,
        /// How many.
        length: u64,
    },
}

/// All of a small file, if it has the length that it is said to have.
pub(super) fn whole(file: &File, length: u64) -> Option<Bytes> {
    let mut bytes = vec![0; usize::try_from(length).ok()?];
    file.read_exact_at(&mut bytes, 0).ok()?;
    Some(bytes.into())
}

/// How many buffers a reader is ahead of whom it reads for; one more is being filled, and one sent.
const AHEAD: usize = 3;

/// Reads a file's segments on a thread of its own, ahead of its reader by a few buffers. A file that has become shorter
/// meanwhile ends in an error, so that nobody takes the part for the whole.
#[must_use]
pub fn read(file: File, segments: Vec<Segment>) -> mpsc::Receiver<std::io::Result<Bytes>> {
    if let [Segment::Bytes(bytes)] = segments.as_slice() {
        let (sender, receiver) = mpsc::channel(1);
        // There is room for one.
        let _ = sender.try_send(Ok(bytes.clone()));
        return receiver;
    }
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || {
        let buffers = Buffers::default();
        for segment in segments {
            let (mut at, mut left) = match segment {
                Segment::Bytes(bytes) => {
                    if sender.blocking_send(Ok(bytes)).is_err() {
                        return;
                    }
                    continue;
                }
                Segment::File { start, length } => (start, length),
            };
            while left > 0 {
                let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(READ_BYTES);
                let piece = match buffers.fill(&file, at, wanted) {
                    Ok(piece) if piece.is_empty() => {
                        Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the object became shorter"))
                    }
                    other => other,
                };
                let length = piece.as_ref().map_or(0, |bytes| bytes.len() as u64);
                let failed = piece.is_err();
                if sender.blocking_send(piece).is_err() || failed {
                    return;
                }
                at += length;
                left -= length;
            }
        }
    });
    receiver
}

/// Buffers that come back once their bytes have been sent: fresh memory for every half MiB would cost more than reading it.
#[derive(Clone, Default)]
struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

impl Buffers {
    /// At most `wanted` bytes from `at` on; none at the file's end.
    fn fill(&self, file: &File, at: u64, wanted: usize) -> std::io::Result<Bytes> {
        let idle = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut bytes = idle.unwrap_or_else(|| vec![0; wanted.min(READ_BYTES)]);
        let wanted = wanted.min(bytes.len());
        let mut length = 0;
        while length < wanted {
            match file.read_at(&mut bytes[length..wanted], at + length as u64) {
                Ok(0) => break,
                Ok(count) => length += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Bytes::from_owner(Lent { bytes, length, home: self.clone() }))
    }
}

/// A buffer that is on its way to a client.
struct Lent {
    bytes: Vec<u8>,
    length: usize,
    home: Buffers,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.home.0.lock().unwrap_or_else(PoisonError::into_inner).push(std::mem::take(&mut self.bytes));
    }
}
