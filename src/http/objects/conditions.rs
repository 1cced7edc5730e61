//! Conditional requests and ranges (RFC 9110, sections 13 and 14), pure.

use http::{HeaderMap, header};

/// What the conditions of a request say of a version.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    /// Send it.
    Send,
    /// 304: the client has it.
    NotModified,
    /// 412: it is another version than the client means.
    Failed,
}

/// Judges `If-Match`, `If-Unmodified-Since`, `If-None-Match` and `If-Modified-Since`, in this order.
pub(super) fn judge(headers: &HeaderMap, etag: &str, modified: i64) -> Verdict {
    let text = |name| headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
    if let Some(wanted) = text(header::IF_MATCH) {
        if !names(wanted, etag, true) {
            return Verdict::Failed;
        }
    } else if let Some(date) = text(header::IF_UNMODIFIED_SINCE).and_then(parse_date)
        && modified > date
    {
        return Verdict::Failed;
    }
    if let Some(known) = text(header::IF_NONE_MATCH) {
        if names(known, etag, false) {
            return Verdict::NotModified;
        }
    } else if let Some(date) = text(header::IF_MODIFIED_SINCE).and_then(parse_date)
        && modified <= date
    {
        return Verdict::NotModified;
    }
    Verdict::Send
}

/// Whether a list of entity tags names this one; a weak one does not where the comparison is strong.
fn names(list: &str, etag: &str, strong: bool) -> bool {
    list.split(',')
        .map(str::trim)
        .any(|tag| tag == "*" || tag == etag || !strong && tag.strip_prefix("W/").is_some_and(|tag| tag == etag))
}

/// The form in which HTTP writes moments (IMF-fixdate).
const DATE: &str = "%a, %d %b %Y %H:%M:%S GMT";

/// Unix seconds as HTTP writes them.
pub(super) fn http_date(seconds: i64) -> String {
    let moment = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    moment.strftime(DATE).to_string()
}

fn parse_date(text: &str) -> Option<i64> {
    let date = jiff::civil::DateTime::strptime(DATE, text).ok()?;
    Some(date.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second())
}

/// The most parts that one request may ask for.
const MAX_RANGES: usize = 32;

/// What a `Range` asks for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Ranges {
    /// All of it: no range, or one that is to be ignored.
    Whole,
    /// These parts, the first and the last byte of each, in the order asked for.
    Parts(Vec<(u64, u64)>),
    /// 416: nothing of it is there.
    Unsatisfiable,
}

/// Reads the `Range` of a request for something of `length` bytes, if its `If-Range` allows.
pub(super) fn ranges(headers: &HeaderMap, etag: &str, modified: i64, length: u64) -> Ranges {
    let text = |name| headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
    let Some(range) = text(header::RANGE) else { return Ranges::Whole };
    if let Some(condition) = text(header::IF_RANGE) {
        let holds =
            if condition.starts_with('"') { condition == etag } else { parse_date(condition) == Some(modified) };
        if !holds {
            return Ranges::Whole;
        }
    }
    let Some(list) = range.trim().strip_prefix("bytes=") else { return Ranges::Whole };
    let mut parts = Vec::new();
    let mut count = 0;
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        count += 1;
        // A hostile client's thousand overlapping parts are answered as if it had asked for none.
        let Some(part) = one_range(part, length).filter(|_| count <= MAX_RANGES) else { return Ranges::Whole };
        parts.extend(part);
    }
    match (count, parts.is_empty()) {
        (0, _) => Ranges::Whole,
        (_, true) => Ranges::Unsatisfiable,
        (_, false) => {
            let wanted: u128 = parts.iter().map(|(first, last)| u128::from(last - first) + 1).sum();
            if parts.len() > 1 && wanted > u128::from(length) * 2 { Ranges::Whole } else { Ranges::Parts(parts) }
        }
    }
}

