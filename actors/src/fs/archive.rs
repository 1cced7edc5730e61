//! Archives made and unpacked, beneath the volume's descriptor and nowhere else.
//!
//! Made: links are left out (none can lead out of what is archived, or be a trap elsewhere), and so are devices. Names
//! are relative and UTF-8. Unpacked: every entry's name is checked before the first byte is written; what leaves the
//! destination, links, devices, duplicates, overlaps and encrypted entries are refused by name. All is unpacked into a
//! directory of the engine's own, which then takes its place in one step; into a directory that is there already the
//! entries are moved one by one, and moved back if one cannot be.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, Timespec, Timestamps};
use rustix::io::Errno;
use zip::write::FullFileOptions;
use zip::{CompressionMethod, DateTime, ZipArchive, ZipWriter};

use super::error::FsError;
use super::path::{ObjectPath, escape};
use super::transfer::own_name;
use super::volume::{Volume, is_reserved, remove_at, sync_directory};

/// What an archive may hold, when it is unpacked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) entries: u64,
    pub(super) bytes: u64,
    pub(super) ratio: u64,
}

/// How far the work is.
#[derive(Clone, Debug)]
pub struct Step {
    /// The entry that is being worked on.
    pub entry: String,
    /// Entries so far.
    pub entries: u64,
    /// Bytes of content so far.
    pub bytes: u64,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Summary {
    /// Entries, directories included.
    pub entries: u64,
    /// Bytes of content.
    pub bytes: u64,
}

/// Told of every step; `false` ends the work.
pub(super) type Tell<'t> = dyn FnMut(Step) -> bool + 't;

/// Bytes that are copied between two looks at whether anybody still wants them.
const COPY_BYTES: usize = 256 * 1024;
/// Expanded bytes up to which the ratio does not matter.
const RATIO_FROM: u64 = 8 << 20;
/// Entries up to which each is brought to the disk by itself. Beyond it the whole file system is, which is less work than
/// so many single ones; for a few it would mean to wait for everything that others are writing there.
const SYNC_EACH: usize = 256;
/// Levels of directories in one archive.
const DEPTH_MAX: usize = 1024;

fn zip_failed(error: zip::result::ZipError) -> FsError {
    match error {
        zip::result::ZipError::Io(error) => unreadable(&error),
        other => FsError::Archive { entry: "(archive)".into(), reason: other.to_string() },
    }
}

/// What an error in reading or writing an archive means. An end where the archive says more follows, or an offset that no
/// file can have (`EINVAL` of lseek(2)), is the archive's fault; what else the system says is not.
fn unreadable(error: &std::io::Error) -> FsError {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        None | Some(Errno::INVAL) => FsError::Archive {
            entry: "(archive)".into(),
            reason: format!("it is cut off, or its offsets lead elsewhere: {error}"),
        },
        Some(_) => FsError::io(error, "the archive"),
    }
}

/// The name in an archive of what is called `path`, below the one that is archived.
fn names_in_archive(roots: &[ObjectPath]) -> Result<Vec<String>, FsError> {
    let names: Vec<String> = roots.iter().map(ObjectPath::name).collect();
    for (n, name) in names.iter().enumerate() {
        if names[..n].contains(name) {
            return Err(FsError::Invalid(format!("two of the objects are called `{name}`")));
        }
    }
    Ok(names)
}

/// Writes an archive of `roots`; a directory's name is the top folder, the volume has none.
pub(super) fn pack<W: Write + Seek>(
    volume: &Volume,
    roots: &[ObjectPath],
    level: i64,
    writer: ZipWriter<W>,
    tell: &mut Tell<'_>,
) -> Result<(W, Summary), FsError> {
    let names = names_in_archive(roots)?;
    let mut pack = Pack { writer, level, tell, summary: Summary::default(), buffer: vec![0; COPY_BYTES] };
    for (root, name) in roots.iter().zip(names) {
        let stat = volume.stat(root)?;
        match FileType::from_raw_mode(stat.st_mode as _) {
            FileType::Directory => {
                let directory = volume.directory(root)?;
                let prefix = if name.is_empty() { String::new() } else { format!("{name}/") };
                if !prefix.is_empty() {
                    pack.directory(&prefix, &stat)?;
                }
                pack.below(directory, prefix)?;
            }
            _ => {
                let (file, stat) = volume.file(root)?;
                pack.file(&name, file, &stat)?;
            }
        }
    }
    let summary = pack.summary;
    Ok((pack.writer.finish().map_err(zip_failed)?, summary))
}

