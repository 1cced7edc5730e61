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
use std::time::{Duration, Instant};

use super::screen::Screen;
use super::skip;
use crate::output_log::{Fallen, OutputLog};

/// How many bytes are emulated before others get their turn.
pub(crate) const STEP: usize = 128 << 10;
/// How many bytes are emulated between two looks at the clock.
const PIECE: usize = 4 << 10;
/// How long a step takes, unless one piece takes longer.
const TURN: Duration = Duration::from_millis(10);

/// Up to how many bytes a shell's whole output may be its snapshot.
const RAW: usize = 2 << 10;
/// How many changes of size at one offset are told apart.
pub(crate) const RESIZES_AT_ONCE: usize = 4;
/// How many changes of size are kept.
pub(crate) const RESIZES: usize = 512;

/// A screen at one offset.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Base {
    /// The bytes up to here are in the snapshot.
    pub(crate) offset: u64,
    pub(crate) columns: u16,
    pub(crate) rows: u16,
    /// What brings a fresh terminal there; empty for a blank screen.
    pub(crate) snapshot: Arc<[u8]>,
    /// The number of the last change of size that is in it.
    pub(crate) resizes: u64,
}

impl Base {
    /// A blank screen.
    pub(crate) fn blank(offset: u64, columns: u16, rows: u16) -> Self {
        Self { offset, columns, rows, snapshot: Arc::from([]), resizes: 0 }
    }
}

/// Changes of size as they are noted: offset, columns, rows.
pub(crate) type Sizes = Vec<(u64, u16, u16)>;

/// A change of size: the bytes from `offset` on are for this one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Resize {
    /// Counts changes of size, from 1: several may be at one offset.
    pub(crate) number: u64,
    pub(crate) offset: u64,
    pub(crate) columns: u16,
    pub(crate) rows: u16,
}

/// Bases and changes of size, in the order of their offsets. There is always a base.
#[derive(Debug)]
pub(crate) struct Timeline {
    bases: VecDeque<Base>,
    resizes: VecDeque<Resize>,
    /// The number of the last change of size.
    number: u64,
}

impl Timeline {
    /// Begins at `base`, with the changes of size since.
    pub(crate) fn new(mut base: Base, resizes: Sizes) -> Self {
        base.resizes = 0;
        let mut timeline = Self { bases: VecDeque::from([base]), resizes: VecDeque::new(), number: 0 };
        for (offset, columns, rows) in resizes {
            timeline.resize(offset, columns, rows);
        }
        timeline
    }

    /// The size that the terminal has now.
    pub(crate) fn size(&self) -> (u16, u16) {
        let newest = self.newest();
        self.resizes.back().map_or((newest.columns, newest.rows), |resize| (resize.columns, resize.rows))
    }

    /// Notes a change of size at `offset`.
    pub(crate) fn resize(&mut self, offset: u64, columns: u16, rows: u16) {
        self.number += 1;
        let here = self.resizes.iter().rev().take_while(|resize| resize.offset == offset).count();
        if here >= RESIZES_AT_ONCE {
            // Somebody drags a window over a silent shell: what was between is on nobody's screen.
            self.resizes.pop_back();
        }
        if self.resizes.len() >= RESIZES {
            self.resizes.pop_front();
        }
        self.resizes.push_back(Resize { number: self.number, offset, columns, rows });
    }

    /// The newest base.
    pub(crate) fn newest(&self) -> &Base {
        self.bases.back().expect("there is always a base")
    }

    /// Changes of size after the newest base: offset, columns, rows.
    pub(crate) fn recent_resizes(&self) -> Sizes {
        let after = self.newest().resizes;
        let recent = self.resizes.iter().filter(|resize| resize.number > after);
        recent.map(|resize| (resize.offset, resize.columns, resize.rows)).collect()
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
        let after = self.bases[0].resizes;
        while self.resizes.front().is_some_and(|resize| resize.number <= after) {
            self.resizes.pop_front();
        }
    }

    /// Begins to rebuild the screen, from the newest base or from the oldest (which gives more scrollback).
    pub(crate) fn replay(&self, from_oldest: bool, scrollback: usize) -> Replay {
        let base = if from_oldest { &self.bases[0] } else { self.newest() };
        let mut screen = Screen::new(base.columns, base.rows, scrollback);
        screen.feed(&base.snapshot);
        let resizes = self.resizes_after(base.resizes);
        let size = (base.columns, base.rows);
        Replay { screen, offset: base.offset, size, resizes, applied: base.resizes, buffer: Vec::new() }
    }

