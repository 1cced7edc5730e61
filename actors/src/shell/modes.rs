//! What the emulator does not keep of a terminal's state: the title, mouse and paste modes, the keypad, the cursor's style.
//!
//! Reads the same text as the emulator with a small parser of its own, and writes the sequences that bring a fresh terminal
//! to the same modes. It also remembers the beginning of a sequence that has not ended yet, byte by byte, and whether
//! scroll margins may be set. It keeps no hyperlinks and no palette; nothing it writes is a query.

/// The longest title, and the longest unfinished sequence, that is kept, in bytes.
const MAX_TEXT: usize = 1024;
/// How many titles and keyboard settings a program may push.
const MAX_STACK: usize = 8;

/// Private modes that are kept, each off in a fresh terminal.
const KEPT: [u16; 15] = [5, 9, 12, 45, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1007, 1015, 1016, 2004];
/// Of these, the ways to track the mouse: one at a time.
const TRACKING: [u16; 5] = [9, 1000, 1001, 1002, 1003];
/// And the ways to encode its position: one at a time.
const ENCODING: [u16; 4] = [1005, 1006, 1015, 1016];

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum State {
    #[default]
    Ground,
    Escape,
    EscapeIntermediate,
    Csi,
    Osc,
    /// DCS, SOS, PM, APC: skipped to their end.
    Text,
}

/// The modes, and the parser that follows them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Modes {
    state: State,
    /// The unfinished sequence from its introducer on, in seven-bit form.
    pending: String,
    title: Option<String>,
    titles: Vec<Option<String>>,
    set: Vec<u16>,
    keypad: bool,
    cursor_style: u16,
    modify_other_keys: u16,
    keyboard: Vec<u16>,
    margins: bool,
    /// Automatic wrapping may be off.
    no_wrap: bool,
    /// It may be off in a cursor that was saved.
    no_wrap_saved: bool,
}

impl Modes {
    /// Follows `text`, and stops behind a repetition (REP) of more than `most` characters: returns where it ends.
    pub(crate) fn feed(&mut self, text: &str, most: u32) -> Option<usize> {
        let mut rest = text;
        while !rest.is_empty() {
            if self.state == State::Ground {
                let start = rest.bytes().position(|byte| byte == 0x1b || byte == 0xc2)?;
                rest = &rest[start..];
            }
            let mut chars = rest.chars();
            if let Some(next) = chars.next() {
                let repeats = self.state == State::Csi && next == 'b' && self.repeats() > most;
                self.step(next);
                rest = chars.as_str();
                if repeats {
                    return Some(text.len() - rest.len());
                }
            }
        }
        None
    }

    /// How often the sequence that is unfinished would repeat a character, if it were a repetition.
    fn repeats(&self) -> u32 {
        let digits = self.pending[2..].split([';', ':']).next().unwrap_or("");
        if digits.bytes().all(|byte| byte.is_ascii_digit()) {
            digits.parse().unwrap_or(u32::from(!digits.is_empty()) * u32::MAX)
        } else {
            0
        }
    }

    fn step(&mut self, next: char) {
        // In a sequence, what is not ASCII ends it, as for the emulator: the two are never in different states.
        let in_sequence = matches!(self.state, State::Escape | State::EscapeIntermediate | State::Csi);
        let next = if in_sequence && next >= '\u{a0}' { '\u{41}' } else { next };
        match (self.state, next) {
            (_, '\u{1b}') => {
                self.finish_osc();
                self.begin(State::Escape, "\u{1b}");
            }
            (_, '\u{90}') => self.begin(State::Text, "\u{1b}P"),
            (_, '\u{98}' | '\u{9e}' | '\u{9f}') => self.begin(State::Text, "\u{1b}X"),
            (_, '\u{9b}') => self.begin(State::Csi, "\u{1b}["),
            (_, '\u{9d}') => self.begin(State::Osc, "\u{1b}]"),
            (_, '\u{9c}') => {
                self.finish_osc();
                self.end();
            }
            (_, '\u{18}' | '\u{1a}' | '\u{80}'..='\u{9a}') => self.end(),
            (State::Ground, _) => {}
            (State::Escape, '[') => self.begin(State::Csi, "\u{1b}["),
            (State::Escape, ']') => self.begin(State::Osc, "\u{1b}]"),
            (State::Escape, 'P') => self.begin(State::Text, "\u{1b}P"),
            (State::Escape, 'X' | '^' | '_') => self.begin(State::Text, "\u{1b}X"),
            (State::Escape | State::EscapeIntermediate, '\u{20}'..='\u{2f}') => {
                self.state = State::EscapeIntermediate;
                self.pending.truncate(1);
                self.pending.push(next);
            }
            (State::Escape, _) if next >= ' ' && next != '\u{7f}' => {
                self.escape(next);
                self.end();
            }
            (State::EscapeIntermediate, '0'..='~') => self.end(),
            (State::Csi, '@'..='~') => {
                let sequence = std::mem::take(&mut self.pending);
                self.csi(&sequence[2..], next);
                self.end();
            }
            (State::Csi, ' '..='?') => self.keep(next),
            (State::Osc, '\u{07}') => {
                self.finish_osc();
                self.end();
            }
            (State::Osc, _) if next >= ' ' => self.keep(next),
            _ => {}
        }
    }

