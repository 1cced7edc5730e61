//! Who is restarted with a child that failed.

use std::ops::Range;

/// Who is restarted with a child that failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Strategy {
    /// The child alone.
    OneForOne,
    /// All children.
    OneForAll,
    /// The child and those that were started after it.
    RestForOne,
}

impl Strategy {
    /// Which of `count` children, by their place in the order of start, are restarted when the one at `failed` did.
    #[must_use]
    pub fn affected(self, failed: usize, count: usize) -> Range<usize> {
        match self {
            Self::OneForOne => failed..failed + 1,
            Self::OneForAll => 0..count,
            Self::RestForOne => failed..count,
        }
    }
}