    /// A snapshot that needs no emulator: all that a shell has written so far, when it is little and harmless text (which
    /// holds no query, and no bell).
    pub(crate) fn raw_snapshot(&self, log: &OutputLog, to: u64) -> Option<Vec<u8>> {
        let base = &self.bases[0];
        let length = usize::try_from(to.checked_sub(base.offset)?).ok().filter(|length| *length <= RAW)?;
        if !base.snapshot.is_empty() || self.number > 0 {
            return None;
        }
        let mut bytes = b"\x1bc".to_vec();
        log.read(base.offset, length, &mut bytes).ok().filter(|count| *count == length)?;
        let text = &bytes[2..];
        (skip::harmless(text) == length && !text.contains(&0x07)).then_some(bytes)
    }

    /// Has a replay of which the newest base was made go on from there; nothing when that was another one.
    pub(crate) fn go_on(&self, mut replay: Replay) -> Option<Replay> {
        let newest = self.newest();
        let same = replay.offset == newest.offset && replay.applied == newest.resizes;
        same.then(|| {
            replay.resizes = self.resizes_after(replay.applied);
            replay
        })
    }

    fn resizes_after(&self, number: u64) -> VecDeque<Resize> {
        self.resizes.iter().filter(|resize| resize.number > number).copied().collect()
    }
}

/// A screen that is being rebuilt.
pub(crate) struct Replay {
    screen: Screen,
    offset: u64,
    size: (u16, u16),
    resizes: VecDeque<Resize>,
    /// The number of the last change of size that was followed.
    applied: u64,
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
            self.applied = resize.number;
            self.resizes.pop_front();
        }
        let until = self.resizes.front().map_or(to, |resize| resize.offset.min(to));
        let wanted = usize::try_from(until.saturating_sub(self.offset)).unwrap_or(STEP).min(STEP);
        if wanted == 0 {
            return Ok(true);
        }
        self.buffer.clear();
        let mut count = log.read(self.offset, wanted, &mut self.buffer)?;
        let began = Instant::now();
        let mut at = 0;
        while at < count && (at == 0 || began.elapsed() < TURN) {
            let rest = &self.buffer[at..count];
            // Only sequences can be dear; other text goes faster the more of it there is.
            let piece = skip::harmless(rest).max(PIECE).min(rest.len());
            self.screen.feed(&rest[..piece]);
            at += piece;
        }
        count = at;
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
    pub(crate) fn base(&self) -> Base {
        let (columns, rows) = self.size;
        let snapshot = self.screen.snapshot(false).into();
        Base { offset: self.offset, columns, rows, snapshot, resizes: self.applied }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What happens to a shell: output, or a new size.
    #[derive(Clone, Debug)]
    enum Step {
        Output(String),
        Resize(u16, u16),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let piece =
            r"([ -~]{1,60}\r\n|[é漢🙂]{1,9}|\x1b\[[0-9]{1,2};[0-9]{1,2}H|\x1b\[3[1-7]m|\x1b\[\?1049[hl]|\x1b\[K){1,20}";
        let step = prop_oneof![
            12 => (piece, 1usize..40).prop_map(|(piece, times)| Step::Output(piece.repeat(times))),
            1 => (10u16..100, 3u16..40).prop_map(|(columns, rows)| Step::Resize(columns, rows)),
        ];
        prop::collection::vec(step, 1..40)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_rebuilt_screen_is_the_live_one(steps in steps()) {
            let log = OutputLog::create(64 << 10).expect("memory");
            let mut live = Screen::new(80, 24, 0);
            let mut timeline = Timeline::new(Base::blank(0, 80, 24), Vec::new());
            let mut last: Option<Replay> = None;
            for step in steps {
                match step {
                    Step::Output(text) => {
                        for chunk in text.as_bytes().chunks(4000) {
                            // As the pump does it.
                            if log.committed() - timeline.newest().offset > log.capacity() / 2 {
                                let going_on = last.take().and_then(|replay| timeline.go_on(replay));
                                let mut replay = going_on.unwrap_or_else(|| timeline.replay(false, 0));
                                replay.run(&log, log.committed()).expect("the newest base is in the ring");
                                timeline.add(replay.base());
                                timeline.forget_before(log.oldest());
                                last = Some(replay);
                            }
                            log.append(chunk);
                            live.feed(chunk);
                        }
                    }
                    Step::Resize(columns, rows) => {
                        let here = timeline.resizes.iter().filter(|resize| resize.offset == log.committed()).count();
                        if here < RESIZES_AT_ONCE {
                            timeline.resize(log.committed(), columns, rows);
                            live.resize(columns, rows);
                        }
                    }
                }
                timeline.forget_before(log.oldest());
                for from_oldest in [false, true] {
                    let mut replay = timeline.replay(from_oldest, 0);
                    replay.run(&log, log.committed()).expect("the base is in the ring");
                    prop_assert_eq!(replay.offset(), log.committed());
                    prop_assert_eq!(
                        String::from_utf8_lossy(&replay.snapshot(false)).into_owned(),
                        String::from_utf8_lossy(&live.snapshot(false)).into_owned()
                    );
                }
            }
        }
    }
}
