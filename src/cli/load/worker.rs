//! One shell of a load test: made, attached to, driven, and let go.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::watch;

use super::histogram::Histogram;
use crate::cli::args::{LoadShells, Workload};
use crate::cli::attach::link::{Buffers, Event, Link, ack, input};
use crate::cli::client::{Call, Client};
use crate::cli::error::CliError;

/// A shell that has said nothing for this long after its start, or a line that has no answer, is an error.
const PATIENCE: Duration = Duration::from_secs(30);
/// Output is acknowledged this often.
const ACK_EVERY: u64 = 32 * 1024;
/// Ends whatever runs in the foreground.
const INTERRUPT: &[u8] = b"\x03";
/// As many full lines as it can.
const FLOOD: &str = "yes 'dxflow load: the quick brown fox jumps over the lazy dog 0123456789'\n";
/// A screen ten times a second, as full-screen programs draw it: home, every row, colours.
const REDRAW: &str = "while :; do printf '\\033[H'; i=0; while [ $i -lt 23 ]; do printf '\\033[3%dm%-78s\\033[0m\\n' $((i%8)) \"row $i of the screen\"; i=$((i+1)); done; sleep 0.1; done\n";

/// What the test is doing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Phase {
    /// Shells are made.
    Opening,
    /// They are driven.
    Driving,
    /// They are let go.
    Stopping,
}

/// What all shells measure together.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    pub(crate) create: Mutex<Histogram>,
    pub(crate) first_byte: Mutex<Histogram>,
    pub(crate) echo: Mutex<Histogram>,
    /// Echoes since the last sample.
    pub(crate) recent_echo: Mutex<Histogram>,
    pub(crate) remove: Mutex<Histogram>,
    /// Bytes of output.
    pub(crate) bytes: AtomicU64,
    /// Shells that are open and attached to, and those that never will be.
    pub(crate) open: AtomicUsize,
    pub(crate) failed: AtomicUsize,
    errors: Mutex<BTreeMap<String, u64>>,
    /// The shells that are to be removed again.
    pub(crate) made: Mutex<Vec<String>>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Measured {
    pub(crate) fn error(&self, during: &str, what: impl std::fmt::Display) {
        *lock(&self.errors).entry(format!("{during}: {what}")).or_default() += 1;
    }

    /// The errors by kind.
    pub(crate) fn errors(&self) -> BTreeMap<String, u64> {
        lock(&self.errors).clone()
    }
}

/// Lives one shell's life.
pub(crate) async fn live(
    client: Arc<Client>,
    measured: Arc<Measured>,
    identity: String,
    options: Arc<LoadShells>,
    mut phase: watch::Receiver<Phase>,
) {
    let opened = open(&client, &measured, &identity, &options).await;
    let mut link = match opened {
        Ok(link) => {
            measured.open.fetch_add(1, Ordering::Relaxed);
            link
        }
        Err((during, error)) => {
            measured.error(during, kind(&error));
            measured.failed.fetch_add(1, Ordering::Relaxed);
            return;
        }
    };
    let result = drive(&mut link, &measured, &identity, &options, &mut phase).await;
    measured.open.fetch_sub(1, Ordering::Relaxed);
    match result {
        Ok(()) => link.close().await,
        Err(reason) => measured.error("session", reason),
    }
}

/// An error's kind: what many shells have in common of it.
fn kind(error: &CliError) -> String {
    match error {
        CliError::Refused { status, problem, .. } => {
            let slug = problem.get("type").and_then(serde_json::Value::as_str).unwrap_or("refused");
            format!("{status} {slug}")
        }
        CliError::Unreachable { reason, .. } => reason.clone(),
        other => other.to_string(),
    }
}

async fn open(
    client: &Client,
    measured: &Measured,
    identity: &str,
    options: &LoadShells,
) -> Result<Link, (&'static str, CliError)> {
    let started = Instant::now();
    let config = json!({ "command": options.command, "columns": 80, "rows": 24 });
    let body = json!({ "identity": identity, "config": config });
    client.value(Call::post("/shell/").json(&body)).await.map_err(|error| ("create", error))?;
    lock(&measured.create).record(started.elapsed());
    lock(&measured.made).push(identity.to_owned());
    // From its first byte, so that the first one is seen, whenever it came.
    let mut link =
        Link::open(client, identity, Some(0), false, Buffers::Many).await.map_err(|error| ("attach", error))?;
    let first = async {
        loop {
            match link.next().await {
                Event::Output(bytes) | Event::Screen(bytes) if !bytes.is_empty() => return Ok(bytes.len()),
                Event::Closed { .. } | Event::Exit { .. } => return Err(CliError::Failed("it ended at once".into())),
                Event::Broken(reason) => return Err(CliError::Failed(reason)),
                _ => {}
            }
        }
    };
    let length = match tokio::time::timeout(PATIENCE, first).await {
        Ok(first) => first.map_err(|error| ("first byte", error))?,
        Err(_) => return Err(("first byte", CliError::Failed("it says nothing".into()))),
    };
    measured.bytes.fetch_add(length as u64, Ordering::Relaxed);
    lock(&measured.first_byte).record(started.elapsed());
    Ok(link)
}

