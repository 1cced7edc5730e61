//! Runs a command in an interactive shell and says what came of it.
//!
//! The command runs in the shell itself: `cd`, variables and `$?` stay. What is typed is one short line,
//! ` . /proc/<engine>/fd/<n>`: a script in memory that belongs to the engine. The script
//!
//! 1. takes the typed line off the screen and shows the command in its place, as if it had been typed;
//! 2. prints a start mark, gives `$?` its old value, and runs the command;
//! 3. prints an end mark with the exit code, which is also what `$?` is afterwards.
//!
//! Marks are the shell-integration sequences `OSC 133;C` and `OSC 133;D`, which terminals do not show, with a random word
//! for each command, so that no output can forge one. Nothing of the user's files is read or changed. In bash the typed line
//! is taken out of the history; the other shells do not keep lines that begin with a space, or (zsh without
//! `HIST_IGNORE_SPACE`) keep it until the next.
//!
//! Whether the shell is ready for it is seen in `/proc` and on the terminal: the program must be a shell we know,
//! interactive, and itself the terminal's foreground. One command is waited for at a time. It is followed by a task of its
//! own: who asked may leave, and the next is refused until this one has ended.

use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::sync::{OwnedMutexGuard, oneshot};

use super::Settings;
use super::error::ShellError;
use super::session::Session;
use super::viewer::{Builders, Event, Viewer};
use crate::keeper::signal_number;

/// How long a shell that has just begun may take to its prompt.
const READY: Duration = Duration::from_secs(5);
/// How long the terminal may be another program's before the shell counts as busy.
const HANDBACK: Duration = Duration::from_millis(200);
/// How long a shell may take to begin with what was typed.
const BEGIN: Duration = Duration::from_secs(5);
/// How often a shell is looked at until it is seen to be ready.
const LOOK: Duration = Duration::from_millis(2);
/// How long one that does not edit lines may look ready before it is taken for it: it may be about to edit.
const PLAIN: Duration = Duration::from_millis(1500);
/// The same for dash and the like, of which many never do.
const PLAIN_POSIX: Duration = Duration::from_millis(40);
/// How long an editor may take to empty its line.
const SETTLE: Duration = Duration::from_millis(50);
/// How often the terminal is looked at for a command that was broken off.
const LOOK_FOR_ABORT: Duration = Duration::from_millis(250);
/// What the exit code of a command that was broken off by the keyboard is.
const INTERRUPTED: i32 = 130;
/// The most output that is looked at in one piece.
const CHUNK: usize = 64 << 10;
/// The longest end mark, in bytes.
const MARK_BYTES: usize = 96;

/// What came of a command.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// What it ended with.
    pub exit_code: i32,
    /// What it wrote, without echo and prompt.
    pub output: String,
    /// Whether it wrote more than is answered.
    pub truncated: bool,
    /// How long it ran.
    pub duration: Duration,
}

/// How often, and at what interval, a process without arguments is looked at again.
const ARGUMENTS_TRIES: u32 = 100;
/// See [`ARGUMENTS_TRIES`].
const ARGUMENTS_WAIT: Duration = Duration::from_millis(2);

/// The shells that can do this.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Dialect {
    Bash,
    Zsh,
    /// dash, busybox and other POSIX shells.
    Posix,
}

