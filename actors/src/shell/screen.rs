//! The screen of a shell: a terminal emulator, and the bytes that bring a fresh terminal to the same state.
//!
//! Pure: knows no log and no task. The emulator (avt) keeps both screens, attributes, the cursor, margins, tabs, charsets;
//! [`Modes`] keeps what it does not. A snapshot begins with a hard reset (`ESC c`), so that it is right for a terminal that
//! has been used too; it never holds a query, since the answer would be typed into the shell.
//!
//! Not kept: combining marks and joiners (the character before them stays), hyperlinks, a changed palette, images, underline styles and colours beyond plain underline.

use std::fmt::Write as _;

use avt::{Color, Pen, ScreenKind, Terminal};
use unicode_width::UnicodeWidthChar;

use super::modes::Modes;
use super::skip::{self, Shortcut};

/// Text shorter than this is not worth looking for lines that scroll away unseen.
const SKIP_FROM: usize = 4096;
/// How much is followed before text that may be skipped is looked for again.
const PIECE: usize = 1024;

/// The most characters that one repetition writes, on however large a screen.
const MOST_REPEATS: u32 = 10_000;
/// The character that once filled paper tape.
const DELETE: char = '\u{7f}';

/// A terminal that follows a shell's output.
pub(crate) struct Screen {
    terminal: Terminal,
    modes: Modes,
    /// The beginning of a character whose rest has not come yet.
    tail: Vec<u8>,
    scrollback: usize,
}

impl Screen {
    /// A blank screen that keeps `scrollback` lines above it.
    pub(crate) fn new(columns: u16, rows: u16, scrollback: usize) -> Self {
        let (columns, rows) = (usize::from(columns.max(1)), usize::from(rows.max(1)));
        let terminal = Terminal::with_scrollback(columns, rows, Some(scrollback)).expect("both are at least one");
        Self { terminal, modes: Modes::default(), tail: Vec::new(), scrollback }
    }

