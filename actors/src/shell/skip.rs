//! What need not be emulated of a flood, because it scrolls away unseen.
//!
//! Pure: reads text, knows no emulator. *Harmless* text moves the cursor within its line and onwards, and nothing else:
//! characters, ends of lines, tabs, colours, erasing in a line. On a screen without margins, harmless text that goes on for
//! long enough pushes everything before its last lines out of sight, so these lines, in the right colours, are all that the
//! emulator has to see. The emulator is by far the slowest part of a flood.

/// The longest sequence that is looked at; a longer one is not harmless.
const LONGEST: usize = 64;

/// How many bytes at the beginning of `bytes` are harmless. A sequence that is cut at the end is not.
pub(crate) fn harmless(bytes: &[u8]) -> usize {
    let mut at = 0;
    loop {
        at += printable(&bytes[at..]);
        match bytes.get(at) {
            None => return at,
            Some(b'\r' | b'\n' | b'\t' | 0x07) => at += 1,
            // U+0080 to U+009F are controls.
            Some(0xc2) if bytes.get(at + 1).is_some_and(|next| *next >= 0xa0) => at += 2,
            Some(next) if *next >= 0x80 && *next != 0xc2 => at += 1,
            Some(0x1b) => match sequence(&bytes[at..]) {
                Some((length, b'm' | b'K' | b'C' | b'D' | b'G' | b'P' | b'X' | b'@')) => at += length,
                _ => return at,
            },
            Some(_) => return at,
        }
    }
}

/// How many bytes at the beginning are printable ASCII.
fn printable(bytes: &[u8]) -> usize {
    const LANES: usize = 32;
    let is_printable = |byte: u8| byte.wrapping_sub(0x20) < 0x5f;
    let whole = bytes.chunks_exact(LANES);
    // Without a branch within the lanes, so that the compiler makes one comparison of them.
    let lanes = whole.take_while(|lane| lane.iter().fold(true, |all, byte| all & is_printable(*byte))).count();
    let rest = bytes[lanes * LANES..].iter().take_while(|byte| is_printable(**byte)).count();
    lanes * LANES + rest
}

/// The length and the last byte of the control sequence (`CSI` with numbers only) that `bytes` begins with.
fn sequence(bytes: &[u8]) -> Option<(usize, u8)> {
    let parameters = bytes.strip_prefix(b"\x1b[")?;
    let end = parameters.iter().take(LONGEST).position(|byte| !matches!(byte, b'0'..=b'9' | b';' | b':'))?;
    let last = parameters[end];
    (0x40..0x7f).contains(&last).then_some((end + 3, last))
}

/// What stands for a harmless text on a screen without margins.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Shortcut<'a> {
    /// These colours, then the last row, then this end of the text, which begins a line.
    LastLines { colours: String, text: &'a str },
    /// All but a piece from the middle, in which one long line goes on. Only where lines wrap.
    LongLine { before: &'a str, after: &'a str },
}

/// How `text`, which is harmless, leaves the same screen of `columns` by `rows`, with `above` lines over it, by less.
pub(crate) fn shortcut(text: &str, columns: usize, rows: usize, above: usize) -> Option<Shortcut<'_>> {
    last_lines(text, rows, above).or_else(|| long_line(text, columns, rows, above))
}

fn last_lines(text: &str, rows: usize, above: usize) -> Option<Shortcut<'_>> {
    let bytes = text.as_bytes();
    let mut ends = memchr::memrchr_iter(b'\n', bytes);
    let start = ends.nth(rows + above)?;
    // The carriage return says which column comes next.
    let start = std::iter::once(start).chain(ends).find(|at| *at > 0 && bytes[at - 1] == b'\r')? + 1;
    // The cursor is on the last row by then if as many lines as there are rows have ended before.
    if memchr::memchr_iter(b'\n', &bytes[..start]).take(rows).count() < rows {
        return None;
    }
    Some(Shortcut::LastLines { colours: colours(&text[..start]), text: &text[start..] })
}

/// The changes of colour in `text`, which is harmless, that are not taken back within it.
fn colours(text: &str) -> String {
    let mut kept = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('\u{1b}') {
        rest = &rest[at..];
        let Some((length, last)) = sequence(rest.as_bytes()) else { break };
        if last == b'm' {
            if matches!(&rest[2..length - 1], "" | "0" | "00") || rest[2..].starts_with("0;") {
                kept.clear();
            }
            kept.push_str(&rest[..length]);
        }
        rest = &rest[length..];
    }
    kept
}

/// Lines that wrap repeat their columns: whole rows may be taken out of a run of characters of one column each, when
/// enough of it is left to fill the screen.
fn long_line(text: &str, columns: usize, rows: usize, above: usize) -> Option<Shortcut<'_>> {
    let bytes = text.as_bytes();
    let needed = (rows + above + 1) * columns;
    let mut start = 0;
    let mut longest = (0, 0);
    while start < bytes.len() {
        let length = printable(&bytes[start..]);
        if length > longest.1 {
            longest = (start, length);
        }
        start += length;
        start += sequence(&bytes[start..]).map_or(1, |(length, _)| length);
    }
    let (from, length) = longest;
    let spare = length.checked_sub(needed)? / columns * columns;
    (spare > needed).then(|| Shortcut::LongLine { before: &text[..from], after: &text[from + spare..] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn harmless_text_ends_where_the_cursor_could_go_back() {
        for (text, length) in [
            ("", 0),
            ("plain\r\n\ttext \u{e9}\u{6f22}", 18),
            ("\x1b[31mred\x1b[0m\x1b[K", 15),
            ("x\x1b[H", 1),
            ("x\x1b[?25l", 1),
            ("x\x1b[>4m", 1),
            ("x\x1b[3", 1),
            ("x\x1b", 1),
            ("x\x08", 1),
            ("x\u{9b}1m", 1),
            ("x\u{a0}", 3),
            ("x\x7f", 1),
        ] {
            assert_eq!(harmless(text.as_bytes()), length, "{text:?}");
        }
        assert_eq!(harmless(b"x\xc2"), 1);
        assert_eq!(harmless(format!("{}\x1bM", "y".repeat(100)).as_bytes()), 100);
        assert_eq!(harmless(format!("\x1b[{}m", "1;".repeat(100)).as_bytes()), 0);
    }

    #[test]
    fn what_is_left_ends_the_text() {
        let text = "\x1b[1mline\r\n".repeat(100);
        let Some(Shortcut::LastLines { colours, text: rest }) = shortcut(&text, 10, 4, 2) else { panic!("a shortcut") };
        assert_eq!(rest, "\x1b[1mline\r\n".repeat(6));
        assert_eq!(colours, "\x1b[1m".repeat(94));
        let reset = "\x1b[1mline\x1b[m\r\n".repeat(100);
        let Some(Shortcut::LastLines { colours, .. }) = shortcut(&reset, 10, 4, 2) else { panic!("a shortcut") };
        assert_eq!(colours, "\x1b[m");
        let long = format!("ab\r\n{}\r\nc", "x".repeat(1234));
        let Some(Shortcut::LongLine { before, after }) = shortcut(&long, 10, 4, 2) else { panic!("a shortcut") };
        assert_eq!((before, after.len()), ("ab\r\n", 74 + 3));
        assert_eq!(shortcut("short\r\n", 10, 4, 2), None);
    }
}
