//! The output log of a shell: a ring of bytes in shared memory, addressed by an absolute, ever-growing offset.
//!
//! The keeper makes the memory and keeps a descriptor of it; the engine maps it. One writer (the engine's shell actor)
//! appends, any number of readers copy out of it without a lock. The memory outlives every engine, so a new one goes
//! on exactly where the old one ended.
//!
//! # Layout
//! A header of 64 bytes, then `capacity` bytes of ring; the byte of offset `o` is at `o % capacity`.
//!
//! | header field | meaning |
//! |---|---|
//! | `committed` | the offset after the last byte that may be read; never goes back |
//! | `floor` | the oldest offset that a reader may still trust; raised **before** what lies under it is overwritten |
//! | `zeroed` | the bytes of offsets `committed..zeroed` are known to be zero |
//! | `pending` | a read from the pty may be filling `committed..pending`; 0 when none |
//!
//! # A writer that is killed
//! `read(2)` puts the terminal's bytes straight into the ring, and the process can be killed between that and the
//! publication. So the window is zeroed first and marked as pending: whoever maps the log next commits up to the
//! window's last byte that is not NUL. What is lost so is at most NULs at the end, which a terminal does not show.
//!
//! # Failure
//! Memory that is not a log of ours is refused when it is mapped. What the header says later is never used as an index
//! without `% capacity`, and the size is sealed: no content can make a reader leave the mapping.

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

/// The ring begins in the header's page: the log of a shell that says little takes one page.
const HEADER_SIZE: usize = 64;
/// What a ring's size is a multiple of.
const PAGE: u64 = 4096;
/// `dxflog` and the version of the layout.
const MAGIC: u64 = u64::from_le_bytes(*b"dxflog2\0");
/// The smallest ring: smaller ones would turn over with every read of a pty.
pub const MIN_CAPACITY: u64 = 16 << 10;
/// The largest ring.
pub const MAX_CAPACITY: u64 = 1 << 30;

/// The first bytes of the memory. All zero is a valid, empty log apart from `magic` and `capacity`.
#[repr(C)]
struct Header {
    magic: AtomicU64,
    capacity: AtomicU64,
    committed: AtomicU64,
    floor: AtomicU64,
    zeroed: AtomicU64,
    pending: AtomicU64,
    reserved: AtomicU32,
}

const _: () = assert!(size_of::<Header>() <= HEADER_SIZE);

/// The bytes that were asked for have left the ring.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the bytes before offset {oldest} are no longer kept")]
pub struct Fallen {
    /// The oldest offset that is still there.
    pub oldest: u64,
}

/// One shell's output log, mapped. Clones share the mapping.
#[derive(Clone, Debug)]
pub struct OutputLog(Arc<Mapping>);

#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    capacity: u64,
}

// SAFETY: the mapping is shared memory that lives until `drop`; its header is made of atomics, and the ring is only
// touched through raw pointers under the protocol of this module.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(memory: &OwnedFd, capacity: u64) -> io::Result<Self> {
        let length = HEADER_SIZE + usize::try_from(capacity).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let start = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                memory,
                0,
            )
        }?;
        let start = NonNull::new(start.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, capacity })
    }

    fn header(&self) -> &Header {
        // SAFETY: the mapping is longer than a header and page-aligned, and a header is nothing but atomics.
        unsafe { self.start.cast::<Header>().as_ref() }
    }

    /// The one or two stretches of memory that hold `from..from + length`; `length` is at most the capacity.
    fn pieces(&self, from: u64, length: usize) -> [(*mut u8, usize); 2] {
        debug_assert!(length as u64 <= self.capacity, "a window is never longer than the ring");
        let at = (from % self.capacity) as usize;
        let first = length.min(self.capacity as usize - at);
        // SAFETY: `at < capacity`, so both pointers are inside the ring, which begins after the header.
        let (start, rest) = unsafe {
            let ring = self.start.as_ptr().add(HEADER_SIZE);
            (ring.add(at), ring)
        };
        [(start, first), (rest, length - first)]
    }

    fn zero(&self, from: u64, length: usize) {
        for (start, length) in self.pieces(from, length) {
            // SAFETY: `pieces` gives stretches inside the ring; readers were warned off by `floor`, and only the single
            // writer writes.
            unsafe { std::ptr::write_bytes(start, 0, length) };
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `new` made, with its length; nobody holds a reference into it any more.
        let _ =
            unsafe { rustix::mm::munmap(self.start.as_ptr().cast::<c_void>(), HEADER_SIZE + self.capacity as usize) };
    }
}

