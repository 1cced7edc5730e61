//! What the programs of a shell have done to the local terminal, as far as it must be undone on leaving: private modes
//! (alternate screen, mouse, bracketed paste, hidden cursor), application keypad, scroll region.
//!
//! It reads the output along, byte by byte, and keeps a handful of numbers. It draws nothing.

use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Private modes that are on in a terminal that nobody has touched: they are set again, not reset.
const ON_BY_DEFAULT: [u16; 2] = [7, 25];
/// Modes that show the alternate screen.
const ALTERNATE_SCREEN: [u16; 3] = [47, 1047, 1049];
/// Longer sequences than this are none of those that count.
const LONGEST_SEQUENCE: usize = 64;

#[derive(Debug, Default)]
enum State {
    #[default]
    Ground,
    Escape,
    /// After `ESC [`: what came since.
    Sequence(Vec<u8>),
}

/// What has been changed.
#[derive(Debug, Default)]
pub(crate) struct Modes {
    state: State,
    /// Private modes that are not as they are by default.
    changed: BTreeSet<u16>,
    keypad: bool,
    region: bool,
}

impl Modes {
    /// Reads output along.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.state = match (std::mem::take(&mut self.state), byte) {
                (_, 0x1b) => State::Escape,
                (State::Escape, b'[') => State::Sequence(Vec::new()),
                (State::Escape, b'=' | b'>') => {
                    self.keypad = byte == b'=';
                    State::Ground
                }
                (State::Escape, b'c') => {
                    *self = Self::default();
                    State::Ground
                }
                (State::Sequence(sequence), 0x40..=0x7e) => {
                    self.apply(&sequence, byte);
                    State::Ground
                }
                (State::Sequence(mut sequence), _) if sequence.len() < LONGEST_SEQUENCE => {
                    sequence.push(byte);
                    State::Sequence(sequence)
                }
                _ => State::Ground,
            };
        }
    }

    fn apply(&mut self, sequence: &[u8], end: u8) {
        match (sequence, end) {
            ([b'?', numbers @ ..], b'h' | b'l') => {
                let numbers = numbers.split(|byte| *byte == b';');
                for number in numbers.filter_map(|text| std::str::from_utf8(text).ok()?.parse::<u16>().ok()) {
                    if ALTERNATE_SCREEN.contains(&number) {
                        // Three names for one thing: whichever comes last says how it is.
                        self.changed.retain(|mode| !ALTERNATE_SCREEN.contains(mode));
                    }
                    if (end == b'h') == ON_BY_DEFAULT.contains(&number) {
                        self.changed.remove(&number);
                    } else {
                        self.changed.insert(number);
                    }
                }
            }
            (sequence, b'r') => {
                self.region = sequence.iter().all(|byte| byte.is_ascii_digit() || *byte == b';') && !sequence.is_empty()
            }
            (b"!", b'p') => {
                self.region = false;
                self.keypad = false;
            }
            _ => {}
        }
    }

    /// Whether a full-screen program holds the alternate screen.
    pub(crate) fn alternate_screen(&self) -> bool {
        ALTERNATE_SCREEN.iter().any(|mode| self.changed.contains(mode))
    }

    /// What makes the terminal as it was.
    pub(crate) fn undo(&self) -> String {
        let mut text = String::new();
        if self.region {
            // Setting the region moves the cursor: it is put back.
            text.push_str("\x1b7\x1b[r\x1b8");
        }
        for mode in &self.changed {
            let end = if ON_BY_DEFAULT.contains(mode) { 'h' } else { 'l' };
            let _ = write!(text, "\x1b[?{mode}{end}");
        }
        if self.keypad {
            text.push_str("\x1b>");
        }
        text.push_str("\x1b[0m");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_was_changed_is_undone() {
        for (output, undo) in [
            ("plain \x1b[1;31mtext\x1b[0m", "\x1b[0m"),
            ("\x1b[?1049h\x1b[?25l\x1b[?1000;1006h\x1b=", "\x1b[?25h\x1b[?1000l\x1b[?1006l\x1b[?1049l\x1b>\x1b[0m"),
            ("\x1b[?1049h\x1b[?1049l\x1b[?25l\x1b[?25h", "\x1b[0m"),
            ("\x1b[?1047h\x1b[?1049l", "\x1b[0m"),
            ("\x1b[2;5r", "\x1b7\x1b[r\x1b8\x1b[0m"),
            ("\x1b[2;5r\x1b[r", "\x1b[0m"),
            ("\x1b[?2004h\x1bc", "\x1b[0m"),
            ("\x1b[?20\x1b[?2004h", "\x1b[?2004l\x1b[0m"),
        ] {
            let mut modes = Modes::default();
            for byte in output.bytes() {
                modes.feed(&[byte]);
            }
            assert_eq!(modes.undo(), undo, "{output:?}");
        }
    }

    proptest! {
        #[test]
        fn no_output_makes_it_panic_or_grow(bytes: Vec<u8>) {
            let mut modes = Modes::default();
            modes.feed(&bytes);
            modes.undo();
        }
    }
}