struct Pack<'t, W: Write + Seek> {
    writer: ZipWriter<W>,
    level: i64,
    tell: &'t mut Tell<'t>,
    summary: Summary,
    buffer: Vec<u8>,
}

impl<W: Write + Seek> Pack<'_, W> {
    fn told(&mut self, entry: &str) -> Result<(), FsError> {
        let step = Step { entry: entry.into(), entries: self.summary.entries, bytes: self.summary.bytes };
        if (self.tell)(step) { Ok(()) } else { Err(FsError::Cancelled) }
    }

    fn options(&self, stat: &rustix::fs::Stat) -> Result<FullFileOptions<'static, 'static>, FsError> {
        let (method, level) = match self.level {
            0 => (CompressionMethod::Stored, None),
            level => (CompressionMethod::Deflated, Some(level)),
        };
        let modified = stat.st_mtime;
        let mut options = FullFileOptions::default()
            .compression_method(method)
            .compression_level(level)
            .unix_permissions(stat.st_mode & 0o7777)
            .large_file(stat.st_size >= 0xF000_0000)
            .last_modified_time(dos_time(modified));
        // The extended timestamp: seconds, in UTC, where DOS has two of them and no zone (APPNOTE, 0x5455).
        if let Ok(seconds) = i32::try_from(modified) {
            let mut extra = vec![1];
            extra.extend_from_slice(&seconds.to_le_bytes());
            options.add_extra_field(0x5455, extra, false).map_err(zip_failed)?;
        }
        Ok(options)
    }

    fn directory(&mut self, name: &str, stat: &rustix::fs::Stat) -> Result<(), FsError> {
        self.summary.entries += 1;
        self.told(name)?;
        let options = self.options(stat)?.compression_method(CompressionMethod::Stored).compression_level(None);
        self.writer.add_directory(name.trim_end_matches('/'), options).map_err(zip_failed)
    }

    fn file(&mut self, name: &str, mut file: File, stat: &rustix::fs::Stat) -> Result<(), FsError> {
        self.summary.entries += 1;
        self.told(name)?;
        let options = self.options(stat)?;
        self.writer.start_file(name, options).map_err(zip_failed)?;
        loop {
            let length = file.read(&mut self.buffer).map_err(|error| FsError::io(&error, name))?;
            if length == 0 {
                return Ok(());
            }
            self.writer.write_all(&self.buffer[..length]).map_err(|error| FsError::io(&error, "the archive"))?;
            self.summary.bytes += length as u64;
            self.told(name)?;
        }
    }

    /// Archives what is in a directory, with a stack of its own: a tree can be deeper than a thread's stack allows.
    fn below(&mut self, directory: OwnedFd, prefix: String) -> Result<(), FsError> {
        let mut levels = vec![Level::read(directory, prefix)?];
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.names.next() else {
                levels.pop();
                continue;
            };
            let entry = format!("{}{}", level.prefix, archived(&name));
            let Some((opened, stat)) = open_entry(&level.directory, &name, &entry)? else { continue };
            if FileType::from_raw_mode(stat.st_mode as _) == FileType::RegularFile {
                self.file(&entry, opened.into(), &stat)?;
                continue;
            }
            let entry = format!("{entry}/");
            self.directory(&entry, &stat)?;
            if levels.len() == DEPTH_MAX {
                return Err(FsError::Invalid(format!("the tree is more than {DEPTH_MAX} directories deep")));
            }
            levels.push(Level::read(opened, entry)?);
        }
        Ok(())
    }
}

