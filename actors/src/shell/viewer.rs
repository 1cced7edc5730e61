//! One who watches a shell: an offset, and a wake-up.
//!
//! A viewer reads slices of the log at its own speed and holds nothing else, so that a slow one costs nobody anything. When
//! the ring has passed it, it gets a [`Event::Gap`] with a snapshot of the screen and goes on from there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Semaphore, watch};

use super::error::ShellError;
use super::session::{Exit, Progress, Session};
use crate::call::blocking;
use crate::output_log::{Fallen, OutputLog};

/// Screens whose rebuilding takes less than this many bytes are rebuilt on the spot; others on a blocking thread.
const SMALL_REPLAY: u64 = 8 << 10;
/// How often a snapshot is tried again when the ring has passed its base meanwhile.
const SNAPSHOT_TRIES: usize = 5;

/// The screen at an offset.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Snapshot {
    /// The bytes up to here are in it.
    pub offset: u64,
    /// The width that it is for.
    pub columns: u16,
    /// The height that it is for.
    pub rows: u16,
    /// What brings a terminal of this size to the state of the live one; begins with a hard reset, holds no query.
    pub bytes: Vec<u8>,
}

/// What a viewer is told next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// Output was appended to the buffer.
    Output,
    /// The terminal has this size from here on.
    Resized {
        /// Its width.
        columns: u16,
        /// Its height.
        rows: u16,
    },
    /// The viewer was too slow: the bytes from `from` to `to` are gone, the screen is as the snapshot says.
    Gap {
        /// Where the viewer was.
        from: u64,
        /// Where it is now.
        to: u64,
        /// The screen there.
        snapshot: Snapshot,
    },
    /// The program has ended; all its output has been read.
    Exit(Exit),
    /// The shell was removed, or failed for good.
    Removed,
}

/// How many screens are rebuilt at once.
#[derive(Clone, Debug)]
pub(crate) struct Builders(Arc<Semaphore>);

impl Default for Builders {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(4)))
    }
}

/// One who watches a shell.
#[derive(Debug)]
pub struct Viewer {
    session: Arc<Session>,
    log: OutputLog,
    builders: Builders,
    scrollback: usize,
    offset: u64,
    progress: watch::Receiver<Progress>,
    /// Number of the last change of size that this viewer knows.
    resized: u64,
    position: Option<Arc<AtomicU64>>,
}

impl Viewer {
    /// Begins to watch: exactly at `since` when its bytes are still kept, else at a snapshot.
    pub(crate) async fn attach(
        session: Arc<Session>,
        builders: Builders,
        scrollback: usize,
        since: Option<u64>,
        counted: bool,
    ) -> Result<(Self, Option<Snapshot>), ShellError> {
        let progress = session.progress.subscribe();
        let log = session.adopted().await?;
        let resized = session.state().resized.1;
        let mut viewer = Self { resized, session, log, builders, scrollback, offset: 0, progress, position: None };
        let snapshot = match since {
            Some(offset) if offset <= viewer.log.committed() && offset >= viewer.log.oldest() => {
                viewer.offset = offset;
                None
            }
            _ => Some(viewer.snapshot().await?),
        };
        if counted {
            viewer.position = Some(viewer.session.enter(viewer.offset));
        }
        Ok((viewer, snapshot))
    }

    /// The next byte's offset.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The shell that is watched.
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Waits for what comes next. Output is appended to `into`, at most `max` bytes. Asking again says that what was given
    /// before has been dealt with.
    ///
    /// May be dropped while it waits; nothing is lost then.
    ///
    /// # Errors
    /// When the screen cannot be rebuilt, which would be a fault of ours.
    pub async fn next(&mut self, max: usize, into: &mut Vec<u8>) -> Result<Event, ShellError> {
        self.report();
        loop {
            self.progress.mark_unchanged();
            let (resized, size, over) = {
                let state = self.session.state();
                let over = state.removed || state.failure.is_some();
                (state.resized, (state.record.columns, state.record.rows), over)
            };
            let mut max = max;
            if resized.1 != self.resized {
                if self.offset >= resized.0 {
                    self.resized = resized.1;
                    return Ok(Event::Resized { columns: size.0, rows: size.1 });
                }
                max = usize::try_from(resized.0 - self.offset).unwrap_or(max).min(max);
            }
            match self.log.read(self.offset, max, into) {
                Ok(0) => {}
                Ok(count) => {
                    self.offset += count as u64;
                    return Ok(Event::Output);
                }
                Err(Fallen { .. }) => {
                    let from = self.offset;
                    // Boxed: seldom, and large.
                    let snapshot = Box::pin(self.snapshot()).await?;
                    return Ok(Event::Gap { from, to: self.offset, snapshot });
                }
            }
            if over {
                return Ok(Event::Removed);
            }
            if let Some(exit) = self.session.exit()
                && self.offset >= self.log.committed()
            {
                return Ok(Event::Exit(exit));
            }
            // The session, and with it the sender, is held by `self`.
            let _ = self.progress.changed().await;
        }
    }

    /// Tells the pump how far this viewer is.
    fn report(&self) {
        let Some(position) = &self.position else { return };
        if position.swap(self.offset, Ordering::Relaxed) != self.offset {
            self.session.drained.notify_one();
        }
    }

    /// Rebuilds the screen as it is now, and moves there.
    async fn snapshot(&mut self) -> Result<Snapshot, ShellError> {
        for attempt in 0..SNAPSHOT_TRIES {
            let number = self.session.state().resized.1;
            // The oldest base gives more scrollback, but a flood may pass it while it is used.
            if let Some(snapshot) = self.try_snapshot(attempt == 0).await? {
                self.offset = snapshot.offset;
                self.resized = number;
                return Ok(snapshot);
            }
        }
        Err(ShellError::Failed { id: self.session.id.clone(), reason: "its output is too fast for a snapshot".into() })
    }

    async fn try_snapshot(&self, from_oldest: bool) -> Result<Option<Snapshot>, ShellError> {
        let to = self.log.committed();
        let mut replay = {
            let mut state = self.session.state();
            state.timeline.forget_before(self.log.oldest());
            if let Some(bytes) = state.timeline.raw_snapshot(&self.log, to) {
                let (columns, rows) = state.timeline.size();
                return Ok(Some(Snapshot { offset: to, columns, rows, bytes }));
            }
            state.timeline.replay(from_oldest, self.scrollback)
        };
        let mut finish = move |log: &OutputLog| match replay.run(log, to) {
            Ok(()) => {
                let (columns, rows) = replay.size();
                Some(Snapshot { offset: replay.offset(), columns, rows, bytes: replay.snapshot(true) })
            }
            Err(Fallen { .. }) => None,
        };
        if to.saturating_sub(self.log.oldest()) <= SMALL_REPLAY {
            return Ok(finish(&self.log));
        }
        let _permit = self.builders.0.acquire().await;
        let log = self.log.clone();
        blocking(move || finish(&log))
            .await
            .map_err(|reason| ShellError::Failed { id: self.session.id.clone(), reason })
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        if let Some(position) = &self.position {
            self.session.leave(position);
        }
    }
}
