//! Listings: sorted by the bytes of the path, streamed, and never the whole of a tree in memory.
//!
//! A directory's own names are sorted before its first entry goes out; where that would keep the reader of a stream
//! waiting (more than [`SORT_LIMIT`] entries), its entries go out in the directory's own order, at once. What is looked
//! at (`stat`) is only what is shown.

use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};

use globset::{GlobBuilder, GlobMatcher};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use tokio::sync::mpsc;

use super::error::FsError;
use super::path::{ObjectPath, escape};
use super::volume::{Object, Volume, described, is_reserved};

/// Entries of one directory up to which a streamed listing is sorted.
pub const SORT_LIMIT: usize = 10_000;
/// Objects that go to the reader at once.
const BATCH: usize = 256;
/// The longest pattern.
const PATTERN_MAX: usize = 1024;

/// What is listed.
#[derive(Clone, Debug)]
pub struct Listing {
    /// The directory.
    pub directory: ObjectPath,
    /// Whether names that begin with a dot are shown.
    pub all: bool,
    /// A glob over names, or over paths relative to the directory where it has a `/`.
    pub pattern: Option<String>,
    /// How many directories below this one are entered.
    pub depth: u32,
    /// How many are left out at the beginning.
    pub offset: u64,
    /// How many are shown at most.
    pub limit: Option<u64>,
    /// Whether the reader would rather have the first entry at once than all of them sorted and counted.
    pub in_stream: bool,
}

/// A listing under way.
#[derive(Debug)]
pub struct Listed {
    /// How many there are without offset and limit, where that is known beforehand.
    pub total: Option<u64>,
    /// The objects, in batches.
    pub objects: mpsc::Receiver<Result<Vec<Object>, FsError>>,
}

impl Listing {
    /// The pattern, made ready: matching takes time linear in the name.
    ///
    /// # Errors
    /// [`FsError::Invalid`] when it is no glob.
    pub fn matcher(&self) -> Result<Option<(GlobMatcher, bool)>, FsError> {
        let Some(pattern) = self.pattern.as_deref().filter(|pattern| !pattern.is_empty()) else { return Ok(None) };
        if pattern.len() > PATTERN_MAX {
            return Err(FsError::Invalid(format!("the pattern is longer than {PATTERN_MAX} bytes")));
        }
        let glob = GlobBuilder::new(pattern).literal_separator(true).build();
        let glob = glob.map_err(|error| FsError::Invalid(format!("the pattern is not a glob: {}", error.kind())))?;
        Ok(Some((glob.compile_matcher(), pattern.contains('/'))))
    }

    /// Counts, then shows: blocking, for a thread of its own. `head` is told the total (or that there is none) before
    /// the first object; the work ends when the reader is gone.
    pub fn run(
        self,
        volume: &Volume,
        head: impl FnOnce(Result<Option<u64>, FsError>),
        objects: &mpsc::Sender<Result<Vec<Object>, FsError>>,
    ) {
        let opened = self.matcher().and_then(|matcher| Ok((matcher, volume.directory(&self.directory)?)));
        let (matcher, directory) = match opened {
            Ok(opened) => opened,
            Err(error) => return head(Err(error)),
        };
        let walk = Walk { listing: &self, matcher, sort: true };
        let mut total = Some(0_u64);
        let mut seen = 0_usize;
        let counted = walk.directory(
            &directory,
            &mut Vec::new(),
            0,
            &mut |_| {
                total = total.map(|total| total + 1);
                ControlFlow::Continue(())
            },
            &mut |entries| {
                seen += entries;
                if self.in_stream && seen > SORT_LIMIT { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            },
        );
        if counted.is_break() {
            total = None;
        }
        head(Ok(total));
        let walk = Walk { sort: total.is_some(), ..walk };
        let (mut skip, mut left) = (self.offset, self.limit.unwrap_or(u64::MAX));
        let mut batch = Vec::new();
        // The first goes alone, at once.
        let mut size = 1;
        if left == 0 {
            return;
        }
        let shown = walk.directory(
            &directory,
            &mut Vec::new(),
            0,
            &mut |entry| {
                if skip > 0 {
                    skip -= 1;
                    return ControlFlow::Continue(());
                }
                let Ok(stat) = rustix::fs::statat(entry.directory, entry.name, AtFlags::SYMLINK_NOFOLLOW) else {
                    // Gone since its name was read.
                    return ControlFlow::Continue(());
                };
                let path = self.directory.join_all(entry.path, entry.name);
                batch.push(described(path.to_string(), escape(entry.name), &stat));
                left -= 1;
                if batch.len() >= size || left == 0 {
                    size = BATCH;
                    if objects.blocking_send(Ok(std::mem::take(&mut batch))).is_err() {
                        return ControlFlow::Break(());
                    }
                }
                if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            },
            &mut |_| ControlFlow::Continue(()),
        );
        if shown.is_continue() && !batch.is_empty() {
            let _ = objects.blocking_send(Ok(batch));
        }
    }
}

/// An entry that the listing is about.
struct Entry<'a> {
    directory: &'a OwnedFd,
    /// The directories below the listed one, down to it.
    path: &'a [Vec<u8>],
    name: &'a [u8],
}