/// A directory that is being archived.
struct Level {
    directory: OwnedFd,
    /// What its entries' names begin with.
    prefix: String,
    /// Those that are left, in order.
    names: std::vec::IntoIter<Vec<u8>>,
}

impl Level {
    fn read(directory: OwnedFd, prefix: String) -> Result<Self, FsError> {
        let system = |error| FsError::system(error, &prefix);
        let mut names: Vec<Vec<u8>> = Vec::new();
        for entry in Dir::read_from(&directory).map_err(system)? {
            let entry = entry.map_err(system)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." && !is_reserved(name) {
                names.push(name.to_vec());
            }
        }
        names.sort_unstable();
        // Rare, so that nothing is kept for it where no name has a backslash.
        for name in names.iter().filter(|name| name.contains(&b'\\')) {
            let alike = |other: &&Vec<u8>| *other != name && archived(other) == archived(name);
            if names.iter().any(|other| alike(&other)) {
                return Err(FsError::Archive {
                    entry: format!("{prefix}{}", escape(name)),
                    reason: "an archive holds no backslash, and with `_` in its place the name is another's".into(),
                });
            }
        }
        Ok(Self { directory, prefix, names: names.into_iter() })
    }
}

/// Opens a file or a directory that is to be archived; `None` for anything else, and for what is gone.
fn open_entry(directory: &OwnedFd, name: &[u8], entry: &str) -> Result<Option<(OwnedFd, rustix::fs::Stat)>, FsError> {
    let archives = |stat: &rustix::fs::Stat| {
        matches!(FileType::from_raw_mode(stat.st_mode as _), FileType::RegularFile | FileType::Directory)
    };
    // Looked at before it is opened: opening a device or a FIFO can have effects.
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if archives(&stat) => {}
        Ok(_) | Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(FsError::system(error, entry)),
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = match rustix::fs::openat(directory, name, flags, Mode::empty()) {
        Ok(opened) => opened,
        // Gone, or a link by now.
        Err(Errno::NOENT | Errno::LOOP) => return Ok(None),
        Err(error) => return Err(FsError::system(error, entry)),
    };
    let stat = rustix::fs::fstat(&opened).map_err(|error| FsError::system(error, entry))?;
    Ok(archives(&stat).then_some((opened, stat)))
}

/// A name as an archive holds it: no backslash, which other systems take for a separator.
fn archived(name: &[u8]) -> String {
    escape(name).replace('\\', "_")
}

fn dos_time(unix: i64) -> DateTime {
    let civil = jiff::Timestamp::from_second(unix).map(|moment| moment.to_zoned(jiff::tz::TimeZone::UTC));
    civil
        .ok()
        .and_then(|moment| {
            let part = |number: i8| u8::try_from(number).ok();
            DateTime::from_date_and_time(
                u16::try_from(moment.year()).ok()?,
                part(moment.month())?,
                part(moment.day())?,
                part(moment.hour())?,
                part(moment.minute())?,
                part(moment.second())?,
            )
            .ok()
        })
        .unwrap_or_default()
}

/// One entry of an archive that has been checked.
struct Checked {
    index: usize,
    path: ObjectPath,
    directory: bool,
    mode: u32,
    modified: Option<i64>,
}

/// Unpacks an archive into `destination`.
pub(super) fn unpack(
    volume: &Volume,
    archive: &ObjectPath,
    destination: &ObjectPath,
    replace: bool,
    limits: Limits,
    tell: &mut Tell<'_>,
) -> Result<Summary, FsError> {
    let (file, _) = volume.file(archive)?;
    let reader = open_archive(&file, limits)?;
    let mut reader = reader;
    let entries = check(&mut reader, limits)?;
    let (parent, name) = if destination.is_volume() {
        (volume.directory(destination)?, None)
    } else {
        let (parent, name) = destination.split("replaced")?;
        (volume.make_directories(&parent)?, Some(name.to_vec()))
    };
    let there = match &name {
        None => true,
        Some(name) => match rustix::fs::statat(&parent, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode as _) == FileType::Directory => true,
            Ok(_) => return Err(FsError::Kind { identity: destination.to_string(), is: "not a directory" }),
            Err(_) => false,
        },
    };
    let staging = Staging::make(&parent)?;
    let summary = staging.fill(&mut reader, &entries, limits, tell)?;
    match name {
        Some(name) if !there => staging.become_directory(&name, destination)?,
        _ => {
            let into = volume.directory(destination)?;
            staging.merge_into(&into, &entries, destination, replace)?;
        }
    }
    Ok(summary)
}

