//! The volume: one directory, opened once, beneath which the kernel resolves every path (openat2(2), `RESOLVE_BENEATH`).
//!
//! Nothing is canonicalized and then opened: what is looked at and what is used is one descriptor. Links inside that
//! point inside are followed; one that leads out, wherever it stands and whenever it was put there, is refused by the
//! kernel. Files are opened only when they are regular, so that no FIFO or device can hold a thread.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RawMode, RenameFlags, ResolveFlags, Stat, StatxFlags};
use rustix::io::Errno;
use schemars::JsonSchema;
use serde::Serialize;

use super::error::FsError;
use super::path::{ObjectPath, RESERVED, escape};

/// What an object is.
#[derive(Clone, Copy, Debug, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A device, FIFO or socket.
    Other,
}

/// An object as lists and answers show it.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Object {
    /// Its path relative to the volume.
    pub identity: String,
    /// Its last name.
    pub name: String,
    /// As `ls -l` writes it, `drwxr-xr-x`.
    pub permission: String,
    /// In bytes.
    pub size: u64,
    /// Unix seconds.
    pub modified_at: i64,
    /// What it is.
    pub kind: Kind,
    /// Names this version of it.
    pub etag: String,
}

/// Tries of an operation that a rename elsewhere disturbed (openat2(2): `EAGAIN`).
const RACE_TRIES: usize = 16;

const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);

/// The volume's descriptor.
#[derive(Clone, Debug)]
pub struct Volume {
    root: Arc<OwnedFd>,
}