struct Walk<'l> {
    listing: &'l Listing,
    matcher: Option<(GlobMatcher, bool)>,
    sort: bool,
}

type Visit<'v> = dyn FnMut(Entry<'_>) -> ControlFlow<()> + 'v;
type Count<'v> = dyn FnMut(usize) -> ControlFlow<()> + 'v;

impl Walk<'_> {
    /// Goes through a directory and those below it, down to the listing's depth. `read` is told of entries as their
    /// names are read.
    fn directory(
        &self,
        directory: &OwnedFd,
        path: &mut Vec<Vec<u8>>,
        depth: u32,
        visit: &mut Visit<'_>,
        read: &mut Count<'_>,
    ) -> ControlFlow<()> {
        let Ok(entries) = Dir::read_from(directory) else { return ControlFlow::Continue(()) };
        // Names end to end in one allocation each way: a million of them are some tens of megabytes.
        let mut names = Names::default();
        for entry in entries {
            let Ok(entry) = entry else { break };
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." || is_reserved(name) || !self.listing.all && name.starts_with(b".") {
                continue;
            }
            read(1)?;
            let descend = depth < self.listing.depth && is_directory(directory, name, entry.file_type());
            if self.sort {
                names.push(name, descend);
            } else {
                self.entry(directory, path, name, visit)?;
                if descend {
                    self.below(directory, path, name, depth, visit, read)?;
                }
            }
        }
        for (name, what) in names.sorted() {
            match what {
                What::Entry => self.entry(directory, path, name, visit)?,
                What::Below => self.below(directory, path, name, depth, visit, read)?,
            }
        }
        ControlFlow::Continue(())
    }

    fn entry(&self, directory: &OwnedFd, path: &[Vec<u8>], name: &[u8], visit: &mut Visit<'_>) -> ControlFlow<()> {
        use std::os::unix::ffi::OsStrExt;
        let wanted = match &self.matcher {
            None => true,
            Some((glob, false)) => glob.is_match(std::ffi::OsStr::from_bytes(name)),
            Some((glob, true)) => {
                let mut whole = path.join(&b'/');
                if !whole.is_empty() {
                    whole.push(b'/');
                }
                whole.extend_from_slice(name);
                glob.is_match(std::ffi::OsStr::from_bytes(&whole))
            }
        };
        if wanted { visit(Entry { directory, path, name }) } else { ControlFlow::Continue(()) }
    }

    fn below(
        &self,
        directory: &OwnedFd,
        path: &mut Vec<Vec<u8>>,
        name: &[u8],
        depth: u32,
        visit: &mut Visit<'_>,
        read: &mut Count<'_>,
    ) -> ControlFlow<()> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let below = match rustix::fs::openat(directory.as_fd(), name, flags, Mode::empty()) {
            Ok(below) => below,
            // Gone, replaced, or closed to us: the listing goes on without it.
            Err(Errno::MFILE | Errno::NFILE) => return ControlFlow::Break(()),
            Err(_) => return ControlFlow::Continue(()),
        };
        path.push(name.to_vec());
        let flow = self.directory(&below, path, depth + 1, visit, read);
        path.pop();
        flow
    }
}

fn is_directory(directory: &OwnedFd, name: &[u8], kind: FileType) -> bool {
    match kind {
        FileType::Directory => true,
        FileType::Unknown => rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode as _) == FileType::Directory),
        _ => false,
    }
}

/// The names of one directory.
#[derive(Default)]
struct Names {
    bytes: Vec<u8>,
    /// Where each begins, how long it is, and whether it is a directory to enter.
    entries: Vec<(u32, u16, bool)>,
}

#[derive(Clone, Copy)]
enum What {
    Entry,
    Below,
}

