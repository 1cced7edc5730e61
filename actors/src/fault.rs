//! Faults on purpose, for the tests of supervision; compiled to nothing without the feature `fault-injection`.
//!
//! A test arms the point of one actor, and the next message that this actor handles panics.

/// Panics if the point called `name` was armed, once for each time. Every actor calls it first thing in `handle`, with
/// the name under which the supervision tree shows it (`key-registry`, `shell/<identity>`).
#[inline]
pub fn point(name: &str) {
    #[cfg(feature = "fault-injection")]
    armed::fire(name);
    let _ = name;
}

#[cfg(feature = "fault-injection")]
pub use armed::arm;

#[cfg(feature = "fault-injection")]
mod armed {
    use std::collections::HashMap;
    use std::sync::{Mutex, MutexGuard, PoisonError};

    static ARMED: Mutex<Option<HashMap<String, u32>>> = Mutex::new(None);

    fn armed() -> MutexGuard<'static, Option<HashMap<String, u32>>> {
        ARMED.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the next message to the actor called `name` panic.
    pub fn arm(name: &str) {
        *armed().get_or_insert_default().entry(name.into()).or_default() += 1;
    }

    pub(super) fn fire(name: &str) {
        let fires = {
            let mut armed = armed();
            match armed.as_mut().and_then(|armed| armed.get_mut(name)) {
                Some(times) if *times > 0 => {
                    *times -= 1;
                    true
                }
                _ => false,
            }
        };
        assert!(!fires, "a fault was injected into `{name}`");
    }
}
