//! `${VARIABLE}` in the scalars of a file, after it was parsed.
//!
//! Operators as the Specification has them: `:-` and `-` (default), `:?` and `?` (required), `:+` and `+`
//! (alternative); what stands behind one may hold variables again. `$$` is a dollar sign; `$(`, `$!` and a `$` at the
//! end stay as they are. Variables come from the request and the project's `.env`, never from the engine's own
//! environment, which holds what is not the caller's.

use std::collections::BTreeMap;

use super::node::{Node, Value};
use super::report::{Report, Trail};
use super::scalar::shorten;

/// How deep `${A:-${B:-…}}` may nest.
const MAX_NESTING: usize = 32;
/// How long a text may become.
const MAX_LENGTH: usize = 1 << 20;

/// Variables by name.
pub(crate) type Variables = BTreeMap<String, String>;

/// Replaces the variables in all texts beneath `node`.
pub(crate) fn tree(node: &mut Node, trail: Trail<'_>, variables: &Variables, report: &mut Report) {
    match &mut node.value {
        Value::Text(text) if text.contains('$') => {
            let mut unset = Vec::new();
            match text_of(text, &|name| variables.get(name).cloned(), &mut unset) {
                Ok(replaced) => *text = replaced,
                Err(error) => report.fault(&node.at, trail, error),
            }
            for name in unset {
                let message = format!("the variable `{name}` is not set; nothing stands in its place");
                report.warn("unset-variable", trail, message);
            }
        }
        Value::List(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                tree(item, trail.index(index), variables, report);
            }
        }
        Value::Map(map) => {
            for (key, _, child) in map.iter_mut() {
                tree(child, trail.key(key), variables, report);
            }
        }
        _ => {}
    }
}

/// Replaces the variables in `text`; those that have no value and no default are added to `unset`.
pub(crate) fn text_of(
    text: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
    unset: &mut Vec<String>,
) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    expand(text, lookup, unset, &mut out, 0)?;
    Ok(out)
}

fn expand(
    text: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
    unset: &mut Vec<String>,
    out: &mut String,
    depth: usize,
) -> Result<(), String> {
    if depth > MAX_NESTING {
        return Err(format!("variables nested deeper than {MAX_NESTING} levels"));
    }
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        out.push_str(&rest[..dollar]);
        let after = &rest[dollar + 1..];
        match after.chars().next() {
            Some('$') => {
                out.push('$');
                rest = &after[1..];
            }
            Some('{') => {
                let end = closing(after).ok_or_else(|| format!("`{}` has no closing brace", shorten(text)))?;
                braced(&after[1..end], lookup, unset, out, depth)?;
                rest = &after[end + 1..];
            }
            Some(first) if first.is_ascii_alphabetic() || first == '_' => {
                let length = name_length(after);
                let (name, tail) = after.split_at(length);
                value_or_unset(name, lookup, unset, out);
                rest = tail;
            }
            _ => {
                out.push('$');
                rest = after;
            }
        }
        if out.len() > MAX_LENGTH {
            return Err(format!("longer than {MAX_LENGTH} bytes once its variables are replaced"));
        }
    }
    out.push_str(rest);
    Ok(())
}

fn value_or_unset(name: &str, lookup: &dyn Fn(&str) -> Option<String>, unset: &mut Vec<String>, out: &mut String) {
    match lookup(name) {
        Some(value) => out.push_str(&value),
        None => unset.push(name.into()),
    }
}

fn name_length(text: &str) -> usize {
    text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(text.len())
}

/// Where the brace that `text` begins with is closed again.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, bytes) = (0_usize, text.as_bytes());
    let mut place = 0;
    while place < bytes.len() {
        match bytes[place] {
            b'$' if bytes.get(place + 1) == Some(&b'$') => place += 1,
            b'$' if bytes.get(place + 1) == Some(&b'{') => {
                depth += 1;
                place += 1;
            }
            b'{' if place == 0 => depth += 1,
            b'}' => {
                depth -= 1;
                if depth == 0 {
                    return Some(place);
                }
            }
            _ => {}
        }
        place += 1;
    }
    None
}

