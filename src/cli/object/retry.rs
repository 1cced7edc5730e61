//! When a transfer that broke is tried again, and when that has been often enough.

use std::time::Duration;

use crate::cli::error::CliError;

/// How often in a row a transfer may break without a byte of progress.
const TRIES: u32 = 8;
/// Before the first new try; doubled up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Between tries, at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Counts the tries of one transfer.
#[derive(Debug, Default)]
pub(super) struct Retry {
    failed: u32,
    reached: u64,
}

impl Retry {
    /// Waits before another try, or gives the error back: it is none that passes, or it was tried often enough. `reached`
    /// is how far the transfer is; progress starts the count anew.
    pub(super) async fn after(&mut self, error: CliError, reached: u64) -> Result<(), CliError> {
        tokio::time::sleep(self.pause(error, reached)?).await;
        Ok(())
    }

    fn pause(&mut self, error: CliError, reached: u64) -> Result<Duration, CliError> {
        let passing = match &error {
            CliError::Unreachable { .. } => true,
            CliError::Refused { status, .. } => matches!(status, 408 | 429 | 500 | 502 | 503 | 504),
            _ => false,
        };
        if reached > self.reached {
            (self.failed, self.reached) = (0, reached);
        }
        self.failed += 1;
        if !passing || self.failed > TRIES {
            return Err(error);
        }
        Ok((FIRST_PAUSE * 2_u32.pow(self.failed - 1)).min(LONGEST_PAUSE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_starts_the_count_anew() {
        let broken = || CliError::Unreachable { address: "a".into(), reason: "b".into() };
        let mut retry = Retry::default();
        for reached in 0..100 {
            assert_eq!(retry.pause(broken(), reached).ok(), Some(FIRST_PAUSE));
        }
        for _ in 0..TRIES - 1 {
            retry.pause(broken(), 99).expect("it goes on");
        }
        retry.pause(broken(), 99).expect_err("often enough");
        Retry::default().pause(CliError::Failed("no".into()), 0).expect_err("not a passing one");
    }
}