impl Volume {
    /// Opens the directory.
    ///
    /// # Errors
    /// When it is not there, or not a directory.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self { root: Arc::new(root) })
    }

    fn open_beneath(&self, path: &ObjectPath, flags: OFlags) -> Result<OwnedFd, FsError> {
        let system = path.system();
        let mut error = Errno::AGAIN;
        for _ in 0..RACE_TRIES {
            match rustix::fs::openat2(&*self.root, system.as_slice(), flags | OFlags::CLOEXEC, Mode::empty(), BENEATH) {
                Ok(descriptor) => return Ok(descriptor),
                Err(Errno::AGAIN) => {}
                Err(other) => {
                    error = other;
                    break;
                }
            }
        }
        Err(FsError::system(error, &path.to_string()))
    }

    /// Opens a directory.
    ///
    /// # Errors
    /// When it is not there, not a directory, or outside.
    pub fn directory(&self, path: &ObjectPath) -> Result<OwnedFd, FsError> {
        self.open_beneath(path, OFlags::DIRECTORY | OFlags::RDONLY)
    }

    /// Opens an object to look at it, a link's target in place of the link.
    ///
    /// # Errors
    /// When it is not there or outside.
    pub fn stat(&self, path: &ObjectPath) -> Result<Stat, FsError> {
        let descriptor = self.open_beneath(path, OFlags::PATH)?;
        rustix::fs::fstat(&descriptor).map_err(|error| FsError::system(error, &path.to_string()))
    }

    /// When an object was made, in nanoseconds since 1970 (statx(2), `stx_btime`); 0 where the file system does not know.
    ///
    /// # Errors
    /// When it is not there or outside.
    pub fn made_at(&self, path: &ObjectPath) -> Result<i128, FsError> {
        let descriptor = self.open_beneath(path, OFlags::PATH)?;
        let found = rustix::fs::statx(&descriptor, "", AtFlags::EMPTY_PATH, StatxFlags::BTIME)
            .map_err(|error| FsError::system(error, &path.to_string()))?;
        let known = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::BTIME);
        let time = found.stx_btime;
        Ok(if known { i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec) } else { 0 })
    }

    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// When it is not there, outside, or not a regular file.
    pub fn file(&self, path: &ObjectPath) -> Result<(File, Stat), FsError> {
        // Without waiting, should it be a FIFO; reads of a regular file are not affected.
        let descriptor = self.open_beneath(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        let stat = rustix::fs::fstat(&descriptor).map_err(|error| FsError::system(error, &path.to_string()))?;
        match FileType::from_raw_mode(stat.st_mode as RawMode) {
            FileType::RegularFile => Ok((File::from(descriptor), stat)),
            FileType::Directory => Err(FsError::Kind { identity: path.to_string(), is: "a directory" }),
            _ => Err(FsError::Kind { identity: path.to_string(), is: "neither a file nor a directory" }),
        }
    }

    /// Opens the directory in which `path` is, for something that is to be `verb`ed there.
    ///
    /// # Errors
    /// When the directory is not there or outside, or `path` is the volume.
    pub fn parent<'p>(&self, path: &'p ObjectPath, verb: &'static str) -> Result<(OwnedFd, &'p [u8]), FsError> {
        let (name, _) = path.names().split_last().ok_or(FsError::Volume(verb))?;
        let (parent, _) = path.split(verb)?;
        Ok((self.directory(&parent)?, name))
    }

    /// Makes a directory and those it is in; those that are there stay as they are.
    ///
    /// # Errors
    /// When one of them is something else, or outside.
    pub fn make_directories(&self, path: &ObjectPath) -> Result<OwnedFd, FsError> {
        if let Ok(directory) = self.directory(path) {
            return Ok(directory);
        }
        let mut at = ObjectPath::default();
        let mut directory = self.directory(&at)?;
        for name in path.names() {
            at = at.join(name);
            match rustix::fs::mkdirat(&directory, name.as_slice(), Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(FsError::system(error, &at.to_string())),
            }
            // Opened from the root again, so that a link on the way is judged as in every other route.
            directory = self.directory(&at)?;
        }
        Ok(directory)
    }

    /// Looks at what is called `path`, a link as a link.
    ///
    /// # Errors
    /// When it is not there, or its directory is outside.
    pub fn look(&self, path: &ObjectPath) -> Result<Stat, FsError> {
        if path.is_volume() {
            return self.stat(path);
        }
        let (parent, name) = self.parent(path, "looked at")?;
        rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| FsError::system(error, &path.to_string()))
    }

    /// The object called `path`, a link as a link.
    ///
    /// # Errors
    /// As [`look`](Self::look).
    pub fn object(&self, path: &ObjectPath) -> Result<Object, FsError> {
        Ok(object(path, &self.look(path)?))
    }

    /// Renames within the volume, in one step; `replace` says whether something may be there.
    ///
    /// # Errors
    /// When the one is not there or the other is, or a directory would go into itself.
    pub fn rename(&self, from: &ObjectPath, to: &ObjectPath, replace: bool) -> Result<(), FsError> {
        if to.is_within(from) && to != from {
            return Err(FsError::Conflict(format!("`{from}` cannot be moved into itself")));
        }
        let (from_directory, from_name) = self.parent(from, "renamed")?;
        rustix::fs::statat(&from_directory, from_name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| FsError::system(error, &from.to_string()))?;
        let (to_parent, to_name) = to.split("replaced")?;
        let to_directory = self.make_directories(&to_parent)?;
        if from == to {
            return if replace { Ok(()) } else { Err(FsError::Exists(to.to_string())) };
        }
        let flags = if replace { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        rustix::fs::renameat_with(&from_directory, from_name, &to_directory, to_name, flags).map_err(|error| {
            match error {
                Errno::NOENT => FsError::NotFound(from.to_string()),
                other => FsError::system(other, &to.to_string()),
            }
        })?;
        sync_directory(&to_directory);
        sync_directory(&from_directory);
        Ok(())
    }

    /// Removes an object and, if it is a directory, all in it. A link is removed, not what it points at.
    ///
    /// # Errors
    /// When it is not there, or part of it cannot be removed.
    pub fn remove(&self, path: &ObjectPath) -> Result<(), FsError> {
        let (parent, name) = self.parent(path, "deleted")?;
        let stat = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| FsError::system(error, &path.to_string()))?;
        remove_at(parent.as_fd(), name, FileType::from_raw_mode(stat.st_mode as RawMode))
            .map_err(|error| FsError::system(error, &path.to_string()))?;
        sync_directory(&parent);
        Ok(())
    }
}

/// Directories of one removal that are kept open at once; a deeper tree's upper ones are opened again on the way back.
const OPEN_LEVELS: usize = 128;