    fn begin(&mut self, state: State, introducer: &str) {
        self.state = state;
        self.pending.clear();
        self.pending.push_str(introducer);
    }

    fn end(&mut self) {
        self.state = State::Ground;
        self.pending.clear();
        self.pending.shrink_to(64);
    }

    fn keep(&mut self, next: char) {
        if self.pending.len() + next.len_utf8() <= MAX_TEXT {
            self.pending.push(next);
        }
    }

    fn escape(&mut self, last: char) {
        match last {
            '7' => self.no_wrap_saved |= self.no_wrap,
            '8' => self.no_wrap |= self.no_wrap_saved,
            '=' => self.keypad = true,
            '>' => self.keypad = false,
            'c' => {
                // A hard reset leaves the title alone, as xterm does.
                let title = self.title.take();
                *self = Self { title, ..Self::default() };
            }
            _ => {}
        }
    }

    fn csi(&mut self, sequence: &str, last: char) {
        let (prefix, rest) = match sequence.as_bytes().first() {
            Some(b'<'..=b'?') => (sequence.as_bytes()[0], &sequence[1..]),
            _ => (0, sequence),
        };
        let parameters = rest.trim_end_matches([' ', '!', '"', '#', '$', '%', '&', '\'', '(', ')', '*', '+']);
        let intermediate = rest.as_bytes().get(parameters.len()).copied().unwrap_or(0);
        let mut numbers = parameters.split([';', ':']).map(|number| number.parse::<u16>().unwrap_or(0));
        match (prefix, intermediate, last) {
            (b'?', 0, 'h') => numbers.for_each(|mode| self.private(mode, true)),
            (b'?', 0, 'l') => numbers.for_each(|mode| self.private(mode, false)),
            (0, b'!', 'p') => {
                self.keypad = false;
                self.margins = false;
            }
            (0, b' ', 'q') => self.cursor_style = numbers.next().unwrap_or(0),
            (0, 0, 's') => self.no_wrap_saved |= self.no_wrap,
            (0, 0, 'u') => self.no_wrap |= self.no_wrap_saved,
            (0, 0, 'r') => self.margins = !parameters.is_empty(),
            (b'>', 0, 'm') if numbers.next() == Some(4) => self.modify_other_keys = numbers.next().unwrap_or(0),
            (b'>', 0, 'u') if self.keyboard.len() < MAX_STACK => self.keyboard.push(numbers.next().unwrap_or(0)),
            (b'<', 0, 'u') => {
                let count = usize::from(numbers.next().unwrap_or(0)).max(1);
                self.keyboard.truncate(self.keyboard.len().saturating_sub(count));
            }
            (0, 0, 't') => match (numbers.next(), numbers.next().unwrap_or(0)) {
                (Some(22), 0 | 2) if self.titles.len() < MAX_STACK => self.titles.push(self.title.clone()),
                (Some(23), 0 | 2) => {
                    if let Some(title) = self.titles.pop() {
                        self.title = title;
                    }
                }
                _ => {}
            },
            _ => {}
        }
    }

    fn private(&mut self, mode: u16, on: bool) {
        match mode {
            7 => self.no_wrap = !on,
            1048 | 1049 if on => self.no_wrap_saved |= self.no_wrap,
            1048 | 1049 => self.no_wrap |= self.no_wrap_saved,
            _ => {}
        }
        if !KEPT.contains(&mode) {
            return;
        }
        for group in [&TRACKING[..], &ENCODING[..]] {
            if group.contains(&mode) {
                self.set.retain(|set| !group.contains(set));
            }
        }
        self.set.retain(|set| *set != mode);
        if on {
            self.set.push(mode);
        }
    }

    fn finish_osc(&mut self) {
        if self.state != State::Osc {
            return;
        }
        if let Some((command, text)) = self.pending[2..].split_once(';')
            && matches!(command, "0" | "2")
        {
            self.title = Some(text.into());
        }
    }