    /// Follows output; characters and sequences may be cut anywhere.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        let mut bytes = bytes;
        while !self.tail.is_empty() && !bytes.is_empty() {
            self.tail.push(bytes[0]);
            bytes = &bytes[1..];
            let tail = std::mem::take(&mut self.tail);
            self.feed_chunks(&tail);
        }
        self.feed_chunks(bytes);
    }

    fn feed_chunks(&mut self, bytes: &[u8]) {
        // Most output is text to its end, which is found out much faster than where its chunks are.
        let valid = std::str::from_utf8(bytes).map_or_else(|error| error.valid_up_to(), str::len);
        let (text, bytes) = bytes.split_at(valid);
        self.feed_text(std::str::from_utf8(text).unwrap_or_default());
        let mut chunks = bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            self.feed_text(chunk.valid());
            let invalid = chunk.invalid();
            if invalid.is_empty() {
                continue;
            }
            if chunks.peek().is_none() && is_incomplete(invalid) {
                self.tail = invalid.to_vec();
            } else {
                self.feed_text("\u{fffd}");
            }
        }
    }

    fn feed_text(&mut self, text: &str) {
        let mut rest = text;
        while let Some((at, next)) = next_invisible(rest) {
            self.feed_visible(&rest[..at]);
            let after = at + next.len_utf8();
            // In a title a mark is text like any other.
            if next != DELETE && !self.modes.is_ground() {
                self.feed_visible(&rest[at..after]);
            }
            rest = &rest[after..];
        }
        self.feed_visible(rest);
    }

    fn feed_visible(&mut self, text: &str) {
        let mut rest = text;
        while !rest.is_empty() {
            let worth = rest.len() >= SKIP_FROM && self.modes.is_ground();
            let harmless = if worth { skip::harmless(rest.as_bytes()) } else { 0 };
            if harmless >= SKIP_FROM {
                self.feed_harmless(&rest[..harmless]);
                rest = &rest[harmless..];
            } else {
                let piece = rest.floor_char_boundary(harmless + PIECE);
                self.feed_followed(&rest[..piece]);
                rest = &rest[piece..];
            }
        }
    }

    fn feed_followed(&mut self, text: &str) {
        let most = self.most_repeats();
        let mut rest = text;
        while let Some(end) = self.modes.feed(rest, most) {
            // Eight bytes may ask for 65,535 characters. Taken back before its last character, and asked for anew.
            self.terminal.feed(&rest[..end - 1]);
            self.terminal.feed(format!("\u{18}\u{1b}[{most}b"));
            rest = &rest[end..];
        }
        self.terminal.feed(rest);
    }

    /// Follows text that is harmless (see [`skip`]); what would scroll away within it is left out.
    fn feed_harmless(&mut self, text: &str) {
        let (columns, rows) = self.terminal.size();
        let scrolls = !self.modes.margins() && self.terminal.active_screen_kind() == ScreenKind::Primary;
        match skip::shortcut(text, columns, rows, self.scrollback).filter(|_| scrolls) {
            Some(Shortcut::LastLines { colours, text }) => {
                self.terminal.feed(format!("{colours}\u{1b}[{rows};1H"));
                self.terminal.feed(text);
            }
            Some(Shortcut::LongLine { before, after }) if !self.modes.may_not_wrap() => {
                self.terminal.feed(before);
                self.terminal.feed(after);
            }
            _ => self.terminal.feed(text),
        }
    }

    /// A repetition fills the screen and no more, as in xterm.
    fn most_repeats(&self) -> u32 {
        let (columns, rows) = self.terminal.size();
        u32::try_from(columns * rows).map_or(MOST_REPEATS, |screen| screen.min(MOST_REPEATS))
    }

    /// Changes the size; the contents flow as in the terminals of those who watch.
    pub(crate) fn resize(&mut self, columns: u16, rows: u16) {
        self.terminal.resize(usize::from(columns.max(1)), usize::from(rows.max(1)));
    }

    /// The bytes that bring a terminal of this size to this state, the unfinished character and sequence included.
    /// `scrollback` says whether the lines above the screen come too.
    pub(crate) fn snapshot(&self, scrollback: bool) -> Vec<u8> {
        let mut text = String::from("\u{1b}c");
        self.modes.write(&mut text);
        if scrollback {
            self.write_scrollback(&mut text);
        }
        let dump = self.terminal.dump();
        let (body, pending) = split_pending(&dump);
        plain_form(body, &mut text);
        if pending.is_empty() == self.modes.is_ground() && !self.modes.is_skipping() {
            text.push_str(self.modes.pending());
        } else {
            seven_bit(pending, &mut text);
        }
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(&self.tail);
        bytes
    }

    #[cfg(any(test, fuzzing))]
    pub(crate) fn terminal(&self) -> &Terminal {
        &self.terminal
    }

    #[cfg(any(test, fuzzing))]
    pub(crate) fn modes(&self) -> &Modes {
        &self.modes
    }

    #[cfg(any(test, fuzzing))]
    pub(crate) fn tail(&self) -> &[u8] {
        &self.tail
    }

    /// The column of the cursor, from 0.
    pub(crate) fn cursor_column(&self) -> usize {
        self.terminal.cursor().col
    }

    fn write_scrollback(&self, text: &mut String) {
        let (_, rows) = self.terminal.size();
        let screen = self.terminal.primary_screen();
        let above = screen.all_lines().count().saturating_sub(rows);
        if above == 0 {
            return;
        }
        let skipped = above.saturating_sub(self.scrollback);
        let mut pen = None;
        for line in screen.all_lines().take(above).skip(skipped) {
            let mut cells = line.cells();
            if !line.is_wrapped() {
                let end =
                    cells.iter().rposition(|cell| cell.char() != ' ' || cell.pen() != &DEFAULT_PEN.with(Pen::clone));
                cells = &cells[..end.map_or(0, |end| end + 1)];
            }
            for cell in cells {
                if cell.width() == 0 {
                    continue;
                }
                if pen.as_ref() != Some(cell.pen()) {
                    write_pen(cell.pen(), text);
                    pen = Some(*cell.pen());
                }
                text.push(cell.char());
            }
            if !line.is_wrapped() {
                text.push_str("\u{1b}[m\r\n");
                pen = None;
            }
        }
        text.push_str("\u{1b}[m");
        // Whatever of it is still on the screen is pushed above.
        text.push('\r');
        text.extend(std::iter::repeat_n('\n', rows));
        text.push_str("\u{1b}[H");
    }
}