/// Removes `name` in `directory`, and all in it. Descends by descriptors, with a stack of its own: a tree can be deeper
/// than a thread's stack or a path's limit. It never goes up by `..`: what is moved away meanwhile must not take the
/// removal along.
pub(super) fn remove_at(directory: BorrowedFd<'_>, name: &[u8], kind: FileType) -> Result<(), Errno> {
    if kind != FileType::Directory {
        return rustix::fs::unlinkat(directory, name, AtFlags::empty());
    }
    let mut trail: Vec<(Vec<u8>, Option<OwnedFd>)> = vec![(name.to_vec(), Some(open_no_link(directory, name)?))];
    while let Some(level) = trail.len().checked_sub(1) {
        if trail[level].1.is_none() {
            match open_again(directory, &mut trail) {
                Ok(()) => {}
                // Moved away or gone: not ours to remove any more.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                    trail.pop();
                    continue;
                }
                Err(error) => return Err(error),
            }
        }
        let at = trail[level].1.as_ref().expect("opened above");
        if let Some(name) = empty(at)? {
            match open_no_link(at.as_fd(), &name) {
                Ok(descriptor) => trail.push((name, Some(descriptor))),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => return Err(error),
            }
            if let Some(upper) = trail.len().checked_sub(OPEN_LEVELS + 1) {
                trail[upper].1 = None;
            }
            continue;
        }
        let (name, _) = trail.pop().expect("the level that is being worked on");
        let removed = match trail.last() {
            None => rustix::fs::unlinkat(directory, name.as_slice(), AtFlags::REMOVEDIR),
            Some((_, Some(parent))) => rustix::fs::unlinkat(parent, name.as_slice(), AtFlags::REMOVEDIR),
            // The parent is opened again, and finds it empty.
            Some((_, None)) => continue,
        };
        match removed {
            Ok(()) | Err(Errno::NOENT) => {}
            // Filled again meanwhile: once more.
            Err(Errno::NOTEMPTY | Errno::EXIST) if trail.is_empty() => {
                trail.push((name.clone(), Some(open_no_link(directory, &name)?)));
            }
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn open_no_link(at: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

/// Opens the last directories of a trail again, from the start; as many as are kept open at once, so that a deep tree is
/// not walked down again for each of its levels.
fn open_again(directory: BorrowedFd<'_>, trail: &mut [(Vec<u8>, Option<OwnedFd>)]) -> Result<(), Errno> {
    let keep_from = trail.len().saturating_sub(OPEN_LEVELS);
    let mut at: Option<OwnedFd> = None;
    for (level, (name, kept)) in trail.iter_mut().enumerate() {
        let opened = open_no_link(at.as_ref().map_or(directory, AsFd::as_fd), name)?;
        if level >= keep_from {
            *kept = Some(opened.try_clone().map_err(|_| Errno::MFILE)?);
        }
        at = Some(opened);
    }
    Ok(())
}

/// Removes what it can of a directory's entries; returns the first that is a directory with something in it.
fn empty(directory: &OwnedFd) -> Result<Option<Vec<u8>>, Errno> {
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) => match rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::NOTEMPTY | Errno::EXIST) => return Ok(Some(name.to_vec())),
                Err(error) => return Err(error),
            },
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Makes a directory's entries durable; where the filesystem cannot, nothing else can either.
pub(super) fn sync_directory(directory: &OwnedFd) {
    if let Err(error) = rustix::fs::fsync(directory) {
        tracing::debug!(%error, "a directory could not be synced");
    }
}

/// Whether a name is the engine's own unfinished work.
pub(super) fn is_reserved(name: &[u8]) -> bool {
    name.starts_with(RESERVED)
}

/// The object called `path`, of which the system says `stat`.
pub(super) fn object(path: &ObjectPath, stat: &Stat) -> Object {
    let identity = path.to_string();
    let name = path.names().last().map_or_else(|| ".".into(), |name| escape(name));
    described(identity, name, stat)
}

/// An object of which the system says `stat`.
pub(super) fn described(identity: String, name: String, stat: &Stat) -> Object {
    Object {
        identity,
        name,
        permission: permission(stat.st_mode),
        size: u64::try_from(stat.st_size).unwrap_or(0),
        modified_at: stat.st_mtime,
        kind: kind(stat),
        etag: etag(stat),
    }
}

/// What kind of object the system says it is.
pub(super) fn kind(stat: &Stat) -> Kind {
    match FileType::from_raw_mode(stat.st_mode as RawMode) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        _ => Kind::Other,
    }
}