/// One part: `None` when it is malformed, `Some(None)` when nothing of it is there.
#[expect(clippy::option_option, reason = "malformed and unsatisfiable are two refusals")]
fn one_range(part: &str, length: u64) -> Option<Option<(u64, u64)>> {
    let digits = |text: &str| -> Option<u64> {
        (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().unwrap_or(u64::MAX))
    };
    let (first, last) = part.split_once('-')?;
    let (first, last) = (first.trim(), last.trim());
    if first.is_empty() {
        let suffix = digits(last)?;
        return Some((suffix > 0 && length > 0).then(|| (length.saturating_sub(suffix), length - 1)));
    }
    let first = digits(first)?;
    let last = if last.is_empty() { u64::MAX } else { digits(last)? };
    if last < first {
        return None;
    }
    Some((first < length).then(|| (first, last.min(length - 1))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn headers(pairs: &[(http::HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).expect("a value"))).collect()
    }

    #[test]
    fn ranges_are_read_as_the_rfc_says() {
        let parts = |list: &[(u64, u64)]| Ranges::Parts(list.to_vec());
        for (range, expected) in [
            ("bytes=0-0", parts(&[(0, 0)])),
            ("bytes=0-", parts(&[(0, 9)])),
            ("bytes=5-99", parts(&[(5, 9)])),
            ("bytes=-3", parts(&[(7, 9)])),
            ("bytes=-99", parts(&[(0, 9)])),
            ("bytes=0-1, 4-5,-1", parts(&[(0, 1), (4, 5), (9, 9)])),
            ("bytes=10-", Ranges::Unsatisfiable),
            ("bytes=-0", Ranges::Unsatisfiable),
            ("bytes=10-,0-0", parts(&[(0, 0)])),
            ("bytes=5-4", Ranges::Whole),
            ("bytes=a-b", Ranges::Whole),
            ("bytes=", Ranges::Whole),
            ("lines=0-1", Ranges::Whole),
            ("bytes=99999999999999999999999-", Ranges::Unsatisfiable),
            ("bytes=0-,0-,0-", Ranges::Whole),
        ] {
            assert_eq!(ranges(&headers(&[(header::RANGE, range)]), "\"a\"", 0, 10), expected, "{range}");
        }
        let many = format!("bytes={}", "0-0,".repeat(1000));
        assert_eq!(ranges(&headers(&[(header::RANGE, &many)]), "\"a\"", 0, 10), Ranges::Whole);
        for (condition, part) in
            [("\"a\"", true), ("\"b\"", false), ("W/\"a\"", false), (&http_date(5), true), (&http_date(4), false)]
        {
            let asked = headers(&[(header::RANGE, "bytes=0-0"), (header::IF_RANGE, condition)]);
            assert_eq!(ranges(&asked, "\"a\"", 5, 10) != Ranges::Whole, part, "{condition}");
        }
    }

    #[test]
    fn conditions_are_judged_in_their_order() {
        for (name, value, verdict) in [
            (header::IF_NONE_MATCH, "\"a\"", Verdict::NotModified),
            (header::IF_NONE_MATCH, "W/\"a\"", Verdict::NotModified),
            (header::IF_NONE_MATCH, "\"b\", \"a\"", Verdict::NotModified),
            (header::IF_NONE_MATCH, "*", Verdict::NotModified),
            (header::IF_NONE_MATCH, "\"b\"", Verdict::Send),
            (header::IF_MATCH, "\"a\"", Verdict::Send),
            (header::IF_MATCH, "W/\"a\"", Verdict::Failed),
            (header::IF_MATCH, "\"b\"", Verdict::Failed),
            (header::IF_MODIFIED_SINCE, &http_date(100), Verdict::NotModified),
            (header::IF_MODIFIED_SINCE, &http_date(99), Verdict::Send),
            (header::IF_UNMODIFIED_SINCE, &http_date(99), Verdict::Failed),
            (header::IF_MODIFIED_SINCE, "some day", Verdict::Send),
        ] {
            assert_eq!(judge(&headers(&[(name.clone(), value)]), "\"a\"", 100), verdict, "{name}: {value}");
        }
        assert_eq!(http_date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(parse_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
    }

    proptest! {
        #[test]
        fn parts_are_within_what_is_there(range in "bytes=[0-9,\\- ]{0,40}", length in 0_u64..1000) {
            if let Ranges::Parts(parts) = ranges(&headers(&[(header::RANGE, &range)]), "\"a\"", 0, length) {
                for (first, last) in parts {
                    prop_assert!(first <= last && last < length);
                }
            }
        }
    }
}
