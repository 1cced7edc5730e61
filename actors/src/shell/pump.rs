//! Moves a shell's output from its pty into its log, and what waits of its input the other way.
//!
//! One task per running shell; no thread, no timer, no allocation per chunk. The work of one turn is bounded, then others
//! get theirs. Reading pauses while the fastest viewer is more than half a ring behind, so that a flood does not run the
//! machine hot for nobody; once a pause has lasted as long as is allowed, reading goes on at full speed until a viewer has
//! caught up. A shell that nobody watches is never paused.
//!
//! Before the ring overwrites what is needed to rebuild the screen, the pump makes a newer base and has it noted by the
//! keeper (see `timeline`).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::session::Session;
use super::timeline::Replay;
use crate::keeper::Keeper;
use crate::output_log::OutputLog;

/// How many reads one turn makes.
const READS_PER_TURN: usize = 16;
/// The most that one read takes; a pty gives no more at once (`N_TTY_BUF_SIZE`), and memory that is never filled stays free.
const READ: usize = 4096;

/// How long after its last base a flood's emulator is kept for the next one.
const FLOODS_ON: Duration = Duration::from_millis(200);

/// What a pump needs.
pub(crate) struct Pump {
    pub(crate) session: Arc<Session>,
    pub(crate) keeper: Keeper,
    pub(crate) log: OutputLog,
    pub(crate) pty: Arc<OwnedFd>,
    /// The longest pause for the sake of viewers.
    pub(crate) longest_pause: Duration,
}

/// Whether and until when reading pauses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Pause {
    /// It does not.
    No,
    /// Until then, or until a viewer has read on.
    Until(Instant),
    /// It has paused for as long as is allowed.
    Exhausted,
}

impl Pump {
    /// Runs until the pty ends. Dropping the future in between loses nothing: what was read is in the log.
    ///
    /// # Errors
    /// When the pty cannot be watched or read.
    pub(crate) async fn run(self) -> io::Result<()> {
        let both = Interest::READABLE | Interest::WRITABLE;
        // SAFETY: the `Arc` keeps the descriptor open, and the same, for as long as the `AsyncFd` holds it.
        let pty = unsafe { AsyncFd::register_with_interest(Arc::clone(&self.pty), both) }?;
        let mut pause = Pause::No;
        let mut bases = Bases::default();
        loop {
            pause = self.consider_pause(pause);
            let input_waits = self.session.input.is_waiting();
            tokio::select! {
                ready = pty.readable(), if !matches!(pause, Pause::Until(_)) => {
                    let mut ready = ready?;
                    match self.read_turn(&mut bases).await {
                        Ok(Turn::More) => tokio::task::yield_now().await,
                        Ok(Turn::Empty) => ready.clear_ready(),
                        Ok(Turn::End) => return Ok(()),
                        Err(error) => return Err(error),
                    }
                }
                ready = pty.writable(), if input_waits => {
                    let mut ready = ready?;
                    if !self.session.input.flush() {
                        ready.clear_ready();
                    }
                }
                () = self.session.input.waiting(), if !input_waits => {}
                () = self.session.drained.notified(), if matches!(pause, Pause::Until(_)) => {}
                () = tokio::time::sleep(FLOODS_ON), if bases.emulator.is_some() => bases.emulator = None,
                () = sleep_until(pause), if matches!(pause, Pause::Until(_)) => pause = Pause::Exhausted,
            }
        }
    }

    fn consider_pause(&self, pause: Pause) -> Pause {
        let half = self.log.capacity() / 2;
        let behind = self.session.fastest().map_or(0, |offset| self.log.committed().saturating_sub(offset));
        match pause {
            _ if behind <= half => Pause::No,
            Pause::No => Pause::Until(Instant::now() + self.longest_pause),
            other => other,
        }
    }

    /// Viewers are woken by the first read of a turn, and see the rest by themselves; those who were done before are told
    /// at its end.
    async fn read_turn(&self, bases: &mut Bases) -> io::Result<Turn> {
        let turn = self.read_on(bases).await;
        self.session.publish(self.log.committed());
        turn
    }

    async fn read_on(&self, bases: &mut Bases) -> io::Result<Turn> {
        for read in 0..READS_PER_TURN {
            let room = self.make_room(bases).await;
            match self.log.fill_from(self.pty.as_fd(), room.min(READ)) {
                Ok(0) => return Ok(Turn::End),
                Ok(_) if read == 0 => self.session.publish(self.log.committed()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Turn::Empty),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Nobody holds the other end any more.
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
                    return Ok(Turn::End);
                }
                Err(error) => return Err(error),
            }
            if self
                .session
                .fastest()
                .is_some_and(|offset| self.log.committed().saturating_sub(offset) > self.log.capacity() / 2)
            {
                break;
            }
        }
        Ok(Turn::More)
    }

    /// How many bytes may be read before the ring overwrites what the screen needs; makes and notes a newer base in time.
    async fn make_room(&self, bases: &mut Bases) -> usize {
        let capacity = self.log.capacity();
        let committed = self.log.committed();
        let (newest, noted) = {
            let state = self.session.state();
            (state.timeline.newest().offset, state.noted)
        };
        if committed.saturating_sub(newest) > capacity / 2 {
            // Boxed: seldom needed, and an idle pump should not keep room for an emulator.
            Box::pin(self.make_base(committed, &mut bases.emulator)).await;
            let (session, keeper) = (Arc::clone(&self.session), self.keeper.clone());
            bases.noted().await;
            bases.noting = Some(tokio::spawn(async move {
                if let Err(error) = session.save_note(&keeper).await {
                    tracing::warn!(shell = %session.id, error = crate::error::chain(&error), "the screen was not noted");
                }
            }));
        }
        let room = (noted + capacity).saturating_sub(committed);
        if room < READ as u64 {
            bases.noted().await;
            self.session.state().timeline.forget_before(self.log.oldest() + READ as u64);
            return READ;
        }
        usize::try_from(room).unwrap_or(READ)
    }

    async fn make_base(&self, to: u64, emulator: &mut Option<Box<Replay>>) {
        let mut replay = {
            let state = self.session.state();
            let going_on = emulator.take().and_then(|replay| state.timeline.go_on(*replay));
            going_on.unwrap_or_else(|| state.timeline.replay(false, 0))
        };
        loop {
            match replay.step(&self.log, to) {
                Ok(true) => break,
                Ok(false) => tokio::task::yield_now().await,
                Err(fallen) => {
                    tracing::warn!(shell = %self.session.id, %fallen, "the screen begins anew");
                    break;
                }
            }
        }
        let mut base = replay.base();
        base.offset = to;
        *emulator = Some(Box::new(replay));
        let mut state = self.session.state();
        state.timeline.add(base);
        state.timeline.forget_before(self.log.oldest());
    }
}

/// The making of bases.
#[derive(Default)]
struct Bases {
    /// The newest one is on its way to the keeper.
    noting: Option<JoinHandle<()>>,
    /// What the newest one was made with, while a flood goes on.
    emulator: Option<Box<Replay>>,
}

impl Bases {
    /// Waits until the keeper has the newest.
    async fn noted(&mut self) {
        if let Some(noting) = self.noting.take() {
            let _ = noting.await;
        }
    }
}

enum Turn {
    /// There may be more.
    More,
    /// There is nothing now.
    Empty,
    /// There will be nothing more.
    End,
}

async fn sleep_until(pause: Pause) {
    if let Pause::Until(instant) = pause {
        tokio::time::sleep_until(instant).await;
    }
}
