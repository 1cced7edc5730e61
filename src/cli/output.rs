//! What a command writes: results on the standard output, everything else on the standard error.
//!
//! For a person a list is a table with a header; for a program that reads along it is one line a row, tabs between, no
//! header; with `--json` it is the JSON that the engine answered. Text from the engine never reaches a terminal with
//! control characters in it.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};

use serde_json::Value;

use super::error::{CliError, Done};

/// How results are written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    pub(crate) json: bool,
    pub(crate) color: bool,
    /// Whether the standard output is a terminal.
    pub(crate) terminal: bool,
    pub(crate) verbose: u8,
}

impl Output {
    pub(crate) fn new(json: bool, no_color: bool, verbose: u8) -> Self {
        let terminal = std::io::stdout().is_terminal();
        let no_color = no_color || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { json, color: terminal && !no_color, terminal, verbose }
    }

    /// Writes a JSON value on a line of its own.
    pub(crate) fn json(&self, value: &Value) -> Done {
        let mut text = serde_json::to_vec(value).map_err(|error| CliError::failed("failed to write JSON", error))?;
        text.push(b'\n');
        self.raw(&text)
    }

    /// Writes a line of text.
    pub(crate) fn line(&self, text: impl AsRef<str>) -> Done {
        self.raw(format!("{}\n", text.as_ref()).as_bytes())
    }

    /// Writes bytes as they are.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Done {
        let mut out = std::io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush()).map_err(output_error)
    }

    /// Writes to the standard error.
    pub(crate) fn note(&self, text: impl AsRef<str>) {
        // Nothing can be done for a person who closed it.
        let _ = writeln!(std::io::stderr(), "{}", text.as_ref());
    }

    /// Writes to the standard error, if more is to be told.
    pub(crate) fn detail(&self, text: impl AsRef<str>) {
        if self.verbose > 0 {
            self.note(text);
        }
    }

    /// Writes a table.
    pub(crate) fn table(&self, table: &Table) -> Done {
        if table.rows.is_empty() && self.terminal {
            self.note("nothing there");
            return Ok(());
        }
        self.raw(table.render(self.terminal, self.color).as_bytes())
    }

    /// Writes a table that is read by people wherever it goes.
    pub(crate) fn report(&self, table: &Table) -> Done {
        self.raw(table.render(true, self.color).as_bytes())
    }

    /// Writes what is known of one thing, a line a property.
    pub(crate) fn properties(&self, properties: &[(&str, String)]) -> Done {
        let width = properties.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let mut text = String::new();
        for (name, value) in properties {
            if value.is_empty() {
                continue;
            }
            if self.terminal {
                let name = self.paint(Style::Faint, &format!("{name:<width$}"));
                let _ = writeln!(text, "{name}  {}", clean(value));
            } else {
                let _ = writeln!(text, "{name}\t{}", clean(value));
            }
        }
        self.raw(text.as_bytes())
    }

    /// Text in a style, where there is colour.
    pub(crate) fn paint(&self, style: Style, text: &str) -> String {
        if self.color { style.paint(text) } else { text.to_owned() }
    }
}

/// Turns a failure to write the output into its error.
pub(crate) fn output_error(error: std::io::Error) -> CliError {
    match error.kind() {
        std::io::ErrorKind::BrokenPipe => CliError::OutputClosed,
        _ => CliError::failed("failed to write the output", error),
    }
}

/// How a word looks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Style {
    Plain,
    Header,
    Faint,
    Good,
    Warning,
    Bad,
    Directory,
}