/// Names a version: the file, its time of change to the nanosecond, its size.
pub(super) fn etag(stat: &Stat) -> String {
    format!(
        "{:x}-{:x}-{:x}",
        stat.st_ino,
        i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec),
        stat.st_size
    )
}

/// A mode as `ls -l` writes it.
fn permission(mode: u32) -> String {
    let kind = match FileType::from_raw_mode(mode as RawMode) {
        FileType::Directory => 'd',
        FileType::Symlink => 'l',
        FileType::Fifo => 'p',
        FileType::Socket => 's',
        FileType::CharacterDevice => 'c',
        FileType::BlockDevice => 'b',
        _ => '-',
    };
    let mut text = String::from(kind);
    for (shift, special, set, unset) in [(6, 0o4000, 's', 'S'), (3, 0o2000, 's', 'S'), (0, 0o1000, 't', 'T')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => set,
            (true, false) => unset,
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_written_as_ls_does() {
        for (mode, text) in [
            (0o040_755, "drwxr-xr-x"),
            (0o100_644, "-rw-r--r--"),
            (0o100_444, "-r--r--r--"),
            (0o120_777, "lrwxrwxrwx"),
            (0o104_755, "-rwsr-xr-x"),
            (0o041_777, "drwxrwxrwt"),
            (0o041_776, "drwxrwxrwT"),
            (0o010_600, "prw-------"),
        ] {
            assert_eq!(permission(mode), text);
        }
    }

    #[test]
    fn links_that_lead_out_are_refused_and_links_inside_work() {
        let dir = tempfile::tempdir().expect("a directory");
        let (inside, outside) = (dir.path().join("v"), dir.path().join("v2"));
        std::fs::create_dir_all(inside.join("d/e")).expect("made");
        std::fs::create_dir_all(&outside).expect("made");
        std::fs::write(outside.join("secret"), "secret").expect("written");
        std::fs::write(inside.join("d/f"), "f").expect("written");
        let link = |target: &str, name: &str| std::os::unix::fs::symlink(target, inside.join(name)).expect("linked");
        link("d", "in");
        link("../f", "d/e/up");
        for (target, name) in [
            ("../v2", "out"),
            ("../v2/secret", "leaf"),
            ("/etc/passwd", "absolute"),
            ("out/secret", "chain"),
            ("../nothing", "dangling"),
            ("/proc/self/root", "proc"),
            ("d/../../v2", "winding"),
        ] {
            link(target, name);
        }
        let volume = Volume::open(&inside).expect("opened");
        let path = |identity: &str| ObjectPath::parse(identity).expect(identity);
        for good in ["in/f", "d/e/up", "d/f"] {
            volume.file(&path(good)).expect(good);
        }
        for bad in ["leaf", "out/secret", "absolute", "chain", "dangling", "proc/etc/passwd", "winding/secret", "proc"]
        {
            assert!(matches!(volume.file(&path(bad)), Err(FsError::Outside(_))), "{bad}");
        }
        for bad in ["out/new", "proc/tmp/new", "winding/new"] {
            assert!(volume.parent(&path(bad), "made").is_err(), "{bad}");
            assert!(volume.make_directories(&path(bad)).is_err(), "{bad}");
            assert!(volume.rename(&path("d/f"), &path(bad), true).is_err(), "{bad}");
        }
        volume.remove(&path("out")).expect("the link goes");
        assert!(outside.join("secret").exists(), "not what it pointed at");
    }

    #[test]
    fn a_tree_deeper_than_any_path_is_removed() {
        let dir = tempfile::tempdir().expect("a directory");
        let volume = Volume::open(dir.path()).expect("opened");
        let mut at = volume.directory(&ObjectPath::default()).expect("opened");
        let name = "n".repeat(100);
        for _ in 0..2000 {
            rustix::fs::mkdirat(&at, name.as_str(), Mode::from_raw_mode(0o755)).expect("made");
            at = rustix::fs::openat(&at, name.as_str(), OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())
                .expect("opened");
        }
        drop(at);
        volume.remove(&ObjectPath::parse(&name).expect("a path")).expect("removed");
        assert_eq!(std::fs::read_dir(dir.path()).expect("read").count(), 0);
    }
}
