//! Uploads that go on where they broke off.
//!
//! ```text
//! (none) ──part 0-…──► partial ──parts──► placing ──rename──► placed
//!                        └── expired ──► (none)
//! ```
//!
//! The bytes that are there are the temporary file's length: nothing else says how far an upload is, so nothing else can
//! be wrong about it after a `kill -9`. The row says how long it will be and where its file is. Before the rename the
//! row notes the file's inode: an engine that died around it can tell afterwards whether it happened, and a client that
//! sends the last part again gets the answer that it missed.

use std::collections::HashSet;
use std::fs::File;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::OptionalExtension;
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};

use super::error::FsError;
use super::path::ObjectPath;
use super::transfer::{Plan, Source, Uploaded, digest, own_name};
use super::volume::{Volume, object, sync_directory};
use crate::store::{Store, StoreError};

/// A part of an upload.
#[derive(Clone, Debug)]
pub struct Part {
    /// The upload's name, the client's choice.
    pub upload: String,
    /// Where the part begins.
    pub start: u64,
    /// Where it ends, the last byte included.
    pub end: u64,
    /// How long the whole will be.
    pub total: u64,
}

/// How far an upload is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Progress {
    /// The bytes that are there.
    pub offset: u64,
    /// How long the whole will be.
    pub total: u64,
}

/// What became of a part.
#[derive(Clone, Debug)]
pub enum PartDone {
    /// More are to come.
    Partial(Progress),
    /// It was the last.
    Complete(Uploaded),
}

/// The upload's row.
#[derive(Clone, Debug)]
struct Row {
    file: String,
    total: u64,
    /// The file's inode, once it is being placed.
    placing: Option<u64>,
    sha256: Option<String>,
}

/// Uploads that a request writes to at this moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Busy(Arc<Mutex<HashSet<(String, String)>>>);

/// An upload that is this request's alone.
pub(super) struct Claim {
    busy: Busy,
    key: (String, String),
}

impl Busy {
    pub(super) fn claim(&self, path: &ObjectPath, upload: &str) -> Result<Claim, FsError> {
        let key = (path.to_string(), upload.to_owned());
        if !self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone()) {
            return Err(FsError::Conflict(format!("another request writes the upload `{upload}` at this moment")));
        }
        Ok(Claim { busy: self.clone(), key })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.busy.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

/// Checks the name that a client gave an upload.
pub(super) fn check_name(upload: &str) -> Result<(), FsError> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if (1..=128).contains(&upload.len()) && upload.bytes().all(good) {
        Ok(())
    } else {
        Err(FsError::Invalid("`upload` is 1 to 128 of letters, digits, `.`, `_`, `-`".into()))
    }
}

async fn row_of(store: &Store, path: &ObjectPath, upload: &str) -> Result<Option<Row>, FsError> {
    let (identity, upload) = (path.to_string(), upload.to_owned());
    store
        .read(move |connection| {
            let row = connection
                .query_row(
                    "SELECT file, total, placing, sha256 FROM uploads WHERE identity = ?1 AND upload = ?2",
                    (identity, upload),
                    |row| {
                        Ok(Row {
                            file: row.get(0)?,
                            total: row.get::<_, i64>(1)?.unsigned_abs(),
                            placing: row.get::<_, Option<i64>>(2)?.map(|inode| inode as u64),
                            sha256: row.get(3)?,
                        })
                    },
                )
                .optional()
                .map_err(StoreError::from)?;
            Ok::<_, FsError>(row)
        })
        .await
}

async fn keep(store: &Store, path: &ObjectPath, upload: &str, row: Row) -> Result<(), FsError> {
    let (identity, upload, now) = (path.to_string(), upload.to_owned(), crate::time::unix_now());
    store
        .write(move |transaction| {
            transaction
                .execute(
                    "INSERT INTO uploads (identity, upload, file, total, placing, sha256, touched_at)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                     ON CONFLICT (identity, upload) DO UPDATE SET file = ?3, total = ?4, placing = ?5, sha256 = ?6,
                         touched_at = ?7",
                    (
                        identity,
                        upload,
                        row.file,
                        row.total as i64,
                        row.placing.map(|inode| inode as i64),
                        row.sha256,
                        now,
                    ),
                )
                .map_err(StoreError::from)?;
            Ok::<_, FsError>(())
        })
        .await
}

async fn forget(store: &Store, identity: String, upload: String) -> Result<(), FsError> {
    store
        .write(move |transaction| {
            let gone =
                transaction.execute("DELETE FROM uploads WHERE identity = ?1 AND upload = ?2", (identity, upload));
            gone.map_err(StoreError::from)?;
            Ok::<_, FsError>(())
        })
        .await
}