/// Runs `command` and waits for its result, at most `timeout`.
pub(super) async fn run(
    session: &Arc<Session>,
    settings: &Settings,
    builders: Builders,
    command: &str,
    timeout: Duration,
) -> Result<Outcome, ShellError> {
    let id = || session.id.clone();
    let busy = |reason: &str| ShellError::Busy { id: id(), reason: reason.into() };
    if command.contains('\0') {
        return Err(ShellError::Invalid { reason: "`command` cannot hold a NUL".into() });
    }
    session.adopted().await?;
    let pid = {
        let state = session.state();
        if !state.record.status.is_running() {
            return Err(ShellError::NotRunning { id: id() });
        }
        state.record.pid.ok_or_else(|| ShellError::NotRunning { id: id() })?
    };
    let turn = Arc::clone(&session.executing).try_lock_owned().map_err(|_| busy("another command is waited for"))?;
    let path = session.state().record.path.clone();
    let dialect = dialect_of(pid).await.ok_or_else(|| ShellError::NotAShell { id: id(), path })?;
    let mut raw = ready(session, pid, dialect).await?;
    if session.half_typed.load(Ordering::Relaxed) {
        // Dropped, as at a keyboard; what that leaves on the screen must be known before the line is typed.
        session.write(if raw { b"\x05\x15" } else { b"\x15" }).await?;
        tokio::time::sleep(SETTLE).await;
        raw = ready(session, pid, dialect).await?;
    }
    let (mut viewer, snapshot) = Viewer::attach(Arc::clone(session), builders, 0, None, false).await?;
    let nonce = nonce();
    let columns = usize::from(session.size().0).max(1);
    let prompt =
        if raw { cursor_column(snapshot.as_ref().map_or(&[][..], |snapshot| &snapshot.bytes), session) } else { 0 };
    let script = Script::new(dialect, command, &nonce, raw.then_some((prompt, columns)))
        .map_err(|source| ShellError::File { what: "write the command's script", source })?;
    let silence = (!raw).then(|| Silence::begin(session)).flatten();
    let mut typed = script.line.clone().into_bytes();
    typed.push(b'\r');
    let moment = Instant::now();
    session.write(&typed).await?;
    let limit = usize::try_from(settings.execute_output.0).unwrap_or(usize::MAX);
    let (begun, has_begun) = oneshot::channel();
    let watch = Watch { turn, nonce, limit, pid, raw, script, silence, typed: moment };
    let task = tokio::spawn(async move { watch.follow(&mut viewer, begun).await });
    if tokio::time::timeout(BEGIN, has_begun).await.map_or(true, |begun| begun.is_err()) && !task.is_finished() {
        task.abort();
        return Err(busy("it does not take a command now"));
    }
    match tokio::time::timeout(timeout, task).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => Err(ShellError::Failed { id: id(), reason: error.to_string() }),
        Err(_) => Err(ShellError::CommandGoesOn { id: id() }),
    }
}

/// Which shell the process is. One that has just been executed has no arguments for a moment: the kernel lets its parent
/// go on before it has written them.
async fn dialect_of(pid: i32) -> Option<Dialect> {
    for _ in 0..ARGUMENTS_TRIES {
        if std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty()) {
            break;
        }
        tokio::time::sleep(ARGUMENTS_WAIT).await;
    }
    dialect(pid)
}

/// Which shell the process is, if it is one that reads commands from its terminal.
fn dialect(pid: i32) -> Option<Dialect> {
    let program = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let name = program.file_name()?.to_str()?.trim_end_matches(" (deleted)").to_owned();
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<&str> = line.split(|byte| *byte == 0).filter_map(|word| std::str::from_utf8(word).ok()).collect();
    let called = words.first()?.trim_start_matches('-').rsplit('/').next()?;
    let mut words = words[1..].iter().copied().filter(|word| !word.is_empty()).peekable();
    let dialect = match name.as_str() {
        "bash" => Dialect::Bash,
        "zsh" | "zsh5" => Dialect::Zsh,
        "dash" | "sh" | "ash" => Dialect::Posix,
        name if name.starts_with("busybox") => {
            let applet = if called.starts_with("busybox") { words.next()? } else { called };
            matches!(applet, "sh" | "ash").then_some(Dialect::Posix)?
        }
        _ => return None,
    };
    while let Some(word) = words.next() {
        match word {
            "--rcfile" | "--init-file" | "-o" | "+o" | "-O" | "+O" => {
                words.next();
            }
            "-" | "--" => {}
            word if word.starts_with("--") => {}
            // A command or a script is not read from the terminal.
            word if word.starts_with(['-', '+']) && !word.contains('c') => {}
            _ => return None,
        }
    }
    Some(dialect)
}

fn terminal(session: &Session) -> Option<Termios> {
    session.input.with_pty(|pty| tcgetattr(pty).ok())
}