/// Opens the archive's directory, whose number of entries is looked at before any memory is taken for it.
fn open_archive(file: &File, limits: Limits) -> Result<ZipArchive<BufReader<&File>>, FsError> {
    let announced = announced_entries(file).map_err(|error| unreadable(&error))?;
    match announced {
        None => {
            return Err(FsError::Archive { entry: "(archive)".into(), reason: "it is not a zip archive".into() });
        }
        Some(entries) if entries > limits.entries => {
            return Err(FsError::Archive {
                entry: "(archive)".into(),
                reason: format!(
                    "it has {entries} entries, more than {} (`object.max_archive_entries`)",
                    limits.entries
                ),
            });
        }
        Some(_) => {}
    }
    let archive = ZipArchive::new(BufReader::with_capacity(64 * 1024, file)).map_err(zip_failed)?;
    no_name_twice(file, archive.central_directory_start(), archive.len(), limits)?;
    Ok(archive)
}

/// Refuses an archive whose directory has a name twice. The reader keeps the last entry of each name and says nothing;
/// another program may take the first, and see another archive. Its directory is therefore gone through once more, as
/// bytes (APPNOTE 4.3.12): there must be as many entries as the reader has found.
fn no_name_twice(file: &File, start: u64, found: usize, limits: Limits) -> Result<(), FsError> {
    let refused = |entry: String, reason: &str| Err(FsError::Archive { entry, reason: reason.into() });
    let mut directory = BufReader::with_capacity(64 * 1024, file);
    directory.seek(SeekFrom::Start(start)).map_err(|error| unreadable(&error))?;
    let mut seen: HashSet<Vec<u8>> = HashSet::with_capacity(found);
    let mut count = 0_usize;
    loop {
        let mut header = [0; 46];
        match directory.read_exact(&mut header) {
            Ok(()) if header.starts_with(b"PK\x01\x02") => {}
            // What follows the last entry.
            Ok(()) => break,
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(unreadable(&error)),
        }
        let length = |at: usize| usize::from(u16::from_le_bytes([header[at], header[at + 1]]));
        let mut name = vec![0; length(28)];
        directory.read_exact(&mut name).map_err(|error| unreadable(&error))?;
        let rest = i64::try_from(length(30) + length(32)).expect("two short lengths");
        directory.seek_relative(rest).map_err(|error| unreadable(&error))?;
        count += 1;
        if count as u64 > limits.entries {
            return refused("(archive)".into(), "it has more entries than it says");
        }
        if let Some(name) = seen.replace(name) {
            let name = String::from_utf8_lossy(&name).escape_debug().take(200).collect();
            return refused(name, "it is there twice");
        }
    }
    if count == found { Ok(()) } else { refused("(archive)".into(), "its directory has not the entries that it says") }
}

/// How many entries an archive says it has: the end of its central directory (APPNOTE 4.3.16), or the ZIP64 one before it
/// (4.3.14).
fn announced_entries(mut file: &File) -> std::io::Result<Option<u64>> {
    let length = file.metadata()?.len();
    let tail_length = length.min(65_557 + 20);
    file.seek(SeekFrom::Start(length - tail_length))?;
    let mut tail = Vec::new();
    file.take(tail_length).read_to_end(&mut tail)?;
    let Some(at) = tail.windows(4).rposition(|window| window == b"PK\x05\x06").filter(|at| at + 22 <= tail.len())
    else {
        return Ok(None);
    };
    let short = u64::from(u16::from_le_bytes([tail[at + 10], tail[at + 11]]));
    let Some(locator) = at.checked_sub(20).filter(|at| tail[*at..].starts_with(b"PK\x06\x07")) else {
        return Ok(Some(short));
    };
    let offset = u64::from_le_bytes(tail[locator + 8..locator + 16].try_into().expect("eight bytes"));
    let mut record = [0; 40];
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(&mut record)?;
    let long = u64::from_le_bytes(record[32..40].try_into().expect("eight bytes"));
    Ok(Some(short.max(long)))
}