impl Names {
    fn push(&mut self, name: &[u8], descend: bool) {
        let (Ok(start), Ok(length)) = (u32::try_from(self.bytes.len()), u16::try_from(name.len())) else { return };
        self.bytes.extend_from_slice(name);
        self.entries.push((start, length, descend));
    }

    /// The names in the order of the bytes of their paths, each as an entry, and each directory to enter once more where
    /// what is in it belongs: as if it ended in `/`, so that `a`, `a-b`, `a/b` come in that order.
    fn sorted(&self) -> impl Iterator<Item = (&[u8], What)> {
        let name = |start: u32, length: u16| &self.bytes[start as usize..start as usize + usize::from(length)];
        let mut order: Vec<(u32, u16, bool)> = Vec::with_capacity(self.entries.len());
        for (start, length, descend) in &self.entries {
            order.push((*start, *length, false));
            if *descend {
                order.push((*start, *length, true));
            }
        }
        order.sort_unstable_by(|left, right| {
            let key = |(start, length, below): &(u32, u16, bool)| {
                name(*start, *length).iter().copied().chain(below.then_some(b'/'))
            };
            key(left).cmp(key(right))
        });
        order
            .into_iter()
            .map(move |(start, length, below)| (name(start, length), if below { What::Below } else { What::Entry }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(dir: &std::path::Path, listing: Listing) -> (Option<u64>, Vec<String>) {
        let volume = Volume::open(dir).expect("opened");
        let (sender, mut receiver) = mpsc::channel(1000);
        let mut total = None;
        listing.run(&volume, |head| total = head.expect("listed"), &sender);
        drop(sender);
        let mut identities = Vec::new();
        while let Some(batch) = receiver.blocking_recv() {
            identities.extend(batch.expect("listed").into_iter().map(|object| object.identity));
        }
        (total, identities)
    }

    fn listing(depth: u32) -> Listing {
        Listing {
            directory: ObjectPath::default(),
            all: false,
            pattern: None,
            depth,
            offset: 0,
            limit: None,
            in_stream: false,
        }
    }

    #[test]
    fn a_tree_is_listed_in_the_order_of_its_paths() {
        let dir = tempfile::tempdir().expect("a directory");
        for file in ["a/b", "a/c/d", "a-b", "a.txt", ".hidden/x", "z", ".dxflow-upload-1"] {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            std::fs::write(path, file).expect("written");
        }
        std::os::unix::fs::symlink("a", dir.path().join("link")).expect("linked");
        let all = ["a", "a-b", "a.txt", "a/b", "a/c", "a/c/d", "link", "z"];
        let mut sorted = all;
        sorted.sort_unstable();
        assert_eq!(all, sorted);
        assert_eq!(list(dir.path(), listing(9)), (Some(8), all.map(String::from).to_vec()));
        assert_eq!(list(dir.path(), listing(0)).1, ["a", "a-b", "a.txt", "link", "z"]);
        let page = Listing { offset: 2, limit: Some(3), ..listing(9) };
        assert_eq!(list(dir.path(), page), (Some(8), all[2..5].iter().map(ToString::to_string).collect()));
        let hidden = Listing { all: true, ..listing(9) };
        assert_eq!(list(dir.path(), hidden).1[..2], [".hidden", ".hidden/x"]);
        for (pattern, found) in [
            ("a*", vec!["a", "a-b", "a.txt"]),
            ("a/*", vec!["a/b", "a/c"]),
            ("**/d", vec!["a/c/d"]),
            ("[bd]", vec!["a/b", "a/c/d"]),
        ] {
            let listing = Listing { pattern: Some(pattern.into()), ..listing(9) };
            assert_eq!(list(dir.path(), listing).1, found, "{pattern}");
        }
        let bad = Listing { pattern: Some("[".into()), ..listing(0) };
        assert!(matches!(bad.matcher(), Err(FsError::Invalid(_))));
    }

    #[test]
    fn a_large_directory_streams_without_a_total() {
        let dir = tempfile::tempdir().expect("a directory");
        for n in 0..=SORT_LIMIT {
            std::fs::write(dir.path().join(format!("{n:06}")), "").expect("written");
        }
        let (total, mut found) = list(dir.path(), Listing { in_stream: true, ..listing(0) });
        assert_eq!((total, found.len()), (None, SORT_LIMIT + 1));
        found.sort_unstable();
        let (total, sorted) = list(dir.path(), listing(0));
        assert_eq!((total, sorted), (Some(SORT_LIMIT as u64 + 1), found));
    }
}