/// Makes the memory of an empty log that keeps the last `capacity` bytes (within [`MIN_CAPACITY`] and
/// [`MAX_CAPACITY`], rounded up to whole pages). Pages are only used once they are written.
///
/// # Errors
/// What the system says when there is no memory or no descriptor left.
pub fn create_memory(capacity: u64) -> io::Result<OwnedFd> {
    let capacity = capacity.clamp(MIN_CAPACITY, MAX_CAPACITY).next_multiple_of(PAGE);
    let memory = rustix::fs::memfd_create("dxflow-output", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&memory, HEADER_SIZE as u64 + capacity)?;
    rustix::fs::fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW)?;
    // Fresh memory is zero: the whole first round needs no zeroing, and touches no page before it is filled.
    let fields = [MAGIC, capacity, 0, 0, capacity];
    let mut start = [0_u8; 40];
    start.as_chunks_mut::<8>().0.iter_mut().zip(fields).for_each(|(at, field)| *at = field.to_ne_bytes());
    let written = rustix::io::pwrite(&memory, &start, 0)?;
    if written != start.len() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    Ok(memory)
}

impl OutputLog {
    /// A fresh log that nobody else holds; see [`create_memory`].
    ///
    /// # Errors
    /// What the system says when there is no memory or no descriptor left.
    pub fn create(capacity: usize) -> io::Result<Self> {
        Self::map(create_memory(capacity as u64)?)
    }

    /// Maps the memory of a log, and commits what a writer that was killed left behind. The descriptor is not needed
    /// after that. There must be no other writer any more.
    ///
    /// # Errors
    /// What the system says, or `InvalidData` when the memory is not a log.
    pub fn map(memory: OwnedFd) -> io::Result<Self> {
        let wrong = || io::Error::new(io::ErrorKind::InvalidData, "the memory is not an output log");
        let size = u64::try_from(rustix::fs::fstat(&memory)?.st_size).map_err(|_| wrong())?;
        let capacity = size.checked_sub(HEADER_SIZE as u64).ok_or_else(wrong)?;
        if !(MIN_CAPACITY..=MAX_CAPACITY).contains(&capacity)
            || !rustix::fs::fcntl_get_seals(&memory)?.contains(SealFlags::SHRINK)
        {
            return Err(wrong());
        }
        let mapping = Mapping::new(&memory, capacity)?;
        let header = mapping.header();
        if header.magic.load(Ordering::Relaxed) != MAGIC || header.capacity.load(Ordering::Relaxed) != capacity {
            return Err(wrong());
        }
        let log = Self(Arc::new(mapping));
        log.recover();
        Ok(log)
    }

    /// Commits what is in a pending window, up to its last byte that is not NUL.
    fn recover(&self) {
        let header = self.0.header();
        let (committed, pending) = (self.committed(), header.pending.load(Ordering::Acquire));
        let window = pending.saturating_sub(committed).min(self.0.capacity) as usize;
        let mut filled = 0;
        let mut before = 0;
        for (start, length) in self.0.pieces(committed, window) {
            // SAFETY: a stretch inside the ring; no writer is left, so that nothing changes it.
            let bytes = unsafe { std::slice::from_raw_parts(start, length) };
            if let Some(last) = bytes.iter().rposition(|byte| *byte != 0) {
                filled = before + last + 1;
            }
            before += length;
        }
        header.committed.store(committed.saturating_add(filled as u64), Ordering::Release);
        header.pending.store(0, Ordering::Release);
    }

