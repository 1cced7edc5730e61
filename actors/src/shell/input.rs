//! What is typed into a shell, on its way to the pty.
//!
//! The one who types writes to the pty directly: no task in between, and a key arrives while output floods. What the pty
//! does not take at once waits in a bounded queue, which the pump empties; who types more than that waits. The interrupt key
//! does not wait behind input that nobody reads: it empties the queue, as the terminal would.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::{Signal, kill_process_group};
use rustix::termios::{LocalModes, SpecialCodeIndex, tcgetattr, tcgetpgrp};
use tokio::sync::Notify;

/// How many bytes wait for a program that does not read.
const QUEUE: usize = 64 << 10;

/// The way in.
#[derive(Debug, Default)]
pub(crate) struct Input {
    queue: Mutex<Queue>,
    /// There is room in the queue again.
    room: Notify,
    /// There is something in the queue.
    waiting: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    pty: Option<Arc<OwnedFd>>,
    bytes: VecDeque<u8>,
}

impl Input {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the way in a pty, or takes it away; what waited for another is dropped only when there is none.
    pub(crate) fn connect(&self, pty: Option<Arc<OwnedFd>>) {
        let mut queue = self.queue();
        if pty.is_none() {
            queue.bytes = VecDeque::new();
        }
        queue.pty = pty;
        drop(queue);
        self.room.notify_waiters();
        self.waiting.notify_one();
    }

    /// Types `bytes`; returns when the pty or the queue has them all. `false` when there is no pty to type into.
    pub(crate) async fn write(&self, mut bytes: &[u8]) -> bool {
        loop {
            // Registered before the look at the queue, so that no room is missed.
            let room = self.room.notified();
            {
                let mut queue = self.queue();
                let Some(pty) = queue.pty.clone() else { return false };
                if !queue.bytes.is_empty() && interrupts(&pty, bytes) {
                    queue.bytes.clear();
                    self.room.notify_waiters();
                    return true;
                }
                if queue.bytes.is_empty() {
                    match write_some(&pty, bytes) {
                        Ok(count) => bytes = &bytes[count..],
                        Err(()) => return false,
                    }
                }
                let free = QUEUE.saturating_sub(queue.bytes.len()).min(bytes.len());
                if free > 0 {
                    queue.bytes.extend(&bytes[..free]);
                    bytes = &bytes[free..];
                    self.waiting.notify_one();
                }
                if bytes.is_empty() {
                    return true;
                }
            }
            room.await;
        }
    }

    /// The terminal's foreground process group.
    pub(crate) fn foreground(&self) -> Option<rustix::process::Pid> {
        self.with_pty(|pty| tcgetpgrp(pty).ok())
    }

    /// Asks something of the terminal, if there is one.
    pub(crate) fn with_pty<T>(&self, ask: impl FnOnce(&OwnedFd) -> Option<T>) -> Option<T> {
        let pty = self.queue().pty.clone()?;
        ask(&pty)
    }

    /// Whether something waits.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.queue().bytes.is_empty()
    }

    /// Waits until something may wait.
    pub(crate) async fn waiting(&self) {
        self.waiting.notified().await;
    }

    /// Writes what waits, as far as the pty takes it; `false` when it took nothing.
    pub(crate) fn flush(&self) -> bool {
        let mut queue = self.queue();
        let Some(pty) = queue.pty.clone() else { return true };
        let (front, _) = queue.bytes.as_slices();
        let Ok(count) = write_some(&pty, front) else {
            queue.bytes.clear();
            return true;
        };
        queue.bytes.drain(..count);
        if queue.bytes.is_empty() {
            queue.bytes.shrink_to(256);
        }
        drop(queue);
        if count > 0 {
            self.room.notify_waiters();
        }
        count > 0
    }
}

/// Whether `bytes` are the terminal's interrupt key alone; then does what the key does. Behind input that nobody reads the
/// key itself would never arrive.
fn interrupts(pty: &OwnedFd, bytes: &[u8]) -> bool {
    let Ok(terminal) = tcgetattr(pty) else { return false };
    let is_key = terminal.local_modes.contains(LocalModes::ISIG)
        && bytes == [terminal.special_codes[SpecialCodeIndex::VINTR]]
        && bytes != [0];
    let Some(group) = is_key.then(|| tcgetpgrp(pty).ok()).flatten() else { return false };
    kill_process_group(group, Signal::INT).is_ok()
}

/// Writes what the pty takes at once; an error when it is gone.
fn write_some(pty: &OwnedFd, mut bytes: &[u8]) -> Result<usize, ()> {
    let mut written = 0;
    while !bytes.is_empty() {
        match rustix::io::write(pty, bytes) {
            Ok(0) => break,
            Ok(count) => {
                written += count;
                bytes = &bytes[count..];
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => break,
            Err(_) => return Err(()),
        }
    }
    Ok(written)
}