/// The temporary file of an upload, beside where the object will be.
fn open(volume: &Volume, path: &ObjectPath, name: &str, create: bool) -> Result<(File, std::os::fd::OwnedFd), FsError> {
    let (parent, _) = path.split("replaced")?;
    let directory = if create { volume.make_directories(&parent)? } else { volume.directory(&parent)? };
    let mut flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    if create {
        flags |= OFlags::CREATE | OFlags::EXCL;
    }
    let file = rustix::fs::openat(&directory, name, flags, Mode::from_raw_mode(0o600))
        .map_err(|error| FsError::system(error, &path.to_string()))?;
    Ok((file.into(), directory))
}

/// Whether an upload that was being placed when an engine died got its name.
fn is_placed(volume: &Volume, path: &ObjectPath, row: &Row) -> bool {
    row.placing.is_some_and(|inode| volume.look(path).is_ok_and(|stat| stat.st_ino == inode))
}

/// Where the next part begins. An upload all of whose bytes came, but whose engine or client died before it was in its
/// place, asks for its last byte again: every upload ends with a part that puts it there, and only one that is there
/// stands at its total.
fn stands_at(length: u64, total: u64) -> u64 {
    length.min(total.saturating_sub(1))
}

/// How far an upload is; `None` when there is none of that name.
pub(super) async fn progress(
    store: &Store,
    volume: &Volume,
    path: &ObjectPath,
    upload: &str,
) -> Result<Option<Progress>, FsError> {
    let Some(row) = row_of(store, path, upload).await? else { return Ok(None) };
    match open(volume, path, &row.file, false) {
        Ok((file, _)) => {
            let length = file.metadata().map_err(|error| FsError::io(&error, &path.to_string()))?.len();
            Ok(Some(Progress { offset: stands_at(length, row.total), total: row.total }))
        }
        Err(FsError::NotFound(_)) if is_placed(volume, path, &row) => {
            Ok(Some(Progress { offset: row.total, total: row.total }))
        }
        Err(FsError::NotFound(_)) => {
            forget(store, path.to_string(), upload.to_owned()).await?;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// What a part is to be written to.
pub(super) enum Ready {
    /// This file, from the part's start on.
    Write(File),
    /// Nothing: the upload is complete already, and this is the answer.
    Placed(Uploaded),
}

/// Prepares for a part: finds the upload, or begins it.
pub(super) async fn begin(store: &Store, volume: &Volume, plan: &Plan, part: &Part) -> Result<Ready, FsError> {
    let path = &plan.path;
    if part.total > plan.limit {
        return Err(FsError::TooLarge { limit: plan.limit });
    }
    let row = row_of(store, path, &part.upload).await?;
    if let Some(row) = &row {
        if row.total != part.total {
            return Err(FsError::Conflict(format!("the upload was begun with a total of {} bytes", row.total)));
        }
        match open(volume, path, &row.file, false) {
            Ok((file, _)) => {
                let wrong = |error: &std::io::Error| FsError::io(error, &path.to_string());
                let length = file.metadata().map_err(|error| wrong(&error))?.len();
                let offset = stands_at(length, row.total);
                if offset != part.start {
                    return Err(FsError::Offset { offset });
                }
                if length > offset {
                    file.set_len(offset).map_err(|error| wrong(&error))?;
                }
                // Touched: it does not expire while somebody goes on with it.
                keep(store, path, &part.upload, row.clone()).await?;
                return Ok(Ready::Write(file));
            }
            Err(FsError::NotFound(_)) if is_placed(volume, path, row) => {
                let (file, stat) = volume.file(path)?;
                let sha256 = match &row.sha256 {
                    Some(sha256) => sha256.clone(),
                    None => hex::encode(digest(&file).map_err(|error| FsError::io(&error, &path.to_string()))?),
                };
                return Ok(Ready::Placed(Uploaded { object: object(path, &stat), replaced: false, sha256 }));
            }
            Err(FsError::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
    }
    if part.start != 0 {
        return Err(FsError::Offset { offset: 0 });
    }
    if !plan.replace && volume.look(path).is_ok() {
        return Err(FsError::Exists(path.to_string()));
    }
    // The row first: what is then made under its name is found, and expires, whatever dies.
    let file = own_name("upload");
    keep(store, path, &part.upload, Row { file: file.clone(), total: part.total, placing: None, sha256: None }).await?;
    Ok(Ready::Write(open(volume, path, &file, true)?.0))
}

/// Writes a part: the work of its thread. Whatever has come is kept when the client breaks off, and nothing of the part
/// when it cannot be written.
pub(super) fn write(file: &mut File, plan: &Plan, part: &Part, source: &mut Source) -> Result<u64, FsError> {
    let identity = plan.path.to_string();
    let wrong = |error: &std::io::Error| FsError::io(error, &identity);
    let length = part.end + 1 - part.start;
    let mut written = 0_u64;
    std::io::Seek::seek(file, std::io::SeekFrom::Start(part.start)).map_err(|error| wrong(&error))?;
    while let Some(bytes) = source.next() {
        if written + bytes.len() as u64 > length {
            return Err(FsError::Invalid("the part is longer than its `Content-Range` says".into()));
        }
        if let Err(error) = file.write_all(&bytes) {
            // A full disk gets back what this part took of it; the parts before were acknowledged.
            let _ = file.set_len(part.start);
            return Err(wrong(&error));
        }
        written += bytes.len() as u64;
    }
    file.sync_data().map_err(|error| wrong(&error))?;
    if !source.complete() {
        return Err(FsError::Cancelled);
    }
    Ok(part.start + written)
}

/// Puts a complete upload in its place. The claim is held by the work itself: a client that comes back must not write to
/// the file while what is left of its broken connection hashes or renames it.
pub(super) async fn place(
    store: &Store,
    volume: &Volume,
    plan: &Plan,
    part: &Part,
    claim: &Arc<Claim>,
) -> Result<Uploaded, FsError> {
    let path = plan.path.clone();
    let mut row = row_of(store, &path, &part.upload)
        .await?
        .ok_or_else(|| FsError::Conflict("the upload has expired; begin it again".into()))?;
    let (hashing, name, wanted) = (volume.clone(), row.file.clone(), plan.sha256);
    let hashed = crate::call::blocking({
        let (path, claim) = (path.clone(), Arc::clone(claim));
        move || {
            let _kept = claim;
            let (file, directory) = open(&hashing, &path, &name, false)?;
            let wrong = |error: &std::io::Error| FsError::io(error, &path.to_string());
            let sha256 = digest(&file).map_err(|error| wrong(&error))?;
            if wanted.is_some_and(|wanted| wanted != sha256) {
                let _ = rustix::fs::unlinkat(&directory, name.as_str(), AtFlags::empty());
                return Err(FsError::Checksum);
            }
            file.sync_all().map_err(|error| wrong(&error))?;
            let inode = rustix::fs::fstat(&file).map_err(|error| FsError::system(error, &path.to_string()))?.st_ino;
            Ok((sha256, inode))
        }
    });
    let (sha256, inode) = hashed.await.map_err(|panic| FsError::Fault(std::io::Error::other(panic)))??;
    let sha256 = hex::encode(sha256);
    row.placing = Some(inode);
    row.sha256 = Some(sha256.clone());
    keep(store, &path, &part.upload, row.clone()).await?;
    let (volume, plan, claim) = (volume.clone(), plan.clone(), Arc::clone(claim));
    let placed = crate::call::blocking(move || {
        let _kept = claim;
        let (parent, name) = plan.path.split("replaced")?;
        let directory = volume.directory(&parent)?;
        let system = |error| FsError::system(error, &plan.path.to_string());
        let before = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW).ok();
        let mode = before
            .as_ref()
            .filter(|stat| stat.st_mode & 0o170_000 == 0o100_000)
            .map_or(plan.mode, |stat| stat.st_mode & 0o777);
        let (file, _) = open(&volume, &plan.path, &row.file, false)?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode)).map_err(system)?;
        let flags = if plan.replace { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        rustix::fs::renameat_with(&directory, row.file.as_str(), &directory, name, flags).map_err(system)?;
        sync_directory(&directory);
        let stat = volume.look(&plan.path)?;
        Ok(Uploaded { object: object(&plan.path, &stat), replaced: before.is_some(), sha256 })
    });
    placed.await.map_err(|panic| FsError::Fault(std::io::Error::other(panic)))?
}

/// Removes uploads that nobody has touched since `before` (Unix seconds), and returns how many.
pub(super) async fn expire(store: &Store, volume: &Volume, busy: &Busy, before: i64) -> Result<usize, FsError> {
    let old: Vec<(String, String, String)> = store
        .read(move |connection| {
            let mut statement = connection
                .prepare("SELECT identity, upload, file FROM uploads WHERE touched_at < ?1")
                .map_err(StoreError::from)?;
            let rows = statement.query_map([before], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
            let rows = rows.and_then(Iterator::collect).map_err(StoreError::from)?;
            Ok::<_, FsError>(rows)
        })
        .await?;
    let mut expired = 0;
    for (identity, upload, file) in old {
        let Ok(path) = ObjectPath::parse(&identity) else { continue };
        let Ok(_claim) = busy.claim(&path, &upload) else { continue };
        if let Ok((parent, _)) = path.split("replaced")
            && let Ok(directory) = volume.directory(&parent)
        {
            let _ = rustix::fs::unlinkat(&directory, file.as_str(), AtFlags::empty());
        }
        forget(store, identity, upload).await?;
        expired += 1;
    }
    Ok(expired)
}
