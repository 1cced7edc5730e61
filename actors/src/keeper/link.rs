//! The client's end of the socket: finds or starts the keeper process, greets it, and moves frames in tasks of its own.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt, Interest};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::protocol::{self, FrameReader, Message, Request, VERSION};
use super::socket::{self, Outbox};

/// How long the first pause between two attempts to connect is; each is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// The longest pause between two attempts to connect.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);
/// As much of what a keeper that does not start says is repeated.
const MAX_COMPLAINT: u64 = 4 << 10;

/// A connection to a keeper that has welcomed us.
#[derive(Debug)]
pub(super) struct Link {
    socket: tokio::net::UnixStream,
    reader: FrameReader,
    /// The number of the keeper process among all keeper processes.
    pub(super) instance: u64,
    /// Its process.
    pub(super) pid: i32,
}

/// Connects to the keeper of `data_dir`, and starts one when there is none.
///
/// # Errors
/// In words: why it cannot be reached, started or understood.
pub(super) async fn connect(data_dir: &Path, program: Option<PathBuf>, timeout: Duration) -> Result<Link, String> {
    let until = Instant::now() + timeout;
    let mut complaint = None;
    let mut started = false;
    let mut pause = FIRST_PAUSE;
    loop {
        match open(data_dir) {
            Ok(socket) => match tokio::time::timeout_at(until, greet(socket)).await {
                Err(_) => return Err("it does not answer".into()),
                Ok(Ok(link)) => return Ok(link),
                Ok(Err(Greeting::Refused(reason))) => return Err(reason),
                // It was just about to end: the next one is ours to start.
                Ok(Err(Greeting::Broken(error))) => complaint = Some(error.to_string()),
            },
            Err(error) if !started && is_absent(&error) => {
                started = true;
                match tokio::time::timeout_at(until, start(data_dir, program.clone())).await {
                    Err(_) => return Err("it does not start in time".into()),
                    Ok(Ok(())) => continue,
                    Ok(Err(why)) => complaint = Some(why),
                }
            }
            Err(error) => complaint = complaint.or_else(|| Some(format!("cannot connect: {error}"))),
        }
        if Instant::now() + pause >= until {
            return Err(complaint.unwrap_or_else(|| "it cannot be reached".into()));
        }
        // A keeper that could not be started will not be there for waiting; one that runs already may be about to listen.
        if let Some(why) = complaint.as_ref().filter(|_| started)
            && !why.contains("runs already")
            && open(data_dir).is_err()
        {
            return Err(why.clone());
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
        started = started && complaint.is_some();
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

fn open(data_dir: &Path) -> io::Result<UnixStream> {
    let (address, _directory) = socket::address(data_dir)?;
    let flags = rustix::net::SocketFlags::CLOEXEC | rustix::net::SocketFlags::NONBLOCK;
    let socket =
        rustix::net::socket_with(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &rustix::net::SocketAddrUnix::new(address)?)?;
    let socket = UnixStream::from(socket);
    if !socket::is_trusted(&socket)? {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the keeper's socket is served by another user"));
    }
    Ok(socket)
}

/// Starts the keeper process; returns when it is ready.
async fn start(data_dir: &Path, program: Option<PathBuf>) -> Result<(), String> {
    let program = match program {
        Some(program) => program,
        None => own_program().map_err(|error| format!("cannot tell which program to start: {error}"))?,
    };
    let cannot = |error: io::Error| format!("cannot start `{}`: {error}", program.display());
    let mut child = tokio::process::Command::new(&program)
        .arg("keeper")
        .arg("--data-dir")
        .arg(data_dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(cannot)?;
    // The process in the background writes to its log; so the pipe ends with the one in the foreground.
    let mut words = String::new();
    if let Some(stderr) = child.stderr.take() {
        let _ = stderr.take(MAX_COMPLAINT).read_to_string(&mut words).await;
    }
    let status = child.wait().await.map_err(cannot)?;
    if status.success() {
        return Ok(());
    }
    let words = words.trim();
    Err(if words.is_empty() { format!("the keeper process ended with {status}") } else { words.into() })
}

/// The program that is running; after an upgrade in place, the one that has taken its name.
fn own_program() -> io::Result<PathBuf> {
    let path = std::env::current_exe()?;
    // The kernel says so of a file that was replaced.
    let text = path.to_string_lossy();
    Ok(text.strip_suffix(" (deleted)").map_or_else(|| path.clone(), PathBuf::from))
}

enum Greeting {
    Refused(String),
    Broken(io::Error),
}

impl From<io::Error> for Greeting {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

async fn greet(socket: UnixStream) -> Result<Link, Greeting> {
    let mut link =
        Link { socket: tokio::net::UnixStream::from_std(socket)?, reader: FrameReader::default(), instance: 0, pid: 0 };
    let mut outbox = Outbox::default();
    let hello = protocol::encode(&Request::Hello { version: VERSION }, 0).map_err(io::Error::other)?;
    outbox.push(hello, Vec::new());
    flush(&link.socket, &mut outbox).await?;
    match receive(&link.socket, &mut link.reader).await? {
        None => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        Some((Message::Welcome { instance, pid, .. }, _)) => {
            (link.instance, link.pid) = (instance, pid);
            Ok(link)
        }
        Some((Message::Refused { reason }, _)) => Err(Greeting::Refused(reason)),
        Some(_) => Err(io::Error::other("the keeper did not say welcome").into()),
    }
}

async fn flush(socket: &tokio::net::UnixStream, outbox: &mut Outbox) -> io::Result<()> {
    while !socket
        .async_io(Interest::WRITABLE, || match outbox.flush(socket.as_fd()) {
            // What is left needs the socket to become writable again.
            Ok(false) => Err(io::ErrorKind::WouldBlock.into()),
            result => result,
        })
        .await?
    {}
    Ok(())
}

/// The next message and its descriptors; `None` when the keeper has hung up.
async fn receive(
    socket: &tokio::net::UnixStream,
    reader: &mut FrameReader,
) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
    loop {
        if let Some(message) = reader.next().map_err(io::Error::other)? {
            return Ok(Some(message));
        }
        if !socket.async_io(Interest::READABLE, || socket::receive(socket.as_fd(), reader)).await? {
            return Ok(None);
        }
    }
}

impl Link {
    /// Moves frames until the connection is lost: `frames` out, what arrives to `deliver`. Says why it ended.
    pub(super) async fn run(
        mut self,
        mut frames: mpsc::Receiver<Vec<u8>>,
        deliver: impl Fn(Message, Vec<OwnedFd>) -> bool,
    ) -> String {
        let writing = async {
            let mut outbox = Outbox::default();
            while let Some(frame) = frames.recv().await {
                outbox.push(frame, Vec::new());
                while let Ok(frame) = frames.try_recv() {
                    outbox.push(frame, Vec::new());
                }
                if let Err(error) = flush(&self.socket, &mut outbox).await {
                    return error.to_string();
                }
            }
            "nobody needs it any more".into()
        };
        let reading = async {
            loop {
                match receive(&self.socket, &mut self.reader).await {
                    Ok(Some((message, descriptors))) => {
                        if !deliver(message, descriptors) {
                            return "nobody listens to it any more".into();
                        }
                    }
                    Ok(None) => return "the keeper has hung up".into(),
                    Err(error) => return crate::error::chain(&error),
                }
            }
        };
        tokio::select! {
            why = writing => why,
            why = reading => why,
        }
    }
}
