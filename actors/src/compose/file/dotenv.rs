//! Files of variables: `.env` and what `env_file` names.
//!
//! The syntax is docker compose's: `KEY=value`, `KEY: value`, `export KEY=value`, `#` comments, single quotes for what
//! stands as it is, double quotes with escapes, quoted values over several lines, and variables in what is not
//! single-quoted. `KEY` alone takes the value that the surroundings have, if they have one.

use super::interpolate::{Variables, text_of};

/// A variable and its value; none where `KEY` stands alone and nothing has a value for it.
pub(crate) type Entry = (String, String);

/// What is wrong in a file of variables: the line, and what.
pub(crate) type Wrong = (u32, String);

/// Reads a file of variables. Variables in values are looked up in `outer` first, then in what stands above.
pub(crate) fn parse(text: &str, outer: &Variables) -> Result<Vec<Entry>, Wrong> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n");
    let mut entries: Vec<Entry> = Vec::new();
    let mut seen = Variables::new();
    let (mut rest, mut line) = (text.as_str(), 1_u32);
    while !rest.is_empty() {
        let (first, _) = split_line(rest);
        let trimmed = first.trim_start();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            (rest, line) = (split_line(rest).1, line + 1);
            continue;
        }
        let skipped = first.len() - trimmed.len();
        let mut here = &rest[skipped..];
        if let Some(after) = here.strip_prefix("export").filter(|after| after.starts_with([' ', '\t'])) {
            here = after.trim_start_matches([' ', '\t']);
        }
        let length = here
            .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '[' | ']')))
            .unwrap_or(here.len());
        let (key, after) = here.split_at(length);
        let after = after.trim_start_matches([' ', '\t']);
        if key.is_empty() {
            let shown: String = trimmed.chars().take(1).collect();
            return Err((line, format!("`{shown}` cannot begin the name of a variable")));
        }
        let Some(value) = after.strip_prefix(['=', ':']) else {
            let (tail, next) = split_line(after);
            if !tail.trim().is_empty() && !tail.trim_start().starts_with('#') {
                return Err((line, format!("`{key}` is followed by neither `=` nor the end of the line")));
            }
            if let Some(value) = outer.get(key) {
                push(&mut entries, &mut seen, key, value.clone());
            }
            (rest, line) = (next, line + 1);
            continue;
        };
        let value = value.trim_start_matches([' ', '\t']);
        let lookup = |name: &str| outer.get(name).or_else(|| seen.get(name)).cloned();
        let replaced =
            |text: &str| text_of(text, &lookup, &mut Vec::new()).map_err(|error| (line, format!("`{key}`: {error}")));
        let (value, next) = match value.chars().next() {
            Some('\'') => {
                let (inner, next) =
                    quoted(value, '\'').ok_or_else(|| (line, format!("the quote of `{key}` is not closed")))?;
                (inner.to_owned(), next)
            }
            Some('"') => {
                let (inner, next) =
                    quoted(value, '"').ok_or_else(|| (line, format!("the quote of `{key}` is not closed")))?;
                (replaced(&unescape(inner))?, next)
            }
            _ => {
                let (raw, next) = split_line(value);
                let end = comment_start(raw).unwrap_or(raw.len());
                (replaced(raw[..end].trim_end())?, next)
            }
        };
        let consumed = rest.len() - next.len();
        line += u32::try_from(rest[..consumed].matches('\n').count()).unwrap_or(0);
        push(&mut entries, &mut seen, key, value);
        rest = next;
    }
    Ok(entries)
}

/// Reads a file of variables whose values stand as they are: everything behind the first `=`.
pub(crate) fn raw(text: &str) -> Vec<Entry> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    lines
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.trim().to_owned(), value.to_owned()))
        .collect()
}

fn push(entries: &mut Vec<Entry>, seen: &mut Variables, key: &str, value: String) {
    seen.insert(key.to_owned(), value.clone());
    entries.retain(|(name, _)| name != key);
    entries.push((key.to_owned(), value));
}

fn split_line(text: &str) -> (&str, &str) {
    text.split_once('\n').unwrap_or((text, ""))
}

/// Where a comment begins in an unquoted value: at a `#` that begins it or stands behind a space.
fn comment_start(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    (0..bytes.len()).find(|&place| bytes[place] == b'#' && (place == 0 || bytes[place - 1].is_ascii_whitespace()))
}

/// The inside of the quotes that `text` begins with, and what stands in the lines behind.
fn quoted(text: &str, quote: char) -> Option<(&str, &str)> {
    let mut escaped = false;
    for (place, c) in text.char_indices().skip(1) {
        if c == quote && !escaped {
            let (_, next) = split_line(&text[place + 1..]);
            return Some((&text[1..place], next));
        }
        escaped = c == '\\' && !escaped;
    }
    None
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('t') => out.push('\t'),
            Some('$') => out.push_str("$$"),
            Some(other @ ('"' | '\\' | '\'')) => out.push(other),
            Some(other) => {
                out.push('\\');
                out.push(other);
            }
            None => out.push('\\'),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Entry>, Wrong> {
        parse(text, &Variables::from([("OUTER".into(), "outer".into()), ("B".into(), "outer b".into())]))
    }

    #[test]
    fn files_of_variables_read_as_docker_compose_reads_them() {
        for (text, key, expected) in [
            ("A=1", "A", "1"),
            ("  export A = 1 # one", "A", "1"),
            ("A: 1", "A", "1"),
            ("A=a#b", "A", "a#b"),
            ("A='x $OUTER # \\n'", "A", "x $OUTER # \\n"),
            ("A=\"x\\n$OUTER \\$B\"", "A", "x\nouter $B"),
            ("A=\"one\ntwo\"\nC=3", "A", "one\ntwo"),
            ("A=\"one\ntwo\"\nC=3", "C", "3"),
            ("A=1\nC=${A}-${X:-x}", "C", "1-x"),
            ("B=mine\nC=$B", "C", "outer b"),
            ("OUTER", "OUTER", "outer"),
            ("A=", "A", ""),
            ("\u{feff}A=1\r\nC=2\r\n", "C", "2"),
            ("# c\n\nA=x=y", "A", "x=y"),
        ] {
            let entries = read(text).expect(text);
            let value = entries.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
            assert_eq!(value, Some(expected), "{text}");
        }
        assert_eq!(read("NOTHING\n"), Ok(Vec::new()));
    }

    #[test]
    fn what_is_wrong_says_its_line() {
        for (text, line) in [("A=1\n=2", 2), ("A='x", 1), ("\nA B", 2), ("A=\"1\n2\"\nB=${", 3)] {
            assert_eq!(read(text).expect_err(text).0, line, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,40}|[A-B=:'\"# \n\\\\$é]{0,60}") {
            let _ = read(&text);
        }
    }
}