/// Waits until the shell is at its prompt; says whether it edits lines itself.
async fn ready(session: &Session, pid: i32, dialect: Dialect) -> Result<bool, ShellError> {
    let not_running = || ShellError::NotRunning { id: session.id.clone() };
    let busy = |reason: &str| ShellError::Busy { id: session.id.clone(), reason: reason.into() };
    let started = Instant::now();
    let patience = if dialect == Dialect::Posix { PLAIN_POSIX } else { PLAIN };
    let mut seen = None;
    loop {
        if session.input.foreground().ok_or_else(not_running)?.as_raw_nonzero().get() != pid {
            // What has just ended may still have it for a moment.
            if started.elapsed() > HANDBACK {
                return Err(busy("another program has its terminal"));
            }
            tokio::time::sleep(LOOK).await;
            continue;
        }
        let terminal = terminal(session).ok_or_else(not_running)?;
        let raw = !terminal.local_modes.contains(LocalModes::ICANON);
        let committed = session.progress.borrow().committed;
        let unread = session.input.with_pty(|pty| rustix::io::ioctl_fionread(pty).ok()).unwrap_or(0);
        let waits = sleeps(pid) && committed > 0 && unread == 0;
        let plain = !raw && started.elapsed() >= patience && reads_terminal(pid);
        // Seen twice, with nothing written in between: its prompt is on the screen, and in the log.
        let sight = (waits && (raw || plain)).then_some((raw, committed));
        if sight.is_some() && sight == seen {
            return Ok(raw);
        }
        seen = sight;
        if started.elapsed() > READY {
            return Err(busy("it is doing something itself"));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Whether a process waits for something.
fn sleeps(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('S'))
}

/// Whether a process waits in a read of its standard input, as far as the system tells.
fn reads_terminal(pid: i32) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/syscall")) {
        // The number of read(2) differs by architecture; its first argument is the descriptor.
        Ok(text) => text.starts_with(&format!("{} ", libc::SYS_read)),
        Err(_) => true,
    }
}

/// The column of the cursor on a screen, from 0.
fn cursor_column(snapshot: &[u8], session: &Session) -> usize {
    let (columns, rows) = session.size();
    let mut screen = super::screen::Screen::new(columns, rows, 0);
    screen.feed(snapshot);
    screen.cursor_column()
}

fn nonce() -> String {
    let mut bytes = [0; 12];
    getrandom::fill(&mut bytes).expect("the kernel's random source answers after boot (getrandom(2))");
    hex::encode(bytes)
}

/// The script, in memory, and the line that runs it.
struct Script {
    memory: std::os::fd::OwnedFd,
    line: String,
}

impl Script {
    /// Whether a process has the script open. dash and the like read it as they run it.
    fn is_open_in(&self, pid: i32) -> bool {
        let Ok(own) = std::fs::metadata(format!("/proc/self/fd/{}", self.memory.as_raw_fd())) else { return true };
        let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return true };
        files.flatten().any(|file| {
            std::fs::metadata(file.path()).is_ok_and(|file| (file.dev(), file.ino()) == (own.dev(), own.ino()))
        })
    }

    /// `raw` tells the cursor's column before the line is typed and the width of the terminal, when the shell echoes the
    /// line itself.
    fn new(dialect: Dialect, command: &str, nonce: &str, raw: Option<(usize, usize)>) -> std::io::Result<Self> {
        let memory = rustix::fs::memfd_create("dxflow-command", rustix::fs::MemfdFlags::CLOEXEC)?;
        let file = format!("/proc/{}/fd/{}", std::process::id(), memory.as_raw_fd());
        let mut line = format!(" . {file}");
        let mut shown = String::new();
        if let Some((prompt, columns)) = raw {
            // At the very edge shells differ in where they leave the cursor: stay away from it.
            while matches!((prompt + line.len()) % columns, 0 | 1) || (prompt + line.len()) % columns == columns - 1 {
                line.insert(0, ' ');
                if line.len() > 8 * columns {
                    break;
                }
            }
            let rows = (prompt + line.len()) / columns + 1;
            shown.push_str(&format!("\u{1b}[{rows}A\u{1b}[{}G\u{1b}[J", prompt + 1));
        }
        shown.push_str(&command.trim_end_matches('\n').replace("\r\n", "\n").replace('\n', "\r\n> "));
        shown.push_str(&format!("\r\n\u{1b}]133;C;dxflow={nonce}\u{7}"));
        let text = script(dialect, command, &shown, nonce, &file);
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            rest = &rest[rustix::io::write(&memory, rest)?..];
        }
        Ok(Self { memory, line })
    }
}

