//! Tells systemd how the engine does (sd_notify(3)): ready, stopping, alive.
//!
//! Without `NOTIFY_SOCKET` in the environment all of it does nothing.

use std::env;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The way to the service manager, if there is one.
#[derive(Debug)]
pub struct Notifier {
    socket: Option<(UnixDatagram, SocketAddr)>,
}

impl Notifier {
    /// Reads `NOTIFY_SOCKET`; a leading `@` names an abstract socket.
    #[must_use]
    pub fn from_env() -> Self {
        let address = env::var("NOTIFY_SOCKET").ok().and_then(|path| match path.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name).ok(),
            None => SocketAddr::from_pathname(path).ok(),
        });
        Self { socket: address.and_then(|address| Some((UnixDatagram::unbound().ok()?, address))) }
    }

    /// Sends one state, `READY=1`. Failures are the manager's affair: it has time-outs of its own.
    pub fn send(&self, state: &str) {
        if let Some((socket, address)) = &self.socket {
            let _ = socket.send_to_addr(state.as_bytes(), address);
        }
    }

    /// How often the manager wants to hear `WATCHDOG=1`: at half of `WATCHDOG_USEC`.
    #[must_use]
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.socket.as_ref()?;
        let micros: u64 = env::var("WATCHDOG_USEC").ok()?.parse().ok().filter(|micros| *micros > 0)?;
        Some(Duration::from_micros(micros / 2))
    }
}
