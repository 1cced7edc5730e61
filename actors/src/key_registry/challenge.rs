//! The challenges that are open: each is good once, for a short time, and there is a bound on how many there are.
//!
//! Pure: it is told the time. When it is full the oldest goes, so that a flood of requests cannot keep others from
//! signing in: who signs by program answers within milliseconds.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// How many random bytes a nonce has.
const NONCE_BYTES: usize = 32;

/// A challenge as it is told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Challenge {
    /// Its name; holds no dot.
    pub identity: String,
    /// What is to be signed: these characters, not the bytes that they encode.
    pub nonce: String,
    /// How long it is good.
    pub lifetime: Duration,
}

/// The challenges that are open.
#[derive(Debug, Default)]
pub(super) struct Challenges {
    open: HashMap<String, (String, Instant)>,
    /// In the order in which they were made; entries that were taken stay until it is their turn.
    order: VecDeque<(String, Instant)>,
}

impl Challenges {
    /// Makes a challenge that is good for `lifetime` from `now`; at most `limit` are kept.
    pub(super) fn make(&mut self, lifetime: Duration, limit: usize, now: Instant) -> Challenge {
        self.forget(limit.max(1), now);
        let mut bytes = [0; NONCE_BYTES];
        getrandom::fill(&mut bytes).expect("the kernel's random source answers after boot (getrandom(2))");
        let nonce = URL_SAFE_NO_PAD.encode(bytes);
        let identity = crate::ids::random_name();
        let ends = now + lifetime;
        self.open.insert(identity.clone(), (nonce.clone(), ends));
        self.order.push_back((identity.clone(), ends));
        Challenge { identity, nonce, lifetime }
    }

    /// Takes a challenge away and gives its nonce, if it is there and in time.
    pub(super) fn take(&mut self, identity: &str, now: Instant) -> Option<String> {
        let (nonce, ends) = self.open.remove(identity)?;
        (now < ends).then_some(nonce)
    }

    /// Makes room for one more.
    fn forget(&mut self, limit: usize, now: Instant) {
        while let Some((identity, ends)) = self.order.front() {
            let over = *ends <= now || self.order.len() >= limit || !self.open.contains_key(identity);
            if !over {
                return;
            }
            self.open.remove(identity);
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_challenge_is_good_once_and_in_time() {
        let (mut challenges, now) = (Challenges::default(), Instant::now());
        let challenge = challenges.make(MINUTE, 10, now);
        assert!(URL_SAFE_NO_PAD.decode(&challenge.nonce).is_ok_and(|bytes| bytes.len() >= 32));
        assert_eq!(challenges.take("another", now), None);
        assert_eq!(challenges.take(&challenge.identity, now), Some(challenge.nonce));
        assert_eq!(challenges.take(&challenge.identity, now), None, "a second time");
        let late = challenges.make(MINUTE, 10, now);
        assert_eq!(challenges.take(&late.identity, now + MINUTE), None, "too late");
    }

    proptest! {
        /// Whatever is done in whatever order: never more than the limit, and nothing is good twice.
        #[test]
        fn there_are_never_more_than_the_limit(
            limit in 1_usize..20, steps in prop::collection::vec((0_u64..90, any::<prop::sample::Index>(), any::<bool>()), 1..200),
        ) {
            let (mut challenges, start) = (Challenges::default(), Instant::now());
            let (mut seconds, mut made, mut taken) = (0, Vec::<Challenge>::new(), std::collections::HashSet::new());
            for (pause, index, take) in steps {
                seconds += pause;
                let now = start + Duration::from_secs(seconds);
                if take && !made.is_empty() {
                    let challenge = index.get(&made);
                    if challenges.take(&challenge.identity, now).is_some() {
                        prop_assert!(taken.insert(challenge.identity.clone()));
                    }
                } else {
                    made.push(challenges.make(MINUTE, limit, now));
                }
                prop_assert!(challenges.open.len() <= limit && challenges.order.len() <= limit);
            }
        }
    }
}