    /// The offset after the last byte that may be read.
    pub fn committed(&self) -> u64 {
        self.0.header().committed.load(Ordering::Acquire)
    }

    /// The offset of the oldest byte that is still there.
    pub fn oldest(&self) -> u64 {
        self.0.header().floor.load(Ordering::Acquire)
    }

    /// How many bytes the ring keeps at most; the window of a read in progress is taken from it.
    pub fn capacity(&self) -> u64 {
        self.0.capacity
    }

    /// Warns readers off everything that the window `committed..committed + length` is about to overwrite.
    fn claim(&self, committed: u64, length: usize) {
        let header = self.0.header();
        let floor = (committed + length as u64).saturating_sub(self.0.capacity);
        if floor > header.floor.load(Ordering::Relaxed) {
            header.floor.store(floor, Ordering::Release);
        }
        // A reader that sees a byte written after this sees the new floor too: it looks at the floor after its copy,
        // behind a fence of its own.
        fence(Ordering::SeqCst);
    }

    /// Reads once from `source` (at most `max` bytes) straight into the ring and publishes what came; 0 at the end of
    /// the source. For the single writer only. A read takes `max` bytes of history away, however little comes: a few
    /// KiB are right for a pty, whose reads give at most 4 KiB.
    ///
    /// # Errors
    /// What `read` says: `WouldBlock`, or `EIO` when nobody holds the other end of a pty.
    pub fn fill_from(&self, source: BorrowedFd<'_>, max: usize) -> io::Result<usize> {
        let header = self.0.header();
        let committed = self.committed();
        let max = max.clamp(1, self.0.capacity as usize / 2);
        let end = committed + max as u64;
        self.claim(committed, max);
        let zeroed = header.zeroed.load(Ordering::Relaxed).max(committed);
        if zeroed < end {
            self.0.zero(zeroed, (end - zeroed) as usize);
            header.zeroed.store(end, Ordering::Release);
        }
        header.pending.store(end, Ordering::Release);
        fence(Ordering::SeqCst);
        let pieces = self.0.pieces(committed, max);
        let vectors = pieces.map(|(start, length)| libc::iovec { iov_base: start.cast(), iov_len: length });
        // SAFETY: both vectors are stretches of the ring that only this writer touches now; the kernel writes no more
        // than their lengths.
        let count = unsafe { libc::readv(source.as_raw_fd(), vectors.as_ptr(), 2) };
        let result = usize::try_from(count).map_err(|_| io::Error::last_os_error());
        if let Ok(count) = result {
            header.committed.store(committed + count as u64, Ordering::Release);
        }
        header.pending.store(0, Ordering::Release);
        result
    }

    /// Appends bytes of the engine's own. For the single writer only.
    pub fn append(&self, bytes: &[u8]) {
        let header = self.0.header();
        for piece in bytes.chunks(self.0.capacity as usize / 2) {
            let committed = self.committed();
            self.claim(committed, piece.len());
            header.zeroed.store(0, Ordering::Release);
            fence(Ordering::SeqCst);
            let mut rest = piece;
            for (start, length) in self.0.pieces(committed, piece.len()) {
                let (now, later) = rest.split_at(length);
                // SAFETY: a stretch inside the ring of exactly `length` bytes, apart from `piece`; readers were warned
                // off and only the single writer writes.
                unsafe { std::ptr::copy_nonoverlapping(now.as_ptr(), start, length) };
                rest = later;
            }
            header.committed.store(committed + piece.len() as u64, Ordering::Release);
        }
    }