    /// Whether no sequence is unfinished.
    pub(crate) fn is_ground(&self) -> bool {
        self.state == State::Ground
    }

    /// Whether a string is passing whose text is not kept.
    pub(crate) fn is_skipping(&self) -> bool {
        self.state == State::Text
    }

    /// Whether scroll margins may be set.
    pub(crate) fn margins(&self) -> bool {
        self.margins
    }

    /// Whether lines may not wrap by themselves.
    pub(crate) fn may_not_wrap(&self) -> bool {
        self.no_wrap
    }

    /// Forgets what is only ever suspected.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn forget_suspicions(&mut self) {
        (self.margins, self.no_wrap, self.no_wrap_saved) = (false, false, false);
    }

    /// The title, if one was set.
    #[cfg(test)]
    pub(crate) fn title(&self) -> Option<&str> {
        self.title.as_deref()
    }

    /// The beginning of the sequence that has not ended yet.
    pub(crate) fn pending(&self) -> &str {
        &self.pending
    }

    /// Writes what brings a terminal that was just reset to these modes.
    pub(crate) fn write(&self, into: &mut String) {
        use std::fmt::Write as _;

        for title in &self.titles {
            // One that was pushed before any was set is pushed as whatever the terminal has.
            if let Some(title) = title {
                let _ = write!(into, "\u{1b}]2;{title}\u{7}");
            }
            into.push_str("\u{1b}[22;2t");
        }
        if let Some(title) = &self.title {
            let _ = write!(into, "\u{1b}]2;{title}\u{7}");
        }
        for mode in &self.set {
            let _ = write!(into, "\u{1b}[?{mode}h");
        }
        if self.keypad {
            into.push_str("\u{1b}=");
        }
        if self.cursor_style != 0 {
            let _ = write!(into, "\u{1b}[{} q", self.cursor_style);
        }
        if self.modify_other_keys != 0 {
            let _ = write!(into, "\u{1b}[>4;{}m", self.modify_other_keys);
        }
        for flags in &self.keyboard {
            let _ = write!(into, "\u{1b}[>{flags}u");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn after(text: &str) -> Modes {
        let mut modes = Modes::default();
        modes.feed(text, u32::MAX);
        modes
    }

    #[test]
    fn modes_are_followed() {
        assert_eq!(after("\x1b]0;vim\x07").title(), Some("vim"));
        assert_eq!(after("\x1b]2;a;b\x1b\\").title(), Some("a;b"));
        assert_eq!(after("\x1b]2;a\x07\x1b[22;2t\x1b]2;b\x07\x1b[23;2t").title(), Some("a"));
        assert_eq!(after("\x1b[?1000h\x1b[?1006h\x1b[?1003h\x1b[?2004h").set, [1006, 1003, 2004]);
        assert_eq!(after("\x1b[?1002;1006h\x1b[?1002l").set, [1006]);
        assert_eq!(after("\x1b[?2004h\x1bc"), Modes::default());
        assert_eq!(after("\x1b[4 q").cursor_style, 4);
        assert!(after("\x1b=").keypad && !after("\x1b=\x1b>").keypad);
        assert!(after("\x1b[2;5r").margins() && !after("\x1b[2;5r\x1b[r").margins());
        assert_eq!(after("\x1b[?10").pending(), "\x1b[?10");
    }

    proptest! {
        #[test]
        fn what_is_written_gives_the_same_modes(
            text in r"(\x1b\[\?(5|12|1000|1002|1003|1004|1006|2004)[hl]|\x1b[=>c]|\x1b\[[0-6] q|\x1b\][02];[a-zé;]{0,9}\x07|\x1b\[>[0-3]u|\x1b\[<u|\x1b\[2[23];2t|x){0,30}",
        ) {
            let modes = after(&text);
            let mut written = String::from("\x1bc");
            modes.write(&mut written);
            let mut again = after(&written);
            let mut modes = modes;
            modes.forget_suspicions();
            again.forget_suspicions();
            prop_assert_eq!(modes, again);
        }

        #[test]
        fn any_text_in_any_pieces_is_the_same(text in any::<String>(), cut in any::<prop::sample::Index>()) {
            let mut pieces = Modes::default();
            let mut cut = if text.is_empty() { 0 } else { cut.index(text.len()) };
            while !text.is_char_boundary(cut) { cut -= 1; }
            pieces.feed(&text[..cut], u32::MAX);
            pieces.feed(&text[cut..], u32::MAX);
            prop_assert_eq!(after(&text), pieces);
        }
    }
}
