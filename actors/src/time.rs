//! The two ways in which the API writes moments: Unix seconds, and ISO 8601 in UTC.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970, now.
pub fn unix_now() -> i64 {
    unix_seconds(SystemTime::now())
}

/// Milliseconds since 1970, now.
pub fn unix_millis() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// A moment as seconds since 1970; negative before.
pub fn unix_seconds(moment: SystemTime) -> i64 {
    match moment.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(error) => -i64::try_from(error.duration().as_secs()).unwrap_or(i64::MAX),
    }
}

/// Unix seconds as ISO 8601 in UTC, `2026-11-24T10:00:00Z`.
pub fn iso(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| "1970-01-01T00:00:00Z".into(), |moment| moment.to_string())
}

/// Unix milliseconds as ISO 8601 in UTC, `2026-11-24T10:00:00.25Z`.
pub fn iso_millis(milliseconds: i64) -> String {
    let moment = jiff::Timestamp::from_millisecond(milliseconds);
    moment.map_or_else(|_| "1970-01-01T00:00:00Z".into(), |moment| moment.to_string())
}