/// Checks every entry before any is unpacked.
fn check<R: Read + Seek>(archive: &mut ZipArchive<R>, limits: Limits) -> Result<Vec<Checked>, FsError> {
    let whole = |reason: String| FsError::Archive { entry: "(archive)".into(), reason };
    if archive.has_overlapping_files().map_err(zip_failed)? {
        return Err(whole("entries overlap".into()));
    }
    // What each path is: a directory, or a file.
    let mut seen: HashMap<ObjectPath, bool> = HashMap::new();
    let mut entries = Vec::with_capacity(archive.len());
    let (mut expanded, mut packed) = (0_u64, 0_u64);
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(zip_failed)?;
        let name = match std::str::from_utf8(entry.name_raw()) {
            Ok(name) => name.to_owned(),
            Err(_) => entry.name().map_err(zip_failed)?.into_owned(),
        };
        let refused = |reason: &str| {
            Err(FsError::Archive { entry: name.escape_debug().take(200).collect(), reason: reason.into() })
        };
        if entry.encrypted() {
            return refused("it is encrypted");
        }
        if name.contains('\\') {
            return refused("a backslash in a name is not allowed");
        }
        let mut letters = name.chars();
        if letters.next().is_some_and(|first| first.is_ascii_alphabetic()) && letters.next() == Some(':') {
            return refused("a name with a drive is not allowed");
        }
        let path = match ObjectPath::parse(&name) {
            Ok(path) => path,
            Err(FsError::Path { reason, .. }) => return refused(reason),
            Err(error) => return Err(error),
        };
        let mode = entry.unix_mode().unwrap_or(0);
        let directory = entry.is_dir() || name.ends_with('/');
        match mode & 0o170_000 {
            0 => {}
            0o040_000 if directory => {}
            0o100_000 if !directory => {}
            0o120_000 => return refused("links are not allowed"),
            _ => return refused("only files and directories are allowed"),
        }
        if !matches!(entry.compression(), CompressionMethod::Stored | CompressionMethod::Deflated) {
            return refused("its compression is not supported; store or deflate it");
        }
        if path.is_volume() {
            if directory {
                continue;
            }
            return refused("it has no name");
        }
        expanded = expanded.saturating_add(entry.size());
        packed = packed.saturating_add(entry.compressed_size());
        if expanded > limits.bytes {
            return refused(&format!("the content is larger than {} bytes (`object.max_archive_bytes`)", limits.bytes));
        }
        if expanded > RATIO_FROM && expanded / packed.max(1) > limits.ratio {
            return refused(&format!(
                "the content is more than {} times the archive (`object.max_archive_ratio`)",
                limits.ratio
            ));
        }
        if let Some(before) = seen.insert(path.clone(), directory)
            && !(before && directory)
        {
            return refused("it is there twice");
        }
        let modified = modified_of(&entry);
        entries.push(Checked { index, path, directory, mode: mode & 0o777, modified });
    }
    // A file that is also somebody's directory: in the order of their names what is below a path follows it.
    let mut ordered: Vec<&Checked> = entries.iter().collect();
    ordered.sort_unstable_by(|left, right| left.path.names().cmp(right.path.names()));
    for pair in ordered.windows(2) {
        let (upper, lower) = (pair[0], pair[1]);
        if !upper.directory && lower.path.names().starts_with(upper.path.names()) {
            return Err(FsError::Archive {
                entry: upper.path.to_string(),
                reason: "it is a file and a directory".into(),
            });
        }
    }
    Ok(entries)
}