/// Drives a shell until the test stops.
async fn drive(
    link: &mut Link,
    measured: &Measured,
    identity: &str,
    options: &LoadShells,
    phase: &mut watch::Receiver<Phase>,
) -> Result<(), String> {
    let outgoing = link.outgoing().clone();
    let pause = Duration::from_secs(1) / options.lines;
    // Each shell has its own moment in the second.
    let spread = pause.mul_f64(f64::from(spread_of(identity)) / 256.0);
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + spread, pause);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut echo = Echo::default();
    let (mut acked, mut begun) = (link.offset(), false);
    loop {
        let now = *phase.borrow_and_update();
        match now {
            Phase::Driving if !begun => {
                begun = true;
                let line = match options.workload {
                    Workload::Idle | Workload::Echo => "",
                    Workload::Flood => FLOOD,
                    Workload::Redraw => REDRAW,
                };
                if !line.is_empty() {
                    outgoing.send(input(line)).await.map_err(|_| "the connection ended")?;
                }
            }
            Phase::Stopping => {
                if begun && matches!(options.workload, Workload::Flood | Workload::Redraw) {
                    // The connection may be full of output; whether this arrives is no matter, the shell is removed.
                    let _ = outgoing.try_send(input(INTERRUPT));
                }
                return Ok(());
            }
            Phase::Opening | Phase::Driving => {}
        }
        let typing = now == Phase::Driving && options.workload == Workload::Echo;
        tokio::select! {
            changed = phase.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
            }
            _ = ticks.tick(), if typing => {
                if echo.overdue() {
                    return Err("a line had no answer".into());
                }
                if let Some(line) = echo.next_line() {
                    outgoing.send(input(line)).await.map_err(|_| "the connection ended")?;
                }
            }
            event = link.next() => match event {
                Event::Output(bytes) => {
                    measured.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    if let Some(took) = echo.seen(&bytes) {
                        lock(&measured.echo).record(took);
                        lock(&measured.recent_echo).record(took);
                    }
                    if link.offset() - acked >= ACK_EVERY {
                        acked = link.offset();
                        // A full outbox already has one under way.
                        let _ = outgoing.try_send(ack(acked));
                    }
                }
                Event::Gap { to, .. } => acked = to,
                Event::Exit { .. } | Event::Closed { .. } if *phase.borrow() == Phase::Stopping => return Ok(()),
                Event::Exit { .. } => return Err("the shell ended".into()),
                Event::Closed { code, .. } => return Err(format!("closed with {code}")),
                Event::Broken(reason) => return Err(reason),
                _ => {}
            },
        }
    }
}

/// A number that differs from name to name.
fn spread_of(identity: &str) -> u8 {
    identity.bytes().fold(7_u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte))
}

/// Lines that are typed one after the other, and their answers in what comes back.
///
/// What is typed comes back too, as the terminal's echo; the quotes in it tell it from the answer.
#[derive(Debug, Default)]
struct Echo {
    number: u64,
    waiting: Option<(Vec<u8>, Instant)>,
    /// The end of what came, as far as it may be the beginning of the answer.
    tail: Vec<u8>,
}

impl Echo {
    /// The next line; none while one waits for its answer.
    fn next_line(&mut self) -> Option<String> {
        if self.waiting.is_some() {
            return None;
        }
        self.number += 1;
        self.tail.clear();
        self.waiting = Some((format!("dxload-{}-end", self.number).into_bytes(), Instant::now()));
        Some(format!("echo dx''load-{}-end\n", self.number))
    }

    fn overdue(&self) -> bool {
        self.waiting.as_ref().is_some_and(|(_, since)| since.elapsed() > PATIENCE)
    }

    /// Looks for the answer; how long it took.
    fn seen(&mut self, bytes: &[u8]) -> Option<Duration> {
        let (answer, since) = self.waiting.as_ref()?;
        self.tail.extend_from_slice(bytes);
        if self.tail.windows(answer.len()).any(|window| window == answer) {
            let took = since.elapsed();
            self.waiting = None;
            return Some(took);
        }
        let keep = self.tail.len().min(answer.len() - 1);
        self.tail.drain(..self.tail.len() - keep);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_told_from_the_terminals_echo() {
        let mut echo = Echo::default();
        let line = echo.next_line().expect("a line");
        assert_eq!(echo.next_line(), None);
        assert_eq!(echo.seen(line.as_bytes()), None);
        assert_eq!(echo.seen(b"\r\ndxload"), None);
        assert!(echo.seen(b"-1-end\r\n$ ").is_some());
        assert_eq!(echo.seen(b"dxload-1-end"), None);
        assert!(echo.next_line().is_some_and(|line| line.contains("-2-")));
    }
}
