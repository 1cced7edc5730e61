//! `dxflow shell connect`: the local terminal, given over to a shell.
//!
//! ```text
//! keyboard ─► detach keys? ─► outbox ─► link ═══ engine ═══ link ─► writer thread ─► terminal
//!                 │                       │ broken                       │
//!                 └─► leave               └─► again, at the offset       └─► acks
//! ```
//!
//! Reading, sending and writing wait for each other nowhere: Ctrl-C goes out while a flood comes in. Without a terminal on
//! the standard input what comes in is typed, and the session ends with the shell, or when all is quiet after the input's
//! end.

mod detach;
pub(crate) mod link;
mod local;
mod modes;
mod terminal;

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use self::detach::{Detector, Keys};
use self::link::{Buffers, Event, Link, ack, input, resize};
use self::local::{Signal, Signals, Writer};
use self::terminal::RawTerminal;
use super::args::ShellConnect;
use super::client::Client;
use super::error::{CliError, Done};
use super::output::{Output, clean};
use super::settings::Settings;

/// Output is acknowledged this often, and whenever all of it has been written.
const ACK_EVERY: u64 = 32 * 1024;
/// How many pieces of input wait to be sent before no more is read.
const OUTBOX: usize = 16;
/// How long the beginning of the detach keys is held back.
const HELD_KEYS: Duration = Duration::from_millis(600);
/// Before the first new try of a broken connection; doubled up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Between tries, at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A connection that is back within this time is not spoken of.
const UNSPOKEN: Duration = Duration::from_secs(1);
/// How often the engine may close with "not allowed" before that is the answer.
const REFUSALS: u32 = 2;
/// What Ctrl-C sends in raw mode.
const INTERRUPT: u8 = 3;

/// How a session ended.
#[derive(Debug, Eq, PartialEq)]
enum End {
    /// By the detach keys.
    Detached,
    /// The input had ended, and the shell was quiet.
    Quiet,
    /// The shell's process ended.
    Exited { code: Option<i64>, signal: Option<String> },
    /// The shell was removed.
    Gone(String),
    /// We were told to end by this signal.
    Signal(u8),
}

/// Why the connection is no more.
enum Left {
    End(End),
    Broken(String),
}

/// Connects to a shell, and stays until its end or the user's leave.
pub(crate) async fn run(connect: &ShellConnect, client: &Client, settings: &Settings, output: Output) -> Done {
    let keys = connect.detach_keys.as_deref().unwrap_or(&settings.sections.client.detach_keys);
    let keys = Keys::parse(keys).map_err(CliError::Usage)?;
    let interactive = std::io::stdin().is_terminal();
    let keys = if interactive { keys } else { Keys::parse("none").map_err(CliError::Usage)? };
    // What can go wrong at once goes wrong while the terminal is still as it was.
    let link = Link::open(client, &connect.identity, None, connect.view, Buffers::One).await?;
    let signals = Signals::listen().map_err(|error| CliError::failed("failed to listen for signals", error))?;
    let raw = if interactive { Some(RawTerminal::take()?) } else { None };
    let (writer, written) = Writer::start();
    let typed = if interactive || !connect.view { Some(local::read_input()) } else { None };
    let mut session = Session {
        client,
        identity: &connect.identity,
        view: connect.view,
        output,
        raw,
        interactive,
        quiet: connect.quiet.0,
        detector: Detector::new(keys),
        held_since: Instant::now(),
        typed,
        outbox: VecDeque::new(),
        writer,
        written,
        pending: VecDeque::new(),
        acked: 0,
        ack: None,
        offset: None,
        exit: None,
        refusals: 0,
        last_output: Instant::now(),
        signals,
    };
    let end = Box::pin(session.run(link)).await;
    session.finish(end).await
}