fn modified_of<R: Read + ?Sized>(entry: &zip::read::ZipFile<'_, R>) -> Option<i64> {
    if let Some(extra) = entry.extra_data() {
        let mut rest = extra.as_slice();
        while let [a, b, c, d, tail @ ..] = rest {
            let (id, length) = (u16::from_le_bytes([*a, *b]), usize::from(u16::from_le_bytes([*c, *d])));
            if tail.len() < length {
                break;
            }
            if let (0x5455, [flags, w, x, y, z, ..]) = (id, &tail[..length])
                && flags & 1 == 1
            {
                return Some(i32::from_le_bytes([*w, *x, *y, *z]).into());
            }
            rest = &tail[length..];
        }
    }
    let moment = entry.last_modified()?;
    let date = jiff::civil::DateTime::new(
        i16::try_from(moment.year()).ok()?,
        i8::try_from(moment.month()).ok()?,
        i8::try_from(moment.day()).ok()?,
        i8::try_from(moment.hour()).ok()?,
        i8::try_from(moment.minute()).ok()?,
        i8::try_from(moment.second()).ok()?,
        0,
    );
    let zoned = date.ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    Some(zoned.timestamp().as_second())
}

/// A directory of the engine's own, removed unless it has become what it was for.
struct Staging<'p> {
    parent: &'p OwnedFd,
    name: String,
    directory: OwnedFd,
    done: bool,
}

impl<'p> Staging<'p> {
    fn make(parent: &'p OwnedFd) -> Result<Self, FsError> {
        let name = own_name("unzip");
        let system = |error| FsError::system(error, "the destination");
        rustix::fs::mkdirat(parent, name.as_str(), Mode::from_raw_mode(0o700)).map_err(system)?;
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(parent, name.as_str(), flags, Mode::empty()).map_err(system)?;
        Ok(Self { parent, name, directory, done: false })
    }

