//! The output log of a shell: a ring of bytes in shared memory, addressed by an absolute, ever-growing offset.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

/// The bytes that were asked for have left the ring.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the bytes before offset {oldest} are no longer kept")]
pub struct Fallen {
    /// The oldest offset that is still there.
    pub oldest: u64,
}

/// One shell's output log. Clones share the memory.
#[derive(Clone, Debug)]
pub struct OutputLog {}

impl OutputLog {
    /// A fresh log that keeps the last `capacity` bytes.
    ///
    /// # Errors
    /// What the system says when there is no memory or no descriptor left.
    pub fn create(_capacity: usize) -> io::Result<Self> {
        unreachable!()
    }

    /// Maps the log that the keeper holds, and commits what a writer that was killed left behind.
    ///
    /// # Errors
    /// What the system says, or `InvalidData` when the memory is not a log.
    pub fn map(_memory: OwnedFd) -> io::Result<Self> {
        unreachable!()
    }

    /// The memory, to be handed to the keeper or a reader.
    pub fn memory(&self) -> BorrowedFd<'_> {
        unreachable!()
    }

    /// The offset after the last byte that may be read.
    pub fn committed(&self) -> u64 {
        unreachable!()
    }

    /// The offset of the oldest byte that is still there.
    pub fn oldest(&self) -> u64 {
        unreachable!()
    }

    /// How many bytes the ring keeps.
    pub fn capacity(&self) -> u64 {
        unreachable!()
    }

    /// Reads once from `source` (at most `max` bytes) straight into the ring and publishes what came; 0 at the end of
    /// the source. For the single writer only.
    ///
    /// # Errors
    /// What `read` says: `WouldBlock`, or `EIO` when nobody holds the other end of a pty.
    pub fn fill_from(&self, _source: BorrowedFd<'_>, _max: usize) -> io::Result<usize> {
        unreachable!()
    }

    /// Appends bytes of the engine's own. For the single writer only.
    pub fn append(&self, _bytes: &[u8]) {
        unreachable!()
    }

    /// Appends at most `max` bytes from offset `from` to `into`, and says how many; 0 when `from` is the committed
    /// offset (or beyond). Never a torn read.
    ///
    /// # Errors
    /// [`Fallen`] when `from` is older than the ring.
    pub fn read(&self, _from: u64, _max: usize, _into: &mut Vec<u8>) -> Result<usize, Fallen> {
        unreachable!()
    }
}