fn braced(
    inner: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
    unset: &mut Vec<String>,
    out: &mut String,
    depth: usize,
) -> Result<(), String> {
    let length = name_length(inner);
    let (name, operator) = inner.split_at(length);
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(format!("`${{{}}}` names no variable", shorten(inner)));
    }
    if operator.is_empty() {
        value_or_unset(name, lookup, unset, out);
        return Ok(());
    }
    let value = lookup(name);
    let (also_empty, operator) = match operator.strip_prefix(':') {
        Some(operator) => (true, operator),
        None => (false, operator),
    };
    let set = value.as_ref().is_some_and(|value| !(also_empty && value.is_empty()));
    let word = operator.get(1..).unwrap_or("");
    match operator.as_bytes().first() {
        Some(b'-') if set => out.push_str(&value.unwrap_or_default()),
        Some(b'-') => expand(word, lookup, unset, out, depth + 1)?,
        Some(b'+') if set => expand(word, lookup, unset, out, depth + 1)?,
        Some(b'+') => {}
        Some(b'?') if set => out.push_str(&value.unwrap_or_default()),
        Some(b'?') => {
            let mut message = String::new();
            expand(word, lookup, unset, &mut message, depth + 1)?;
            let message = if message.is_empty() { "it has no value" } else { message.trim() };
            return Err(format!("the variable `{name}` is required: {}", shorten(message)));
        }
        _ => return Err(format!("`${{{}}}` has an unknown operator", shorten(inner))),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replace(text: &str) -> Result<String, String> {
        let lookup = |name: &str| match name {
            "A" => Some("a".to_owned()),
            "EMPTY" => Some(String::new()),
            "_B1" => Some("b$A".to_owned()),
            _ => None,
        };
        text_of(text, &lookup, &mut Vec::new())
    }

    #[test]
    fn every_operator_does_what_the_specification_says() {
        for (text, expected) in [
            ("$A-${A}-$A_", "a-a-"),
            ("${X:-x} ${X-x} ${EMPTY:-x} ${EMPTY-x} ${A:-x}", "x x x  a"),
            ("${X:+x}|${X+x}|${EMPTY:+x}|${EMPTY+x}|${A:+x}|${A+x}", "|||x|x|x"),
            ("${A:?no}${A?no}${EMPTY?no}", "aa"),
            ("${X:-${Y:-${A}}}z", "az"),
            ("${X:-{\"a\":1}}", "{\"a\":1}"),
            ("$$A $${A} $$$A", "$A ${A} $a"),
            ("$(x) $! 5$ $", "$(x) $! 5$ $"),
            ("${_B1}", "b$A"),
            ("${X}", ""),
            ("é${A}é", "éaé"),
            ("${X:-a:b-c?d+e}", "a:b-c?d+e"),
        ] {
            let expected = if text.contains("{\"a\"") { "{\"a\":1}" } else { expected };
            assert_eq!(replace(text), Ok(expected.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (text, expected) in [
            ("${", "no closing brace"),
            ("${}", "names no variable"),
            ("${1}", "names no variable"),
            ("${A!x}", "unknown operator"),
            ("${A:x}", "unknown operator"),
            ("${X:?set it}", "the variable `X` is required: set it"),
            ("${X?}", "is required: it has no value"),
            ("${A:-", "no closing brace"),
        ] {
            let error = replace(text).expect_err(text);
            assert!(error.contains(expected), "{error}");
        }
        let deep = format!("{}{}", "${X:-".repeat(100), "}".repeat(100));
        assert!(replace(&deep).expect_err("deep").contains("nested deeper"));
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,40}|[$A-C{}:?+\\-é]{0,60}") {
            let _ = replace(&text);
        }

        #[test]
        fn a_text_without_a_dollar_stays(text in "[^$]{0,40}") {
            proptest::prop_assert_eq!(replace(&text), Ok(text));
        }
    }
}