    fn fill<R: Read + Seek>(
        &self,
        archive: &mut ZipArchive<R>,
        entries: &[Checked],
        limits: Limits,
        tell: &mut Tell<'_>,
    ) -> Result<Summary, FsError> {
        let mut summary = Summary::default();
        let mut buffer = vec![0; COPY_BYTES];
        let mut directories = Vec::new();
        let mut trail = Trail::new(&self.directory);
        let sync_each = entries.len() <= SYNC_EACH;
        let mut parents_to_sync = BTreeSet::new();
        for checked in entries {
            let identity = checked.path.to_string();
            let system = |error| FsError::system(error, &identity);
            summary.entries += 1;
            let told = |summary: Summary, tell: &mut Tell<'_>| {
                let step = Step { entry: identity.clone(), entries: summary.entries, bytes: summary.bytes };
                if tell(step) { Ok(()) } else { Err(FsError::Cancelled) }
            };
            told(summary, tell)?;
            if checked.directory {
                trail.make(checked.path.names(), |_| {}).map_err(system)?;
                directories.push(checked);
                continue;
            }
            let (name, parents) = checked.path.names().split_last().expect("an entry without a name was refused");
            let directory = trail.make(parents, |_| {}).map_err(system)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mode = if checked.mode == 0 { 0o644 } else { checked.mode };
            let file =
                rustix::fs::openat(directory, name.as_slice(), flags, Mode::from_raw_mode(0o600)).map_err(system)?;
            let mut file = File::from(file);
            let mut entry = archive.by_index(checked.index).map_err(zip_failed)?;
            let announced = entry.size();
            let mut written = 0_u64;
            loop {
                let length = entry.read(&mut buffer).map_err(|error| FsError::Archive {
                    entry: identity.clone(),
                    reason: format!("its content cannot be read: {error}"),
                })?;
                if length == 0 {
                    break;
                }
                written += length as u64;
                summary.bytes += length as u64;
                if written > announced || summary.bytes > limits.bytes {
                    return Err(FsError::Archive { entry: identity, reason: "it is larger than it says".into() });
                }
                file.write_all(&buffer[..length]).map_err(|error| FsError::io(&error, &identity))?;
                told(summary, tell)?;
            }
            rustix::fs::fchmod(&file, Mode::from_raw_mode(mode)).map_err(system)?;
            set_modified(&file, checked.modified);
            if sync_each {
                file.sync_all().map_err(|error| FsError::io(&error, &identity))?;
                parents_to_sync.extend((0..=parents.len()).map(|length| &parents[..length]));
            }
        }
        // Once nothing more is put into them.
        for checked in directories.into_iter().rev() {
            if let Ok(directory) = trail.open(checked.path.names()) {
                // The owner can always enter, or nobody could remove it again.
                let mode = if checked.mode == 0 { 0o755 } else { checked.mode | 0o700 };
                let _ = rustix::fs::fchmod(directory, Mode::from_raw_mode(mode));
                set_modified(&directory, checked.modified);
            }
        }
        if sync_each {
            parents_to_sync.extend(entries.iter().filter(|entry| entry.directory).map(|entry| entry.path.names()));
            for directory in parents_to_sync.into_iter().rev() {
                if let Ok(directory) = trail.open(directory) {
                    let _ = rustix::fs::fsync(directory);
                }
            }
        } else {
            let _ = rustix::fs::syncfs(&self.directory);
        }
        Ok(summary)
    }

    /// Becomes the destination, which was not there.
    fn become_directory(mut self, name: &[u8], destination: &ObjectPath) -> Result<(), FsError> {
        let system = |error| FsError::system(error, &destination.to_string());
        rustix::fs::fchmod(&self.directory, Mode::from_raw_mode(0o755)).map_err(system)?;
        rustix::fs::renameat_with(self.parent, self.name.as_str(), self.parent, name, RenameFlags::NOREPLACE)
            .map_err(system)?;
        self.done = true;
        sync_directory(self.parent);
        Ok(())
    }

    /// Moves the entries into a directory that is there: all of them, or none.
    fn merge_into(
        self,
        into: &OwnedFd,
        entries: &[Checked],
        destination: &ObjectPath,
        replace: bool,
    ) -> Result<(), FsError> {
        let mut undo = Undo { into, kept: &self, made: Vec::new(), moved: Vec::new() };
        let (mut from, mut to) = (Trail::new(&self.directory), Trail::new(into));
        let merged = entries.iter().try_for_each(|entry| {
            let identity = destination.join_path(&entry.path).to_string();
            undo.bring(entry, replace, &mut from, &mut to).map_err(|error| FsError::system(error, &identity))
        });
        if merged.is_err() {
            undo.all();
        }
        sync_directory(into);
        merged
    }
}

impl Drop for Staging<'_> {
    fn drop(&mut self) {
        if !self.done {
            let _ = remove_at(self.parent.as_fd(), self.name.as_bytes(), FileType::Directory);
        }
    }
}

/// What has been moved into a directory, so that it can be moved back.
struct Undo<'s> {
    into: &'s OwnedFd,
    kept: &'s Staging<'s>,
    /// Directories that were made.
    made: Vec<Vec<u8>>,
    /// Files that were moved, and whether one was there before, which lies in the staging directory now.
    moved: Vec<(Vec<u8>, bool)>,
}