thread_local! {
    /// The pen of a fresh terminal, for which avt has no public constructor.
    static DEFAULT_PEN: Pen = *Terminal::new(1, 1)
        .expect("one by one is a size")
        .screen()
        .line(0)
        .expect("there is one row")
        .cells()[0]
        .pen();
}

/// The next character that takes no column: the emulator would give it one, and shift the rest of its line. Terminals do
/// nothing at DEL. Combining marks, joiners and variation selectors belong to the character before them; a cell of the
/// emulator has no room for them.
fn next_invisible(text: &str) -> Option<(usize, char)> {
    if text.is_ascii() {
        return text.find(DELETE).map(|at| (at, DELETE));
    }
    // A soft hyphen has a column in terminals.
    text.char_indices().find(|(_, next)| *next == DELETE || *next > '\u{ad}' && next.width() == Some(0))
}

/// Whether `bytes` can be the beginning of a character.
fn is_incomplete(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).err().is_some_and(|error| error.error_len().is_none())
}

/// Splits the emulator's dump into what has ended and the beginning of a sequence.
fn split_pending(dump: &str) -> (&str, &str) {
    let at = dump.find(|next| ('\u{80}'..='\u{9f}').contains(&next)).or_else(|| {
        let trimmed = dump.trim_end_matches(|next: char| ('\u{20}'..='\u{2f}').contains(&next));
        let dangling = trimmed.ends_with('\u{1b}') && dump.len() - trimmed.len() <= 1;
        dangling.then(|| trimmed.len() - 1)
    });
    dump.split_at(at.unwrap_or(dump.len()))
}

/// Writes `dump` with repeated characters written out and colours in the form that every terminal reads.
fn plain_form(dump: &str, into: &mut String) {
    let mut rest = dump;
    while let Some(at) = rest.find("\u{1b}[") {
        into.push_str(&rest[..at]);
        rest = &rest[at..];
        let Some(end) = rest[2..].find(|next: char| ('@'..='~').contains(&next)) else { break };
        let (sequence, after) = rest.split_at(end + 3);
        rest = after;
        match sequence.as_bytes()[sequence.len() - 1] {
            b'b' => {
                let count = sequence[2..sequence.len() - 1].parse::<usize>().unwrap_or(1);
                match into.chars().next_back() {
                    // Blanks up to the end of a line are nothing that a reader would miss.
                    Some(' ') if after.starts_with("\r\n") => into.push_str(sequence),
                    Some(last) => into.extend(std::iter::repeat_n(last, count)),
                    None => {}
                }
            }
            b'm' => into.extend(sequence.chars().map(|next| if next == ':' { ';' } else { next })),
            _ => into.push_str(sequence),
        }
    }
    into.push_str(rest);
}

/// Writes an unfinished sequence with its introducer in the form that every terminal reads.
fn seven_bit(pending: &str, into: &mut String) {
    for next in pending.chars() {
        match next {
            '\u{90}'..='\u{9f}' => {
                into.push('\u{1b}');
                into.push(char::from(next as u8 - 0x40));
            }
            _ => into.push(next),
        }
    }
}

fn write_pen(pen: &Pen, into: &mut String) {
    into.push_str("\u{1b}[0");
    let flags = [
        (pen.is_bold(), 1),
        (pen.is_faint(), 2),
        (pen.is_italic(), 3),
        (pen.is_underline(), 4),
        (pen.is_blink(), 5),
        (pen.is_inverse(), 7),
        (pen.is_strikethrough(), 9),
    ];
    for (_, number) in flags.iter().filter(|(set, _)| *set) {
        let _ = write!(into, ";{number}");
    }
    for (colour, base) in [(pen.foreground(), 30), (pen.background(), 40)] {
        let _ = match colour {
            None => Ok(()),
            Some(Color::Indexed(index @ 0..8)) => write!(into, ";{}", base + u16::from(index)),
            Some(Color::Indexed(index @ 8..16)) => write!(into, ";{}", base + 52 + u16::from(index)),
            Some(Color::Indexed(index)) => write!(into, ";{};5;{index}", base + 8),
            Some(Color::RGB(rgb)) => write!(into, ";{};2;{};{};{}", base + 8, rgb.r, rgb.g, rgb.b),
        };
    }
    into.push('m');
}

#[cfg(test)]
#[path = "screen_tests.rs"]
mod tests;
