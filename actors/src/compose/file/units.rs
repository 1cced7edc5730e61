//! Durations, sizes and modes as compose files write them.

use serde::{Serialize, Serializer};

use super::decode::Decode;
use super::node::{Node, Value};
use super::report::{Report, Trail};

/// A duration in nanoseconds, written as Go writes it (`1m30s`, `1.5h`, `500ms`), also with `d` and `w`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Nanos(pub(crate) i64);

impl Nanos {
    /// Reads a duration.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (negative, mut rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        if rest == "0" {
            return Some(Self(0));
        }
        let mut total = 0_f64;
        if rest.is_empty() {
            return None;
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).filter(|n| *n > 0)?;
            let number: f64 = rest[..digits].parse().ok()?;
            let tail = &rest[digits..];
            let length = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
            let unit = match &tail[..length] {
                "ns" => 1.0,
                "us" | "µs" | "μs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => 3_600e9,
                "d" => 86_400e9,
                "w" => 604_800e9,
                _ => return None,
            };
            total += number * unit;
            rest = &tail[length..];
        }
        if !total.is_finite() || total > 9.2e18 {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, reason = "bounded just before")]
        let total = total.round() as i64;
        Some(Self(if negative { -total } else { total }))
    }
}

impl Decode for Nanos {
    const WHAT: &'static str = "a duration such as `1m30s`";

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        match node.as_text().and_then(Self::parse) {
            Some(nanos) => Some(nanos),
            None => Self::wrong(node, trail, report),
        }
    }
}

impl Serialize for Nanos {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut rest = self.0.unsigned_abs();
        let mut text = String::from(if self.0 < 0 { "-" } else { "" });
        for (unit, nanos) in [
            ("h", 3_600_000_000_000),
            ("m", 60_000_000_000),
            ("s", 1_000_000_000),
            ("ms", 1_000_000),
            ("us", 1_000),
            ("ns", 1),
        ] {
            if rest >= nanos {
                text.push_str(&format!("{}{unit}", rest / nanos));
                rest %= nanos;
            }
        }
        serializer.serialize_str(if self.0 == 0 { "0s" } else { &text })
    }
}

/// A number of bytes, written `512m`, `2gb`, `1.5g`, `1024`; units are binary, as Docker's are.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub(crate) struct ByteSize(pub(crate) i64);

impl ByteSize {
    /// Reads a size.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let digits = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '-'))).unwrap_or(text.len());
        let number: f64 = text[..digits].parse().ok()?;
        let unit = text[digits..].trim_start().to_ascii_lowercase();
        let power = match unit.as_str() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 1,
            "m" | "mb" | "mib" => 2,
            "g" | "gb" | "gib" => 3,
            "t" | "tb" | "tib" => 4,
            "p" | "pb" | "pib" => 5,
            _ => return None,
        };
        let bytes = number * 1024_f64.powi(power);
        if !bytes.is_finite() || bytes.abs() > 9e18 {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, reason = "bounded just before; Docker truncates too")]
        Some(Self(bytes as i64))
    }
}

impl Decode for ByteSize {
    const WHAT: &'static str = "a size such as `512m`";

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        match node.scalar_text().and_then(|text| Self::parse(&text)) {
            Some(size) => Some(size),
            None => Self::wrong(node, trail, report),
        }
    }
}

/// Microseconds: a number, or a duration.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub(crate) struct Micros(pub(crate) i64);

impl Decode for Micros {
    const WHAT: &'static str = "microseconds or a duration";

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        if let Some(nanos) = node.as_text().and_then(Nanos::parse) {
            return Some(Self(nanos.0 / 1_000));
        }
        match node.scalar_text().and_then(|text| text.parse::<f64>().ok()).filter(|value| value.abs() < 9e15) {
            #[expect(clippy::cast_possible_truncation, reason = "bounded just before")]
            Some(value) => Some(Self(value as i64)),
            None => Self::wrong(node, trail, report),
        }
    }
}

/// A file mode: a number, or its octal digits.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Mode(pub(crate) u32);

impl Decode for Mode {
    const WHAT: &'static str = "a file mode such as `0440`";

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        let mode = match &node.value {
            Value::Int(mode) => u32::try_from(*mode).ok(),
            Value::Text(text) => u32::from_str_radix(text.trim_start_matches("0o"), 8).ok(),
            _ => None,
        };
        match mode.filter(|mode| *mode <= 0o7777) {
            Some(mode) => Some(Self(mode)),
            None => Self::wrong(node, trail, report),
        }
    }
}

impl Serialize for Mode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{:04o}", self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_read_as_docker_reads_them() {
        for (text, expected) in [
            ("1m30s", Some(90_000_000_000)),
            ("1.5h", Some(5_400_000_000_000)),
            ("500ms", Some(500_000_000)),
            ("1d", Some(86_400_000_000_000)),
            ("0", Some(0)),
            ("0s", Some(0)),
            ("10", None),
            ("s", None),
            ("", None),
            ("1x", None),
            ("1s ", None),
        ] {
            assert_eq!(Nanos::parse(text).map(|nanos| nanos.0), expected, "{text}");
        }
        for (text, expected) in [
            ("512m", Some(536_870_912)),
            ("1.5g", Some(1_610_612_736)),
            ("64 KiB", Some(65_536)),
            ("10", Some(10)),
            ("10b", Some(10)),
            ("-1", Some(-1)),
            ("x", None),
            ("1z", None),
        ] {
            assert_eq!(ByteSize::parse(text).map(|size| size.0), expected, "{text}");
        }
        assert_eq!(serde_json::to_value(Nanos(5_461_500_000_000)).expect("JSON"), "1h31m1s500ms");
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,20}|[0-9.hmsdkgKB+\\-]{0,20}") {
            let _ = (Nanos::parse(&text), ByteSize::parse(&text));
        }

        #[test]
        fn durations_read_back(nanos in 0_i64..1_000_000_000_000_000) {
            let text = serde_json::to_value(Nanos(nanos)).expect("JSON");
            proptest::prop_assert_eq!(Nanos::parse(text.as_str().expect("text")), Some(Nanos(nanos)));
        }
    }
}
