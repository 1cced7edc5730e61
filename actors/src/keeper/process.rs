//! The keeper process: one thread, one epoll, one engine.
//!
//! `dxflow keeper --data-dir DIR` puts itself into the background (a session of its own, so that nothing that happens to
//! the engine or its terminal reaches it), takes the lock `keeper.lock`, listens on `keeper.sock` (0600) and writes what
//! it has to say to `keeper.log`. It ends when it holds no shell and no engine is connected; on SIGTERM, after hanging up
//! its shells; and when its data directory is gone, because then nobody can reach the shells any more.
//!
//! What a client sends can end the client's connection, never the keeper. Everything is bounded: connections, their
//! buffers, the number of shells, the length of what they are told.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fs::{FlockOperation, Mode};
use rustix::process::{Resource, Rlimit};

use super::error::Refusal;
use super::protocol::{self, Command, FrameReader, Message, Outcome, Request, VERSION};
use super::pty;
use super::socket::{self, Outbox, SOCKET};
use super::table::Table;

/// How many shells a keeper holds at most.
const MAX_SHELLS: usize = 20_000;
/// How many connections may be open; an engine needs one.
const MAX_CONNECTIONS: usize = 16;
/// How long a connection may take to say hello.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);
/// A client that leaves this many answers unread is not asked for more.
const MAX_UNREAD_FRAMES: usize = 64;
/// A client that leaves this many bytes unread is hung up.
const MAX_UNREAD: usize = 16 << 20;
/// How long a keeper waits for an engine that comes back, when it holds nothing.
const LINGER: Duration = Duration::from_secs(2);
/// How long a fresh keeper waits for its first engine.
const FIRST_LINGER: Duration = Duration::from_secs(30);
/// How often it is looked whether the data directory is still there, while no engine is connected.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// How long the shells have after a SIGTERM to the keeper.
const END_GRACE: Duration = Duration::from_secs(2);
/// How long a starting keeper waits for one that is ending.
const LOCK_TIMEOUT: Duration = Duration::from_secs(3);
/// A log file longer than this is begun anew when a keeper starts.
const MAX_LOG: u64 = 1 << 20;

const LISTENER: u64 = 0;
const SIGNALS: u64 = 1;
/// Tokens of connections are even from here, those of shells odd.
const FIRST_CONNECTION: u64 = 2;
const FIRST_SHELL: u64 = 3;