impl Style {
    fn paint(self, text: &str) -> String {
        let code = match self {
            _ if text.is_empty() => return String::new(),
            Self::Plain => return text.to_owned(),
            Self::Header => "1",
            Self::Faint => "2",
            Self::Good => "32",
            Self::Warning => "33",
            Self::Bad => "31",
            Self::Directory => "1;34",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// The style of a state's name, whosever state it is.
    pub(crate) fn of_state(state: &str) -> Self {
        match state {
            "executed" | "running" | "healthy" | "ok" | "up" => Self::Good,
            "created" | "paused" | "partial" | "degraded" | "starting" | "restarting" => Self::Warning,
            "failed" | "killed" | "dead" | "unhealthy" | "down" => Self::Bad,
            "exited" | "stopped" | "removed" => Self::Faint,
            _ => Self::Plain,
        }
    }
}

/// Where a column's text stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// Rows under a header.
#[derive(Debug)]
pub(crate) struct Table {
    header: Vec<(&'static str, Align)>,
    rows: Vec<Vec<(String, Style)>>,
}

impl Table {
    pub(crate) fn new(header: &[(&'static str, Align)]) -> Self {
        Self { header: header.to_vec(), rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: Vec<(String, Style)>) {
        self.rows.push(cells.into_iter().map(|(text, style)| (clean(&text), style)).collect());
    }

    fn render(&self, for_people: bool, color: bool) -> String {
        let mut text = String::new();
        if !for_people {
            for row in &self.rows {
                let cells: Vec<&str> = row.iter().map(|(text, _)| text.as_str()).collect();
                let _ = writeln!(text, "{}", cells.join("\t"));
            }
            return text;
        }
        let widths: Vec<usize> = (0..self.header.len())
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column)).map(|(text, _)| width(text));
                cells.chain([self.header[column].0.len()]).max().unwrap_or(0)
            })
            .collect();
        let header: Vec<_> = self.header.iter().map(|(name, _)| ((*name).to_owned(), Style::Header)).collect();
        for row in std::iter::once(&header).chain(&self.rows) {
            let mut line = String::new();
            for (column, (cell, style)) in row.iter().enumerate() {
                if column > 0 {
                    line.push_str("  ");
                }
                let space = " ".repeat(widths[column].saturating_sub(width(cell)));
                let painted = if color { style.paint(cell) } else { cell.clone() };
                match self.header[column].1 {
                    Align::Right => {
                        line.push_str(&space);
                        line.push_str(&painted);
                    }
                    Align::Left => {
                        line.push_str(&painted);
                        line.push_str(&space);
                    }
                }
            }
            let _ = writeln!(text, "{}", line.trim_end());
        }
        text
    }
}

/// How many columns a text takes; good enough for names (wide characters count twice).
fn width(text: &str) -> usize {
    text.chars()
        .map(|c| match u32::from(c) {
            0x300..=0x36f | 0x200b..=0x200f | 0xfe00..=0xfe0f => 0,
            0x1100..=0x115f | 0x2e80..=0xa4cf | 0xac00..=0xd7a3 | 0xf900..=0xfaff | 0xfe30..=0xfe6f => 2,
            0xff00..=0xff60 | 0xffe0..=0xffe6 | 0x1f300..=0x1faff | 0x20000..=0x3fffd => 2,
            _ => 1,
        })
        .sum()
}

/// A text without control characters: what comes from the engine must not steer the terminal.
pub(crate) fn clean(text: &str) -> String {
    if !text.chars().any(steers) {
        return text.to_owned();
    }
    text.chars().fold(String::with_capacity(text.len()), |mut clean, c| {
        if steers(c) {
            clean.extend(c.escape_default());
        } else {
            clean.push(c);
        }
        clean
    })
}

/// Control characters, and those that turn the direction of what follows.
fn steers(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Bytes as people read them: `512 B`, `1.5 KiB`.
pub(crate) fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    for unit in ["KiB", "MiB", "GiB", "TiB", "PiB"] {
        value /= 1024.0;
        if value < 1023.95 || unit == "PiB" {
            return if value < 9.995 { format!("{value:.2} {unit}") } else { format!("{value:.1} {unit}") };
        }
    }
    unreachable!("the last unit returns")
}

/// Unix seconds as a date and time in UTC.
pub(crate) fn time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds)
        .map_or_else(|_| seconds.to_string(), |time| time.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
}

/// A duration as people read it: `350 ms`, `4.2 s`, `3m 10s`, `2d 4h`.
pub(crate) fn duration(seconds: f64) -> String {
    if seconds <= 0.0 {
        return "0 s".into();
    }
    if seconds < 0.001 {
        return format!("{:.0} µs", seconds * 1e6);
    }
    if seconds < 1.0 {
        return format!("{:.1} ms", seconds * 1e3);
    }
    if seconds < 60.0 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds as u64;
    let (days, hours, minutes, rest) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60, whole % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes}m {rest}s"),
        (0, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// A JSON value as a cell: text as it is, nothing for null.
pub(crate) fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_times_and_durations_read_well() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (1536, "1.50 KiB"),
            (1 << 30, "1.00 GiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(time(0), "1970-01-01 00:00:00Z");
        for (seconds, text) in
            [(0.0005, "500 µs"), (0.0123, "12.3 ms"), (4.25, "4.2 s"), (190.0, "3m 10s"), (187_200.0, "2d 4h")]
        {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn tables_stand_in_columns() {
        let mut table = Table::new(&[("NAME", Align::Left), ("SIZE", Align::Right)]);
        table.row(vec![("a".into(), Style::Plain), ("1 B".into(), Style::Plain)]);
        table.row(vec![("日本".into(), Style::Plain), ("10 B".into(), Style::Plain)]);
        assert_eq!(table.render(true, false), "NAME  SIZE\na      1 B\n日本  10 B\n");
        assert_eq!(table.render(false, false), "a\t1 B\n日本\t10 B\n");
    }

    #[test]
    fn what_comes_from_the_engine_does_not_steer_the_terminal() {
        assert_eq!(clean("a\x1b[2Jb\n\u{202e}c"), "a\\u{1b}[2Jb\\n\\u{202e}c");
        assert_eq!(clean("grün 日本"), "grün 日本");
    }
}