    /// Appends at most `max` bytes from offset `from` to `into`, and says how many; 0 when `from` is the committed
    /// offset (or beyond). Never a torn read.
    ///
    /// # Errors
    /// [`Fallen`] when `from` is older than the ring; `into` is as it was then.
    pub fn read(&self, from: u64, max: usize, into: &mut Vec<u8>) -> Result<usize, Fallen> {
        let committed = self.committed();
        let fallen = |oldest| if from < oldest { Err(Fallen { oldest }) } else { Ok(()) };
        fallen(self.oldest())?;
        let length = committed.saturating_sub(from).min(max as u64).min(self.0.capacity) as usize;
        let before = into.len();
        into.reserve(length);
        for (start, length) in self.0.pieces(from, length) {
            let end = into.len();
            // SAFETY: a stretch inside the ring; room was reserved. The writer may overwrite it while it is copied (it
            // is memory shared with other processes, so no reference is made to it): such a copy is thrown away below,
            // because the floor was raised before.
            unsafe {
                std::ptr::copy_nonoverlapping(start, into.as_mut_ptr().add(end), length);
                into.set_len(end + length);
            }
        }
        fence(Ordering::SeqCst);
        if let Err(error) = fallen(self.oldest()) {
            into.truncate(before);
            return Err(error);
        }
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;

    use proptest::prelude::*;

    use super::*;

    /// The byte that the tests put at an offset; never NUL.
    fn byte_at(offset: u64) -> u8 {
        (offset.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8 | 1
    }

    fn bytes_at(from: u64, length: usize) -> Vec<u8> {
        (from..from + length as u64).map(byte_at).collect()
    }

    fn dup(memory: &OwnedFd) -> OwnedFd {
        memory.try_clone().expect("a descriptor is free")
    }

    #[test]
    fn a_fresh_log_is_empty() {
        let log = OutputLog::create(1).expect("memory");
        assert_eq!((log.capacity(), log.committed(), log.oldest()), (MIN_CAPACITY, 0, 0));
        let mut into = Vec::new();
        assert_eq!(log.read(0, 10, &mut into), Ok(0));
        assert_eq!(log.read(99, 10, &mut into), Ok(0));
    }

    #[test]
    fn what_is_not_a_log_is_refused() {
        let plain = rustix::fs::memfd_create("x", MemfdFlags::CLOEXEC).expect("memfd");
        assert_eq!(OutputLog::map(plain).expect_err("empty").kind(), io::ErrorKind::InvalidData);
        let unsealed = rustix::fs::memfd_create("x", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("memfd");
        rustix::fs::ftruncate(&unsealed, 1 << 20).expect("size");
        assert!(OutputLog::map(dup(&unsealed)).is_err(), "its size may change under us");
        rustix::fs::fcntl_add_seals(&unsealed, SealFlags::SHRINK | SealFlags::GROW).expect("seal");
        assert!(OutputLog::map(unsealed).is_err(), "no magic");
        let null = std::fs::File::open("/dev/null").expect("null");
        assert!(OutputLog::map(null.into()).is_err());
    }

    #[test]
    fn bytes_that_were_read_but_not_published_are_recovered() {
        for (skip, text) in
            [(0, &b"prompt$ "[..]), (MIN_CAPACITY - 5, b"over the edge\0\0"), (100, b""), (7, b"\0a\0b\0")]
        {
            let memory = create_memory(MIN_CAPACITY).expect("memory");
            let log = OutputLog::map(dup(&memory)).expect("log");
            log.append(&bytes_at(0, skip as usize));
            // What `fill_from` does up to the moment of the kill.
            let header = log.0.header();
            log.claim(skip, 4096);
            log.0.zero(skip, 4096);
            header.zeroed.store(skip + 4096, Ordering::Release);
            header.pending.store(skip + 4096, Ordering::Release);
            for (index, byte) in text.iter().enumerate() {
                let [(at, _), _] = log.0.pieces(skip + index as u64, 1);
                // SAFETY: inside the ring, and the test is its only user.
                unsafe { at.write(*byte) };
            }
            drop(log);

            let log = OutputLog::map(memory).expect("log");
            let kept = text.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            assert_eq!(log.committed(), skip + kept as u64);
            let mut into = Vec::new();
            log.read(skip, 100, &mut into).expect("there");
            assert_eq!(into, text[..kept]);
            // And it goes on as if nothing had been.
            let (reader, mut writer) = std::io::pipe().expect("pipe");
            writer.write_all(b"next").expect("room");
            assert_eq!(log.fill_from(reader.as_fd(), 4096).expect("bytes"), 4);
            into.clear();
            log.read(skip + kept as u64, 100, &mut into).expect("there");
            assert_eq!(into, b"next");
        }
    }

    #[test]
    fn an_idle_read_changes_nothing() {
        let log = OutputLog::create(MIN_CAPACITY as usize).expect("memory");
        let (reader, writer) = std::io::pipe().expect("pipe");
        rustix::io::ioctl_fionbio(&reader, true).expect("non-blocking");
        assert_eq!(log.fill_from(reader.as_fd(), 4096).expect_err("empty").kind(), io::ErrorKind::WouldBlock);
        drop(writer);
        assert_eq!(log.fill_from(reader.as_fd(), 4096).expect("end"), 0);
        assert_eq!(log.committed(), 0);
    }

    #[test]
    fn a_reader_never_sees_a_torn_byte() {
        let log = OutputLog::create(MIN_CAPACITY as usize).expect("memory");
        let total = 8 << 20;
        let reader = {
            let log = log.clone();
            std::thread::spawn(move || {
                let (mut at, mut seen, mut into) = (0, 0_u64, Vec::new());
                while at < total {
                    into.clear();
                    match log.read(at, 5000, &mut into) {
                        Ok(count) => {
                            assert!(into.iter().copied().eq((at..at + count as u64).map(byte_at)), "torn at {at}");
                            at += count as u64;
                            seen += count as u64;
                        }
                        Err(Fallen { oldest }) => {
                            assert!(oldest > at);
                            at = oldest;
                        }
                    }
                }
                seen
            })
        };
        let mut at = 0;
        while at < total {
            let length = (at % 3001 + 1).min(total - at);
            log.append(&bytes_at(at, length as usize));
            at += length;
        }
        assert!(reader.join().expect("no torn read") > 0);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Append(usize),
        Fill(usize, usize),
        Remap,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..40_000_usize).prop_map(Step::Append),
            (0..6000_usize, 1..6000_usize).prop_map(|(bytes, max)| Step::Fill(bytes, max)),
            Just(Step::Remap),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_log_is_the_tail_of_all_that_was_written(steps in prop::collection::vec(step(), 1..40)) {
            let memory = create_memory(MIN_CAPACITY).expect("memory");
            let mut log = OutputLog::map(dup(&memory)).expect("log");
            let mut end = 0_u64;
            for step in steps {
                match step {
                    Step::Append(length) => {
                        log.append(&bytes_at(end, length));
                        end += length as u64;
                    }
                    Step::Fill(length, max) => {
                        let (reader, mut writer) = std::io::pipe().expect("pipe");
                        writer.write_all(&bytes_at(end, length)).expect("room");
                        drop(writer);
                        end += log.fill_from(reader.as_fd(), max).expect("bytes") as u64;
                    }
                    Step::Remap => log = OutputLog::map(dup(&memory)).expect("log"),
                }
                prop_assert_eq!(log.committed(), end);
                prop_assert!(end - log.oldest() <= MIN_CAPACITY);
                prop_assert!(end - log.oldest() >= end.min(MIN_CAPACITY / 2));
                let mut into = Vec::new();
                let all = log.read(log.oldest(), usize::MAX, &mut into).expect("there");
                prop_assert_eq!(all as u64, end - log.oldest());
                prop_assert_eq!(into, bytes_at(log.oldest(), all));
                if log.oldest() > 0 {
                    prop_assert_eq!(log.read(log.oldest() - 1, 1, &mut Vec::new()), Err(Fallen { oldest: log.oldest() }));
                }
            }
        }
    }
}