/// Runs the keeper of `data_dir`: goes into the background, and returns in the foreground process when it is ready.
/// Must be called before the process has a second thread and has opened anything.
pub fn run(data_dir: &Path) -> ExitCode {
    pty::close_inherited();
    match start(data_dir) {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(io::stderr(), "dxflow keeper: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Says something in the log: standard error, which is the log file in the background.
fn log(text: std::fmt::Arguments<'_>) {
    let _ =
        writeln!(io::stderr(), "{} keeper[{}] {text}", crate::time::iso(crate::time::unix_now()), std::process::id());
}

fn start(data_dir: &Path) -> io::Result<ExitCode> {
    let context = |what: &str| {
        let what = format!("{what} in `{}`", data_dir.display());
        move |error: io::Error| io::Error::new(error.kind(), format!("{what}: {error}"))
    };
    let data_dir = data_dir.canonicalize().map_err(context("cannot work"))?;
    let lock = lock(&data_dir)?;
    let log_path = data_dir.join("keeper.log");
    let long = std::fs::metadata(&log_path).is_ok_and(|found| found.len() > MAX_LOG);
    let log_file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&log_path)
        .map_err(context("cannot write keeper.log"))?;
    if long {
        log_file.set_len(0)?;
    }
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let (mut ready, readiness) = io::pipe()?;
    if !pty::fork()? {
        drop(readiness);
        let mut word = String::new();
        ready.read_to_string(&mut word)?;
        if word == "ready" {
            return Ok(ExitCode::SUCCESS);
        }
        return Err(io::Error::other(if word.is_empty() {
            "it ended while it started, see keeper.log".into()
        } else {
            word
        }));
    }
    // In the background: a session of its own, and not its leader, so that no terminal can become its own.
    rustix::process::setsid()?;
    if !pty::fork()? {
        return Ok(ExitCode::SUCCESS);
    }
    drop(ready);
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&log_file)?;
    drop((null, log_file));
    std::env::set_current_dir("/")?;
    let mut readiness = Some(readiness);
    let mut say = |word: &str| {
        if let Some(mut pipe) = readiness.take() {
            let _ = pipe.write_all(word.as_bytes());
        }
    };
    let result = serve(&data_dir, lock, Options::default(), || say("ready"));
    if let Err(error) = &result {
        log(format_args!("ended: {error}"));
        say(&error.to_string());
    }
    Ok(if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Takes the lock of the data directory.
///
/// # Errors
/// When another keeper has it, and does not end within [`LOCK_TIMEOUT`].
pub(super) fn lock(data_dir: &Path) -> io::Result<File> {
    let path = data_dir.join("keeper.lock");
    let lock = std::fs::OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path)?;
    let until = Instant::now() + LOCK_TIMEOUT;
    loop {
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(lock),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(io::Error::other(format!("a keeper runs already in `{}`", data_dir.display())));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// What differs between a keeper process and one on a thread of a test.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    /// How many shells are held at most.
    pub(super) max_shells: usize,
    /// How long it waits for the first engine, and for one that comes back.
    pub(super) linger: (Duration, Duration),
    /// Whether it makes cgroups where it can.
    pub(super) cgroups: bool,
    /// Whether the whole process is ours: take in orphans, reap them, heed SIGTERM.
    pub(super) own_process: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { max_shells: MAX_SHELLS, linger: (FIRST_LINGER, LINGER), cgroups: true, own_process: true }
    }
}

/// Serves until there is nothing to hold and nobody to serve. `ready` is called once, when connections are taken.
///
/// # Errors
/// When it cannot begin, or the system refuses to wait for events.
pub(super) fn serve(data_dir: &Path, lock: File, options: Options, ready: impl FnOnce()) -> io::Result<()> {
    let mut server = Server::new(data_dir, lock, options)?;
    log(format_args!(
        "ready; protocol {VERSION}, cgroups: {}",
        server.table.cgroups().map_or_else(|why| format!("none ({why})"), |()| "one for each shell".into())
    ));
    ready();
    let result = server.run();
    if result.is_ok() {
        log(format_args!("ended"));
    }
    result
}

#[derive(Debug)]
struct Connection {
    socket: UnixStream,
    reader: FrameReader,
    outbox: Outbox,
    /// Until when it must have said hello; `None` once it has.
    greeting: Option<Instant>,
    /// Nothing more is read; it ends when all is sent.
    closing: bool,
    interest: EventFlags,
}

struct Server {
    data_dir: PathBuf,
    lock: File,
    epoll: OwnedFd,
    listener: UnixListener,
    signals: Option<OwnedFd>,
    connections: HashMap<u64, Connection>,
    next_connection: u64,
    engine: Option<u64>,
    table: Table,
    instance: u64,
    linger: (Duration, Duration),
    /// Since when no engine is connected.
    alone_since: Instant,
    served: bool,
    next_look: Instant,
    ending: bool,
}

impl Server {
    fn new(data_dir: &Path, lock: File, options: Options) -> io::Result<Self> {
        let soft = raise_open_files();
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let listener = listen(data_dir)?;
        epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
        let signals = if options.own_process {
            rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
            let signals = pty::signals()?;
            epoll::add(&epoll, &signals, EventData::new_u64(SIGNALS), EventFlags::IN)?;
            Some(signals)
        } else {
            None
        };
        let mut instance = [0; 8];
        getrandom::fill(&mut instance).map_err(|error| io::Error::other(error.to_string()))?;
        let now = Instant::now();
        Ok(Self {
            data_dir: data_dir.into(),
            lock,
            epoll,
            listener,
            signals,
            connections: HashMap::new(),
            next_connection: FIRST_CONNECTION,
            engine: None,
            table: Table::new(options.max_shells, options.cgroups, soft, FIRST_SHELL),
            instance: u64::from_ne_bytes(instance) >> 1,
            linger: options.linger,
            alone_since: now,
            served: false,
            next_look: now + LOOK_INTERVAL,
            ending: false,
        })
    }

    fn run(&mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(256);
        loop {
            let now = Instant::now();
            if self.is_over(now) {
                // Before the socket is closed, so that nobody connects to one who no longer listens.
                let _ = std::fs::remove_file(self.data_dir.join(SOCKET));
                return Ok(());
            }
            let timeout = self.next_deadline(now).map(|deadline| {
                // Rounded up, so that what is due then is due indeed.
                let wait = deadline.saturating_duration_since(now) + Duration::from_millis(1);
                rustix::event::Timespec::try_from(wait).unwrap_or(rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 })
            });
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                let (token, flags) = (event.data.u64(), event.flags);
                match token {
                    LISTENER => self.accept(),
                    SIGNALS => self.take_signals(),
                    token if token % 2 == FIRST_CONNECTION % 2 => self.converse(token, flags),
                    token => self.shell_ended(token),
                }
            }
            self.on_time(Instant::now());
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        let linger = if self.served { self.linger.1 } else { self.linger.0 };
        self.table.is_empty()
            && (self.ending || (self.engine.is_none() && now.duration_since(self.alone_since) >= linger))
    }

    fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let greetings = self.connections.values().filter_map(|connection| connection.greeting);
        let alone = self.engine.is_none().then(|| {
            let linger = if self.served { self.linger.1 } else { self.linger.0 };
            let end = self.alone_since + linger;
            if self.table.is_empty() && end > now { end.min(self.next_look) } else { self.next_look }
        });
        greetings.chain(alone).chain(self.table.next_tick()).min()
    }

    /// What is done by the clock.
    fn on_time(&mut self, now: Instant) {
        for (connection, id) in self.table.tick(now) {
            self.answer(connection, id, Outcome::Done);
        }
        let late: Vec<u64> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.greeting.is_some_and(|deadline| deadline <= now))
            .map(|(token, _)| *token)
            .collect();
        for token in late {
            self.close(token, "it said no hello in time");
        }
        if self.engine.is_none() && now >= self.next_look {
            self.next_look = now + LOOK_INTERVAL;
            self.look_after_data_dir();
        }
    }

    /// Nobody can reach the shells of a data directory that is gone; a socket that is gone is made anew.
    fn look_after_data_dir(&mut self) {
        let own = self.lock.metadata().map(|own| (own.dev(), own.ino()));
        let there = std::fs::metadata(self.data_dir.join("keeper.lock")).map(|there| (there.dev(), there.ino()));
        match (own, there) {
            (Ok(own), Ok(there)) if own == there => {
                if !self.data_dir.join(SOCKET).exists()
                    && let Ok(listener) = listen(&self.data_dir)
                    && epoll::add(&self.epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN).is_ok()
                {
                    log(format_args!("the socket was gone; made anew"));
                    self.listener = listener;
                }
            }
            _ => {
                log(format_args!("the data directory is gone; hanging up {} shells", self.table.len()));
                self.end();
            }
        }
    }

    /// Hangs up all shells, and ends when they are gone.
    fn end(&mut self) {
        if !self.ending {
            self.ending = true;
            self.table.remove_all(END_GRACE);
        }
    }

    fn accept(&mut self) {
        // One at a time: the event comes again when there are more.
        let socket = match self.listener.accept() {
            Ok((socket, _)) => socket,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => {
                log(format_args!("cannot take a connection: {error}"));
                // Most likely out of descriptors: do not spin.
                std::thread::sleep(Duration::from_millis(10));
                return;
            }
        };
        if self.connections.len() >= MAX_CONNECTIONS || socket.set_nonblocking(true).is_err() {
            log(format_args!("a connection too many was refused"));
            return;
        }
        let trusted = socket::is_trusted(&socket).unwrap_or(false);
        let token = self.next_connection;
        self.next_connection += 2;
        if epoll::add(&self.epoll, &socket, EventData::new_u64(token), EventFlags::IN).is_err() {
            return;
        }
        let connection = Connection {
            socket,
            reader: FrameReader::default(),
            outbox: Outbox::default(),
            greeting: Some(Instant::now() + GREETING_TIMEOUT),
            closing: false,
            interest: EventFlags::IN,
        };
        self.connections.insert(token, connection);
        if !trusted {
            log(format_args!("a connection of another user was refused"));
            self.refuse(token, "the keeper serves its own user only");
        }
    }

    fn refuse(&mut self, token: u64, reason: &str) {
        self.send(token, &Message::Refused { reason: reason.into() }, Vec::new());
        if let Some(connection) = self.connections.get_mut(&token) {
            connection.closing = true;
        }
        self.flush(token);
    }

    /// Something happened on a connection.
    fn converse(&mut self, token: u64, flags: EventFlags) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        let readable = flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR | EventFlags::RDHUP);
        if readable && connection.closing {
            // Read to be thrown away: with unread bytes the close would become a reset, and lose our last word.
            match socket::receive(connection.socket.as_fd(), &mut FrameReader::default()) {
                Ok(true) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                _ => return self.close(token, ""),
            }
        } else if readable && connection.outbox.len() < MAX_UNREAD_FRAMES {
            match socket::receive(connection.socket.as_fd(), &mut connection.reader) {
                Ok(true) => {}
                Ok(false) => return self.close(token, ""),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return self.close(token, &error.to_string()),
            }
        }
        loop {
            self.take_requests(token);
            if !self.flush(token) {
                return;
            }
            // Flushing may have made room for requests that were read before.
            let Some(connection) = self.connections.get(&token) else { return };
            if connection.closing || connection.outbox.len() > 0 || !connection.reader.has_frame() {
                return;
            }
        }
    }

    /// Does what has arrived, as long as the client reads the answers.
    fn take_requests(&mut self, token: u64) {
        while let Some(connection) = self.connections.get_mut(&token) {
            if connection.closing || connection.outbox.len() >= MAX_UNREAD_FRAMES {
                return;
            }
            match connection.reader.next::<Request>() {
                Ok(None) => return,
                Ok(Some((request, _))) => self.take(token, request),
                Err(error) => return self.close(token, &crate::error::chain(&error)),
            }
        }
    }

    fn take(&mut self, token: u64, request: Request) {
        let greeted = self.connections.get(&token).is_some_and(|connection| connection.greeting.is_none());
        match request {
            Request::Hello { version } => self.greet(token, version),
            Request::Ask { .. } if !greeted => self.refuse(token, "the first word is hello"),
            Request::Ask { id, command } => match self.execute(token, id, command) {
                Ok(Some((outcome, descriptors))) => self.send(token, &Message::Answer { id, outcome }, descriptors),
                Ok(None) => {}
                Err(refusal) => self.answer(token, id, Outcome::Refused { refusal }),
            },
        }
    }

    fn greet(&mut self, token: u64, version: u32) {
        if version > VERSION || version == 0 {
            return self.refuse(
                token,
                &format!(
                    "this keeper speaks version {VERSION} of the protocol, and not {version}; \
                     it is replaced by a newer one as soon as its shells are removed"
                ),
            );
        }
        if let Some(connection) = self.connections.get_mut(&token) {
            connection.greeting = None;
        }
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        self.send(token, &Message::Welcome { version: VERSION, pid, instance: self.instance }, Vec::new());
        if let Some(before) = self.engine.replace(token)
            && before != token
        {
            self.close(before, "a newer engine has come");
        }
        self.served = true;
    }

    /// Does one command; `None` when the answer comes later.
    fn execute(
        &mut self,
        token: u64,
        request: u64,
        command: Command,
    ) -> Result<Option<(Outcome, Vec<OwnedFd>)>, Refusal> {
        if self.ending {
            return Err(Refusal::Exhausted { reason: "the keeper is ending".into() });
        }
        let done = Ok(Some((Outcome::Done, Vec::new())));
        match command {
            Command::Spawn { spec } => {
                let id = spec.id.clone();
                self.table.spawn(self.epoll.as_fd(), spec)?;
                self.hand_over(&id).map(Some)
            }
            Command::Start { shell } => {
                self.table.start(self.epoll.as_fd(), &shell)?;
                self.hand_over(&shell).map(Some)
            }
            Command::Adopt { shell } => self.hand_over(&shell).map(Some),
            Command::List { after } => {
                let (records, more) = self.table.list(after.as_ref());
                Ok(Some((Outcome::Shells { records, more }, Vec::new())))
            }
            Command::Resize { shell, columns, rows } => {
                self.table.resize(&shell, columns, rows)?;
                done
            }
            Command::Signal { shell, signal, scope } => {
                self.table.signal(&shell, signal, scope)?;
                done
            }
            Command::SetNote { shell, note } => {
                self.table.set_note(&shell, note)?;
                done
            }
            Command::Remove { shell, grace_millis } => {
                self.table.remove(&shell, Duration::from_millis(grace_millis), Some((token, request)))?;
                Ok(None)
            }
        }
    }

    fn hand_over(&self, id: &crate::ids::ShellId) -> Result<(Outcome, Vec<OwnedFd>), Refusal> {
        let (record, memory, pty) = self.table.adopt(id)?;
        let copy = |fd: BorrowedFd<'_>| {
            fd.try_clone_to_owned()
                .map_err(|error| Refusal::Exhausted { reason: format!("no descriptor is left: {error}") })
        };
        let mut descriptors = vec![copy(memory)?];
        if let Some(pty) = pty {
            descriptors.push(copy(pty)?);
        }
        Ok((Outcome::Shell { record: Box::new(record.clone()), pty: descriptors.len() > 1 }, descriptors))
    }

    fn answer(&mut self, token: u64, id: u64, outcome: Outcome) {
        self.send(token, &Message::Answer { id, outcome }, Vec::new());
        self.flush(token);
    }

    /// Puts a message into a connection's outbox.
    fn send(&mut self, token: u64, message: &Message, descriptors: Vec<OwnedFd>) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        match protocol::encode(message, descriptors.len()) {
            Ok(frame) => connection.outbox.push(frame, descriptors),
            Err(error) => log(format_args!("cannot write an answer: {error}")),
        }
    }

    /// Sends what the client takes; `false` when the connection is closed.
    fn flush(&mut self, token: u64) -> bool {
        let Some(connection) = self.connections.get_mut(&token) else { return false };
        let sent = match connection.outbox.flush(connection.socket.as_fd()) {
            Ok(sent) => sent,
            Err(error) => {
                self.close(token, &error.to_string());
                return false;
            }
        };
        if sent && connection.closing {
            // Our last word is said; the end of the client's stream closes the rest, or the greeting's deadline does.
            let _ = connection.socket.shutdown(std::net::Shutdown::Write);
        }
        if connection.outbox.bytes() > MAX_UNREAD {
            self.close(token, "it does not read");
            return false;
        }
        let mut interest = EventFlags::empty();
        if connection.outbox.len() < MAX_UNREAD_FRAMES {
            interest |= EventFlags::IN;
        }
        if !sent {
            interest |= EventFlags::OUT;
        }
        if interest != connection.interest {
            connection.interest = interest;
            let _ = epoll::modify(&self.epoll, &connection.socket, EventData::new_u64(token), interest);
        }
        true
    }

    fn close(&mut self, token: u64, reason: &str) {
        if self.connections.remove(&token).is_some() && !reason.is_empty() {
            log(format_args!("a connection was closed: {reason}"));
        }
        if self.engine == Some(token) {
            self.engine = None;
            self.alone_since = Instant::now();
            self.next_look = self.alone_since + LOOK_INTERVAL;
        }
    }

    fn shell_ended(&mut self, token: u64) {
        if let Some(message) = self.table.ended(token)
            && let Some(engine) = self.engine
        {
            self.send(engine, &message, Vec::new());
            self.flush(engine);
        }
    }

    /// Reaps orphans that were taken in, and heeds SIGTERM.
    fn take_signals(&mut self) {
        let Some(signals) = &self.signals else { return };
        let mut info = [0_u8; pty::SIGNAL_INFO];
        let mut asked_to_end = false;
        while rustix::io::read(signals, &mut info).is_ok_and(|count| count == info.len()) {
            asked_to_end |= info.starts_with(&(rustix::process::Signal::TERM.as_raw() as u32).to_ne_bytes());
        }
        if asked_to_end {
            log(format_args!("asked to end; hanging up {} shells", self.table.len()));
            self.end();
        }
        while let Some(pid) = pty::ended_child() {
            match self.table.token_of(pid) {
                Some(token) => self.shell_ended(token),
                None => {
                    let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::NOHANG);
                }
            }
        }
    }
}

/// Listens on the socket of `data_dir`, for this user only; the caller has the lock, so what is there is a leftover.
fn listen(data_dir: &Path) -> io::Result<UnixListener> {
    let (address, _directory) = socket::address(data_dir)?;
    match std::fs::remove_file(data_dir.join(SOCKET)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let flags = rustix::net::SocketFlags::CLOEXEC | rustix::net::SocketFlags::NONBLOCK;
    let socket =
        rustix::net::socket_with(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM, flags, None)?;
    // The file that `bind` makes takes its mode from the socket: never a moment at which others may connect.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &rustix::net::SocketAddrUnix::new(address)?)?;
    rustix::net::listen(&socket, 64)?;
    Ok(UnixListener::from(socket))
}

/// Allows this process as many descriptors as the system lets it have; the soft limit before, for the shells.
fn raise_open_files() -> Option<u64> {
    let before = rustix::process::getrlimit(Resource::Nofile);
    let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: before.maximum, maximum: before.maximum });
    before.current
}
