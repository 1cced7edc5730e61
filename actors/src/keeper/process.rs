//! The keeper process.

use std::path::Path;
use std::process::ExitCode;

/// Runs the keeper of `data_dir`: goes into the background, and returns in the foreground process when it is ready.
/// Must be called before the process has a second thread.
pub fn run(_data_dir: &Path) -> ExitCode {
    unreachable!()
}