struct Session<'a> {
    client: &'a Client,
    identity: &'a str,
    view: bool,
    output: Output,
    raw: Option<RawTerminal>,
    interactive: bool,
    quiet: Duration,
    detector: Detector,
    held_since: Instant,
    /// What is typed; none once it has ended.
    typed: Option<mpsc::Receiver<Vec<u8>>>,
    outbox: VecDeque<Message>,
    writer: Writer,
    written: mpsc::UnboundedReceiver<Result<u64, std::io::Error>>,
    /// Output that the writer has no room for yet, and the offset after it.
    pending: VecDeque<(Bytes, u64)>,
    acked: u64,
    ack: Option<u64>,
    /// The offset of the next byte, once it is known.
    offset: Option<u64>,
    exit: Option<(Option<i64>, Option<String>)>,
    refusals: u32,
    last_output: Instant,
    signals: Signals,
}

impl Session<'_> {
    async fn run(&mut self, mut link: Link) -> Result<End, CliError> {
        loop {
            match self.attached(&mut link).await? {
                Left::End(end) => {
                    if matches!(end, End::Detached | End::Quiet | End::Signal(_)) {
                        link.close().await;
                    }
                    return Ok(end);
                }
                Left::Broken(_) => match self.reconnect().await? {
                    Ok(again) => link = again,
                    Err(end) => return Ok(end),
                },
            }
        }
    }

    /// One connection, until it ends.
    async fn attached(&mut self, link: &mut Link) -> Result<Left, CliError> {
        let outgoing = link.outgoing().clone();
        self.acked = link.offset();
        self.ack = None;
        self.last_output = Instant::now();
        loop {
            let room = self.writer.room();
            let to_send = !self.outbox.is_empty() || self.ack.is_some();
            let take_input = self.outbox.len() < OUTBOX;
            let quiet_at =
                (self.typed.is_none() && !self.view && self.outbox.is_empty()).then(|| self.last_output + self.quiet);
            tokio::select! {
                event = link.next(), if self.pending.is_empty() => {
                    if let Some(left) = self.event(event, link) {
                        return self.drained(left).await;
                    }
                }
                permit = room.reserve_owned(), if !self.pending.is_empty() => {
                    if let (Ok(permit), Some(piece)) = (permit, self.pending.pop_front()) {
                        permit.send(piece);
                    }
                }
                written = self.written.recv() => self.was_written(written)?,
                typed = next(&mut self.typed), if take_input => {
                    if self.was_typed(typed) {
                        return Ok(Left::End(End::Detached));
                    }
                }
                permit = outgoing.reserve(), if to_send => {
                    match permit {
                        Ok(permit) => {
                            if let Some(message) = self.outbox.pop_front().or_else(|| self.ack.take().map(ack)) {
                                permit.send(message);
                            }
                        }
                        // The sending side is gone: the receiving one will say why.
                        Err(_) => {
                            self.ack = None;
                            tokio::time::sleep(FIRST_PAUSE).await;
                        }
                    }
                }
                signal = self.signals.next() => {
                    if let Some(end) = self.signal(signal)? {
                        return Ok(Left::End(end));
                    }
                }
                () = tokio::time::sleep_until(self.held_since + HELD_KEYS), if self.detector.waiting() => {
                    let held = self.detector.release();
                    self.outbox.push_back(input(held));
                }
                () = until(quiet_at), if quiet_at.is_some() => return Ok(Left::End(End::Quiet)),
            }
        }
    }

    /// What an event of the shell leads to.
    fn event(&mut self, event: Event, link: &Link) -> Option<Left> {
        match event {
            Event::Attached { columns, rows } => {
                self.offset = Some(link.offset());
                self.acked = link.offset();
                if self.interactive && !self.view && terminal::size().is_some_and(|size| size != (columns, rows)) {
                    self.tell_size();
                }
            }
            Event::Screen(bytes) => {
                self.offset = Some(link.offset());
                if self.interactive || self.view {
                    let clear =
                        if self.raw.is_some() && self.output.terminal { terminal::clear() } else { String::new() };
                    let screen = [clear.as_bytes(), &bytes].concat();
                    self.pending.push_back((screen.into(), link.offset()));
                }
            }
            Event::Output(bytes) => {
                self.offset = Some(link.offset());
                self.last_output = Instant::now();
                self.pending.push_back((bytes, link.offset()));
            }
            Event::Resized => {}
            Event::Gap { from, to } => {
                self.offset = Some(link.offset());
                self.acked = to;
                if !self.interactive {
                    self.output
                        .note(format!("dxflow: {} bytes of output came faster than they could be taken", to - from));
                }
            }
            Event::Exit { code, signal } => self.exit = Some((code, signal)),
            Event::Closing { reason } => self.output.detail(format!("the engine closes: {}", clean(&reason))),
            Event::Closed { code: 1000, reason } => {
                return Some(Left::End(match self.exit.take() {
                    Some((code, signal)) => End::Exited { code, signal },
                    None => End::Gone(reason),
                }));
            }
            Event::Closed { code: 1008, reason } => {
                self.refusals += 1;
                self.client.forget_token();
                return Some(Left::Broken(if reason.is_empty() { "not allowed".into() } else { reason }));
            }
            Event::Closed { reason, .. } => {
                let reason = if reason.is_empty() { "the engine closed the connection".into() } else { reason };
                return Some(Left::Broken(reason));
            }
            Event::Broken(reason) => return Some(Left::Broken(reason)),
        }
        None
    }

    /// Has what came before the end written first.
    async fn drained(&mut self, left: Left) -> Result<Left, CliError> {
        if let Left::Broken(reason) = &left
            && self.refusals > REFUSALS
        {
            return Err(CliError::Failed(format!("the engine closed the connection: {}", clean(reason))));
        }
        while let Some(piece) = self.pending.pop_front() {
            // A terminal that is held (Ctrl-S) must not hold a signal up.
            tokio::select! {
                permit = self.writer.room().reserve_owned() => match permit {
                    Ok(permit) => { permit.send(piece); }
                    Err(_) => break,
                },
                signal = self.signals.next() => {
                    if let Some(end) = self.signal(signal)? {
                        return Ok(Left::End(end));
                    }
                    self.pending.push_front(piece);
                }
            }
        }
        Ok(left)
    }

    fn was_written(&mut self, written: Option<Result<u64, std::io::Error>>) -> Done {
        match written {
            Some(Ok(offset)) => {
                if offset > self.acked && (offset - self.acked >= ACK_EVERY || self.pending.is_empty()) {
                    self.acked = offset;
                    self.ack = Some(offset);
                }
                Ok(())
            }
            Some(Err(error)) => Err(super::output::output_error(error)),
            None => Err(CliError::OutputClosed),
        }
    }

    /// Takes what was typed; true if it was the detach keys.
    fn was_typed(&mut self, typed: Option<Vec<u8>>) -> bool {
        let Some(bytes) = typed else {
            self.typed = None;
            self.last_output = Instant::now();
            // A terminal that ended has nobody before it.
            return self.interactive;
        };
        let typed = self.detector.feed(&bytes);
        if self.detector.waiting() {
            self.held_since = Instant::now();
        }
        let interrupted = self.view && typed.pass.contains(&INTERRUPT);
        if !self.view && !typed.pass.is_empty() {
            self.outbox.push_back(input(typed.pass));
        }
        typed.leave || interrupted
    }

    fn signal(&mut self, signal: Signal) -> Result<Option<End>, CliError> {
        match signal {
            Signal::End(number) => return Ok(Some(End::Signal(number))),
            Signal::Stop => {
                let stop = || {
                    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP);
                };
                match &self.raw {
                    Some(raw) => raw.lend(stop)?,
                    None => stop(),
                }
                self.tell_size();
            }
            Signal::Size => self.tell_size(),
        }
        Ok(None)
    }

    fn tell_size(&mut self) {
        if let Some((columns, rows)) = terminal::size()
            && self.interactive
            && !self.view
        {
            self.outbox.retain(|message| !matches!(message, Message::Text(_)));
            self.outbox.push_back(resize(columns, rows));
        }
    }

    /// Connects again and again, until it works or the user has enough.
    async fn reconnect(&mut self) -> Result<Result<Link, End>, CliError> {
        let started = Instant::now();
        let mut pause = FIRST_PAUSE;
        // A full-screen program's screen is drawn anew; everything else goes on at its byte.
        let since = self.offset.filter(|_| !(self.output.terminal && terminal::alternate_screen()));
        let mut status = Status::new(self.raw.is_some() && self.output.terminal);
        loop {
            let opening = Box::pin(Link::open(self.client, self.identity, since, self.view, Buffers::One));
            let opened = tokio::select! {
                opened = opening => opened,
                end = self.leaving() => return end.map(Err),
            };
            let reason = match opened {
                Ok(link) => {
                    if let Some(text) = status.hide() {
                        self.pending.push_back((text.into(), 0));
                    }
                    return Ok(Ok(link));
                }
                Err(CliError::Unreachable { reason, .. }) => clean(&reason),
                Err(CliError::Refused { status: 429 | 500..=599, detail, .. }) => detail,
                Err(error) => return Err(error),
            };
            if started.elapsed() + pause > UNSPOKEN
                && let Some(text) = status.show(&reason, pause)
            {
                self.tell_status(text).await;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                end = self.leaving() => return end.map(Err),
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn tell_status(&self, text: String) {
        if self.raw.is_some() && self.output.terminal {
            let sending = self.writer.room().send_owned((text.into(), 0));
            let _ = tokio::time::timeout(FIRST_PAUSE, sending).await;
        } else {
            self.output.note(text);
        }
    }

    /// Waits until the user leaves, or a signal ends us. What else is typed meanwhile goes nowhere.
    async fn leaving(&mut self) -> Result<End, CliError> {
        loop {
            tokio::select! {
                typed = next(&mut self.typed), if self.interactive => match typed {
                    None => return Ok(End::Detached),
                    Some(bytes) if self.detector.feed(&bytes).leave || bytes == [INTERRUPT] => return Ok(End::Detached),
                    Some(_) => {}
                },
                signal = self.signals.next() => {
                    if let Some(end) = self.signal(signal)? {
                        return Ok(end);
                    }
                }
            }
        }
    }

    /// Gives the terminal back, tells how it ended, and gives the exit code.
    async fn finish(mut self, end: Result<End, CliError>) -> Done {
        // All output is written first; a terminal that takes none is not waited for for ever.
        let patience = if self.interactive { Duration::from_secs(3) } else { Duration::MAX };
        drop(self.writer);
        let all = async { while self.written.recv().await.is_some() {} };
        let _ = tokio::time::timeout(patience, all).await;
        let was_raw = self.raw.take().is_some();
        let told = |text: String| {
            if was_raw {
                self.output.note(format!("\n[{text}]"));
            }
        };
        let identity = clean(self.identity);
        match end? {
            End::Detached => {
                told(format!("left {identity}, which runs on; return with `dxflow shell connect {identity}`"));
                Ok(())
            }
            End::Quiet => Ok(()),
            End::Exited { code, signal } => {
                let (words, code) = ended(code, signal.as_deref());
                told(format!("{identity} {words}"));
                if code == 0 { Ok(()) } else { Err(CliError::Exit(code)) }
            }
            End::Gone(reason) => {
                let reason = if reason.is_empty() { String::new() } else { format!(": {}", clean(&reason)) };
                Err(CliError::Failed(format!("the shell {identity} is gone{reason}")))
            }
            End::Signal(number) => Err(CliError::Exit(128_u8.saturating_add(number))),
        }
    }
}

/// How a process ended, in words and as an exit code.
fn ended(code: Option<i64>, signal: Option<&str>) -> (String, u8) {
    match (code, signal) {
        (_, Some(signal)) => (format!("was ended by {}", clean(signal)), 128_u8.saturating_add(signal_number(signal))),
        (Some(code), None) => (format!("ended with {code}"), u8::try_from(code).unwrap_or(1)),
        (None, None) => ("ended".into(), 0),
    }
}

/// The number of a signal that ends processes, by its name.
fn signal_number(name: &str) -> u8 {
    let number = match name.strip_prefix("SIG").unwrap_or(name) {
        "HUP" => libc::SIGHUP,
        "INT" => libc::SIGINT,
        "QUIT" => libc::SIGQUIT,
        "ILL" => libc::SIGILL,
        "TRAP" => libc::SIGTRAP,
        "ABRT" => libc::SIGABRT,
        "BUS" => libc::SIGBUS,
        "FPE" => libc::SIGFPE,
        "USR1" => libc::SIGUSR1,
        "SEGV" => libc::SIGSEGV,
        "USR2" => libc::SIGUSR2,
        "PIPE" => libc::SIGPIPE,
        "ALRM" => libc::SIGALRM,
        "TERM" => libc::SIGTERM,
        "XCPU" => libc::SIGXCPU,
        "XFSZ" => libc::SIGXFSZ,
        "SYS" => libc::SIGSYS,
        _ => libc::SIGKILL,
    };
    u8::try_from(number).unwrap_or(9)
}

async fn next(typed: &mut Option<mpsc::Receiver<Vec<u8>>>) -> Option<Vec<u8>> {
    match typed {
        Some(typed) => typed.recv().await,
        None => std::future::pending().await,
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// One line that says that the connection is broken, below the cursor, and gone when it is back.
struct Status {
    on_terminal: bool,
    shown: bool,
}

impl Status {
    fn new(on_terminal: bool) -> Self {
        Self { on_terminal, shown: false }
    }

    fn show(&mut self, reason: &str, pause: Duration) -> Option<String> {
        let first = !std::mem::replace(&mut self.shown, true);
        if !self.on_terminal {
            return first.then(|| format!("dxflow: the connection is broken ({reason}); trying again"));
        }
        let mut line = format!("[connecting again in {:.1} s, Ctrl-C leaves: {reason}]", pause.as_secs_f64());
        let columns = terminal::size().map_or(80, |(columns, _)| usize::from(columns));
        if let Some((cut, _)) = line.char_indices().nth(columns.saturating_sub(1)) {
            line.truncate(cut);
        }
        // One line of room below the cursor, which stays at its text even where the screen scrolls for it.
        let room = if first { "\n\x1b[A" } else { "" };
        Some(format!("{room}\x1b7\x1b[B\r\x1b[0;7m{line}\x1b[0m\x1b[K\x1b8"))
    }

    fn hide(&mut self) -> Option<String> {
        (self.on_terminal && self.shown).then(|| "\x1b7\x1b[B\r\x1b[2K\x1b8".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_the_shells() {
        for (code, signal, expected) in [
            (Some(0), None, 0),
            (Some(42), None, 42),
            (Some(-1), None, 1),
            (None, Some("TERM"), 143),
            (None, Some("SIGKILL"), 137),
            (None, Some("RTMIN+3"), 137),
            (None, None, 0),
        ] {
            assert_eq!(ended(code, signal).1, expected, "{code:?} {signal:?}");
        }
    }

    #[test]
    fn the_status_takes_its_line_back() {
        let mut status = Status::new(true);
        assert_eq!(status.hide(), None);
        let first = status.show("gone", FIRST_PAUSE).expect("a line");
        assert!(first.starts_with("\n\x1b[A\x1b7") && first.ends_with("\x1b8"), "{first:?}");
        assert!(status.show("gone", FIRST_PAUSE).expect("a line").starts_with("\x1b7"));
        assert!(status.hide().is_some());
        let mut status = Status::new(false);
        assert!(status.show("gone", FIRST_PAUSE).is_some());
        assert_eq!(status.show("gone", FIRST_PAUSE), None);
    }
}