fn script(dialect: Dialect, command: &str, shown: &str, nonce: &str, file: &str) -> String {
    let eval = if dialect == Dialect::Zsh { "eval" } else { "command eval" };
    let forget = if dialect == Dialect::Bash {
        format!(
            "case $(HISTTIMEFORMAT= builtin history 1 2>/dev/null) in *'{file}'*) builtin history -d \
             \"$(HISTTIMEFORMAT= builtin history 1 | {{ read -r n _; printf %s \"${{n%\\*}}\"; }})\" 2>/dev/null;; esac\n"
        )
    } else {
        String::new()
    };
    format!(
        "__dxflow=$?\n{forget}printf %b '{shown}' >/dev/tty\n(exit $__dxflow)\n{eval} {command}\n__dxflow=$?\n\
         printf '\\033]133;D;%s;dxflow={nonce}\\007' \"$__dxflow\" >/dev/tty\n\
         eval \"unset __dxflow; return $__dxflow\"\n",
        shown = octal(shown),
        command = quoted(command),
    )
}

/// `text` for `printf %b`, in single quotes.
fn octal(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b' ' | b'.' | b',' | b'/' | b'-' | b'_') {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("\\0{byte:03o}"));
        }
    }
    escaped
}

/// `text` as one word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Keeps the terminal from echoing what is typed, while it lives.
struct Silence {
    session: Arc<Session>,
}

impl Silence {
    fn begin(session: &Arc<Session>) -> Option<Self> {
        set_echo(session, false).then(|| Self { session: Arc::clone(session) })
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        set_echo(&self.session, true);
    }
}

fn set_echo(session: &Session, on: bool) -> bool {
    let set = session.input.with_pty(|pty| {
        let mut terminal = tcgetattr(pty).ok()?;
        let was = terminal.local_modes.contains(LocalModes::ECHO);
        terminal.local_modes.set(LocalModes::ECHO, on);
        tcsetattr(pty, OptionalActions::Now, &terminal).ok()?;
        Some(was)
    });
    set == Some(true)
}

/// Follows a command to its end.
struct Watch {
    /// Held until the end: no other command is waited for before.
    #[expect(dead_code, reason = "a guard")]
    turn: OwnedMutexGuard<()>,
    nonce: String,
    limit: usize,
    pid: i32,
    raw: bool,
    script: Script,
    silence: Option<Silence>,
    /// When the line was typed.
    typed: Instant,
}

impl Watch {
    /// Whether the shell looks as if it waited for the next command.
    fn has_given_up(&self, session: &Session) -> bool {
        let foreground = session.input.foreground().map(|pid| pid.as_raw_nonzero().get());
        let idle = if self.raw {
            terminal(session).is_some_and(|terminal| !terminal.local_modes.contains(LocalModes::ICANON))
        } else {
            !self.script.is_open_in(self.pid)
        };
        idle && foreground == Some(self.pid)
    }

    async fn follow(mut self, viewer: &mut Viewer, begun: oneshot::Sender<()>) -> Result<Outcome, ShellError> {
        let session = Arc::clone(viewer.session());
        let mut output = Gathered::new(&self.nonce, self.limit);
        let mut begun = Some(begun);
        let started = self.typed;
        let mut buffer = Vec::new();
        let mut at_prompt = 0;
        let mut looks = tokio::time::interval(LOOK_FOR_ABORT);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            buffer.clear();
            tokio::select! {
                event = viewer.next(CHUNK, &mut buffer) => match event? {
                    Event::Output => output.feed(&buffer),
                    Event::Gap { .. } => output.lose(),
                    Event::Resized { .. } => {}
                    Event::Exit(exit) if begun.is_none() => {
                        let signalled = exit.signal.as_deref().and_then(signal_number).map(|number| 128 + number);
                        let code = exit.code.or(signalled).unwrap_or(INTERRUPTED);
                        return Ok(output.finish(code, started.elapsed()));
                    }
                    Event::Exit(_) | Event::Removed => return Err(ShellError::Ended { id: session.id.clone() }),
                },
                _ = looks.tick() => at_prompt = if self.has_given_up(&session) { at_prompt + 1 } else { 0 },
            }
            if output.has_begun()
                && let Some(begun) = begun.take()
            {
                self.silence = None;
                // Whoever asked may have left.
                let _ = begun.send(());
            }
            if let Some(code) = output.code {
                return Ok(output.finish(code, started.elapsed()));
            }
            if at_prompt >= 2 && begun.is_none() {
                // The prompt has come without an end mark.
                output.drop_last_line();
                return Ok(output.finish(INTERRUPTED, started.elapsed()));
            }
        }
    }
}

