//! Latencies, counted in buckets: log-linear, within 1.6 % of the true value, the same few KiB for any number of them.

/// Buckets for each doubling.
const STEPS: u64 = 64;
/// Everything above this many doublings (19 hours, in microseconds) counts as that.
const DOUBLINGS: u64 = 36;

/// Counts of durations, in microseconds.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    counts: Vec<u32>,
    count: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        let buckets = usize::try_from((DOUBLINGS - 5) * STEPS).expect("a few thousand");
        Self { counts: vec![0; buckets], count: 0, max: 0 }
    }
}

/// Where a value is counted: below [`STEPS`] each has its own bucket, above each doubling has [`STEPS`] of them.
fn bucket(value: u64) -> u64 {
    if value < STEPS {
        return value;
    }
    let doubling = u64::from(value.ilog2()) - 6;
    (doubling + 1) * STEPS + (value >> doubling) - STEPS
}

/// The middle of a bucket.
fn value_of(bucket: u64) -> f64 {
    if bucket < STEPS {
        return bucket as f64;
    }
    let doubling = bucket / STEPS - 1;
    let low = (bucket % STEPS + STEPS) << doubling;
    low as f64 + (1_u64 << doubling) as f64 / 2.0
}

impl Histogram {
    /// Counts a duration.
    pub(crate) fn record(&mut self, duration: std::time::Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let place = usize::try_from(bucket(micros)).unwrap_or(usize::MAX).min(self.counts.len() - 1);
        self.counts[place] = self.counts[place].saturating_add(1);
        self.count += 1;
        self.max = self.max.max(micros);
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The longest, in seconds.
    pub(crate) fn max(&self) -> f64 {
        self.max as f64 / 1e6
    }

    /// The duration, in seconds, that this part of all (0 to 1) did not exceed; none without any.
    pub(crate) fn quantile(&self, part: f64) -> Option<f64> {
        if self.count == 0 {
            return None;
        }
        let rank = ((part * self.count as f64).ceil() as u64).clamp(1, self.count);
        let mut seen = 0;
        for (place, count) in (0_u64..).zip(&self.counts) {
            seen += u64::from(*count);
            if seen >= rank {
                return Some((value_of(place) / 1e6).min(self.max()));
            }
        }
        Some(self.max())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    proptest! {
        #[test]
        fn quantiles_are_within_two_percent(mut values in proptest::collection::vec(0_u64..1 << 34, 1..200), part in 0.0..1.0_f64) {
            let mut histogram = Histogram::default();
            for value in &values {
                histogram.record(Duration::from_micros(*value));
            }
            values.sort_unstable();
            let rank = ((part * values.len() as f64).ceil() as usize).clamp(1, values.len());
            let (true_value, told) = (values[rank - 1] as f64 / 1e6, histogram.quantile(part).expect("some"));
            prop_assert!((told - true_value).abs() <= true_value * 0.016 + 1e-9, "{told} for {true_value}");
        }
    }

    #[test]
    fn buckets_follow_each_other() {
        let mut last = 0;
        for value in 0..100_000 {
            let place = bucket(value);
            assert!(place == last || place == last + 1, "{value}");
            last = place;
        }
        assert_eq!(Histogram::default().quantile(0.5), None);
        let mut histogram = Histogram::default();
        histogram.record(Duration::MAX);
        assert!(histogram.quantile(0.5).is_some());
    }
}
