//! The local ends of a session: what is typed, where output is written, and signals.
//!
//! The terminal is read and written by threads of their own: it may block at any time, and nothing else may wait for it.

use std::io::{Read, Write};

use bytes::Bytes;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::terminal;

/// How much is read from the keyboard at once.
const INPUT: usize = 4096;
/// How many pieces of output wait for the terminal.
const WAITING: usize = 8;

/// Starts to read the standard input; the channel ends with it.
pub(super) fn read_input() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(2);
    std::thread::spawn(move || {
        let mut buffer = vec![0; INPUT];
        loop {
            match std::io::stdin().lock().read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => {
                    if sender.blocking_send(buffer[..length].to_vec()).is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    });
    receiver
}

/// Writes output, and tells how far it has got.
pub(super) struct Writer {
    pieces: mpsc::Sender<(Bytes, u64)>,
}

impl Writer {
    /// Starts it. The channel that comes with it tells the offset after each piece, or the failure that ended it; it ends
    /// when all is written.
    pub(super) fn start() -> (Self, mpsc::UnboundedReceiver<Result<u64, std::io::Error>>) {
        let (pieces, mut waiting) = mpsc::channel::<(Bytes, u64)>(WAITING);
        let (written, receiver) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            while let Some((bytes, offset)) = waiting.blocking_recv() {
                terminal::observe(&bytes);
                let mut out = std::io::stdout().lock();
                let result = out.write_all(&bytes).and_then(|()| out.flush()).map(|()| offset);
                let failed = result.is_err();
                if written.send(result).is_err() || failed {
                    return;
                }
            }
        });
        (Self { pieces }, receiver)
    }

    /// Where pieces are put, with the offset after them, once there is room.
    pub(super) fn room(&self) -> Room {
        Room(self.pieces.clone())
    }
}

/// A place before the writer.
pub(super) struct Room(mpsc::Sender<(Bytes, u64)>);

impl Room {
    /// Waits for room.
    pub(super) async fn reserve_owned(self) -> Result<mpsc::OwnedPermit<(Bytes, u64)>, mpsc::error::SendError<()>> {
        self.0.reserve_owned().await
    }

    /// Waits for room and puts a piece there.
    pub(super) async fn send_owned(self, piece: (Bytes, u64)) {
        // A writer that ended has told so.
        let _ = self.0.send(piece).await;
    }
}

/// A signal that concerns the session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Signal {
    /// The terminal has another size.
    Size,
    /// Stop, until somebody says to go on.
    Stop,
    /// End.
    End(u8),
}

/// The signals that concern the session.
pub(super) struct Signals {
    size: tokio::signal::unix::Signal,
    stop: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
    quit: tokio::signal::unix::Signal,
}

impl Signals {
    pub(super) fn listen() -> std::io::Result<Self> {
        Ok(Self {
            size: signal(SignalKind::window_change())?,
            stop: signal(SignalKind::from_raw(libc::SIGTSTP))?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    pub(super) async fn next(&mut self) -> Signal {
        let end = |number: i32| Signal::End(u8::try_from(number).unwrap_or(0));
        tokio::select! {
            _ = self.size.recv() => Signal::Size,
            _ = self.stop.recv() => Signal::Stop,
            _ = self.interrupt.recv() => end(libc::SIGINT),
            _ = self.terminate.recv() => end(libc::SIGTERM),
            _ = self.hangup.recv() => end(libc::SIGHUP),
            _ = self.quit.recv() => end(libc::SIGQUIT),
        }
    }
}