/// What is between the marks.
struct Gathered {
    start: Vec<u8>,
    end: (Vec<u8>, Vec<u8>),
    begun: bool,
    bytes: Vec<u8>,
    /// Bytes that may be the beginning of a mark.
    tail: Vec<u8>,
    limit: usize,
    truncated: bool,
    code: Option<i32>,
}

impl Gathered {
    fn new(nonce: &str, limit: usize) -> Self {
        Self {
            start: format!("\u{1b}]133;C;dxflow={nonce}\u{7}").into_bytes(),
            end: (b"\x1b]133;D;".to_vec(), format!(";dxflow={nonce}\u{7}").into_bytes()),
            begun: false,
            bytes: Vec::new(),
            tail: Vec::new(),
            limit,
            truncated: false,
            code: None,
        }
    }

    fn has_begun(&self) -> bool {
        self.begun
    }

    fn feed(&mut self, bytes: &[u8]) {
        if self.code.is_some() {
            return;
        }
        self.tail.extend_from_slice(bytes);
        if !self.begun {
            match find(&self.tail, &self.start) {
                Some(at) => {
                    self.tail.drain(..at + self.start.len());
                    self.begun = true;
                }
                None => {
                    let spare = self.tail.len().saturating_sub(MARK_BYTES);
                    self.tail.drain(..spare);
                    return;
                }
            }
        }
        if let Some((at, code)) = self.find_end() {
            self.code = Some(code);
            self.tail.truncate(at);
            self.keep(self.tail.len());
        } else {
            // A mark that is still coming begins with ESC in the last bytes.
            let from = self.tail.len().saturating_sub(MARK_BYTES);
            let whole = self.tail[from..].iter().position(|byte| *byte == 0x1b).map_or(self.tail.len(), |at| from + at);
            self.keep(whole);
        }
    }

    fn find_end(&self) -> Option<(usize, i32)> {
        let close = find(&self.tail, &self.end.1)?;
        let open = self.tail[..close].windows(self.end.0.len()).rposition(|window| window == self.end.0)?;
        let code = std::str::from_utf8(&self.tail[open + self.end.0.len()..close]).ok()?.parse().ok()?;
        Some((open, code))
    }

    fn keep(&mut self, count: usize) {
        let room = self.limit.saturating_sub(self.bytes.len());
        self.truncated |= count > room;
        self.bytes.extend_from_slice(&self.tail[..count.min(room)]);
        self.tail.drain(..count);
    }

    /// Drops what comes after the last whole line.
    fn drop_last_line(&mut self) {
        self.keep(self.tail.len());
        let end = self.bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        self.bytes.truncate(end);
    }

    /// Output was too fast for us.
    fn lose(&mut self) {
        self.truncated = true;
        self.tail.clear();
    }

    fn finish(mut self, exit_code: i32, duration: Duration) -> Outcome {
        self.keep(self.tail.len());
        let output = String::from_utf8_lossy(&self.bytes).replace("\r\n", "\n");
        Outcome { exit_code, output, truncated: self.truncated, duration }
    }
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_between_the_marks_is_found_in_any_pieces(
            before in "[a-z\x1b]{0,40}",
            output in prop::collection::vec(prop_oneof![Just("\x1b]133;D;1;dxflow=wrong\x07".to_string()), "[a-z \x1b]{0,30}"], 0..5),
            code in 0i32..256,
            size in 1usize..20,
        ) {
            let output = output.concat();
            let stream = format!("{before}\x1b]133;C;dxflow=right\x07{output}\x1b]133;D;{code};dxflow=right\x07$ ");
            let mut gathered = Gathered::new("right", 10_000);
            stream.as_bytes().chunks(size).for_each(|chunk| gathered.feed(chunk));
            prop_assert_eq!(gathered.code, Some(code));
            prop_assert_eq!(gathered.finish(code, Duration::ZERO).output, output);
        }
    }

    #[test]
    fn words_of_a_shell_are_quoted() {
        assert_eq!(quoted("a'b"), r"'a'\''b'");
        assert_eq!(octal("a%\u{1b}'"), r"a\0045\0033\0047");
    }
}
