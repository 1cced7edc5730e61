//! What is needed to rebuild a shell's screen as it was at any offset that the output log still has.
//!
//! A list of *bases* (a snapshot, the offset it stands for, the size it had) and of the changes of size since. The screen at
//! an offset is the nearest base before it, fed with the log's bytes up to there. Nothing is emulated while nobody looks:
//! an emulator exists only while it is rebuilt, and a new base is made only when the ring is about to pass the last one
//! but one. An idle shell keeps no emulator at all.
//!
//! The newest base is also in the shell's note at the keeper, so that a restarted engine begins there. A base is never
//! dropped before the one after it has been noted; so the screen is exact after a `kill -9` too. The one exception: a
//! snapshot that is longer than a note can be (a large screen full of colours). Then a restarted engine rebuilds from the
//! ring alone, and full-screen programs are exact again after their next redraw.

use std::collections::VecDeque;
use std::sync::Arc;

use super::screen::Screen;
use crate::output_log::{Fallen, OutputLog};

/// How many bytes are emulated before others get their turn.
pub(crate) const STEP: usize = 16 << 10;

/// A screen at one offset.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Base {
    /// The bytes up to here are in the snapshot.
    pub(crate) offset: u64,
    pub(crate) columns: u16,
    pub(crate) rows: u16,
    /// What brings a fresh terminal there; empty for a blank screen.
    pub(crate) snapshot: Arc<[u8]>,
}

impl Base {
    /// A blank screen.
    pub(crate) fn blank(offset: u64, columns: u16, rows: u16) -> Self {
        Self { offset, columns, rows, snapshot: Arc::from([]) }
    }
}

/// A change of size: the bytes from `offset` on are for this one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Resize {
    pub(crate) offset: u64,
    pub(crate) columns: u16,
    pub(crate) rows: u16,
}

/// Bases and changes of size, in the order of their offsets. There is always a base.
#[derive(Debug)]
pub(crate) struct Timeline {
    bases: VecDeque<Base>,
    resizes: VecDeque<Resize>,
}

impl Timeline {
    /// Begins at `base`, with the changes of size since.
    pub(crate) fn new(base: Base, resizes: Vec<Resize>) -> Self {
        let resizes = resizes.into_iter().filter(|resize| resize.offset >= base.offset).collect();
        Self { bases: VecDeque::from([base]), resizes }
    }

    /// The size that the terminal has now.
    pub(crate) fn size(&self) -> (u16, u16) {
        let newest = self.newest();
        self.resizes.back().map_or((newest.columns, newest.rows), |resize| (resize.columns, resize.rows))
    }

    /// Notes a change of size at `offset`.
    pub(crate) fn resize(&mut self, offset: u64, columns: u16, rows: u16) {
        // Of several at one offset only the last was ever drawn in.
        self.resizes.pop_back_if(|resize| resize.offset == offset);
        self.resizes.push_back(Resize { offset, columns, rows });
    }

    /// The newest base.
    pub(crate) fn newest(&self) -> &Base {
        self.bases.back().expect("there is always a base")
    }

    /// Changes of size after the newest base.
    pub(crate) fn recent_resizes(&self) -> Vec<Resize> {
        let from = self.newest().offset;
        self.resizes.iter().filter(|resize| resize.offset >= from).copied().collect()
    }

    /// Adds a base that was made by [`Replay`].
    pub(crate) fn add(&mut self, base: Base) {
        if base.offset > self.newest().offset {
            self.bases.push_back(base);
        }
    }

    /// Forgets the bases that are older than `oldest`, except the newest, and the changes of size before the first base.
    pub(crate) fn forget_before(&mut self, oldest: u64) {
        while self.bases.len() > 1 && self.bases[0].offset < oldest {
            self.bases.pop_front();
        }
        let from = self.bases[0].offset;
        while self.resizes.front().is_some_and(|resize| resize.offset < from) {
            self.resizes.pop_front();
        }
    }

    /// Begins to rebuild the screen, from the newest base or from the oldest (which gives more scrollback).
    pub(crate) fn replay(&self, from_oldest: bool, scrollback: usize) -> Replay {
        let base = if from_oldest { &self.bases[0] } else { self.newest() };
        let mut screen = Screen::new(base.columns, base.rows, scrollback);
        screen.feed(&base.snapshot);
        // A base that was made at the very offset of a change of size has the new size already; resizing again is harmless.
        let resizes = self.resizes.iter().filter(|resize| resize.offset >= base.offset).copied().collect();
        Replay { screen, offset: base.offset, size: (base.columns, base.rows), resizes, buffer: Vec::new() }
    }
}

/// A screen that is being rebuilt.
pub(crate) struct Replay {
    screen: Screen,
    offset: u64,
    size: (u16, u16),
    resizes: VecDeque<Resize>,
    buffer: Vec<u8>,
}

impl Replay {
    /// Follows the log by at most [`STEP`] bytes towards `to`; `true` when it is there.
    ///
    /// # Errors
    /// [`Fallen`] when the ring has passed what is needed.
    pub(crate) fn step(&mut self, log: &OutputLog, to: u64) -> Result<bool, Fallen> {
        while let Some(resize) = self.resizes.front().copied()
            && resize.offset <= self.offset
        {
            self.screen.resize(resize.columns, resize.rows);
            self.size = (resize.columns, resize.rows);
            self.resizes.pop_front();
        }
        let until = self.resizes.front().map_or(to, |resize| resize.offset.min(to));
        let wanted = usize::try_from(until.saturating_sub(self.offset)).unwrap_or(STEP).min(STEP);
        if wanted == 0 {
            return Ok(true);
        }
        self.buffer.clear();
        let count = log.read(self.offset, wanted, &mut self.buffer)?;
        self.screen.feed(&self.buffer);
        self.offset += count as u64;
        Ok(count == 0 || (self.offset >= to && self.resizes.front().is_none_or(|resize| resize.offset > to)))
    }

    /// Follows the log up to `to`.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub(crate) fn run(&mut self, log: &OutputLog, to: u64) -> Result<(), Fallen> {
        while !self.step(log, to)? {}
        Ok(())
    }

    /// The offset that the screen stands for.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// The size that it has there.
    pub(crate) fn size(&self) -> (u16, u16) {
        self.size
    }

    /// The bytes that bring a fresh terminal to it.
    pub(crate) fn snapshot(&self, scrollback: bool) -> Vec<u8> {
        self.screen.snapshot(scrollback)
    }

    /// The screen as a base.
    pub(crate) fn into_base(self) -> Base {
        let (columns, rows) = self.size;
        Base { offset: self.offset, columns, rows, snapshot: self.screen.snapshot(false).into() }
    }
}