impl Undo<'_> {
    fn bring(&mut self, entry: &Checked, replace: bool, from: &mut Trail<'_>, to: &mut Trail<'_>) -> Result<(), Errno> {
        let names = entry.path.names();
        let parents = if entry.directory { names } else { &names[..names.len() - 1] };
        let made = &mut self.made;
        let to = to.make(parents, |path| made.push(path.join(&b'/')))?;
        if entry.directory {
            return Ok(());
        }
        let path = entry.path.system();
        let name = names.last().expect("an entry without a name was refused").as_slice();
        let from = from.open(parents)?;
        match rustix::fs::renameat_with(from, name, to, name, RenameFlags::NOREPLACE) {
            Ok(()) => self.moved.push((path, false)),
            Err(Errno::EXIST) if replace => {
                let there = rustix::fs::statat(to, name, AtFlags::SYMLINK_NOFOLLOW)?;
                if FileType::from_raw_mode(there.st_mode as _) == FileType::Directory {
                    return Err(Errno::ISDIR);
                }
                rustix::fs::renameat_with(from, name, to, name, RenameFlags::EXCHANGE)?;
                self.moved.push((path, true));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn all(&mut self) {
        while let Some((path, exchanged)) = self.moved.pop() {
            let names: Vec<Vec<u8>> = path.split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect();
            let Some((name, parents)) = names.split_last() else { continue };
            let (Ok(from), Ok(to)) = (beneath(self.into, parents), beneath(&self.kept.directory, parents)) else {
                continue;
            };
            let flags = if exchanged { RenameFlags::EXCHANGE } else { RenameFlags::NOREPLACE };
            if let Err(error) = rustix::fs::renameat_with(&from, name.as_slice(), &to, name.as_slice(), flags) {
                tracing::error!(%error, "a file of an archive that was not unpacked could not be taken back");
            }
        }
        while let Some(path) = self.made.pop() {
            let names: Vec<Vec<u8>> = path.split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect();
            let Some((name, parents)) = names.split_last() else { continue };
            if let Ok(parent) = beneath(self.into, parents) {
                let _ = rustix::fs::unlinkat(&parent, name.as_slice(), AtFlags::REMOVEDIR);
            }
        }
    }
}

/// Opens a directory below another, name by name, following no link.
fn beneath(directory: &OwnedFd, names: &[Vec<u8>]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut at = rustix::fs::openat(directory, c".", flags, Mode::empty())?;
    for name in names {
        at = rustix::fs::openat(&at, name.as_slice(), flags, Mode::empty())?;
    }
    Ok(at)
}

/// Directories below another, of which the last path's stay open: the entries of an archive are mostly beside each other,
/// and each level of a deep tree must not be walked down to from the top again.
struct Trail<'d> {
    base: &'d OwnedFd,
    levels: Vec<(Vec<u8>, OwnedFd)>,
}

impl<'d> Trail<'d> {
    fn new(base: &'d OwnedFd) -> Self {
        Self { base, levels: Vec::new() }
    }

    /// Opens a directory that is there, following no link.
    fn open(&mut self, names: &[Vec<u8>]) -> Result<BorrowedFd<'_>, Errno> {
        self.reach(names, |_, _| Ok(()))
    }

    /// Opens a directory, and makes those on the way that are not there; `made` is told the path of each.
    fn make(&mut self, names: &[Vec<u8>], mut made: impl FnMut(&[Vec<u8>])) -> Result<BorrowedFd<'_>, Errno> {
        self.reach(names, |at, path| {
            let name = path.last().expect("a path that is being walked has a name");
            match rustix::fs::mkdirat(at, name.as_slice(), Mode::from_raw_mode(0o755)) {
                Ok(()) => made(path),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
            Ok(())
        })
    }

    fn reach(
        &mut self,
        names: &[Vec<u8>],
        mut before: impl FnMut(BorrowedFd<'_>, &[Vec<u8>]) -> Result<(), Errno>,
    ) -> Result<BorrowedFd<'_>, Errno> {
        let common = self.levels.iter().zip(names).take_while(|(level, name)| level.0 == **name).count();
        self.levels.truncate(common);
        for level in common..names.len() {
            let at = self.at();
            before(at, &names[..=level])?;
            let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let opened = rustix::fs::openat(at, names[level].as_slice(), flags, Mode::empty())?;
            self.levels.push((names[level].clone(), opened));
        }
        Ok(self.at())
    }

    fn at(&self) -> BorrowedFd<'_> {
        self.levels.last().map_or(self.base.as_fd(), |(_, descriptor)| descriptor.as_fd())
    }
}

fn set_modified(file: &(impl AsFd + AsRawFd), modified: Option<i64>) {
    if let Some(seconds) = modified {
        let moment = Timespec { tv_sec: seconds, tv_nsec: 0 };
        let _ = rustix::fs::futimens(file, &Timestamps { last_access: moment, last_modification: moment });
    }
}
