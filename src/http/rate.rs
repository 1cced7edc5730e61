//! How often one address may use the public endpoints: a token bucket each, in a table that does not grow for ever.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Addresses that are remembered at once. Past it the full buckets are forgotten, and, were there none, all others
/// share the fate of the newest: refused until some have refilled.
const MAX_ADDRESSES: usize = 16_384;

/// The buckets of all addresses.
#[derive(Debug, Default)]
pub(crate) struct Limiter {
    table: Mutex<Buckets>,
}

#[derive(Debug, Default)]
struct Buckets {
    of: HashMap<IpAddr, Bucket>,
    /// When the full ones were last forgotten: looking through them all is not for every request.
    swept: Option<Instant>,
}

/// How often the table is looked through for full buckets, once it is full itself.
const SWEEP_INTERVAL: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Limiter {
    /// Takes a token of `address`'s bucket, which refills at `rate` a second up to `burst`.
    ///
    /// # Errors
    /// How long to wait for the next token.
    pub(crate) fn take(&self, address: IpAddr, rate: u32, burst: u32, now: Instant) -> Result<(), Duration> {
        let (rate, burst) = (f64::from(rate), f64::from(burst));
        let refilled = |bucket: &Bucket| {
            (now.saturating_duration_since(bucket.at).as_secs_f64().mul_add(rate, bucket.tokens)).min(burst)
        };
        let address = network_of(address);
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if table.of.len() >= MAX_ADDRESSES && !table.of.contains_key(&address) {
            if table.swept.is_none_or(|swept| now.saturating_duration_since(swept) >= SWEEP_INTERVAL) {
                table.swept = Some(now);
                table.of.retain(|_, bucket| refilled(bucket) < burst);
            }
            if table.of.len() >= MAX_ADDRESSES {
                return Err(Duration::from_secs(1));
            }
        }
        let bucket = table.of.entry(address).or_insert(Bucket { tokens: burst, at: now });
        let tokens = refilled(bucket);
        *bucket = Bucket { tokens: tokens.min(burst), at: now };
        if tokens < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - tokens) / rate));
        }
        bucket.tokens -= 1.0;
        Ok(())
    }
}

/// Whom a bucket belongs to: an IPv4 address, or the /64 that one IPv6 customer has.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6([a, b, c, d, 0, 0, 0, 0].into())
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_empties_and_refills() {
        let limiter = Limiter::default();
        let address = IpAddr::from([127, 0, 0, 1]);
        let start = Instant::now();
        for _ in 0..5 {
            assert_eq!(limiter.take(address, 2, 5, start), Ok(()));
        }
        let wait = limiter.take(address, 2, 5, start).expect_err("empty");
        assert!(wait > Duration::ZERO && wait <= Duration::from_millis(500), "{wait:?}");
        assert_eq!(limiter.take([127, 0, 0, 2].into(), 2, 5, start), Ok(()));
        assert_eq!(limiter.take(address, 2, 5, start + wait), Ok(()));
        assert!(limiter.take(address, 2, 5, start + wait).is_err());
    }

    #[test]
    fn the_table_is_bounded() {
        let limiter = Limiter::default();
        let start = Instant::now();
        for n in 0..40_000_u32 {
            let _ = limiter.take(IpAddr::from(n.to_be_bytes()), 1, 2, start);
        }
        assert!(limiter.table.lock().expect("not poisoned").of.len() <= MAX_ADDRESSES);
        assert_eq!(limiter.take([9, 9, 9, 9].into(), 1, 2, start + Duration::from_secs(2)), Ok(()));
    }
}
