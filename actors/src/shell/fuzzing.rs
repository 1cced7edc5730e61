//! What the fuzzer drives: output on its way through the log, the timeline and a snapshot into a fresh terminal, which must
//! equal one that was there all along.
//!
//! The input is what a program writes, with marks in it that no UTF-8 text has: [`LOOK`] attaches a viewer there, [`RESIZE`]
//! and two bytes change the size.

use super::modes::Modes;
use super::screen::Screen;
use super::timeline::{Base, RESIZES, RESIZES_AT_ONCE, Timeline};
use crate::output_log::{MIN_CAPACITY, OutputLog};

/// A viewer comes.
pub(crate) const LOOK: u8 = 0xf8;
/// The terminal gets the columns and rows that follow.
pub(crate) const RESIZE: u8 = 0xf9;

/// The most columns and rows; larger terminals only cost time.
const LARGEST: (u8, u8) = (90, 40);

/// What makes two terminals the same.
pub(crate) type State = (Vec<Vec<avt::Cell>>, String, avt::Cursor, Modes, Vec<u8>);

/// Everything of a screen that a viewer, or a program, can tell.
pub(crate) fn state(screen: &Screen) -> State {
    let terminal = screen.terminal();
    let lines = terminal.screen().visible_lines().map(|line| line.cells().to_vec()).collect();
    let mut modes = screen.modes().clone();
    // Conservative only: a snapshot cannot tell "never set" from "set to the whole screen".
    modes.forget_suspicions();
    (lines, terminal.dump(), terminal.cursor(), modes, screen.tail().to_vec())
}

/// Checks that two terminals are the same.
///
/// # Panics
/// When they are not.
pub(crate) fn same(live: &Screen, fresh: &Screen, when: &str) {
    let (live, fresh) = (state(live), state(fresh));
    assert_eq!(live.1, fresh.1, "{when}");
    assert_eq!(live.3, fresh.3, "{when}");
    assert!(live == fresh, "{when}: {live:?} {fresh:?}");
}

fn size(columns: u8, rows: u8) -> (u16, u16) {
    (u16::from(columns % LARGEST.0) + 1, u16::from(rows % LARGEST.1) + 1)
}

/// One run of the fuzzer. The first two bytes are the size.
///
/// # Panics
/// When a fresh terminal differs.
pub(crate) fn terminal(data: &[u8]) {
    let [columns, rows, output @ ..] = data else { return };
    let (columns, rows) = size(*columns, *rows);
    let log = OutputLog::create(MIN_CAPACITY as usize).expect("memory");
    let mut timeline = Timeline::new(Base::blank(0, columns, rows), Vec::new());
    let mut live = Screen::new(columns, rows, 0);
    let mut viewer: Option<Screen> = None;
    let (mut sizes, mut total) = (Vec::new(), 0);
    let mut rest = output;
    while !rest.is_empty() {
        let length = rest.iter().position(|byte| matches!(*byte, LOOK | RESIZE)).unwrap_or(rest.len()).min(4000);
        let (piece, after) = rest.split_at(length);
        rest = after;
        // As the pump does it.
        if log.committed() - timeline.newest().offset > log.capacity() / 2 {
            let mut replay = timeline.replay(false, 0);
            replay.run(&log, log.committed()).expect("the newest base is in the ring");
            timeline.add(replay.base());
            timeline.forget_before(log.oldest());
        }
        log.append(piece);
        live.feed(piece);
        if let Some(viewer) = &mut viewer {
            viewer.feed(piece);
            same(&live, viewer, "later");
        }
        match rest {
            [LOOK, after @ ..] => {
                rest = after;
                timeline.forget_before(log.oldest());
                let mut replay = timeline.replay(after.len() % 2 == 0, 0);
                replay.run(&log, log.committed()).expect("the base is in the ring");
                let (columns, rows) = replay.size();
                let mut fresh = Screen::new(columns, rows, 0);
                fresh.feed(b"\x1b[31mused before\x1b[?1049h\x1b[?1003h");
                fresh.feed(&replay.snapshot(true));
                same(&live, &fresh, "at once");
                if let Some(raw) = timeline.raw_snapshot(&log, log.committed()) {
                    let mut fresh = Screen::new(columns, rows, 0);
                    fresh.feed(b"\x1b[31mused before\x1b[?1049h\x1b[?1003h");
                    fresh.feed(&raw);
                    same(&live, &fresh, "raw");
                }
                viewer = Some(fresh);
            }
            [RESIZE, columns, rows, after @ ..] => {
                rest = after;
                let (columns, rows) = size(*columns, *rows);
                // How a terminal's contents flow into another size is its own affair, and the program draws anew.
                viewer = None;
                if sizes.last().is_some_and(|at| *at != log.committed()) {
                    sizes.clear();
                }
                // Of more than these, and of more in all, the timeline keeps only what matters.
                total += 1;
                if sizes.len() < RESIZES_AT_ONCE && total < RESIZES {
                    sizes.push(log.committed());
                    timeline.resize(log.committed(), columns, rows);
                    live.resize(columns, rows);
                }
            }
            [RESIZE, ..] => return,
            _ => {}
        }
    }
}
