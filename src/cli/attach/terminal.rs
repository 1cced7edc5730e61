//! The local terminal: given over in raw mode, and given back on every way out.
//!
//! There is one terminal, so what must be restored stands in one place that the guard, the panic hook and the signal
//! handling share. Only `kill -9` leaves it raw.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, Once, PoisonError};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use super::modes::Modes;
use crate::cli::error::CliError;

/// How the terminal was, and what has been done to it since.
struct Given {
    before: Termios,
    modes: Modes,
}

static GIVEN: Mutex<Option<Given>> = Mutex::new(None);
static HOOK: Once = Once::new();

fn given() -> std::sync::MutexGuard<'static, Option<Given>> {
    GIVEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The terminal in raw mode, until this is dropped.
#[derive(Debug)]
pub(crate) struct RawTerminal(());

impl RawTerminal {
    /// Gives the terminal of the standard input over.
    pub(crate) fn take() -> Result<Self, CliError> {
        let failed = |error: rustix::io::Errno| CliError::failed("failed to give the terminal over", error);
        let before = tcgetattr(rustix::stdio::stdin()).map_err(failed)?;
        HOOK.call_once(|| {
            let next = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                restore();
                next(panic);
            }));
        });
        *given() = Some(Given { before: before.clone(), modes: Modes::default() });
        let mut raw = before;
        raw.make_raw();
        tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &raw).map_err(|error| {
            *given() = None;
            failed(error)
        })?;
        Ok(Self(()))
    }

    /// Gives it back for as long as `pause` takes, and takes it again.
    pub(crate) fn lend(&self, pause: impl FnOnce()) -> Result<(), CliError> {
        restore();
        pause();
        std::mem::forget(Self::take()?);
        Ok(())
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Makes the terminal as it was; does nothing when that has been done.
fn restore() {
    if let Some(Given { before, modes }) = given().take() {
        if std::io::stdout().is_terminal() {
            let _ =
                std::io::stdout().lock().write_all(modes.undo().as_bytes()).and_then(|()| std::io::stdout().flush());
        }
        // Drained, so that what the programs sent last is not cut short; at once if that cannot be waited for.
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &before);
    }
}

/// Reads along what goes to the terminal.
pub(crate) fn observe(bytes: &[u8]) {
    if let Some(given) = given().as_mut() {
        given.modes.feed(bytes);
    }
}

/// Whether a full-screen program holds the terminal.
pub(crate) fn alternate_screen() -> bool {
    given().as_ref().is_some_and(|given| given.modes.alternate_screen())
}

/// What clears the terminal for a screen that is sent whole.
pub(crate) fn clear() -> String {
    let undo = given().as_ref().map(|given| given.modes.undo()).unwrap_or_default();
    format!("{undo}\x1b[H\x1b[2J")
}

/// Columns and rows of the terminal, if there is one that knows.
pub(crate) fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(rustix::stdio::stdout()).or_else(|_| tcgetwinsize(rustix::stdio::stdin())).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col.min(1000), size.ws_row.min(1000)))
}
