//! How often a child may fail before its supervisor gives up, and how long it waits between attempts.
//!
//! Pure: the caller brings the time. OTP's `intensity` and `period` (erlang.org/doc/man/supervisor).

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// At most `max` restarts within `period`; one more is too many.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Intensity {
    /// Restarts that are allowed within the period.
    pub max: u32,
    /// The period.
    pub period: Duration,
}

impl Default for Intensity {
    fn default() -> Self {
        Self { max: 3, period: Duration::from_secs(5) }
    }
}

/// The first wait between two attempts; the first restart of all is at once.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
/// The longest wait.
const LONGEST_BACKOFF: Duration = Duration::from_secs(2);

/// The restarts of late.
#[derive(Clone, Debug, Default)]
pub(super) struct Restarts {
    at: VecDeque<Instant>,
}

impl Restarts {
    /// Counts a restart at `now`: how long to wait before it, or `None` when it is one too many.
    pub(super) fn admit(&mut self, intensity: Intensity, now: Instant) -> Option<Duration> {
        while self.at.front().is_some_and(|at| now.saturating_duration_since(*at) >= intensity.period) {
            self.at.pop_front();
        }
        let recent = u32::try_from(self.at.len()).unwrap_or(u32::MAX);
        if recent >= intensity.max {
            return None;
        }
        self.at.push_back(now);
        Some(match recent {
            0 => Duration::ZERO,
            n => FIRST_BACKOFF.saturating_mul(1 << (n - 1).min(16)).min(LONGEST_BACKOFF),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_restart_too_many_within_the_period_is_not_admitted() {
        let intensity = Intensity { max: 3, period: Duration::from_secs(5) };
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut restarts = Restarts::default();
        assert_eq!(restarts.admit(intensity, at(0)), Some(Duration::ZERO));
        assert_eq!(restarts.admit(intensity, at(1000)), Some(Duration::from_millis(50)));
        assert_eq!(restarts.admit(intensity, at(2000)), Some(Duration::from_millis(100)));
        assert_eq!(restarts.admit(intensity, at(4999)), None);
        assert_eq!(restarts.admit(intensity, at(5000)), Some(Duration::from_millis(100)), "the first has left");
        assert_eq!(restarts.admit(intensity, at(60_000)), Some(Duration::ZERO));
    }

    #[test]
    fn none_allowed_means_none() {
        let intensity = Intensity { max: 0, period: Duration::from_secs(5) };
        assert_eq!(Restarts::default().admit(intensity, Instant::now()), None);
    }

    #[test]
    fn the_wait_is_bounded() {
        let intensity = Intensity { max: 100, period: Duration::from_secs(5) };
        let mut restarts = Restarts::default();
        let now = Instant::now();
        let waits: Vec<_> = (0..100).filter_map(|_| restarts.admit(intensity, now)).collect();
        assert_eq!(waits.len(), 100);
        assert!(waits.is_sorted() && waits.last() == Some(&LONGEST_BACKOFF));
    }
}
