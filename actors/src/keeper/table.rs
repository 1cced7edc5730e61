//! The shells that the keeper process holds, and what can be done to them.
//!
//! ```text
//!            start               the program ends
//! Created ─────────▶ Running ───────────────────────▶ Exited, Signalled
//!    │                  ▲  │ cannot start                   │
//!    └──────────────────┼──┴──────────▶ Failed              │
//!                       └──────────────────┴────────────────┘ start
//! ```
//! A shell in any of them is forgotten by `remove`: hang up, wait, kill, and only then answer. Knows nothing of sockets.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::fs::Access;
use rustix::process::{Pid, Signal};

use super::cgroup::{Cgroup, Cgroups};
use super::error::Refusal;
use super::protocol::{MAX_BODY, Message};
use super::pty::{self, Child, Launch, OpenPty, Pty, Step};
use super::tree::{self, Process};
use super::types::{Limits, MAX_NOTE, Record, Scope, SpawnSpec, Status};
use crate::ids::ShellId;
use crate::output_log;
use crate::time::unix_now;

/// The most columns or rows of a terminal.
const MAX_SIZE: u16 = 1000;
/// How often a tree that is to end is looked at, while nothing says that it has.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// How long killed processes may take to be gone; one that hangs in the kernel is given up then.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest grace time of a removal.
const MAX_GRACE: Duration = Duration::from_secs(600);
/// Where a program is looked for when its environment has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// One shell.
#[derive(Debug)]
struct Shell {
    record: Record,
    environment: Vec<(String, String)>,
    limits: Option<Limits>,
    memory: OwnedFd,
    pty: Option<Pty>,
    child: Option<Child>,
    cgroup: Option<Cgroup>,
    /// The process of its last start, which also names its session.
    session: Option<i32>,
    token: u64,
}

/// A shell on its way out.
#[derive(Debug)]
struct Removal {
    /// When the grace time is over.
    deadline: Instant,
    next_look: Instant,
    /// What belonged to the shell when it was hung up: its ancestry may be gone later.
    known: Vec<Process>,
    waiters: Vec<Waiter>,
}

/// Who is answered when a shell is gone: a connection and its request.
pub(super) type Waiter = (u64, u64);

/// The shells.
#[derive(Debug)]
pub(super) struct Table {
    shells: BTreeMap<ShellId, Shell>,
    tokens: HashMap<u64, ShellId>,
    /// The processes of the running shells, and the tokens by which they are watched.
    pids: HashMap<i32, u64>,
    removals: HashMap<ShellId, Removal>,
    /// Cgroups of shells that are gone which still had a dying process in them.
    leftover: Vec<Cgroup>,
    cgroups: Result<Cgroups, String>,
    next_token: u64,
    max_shells: usize,
    open_files: Option<u64>,
}

impl Table {
    /// An empty table. `open_files` is the soft limit that the shells get.
    pub(super) fn new(max_shells: usize, cgroups: bool, open_files: Option<u64>, first_token: u64) -> Self {
        let cgroups = if cgroups {
            Cgroups::open().map_err(|error| error.to_string())
        } else {
            Err("they are switched off".into())
        };
        Self {
            shells: BTreeMap::new(),
            tokens: HashMap::new(),
            pids: HashMap::new(),
            removals: HashMap::new(),
            leftover: Vec::new(),
            cgroups,
            next_token: first_token,
            max_shells,
            open_files,
        }
    }

    /// Whether nothing is held.
    pub(super) fn is_empty(&self) -> bool {
        self.shells.is_empty()
    }

    /// How many shells are held.
    pub(super) fn len(&self) -> usize {
        self.shells.len()
    }

    /// Why there are no cgroups, if there are none.
    pub(super) fn cgroups(&self) -> Result<(), &str> {
        self.cgroups.as_ref().map(|_| ()).map_err(String::as_str)
    }

    /// The token by which `pid` is watched, if it is the process of a shell.
    pub(super) fn token_of(&self, pid: Pid) -> Option<u64> {
        self.pids.get(&pid.as_raw_nonzero().get()).copied()
    }

    fn get(&self, id: &ShellId) -> Result<&Shell, Refusal> {
        self.shells.get(id).ok_or_else(|| Refusal::NotFound { id: id.clone() })
    }

    fn get_mut(&mut self, id: &ShellId) -> Result<&mut Shell, Refusal> {
        self.shells.get_mut(id).ok_or_else(|| Refusal::NotFound { id: id.clone() })
    }

    /// Makes a shell, and starts it if that is asked for. On an error nothing is left behind.
    pub(super) fn spawn(&mut self, epoll: BorrowedFd<'_>, spec: SpawnSpec) -> Result<(), Refusal> {
        check(&spec)?;
        if self.shells.contains_key(&spec.id) {
            return Err(Refusal::Exists { id: spec.id });
        }
        if self.shells.len() >= self.max_shells {
            return Err(Refusal::TooMany { limit: self.max_shells });
        }
        if let Some(limits) = &spec.limits {
            self.check_limits(limits)?;
        }
        let memory =
            output_log::create_memory(spec.log_capacity).map_err(|error| exhausted("memory for output", &error))?;
        let id = spec.id.clone();
        let record = Record {
            id: spec.id,
            path: spec.path,
            args: spec.args,
            cwd: spec.cwd,
            columns: spec.columns,
            rows: spec.rows,
            pid: None,
            generation: 0,
            status: Status::Created,
            created_at: unix_now(),
            ended_at: None,
            note: spec.note,
            usage: None,
        };
        let shell = Shell {
            record,
            environment: spec.env,
            limits: spec.limits,
            memory,
            pty: None,
            child: None,
            cgroup: None,
            session: None,
            token: 0,
        };
        self.shells.insert(id.clone(), shell);
        if spec.start
            && let Err(refusal) = self.start(epoll, &id)
        {
            self.shells.remove(&id);
            return Err(refusal);
        }
        Ok(())
    }

    fn check_limits(&self, limits: &Limits) -> Result<(), Refusal> {
        if *limits == Limits::default() {
            return Ok(());
        }
        match &self.cgroups {
            Err(reason) => Err(Refusal::Limits {
                reason: format!("limits cannot be enforced here: no cgroup (version 2) may be made: {reason}"),
            }),
            Ok(cgroups) => match &cgroups.missing(limits)[..] {
                [] => Ok(()),
                missing => Err(Refusal::Limits {
                    reason: format!(
                        "limits cannot be enforced here: the cgroup controllers `{}` are not delegated to the keeper",
                        missing.join("`, `")
                    ),
                }),
            },
        }
    }

    /// Starts a shell that is not running, on a fresh pty.
    pub(super) fn start(&mut self, epoll: BorrowedFd<'_>, id: &ShellId) -> Result<(), Refusal> {
        if self.removals.contains_key(id) {
            return Err(Refusal::NotFound { id: id.clone() });
        }
        let shell = self.get(id)?;
        if shell.child.is_some() {
            return Err(Refusal::Running { id: id.clone() });
        }
        match self.launch(id) {
            Ok((pty, child, cgroup)) => self.started(epoll, id, pty, child, cgroup),
            Err(refusal) => {
                let shell = self.get_mut(id)?;
                shell.record.status = Status::Failed { reason: refusal.to_string() };
                shell.record.ended_at = Some(unix_now());
                Err(refusal)
            }
        }
    }

    fn launch(&mut self, id: &ShellId) -> Result<(Pty, Child, Option<Cgroup>), Refusal> {
        let shell = self.get(id)?;
        let Record { path, args, cwd, columns, rows, .. } = &shell.record;
        let cannot = |reason: String| Refusal::CannotStart { reason };
        check_directory(cwd)?;
        let program = find_program(path, cwd, &shell.environment)?;
        let argv: Vec<&str> = std::iter::once(path.as_str()).chain(args.iter().map(String::as_str)).collect();
        let launch = Launch::new(&program, &argv, &shell.environment, cwd)
            .map_err(|_| cannot("arguments and environment cannot hold a NUL byte".into()))?;
        let pty = Pty::open(*columns, *rows).map_err(|error| exhausted("pseudo-terminals", &error))?;
        let cgroup = match &self.cgroups {
            Ok(cgroups) => {
                let made = cgroups.create(id.as_str(), shell.limits.as_ref());
                Some(made.map_err(|error| exhausted("cgroups", &error))?)
            }
            Err(_) => None,
        };
        match launch_in(&launch, &pty, cgroup.as_ref(), self.open_files) {
            Ok(child) => Ok((pty.into_ours(), child, cgroup)),
            Err(error) => {
                if let Some(cgroup) = cgroup {
                    cgroup.remove();
                }
                Err(match error.step {
                    Step::Clone => exhausted("processes", &error.source),
                    Step::Session | Step::Terminal => exhausted("terminals", &error.source),
                    Step::Cgroup => exhausted("cgroups", &error.source),
                    Step::Directory => cannot(format!("cannot start in `{cwd}`: {}", words(&error.source))),
                    Step::Program => cannot(format!("cannot start `{path}`: {}", words(&error.source))),
                })
            }
        }
    }

    fn started(
        &mut self,
        epoll: BorrowedFd<'_>,
        id: &ShellId,
        pty: Pty,
        child: Child,
        cgroup: Option<Cgroup>,
    ) -> Result<(), Refusal> {
        let token = self.next_token;
        self.next_token += 2;
        let watched = epoll::add(epoll, &child.pidfd, epoll::EventData::new_u64(token), epoll::EventFlags::IN);
        if let Err(error) = watched {
            // Cannot be watched, so it must not run. Its end is not far.
            let _ = rustix::process::pidfd_send_signal(&child.pidfd, Signal::KILL);
            let _ = rustix::process::waitpid(Some(child.pid), rustix::process::WaitOptions::empty());
            return Err(exhausted("watches", &error.into()));
        }
        let pid = child.pid.as_raw_nonzero().get();
        self.pids.insert(pid, token);
        self.tokens.insert(token, id.clone());
        let shell = self.get_mut(id)?;
        shell.pty = Some(pty);
        shell.child = Some(child);
        shell.cgroup = cgroup;
        shell.session = Some(pid);
        shell.token = token;
        shell.record.pid = Some(pid);
        shell.record.generation += 1;
        shell.record.status = Status::Running;
        shell.record.ended_at = None;
        shell.record.usage = None;
        Ok(())
    }

    /// The shell's description and descriptors: its log, and its pty if it has one.
    pub(super) fn adopt(&self, id: &ShellId) -> Result<(&Record, BorrowedFd<'_>, Option<BorrowedFd<'_>>), Refusal> {
        let shell = self.get(id)?;
        let pty = shell.pty.as_ref().and_then(|pty| pty.fd().ok());
        Ok((&shell.record, shell.memory.as_fd(), pty))
    }

    /// The descriptions after `after`, as many as fit into one answer, and whether there are more.
    pub(super) fn list(&self, after: Option<&ShellId>) -> (Vec<Record>, bool) {
        use std::ops::Bound::{Excluded, Unbounded};
        let mut records = Vec::new();
        let mut room = MAX_BODY / 4;
        for shell in self.shells.range((after.map_or(Unbounded, Excluded), Unbounded)).map(|(_, shell)| shell) {
            let record = &shell.record;
            let text =
                record.path.len() + record.cwd.len() + record.args.iter().map(|arg| arg.len() + 3).sum::<usize>();
            // JSON writes a control character in six.
            let size = 512 + 6 * text + 2 * record.note.len();
            if size > room && !records.is_empty() {
                return (records, true);
            }
            room = room.saturating_sub(size);
            records.push(record.clone());
        }
        (records, false)
    }

    /// Sets the size of the terminal; of the next one too.
    pub(super) fn resize(&mut self, id: &ShellId, columns: u16, rows: u16) -> Result<(), Refusal> {
        check_size(columns, rows)?;
        let shell = self.get_mut(id)?;
        if let Some(pty) = &shell.pty {
            pty.resize(columns, rows).map_err(|error| Refusal::Exhausted { reason: error.to_string() })?;
        }
        (shell.record.columns, shell.record.rows) = (columns, rows);
        Ok(())
    }

    /// Replaces the engine's note.
    pub(super) fn set_note(&mut self, id: &ShellId, note: Vec<u8>) -> Result<(), Refusal> {
        check_note(&note)?;
        self.get_mut(id)?.record.note = note;
        Ok(())
    }

    /// Sends a signal.
    pub(super) fn signal(&mut self, id: &ShellId, signal: i32, scope: Scope) -> Result<(), Refusal> {
        let signal = Signal::from_named_raw(signal)
            .ok_or_else(|| Refusal::Invalid { reason: format!("there is no signal {signal} that can be sent") })?;
        let shell = self.get(id)?;
        let not_running = || Refusal::NotRunning { id: id.clone() };
        match scope {
            Scope::Foreground | Scope::Shell => {
                let child = shell.child.as_ref().ok_or_else(not_running)?;
                let group = shell.pty.as_ref().and_then(Pty::foreground).unwrap_or(child.pid);
                let _ = rustix::process::kill_process_group(group, signal);
                if scope == Scope::Shell && group != child.pid {
                    let _ = rustix::process::pidfd_send_signal(&child.pidfd, signal);
                }
            }
            Scope::Tree => {
                let members = self.members(shell);
                if members.is_empty() {
                    return Err(not_running());
                }
                self.signal_all(shell, &members, signal);
                if signal == Signal::KILL {
                    // What was forked meanwhile.
                    let members = self.members(shell);
                    self.signal_all(shell, &members, signal);
                }
            }
        }
        Ok(())
    }

    /// The living processes of a shell.
    fn members(&self, shell: &Shell) -> Vec<Process> {
        match (&shell.cgroup, shell.session) {
            (Some(cgroup), _) => cgroup.members().into_iter().filter_map(Process::of).collect(),
            (None, Some(session)) => {
                let mark = tree::mark(shell.record.id.as_str());
                tree::members(session, &mark, |pid| pid != session && self.pids.contains_key(&pid))
            }
            (None, None) => Vec::new(),
        }
    }

    fn signal_all(&self, shell: &Shell, members: &[Process], signal: Signal) {
        if signal == Signal::KILL
            && let Some(cgroup) = &shell.cgroup
            && cgroup.kill().is_ok()
        {
            return;
        }
        // The shell, which is the first, comes last: its end would hide whose its children are.
        for process in members.iter().rev() {
            process.signal(signal);
        }
    }

    /// Begins to hang a shell up and forget it; `waiter` is answered by [`tick`](Self::tick) when it is gone.
    pub(super) fn remove(&mut self, id: &ShellId, grace: Duration, waiter: Option<Waiter>) -> Result<(), Refusal> {
        let now = Instant::now();
        let deadline = now + grace.min(MAX_GRACE);
        if let Some(removal) = self.removals.get_mut(id) {
            removal.deadline = removal.deadline.min(deadline);
            removal.next_look = now;
            removal.waiters.extend(waiter);
            return Ok(());
        }
        let shell = self.get(id)?;
        let known = self.members(shell);
        if !grace.is_zero() {
            self.signal_all(shell, &known, Signal::HUP);
            // One that is stopped takes the hang-up when it goes on.
            self.signal_all(shell, &known, Signal::CONT);
        }
        let waiters = waiter.into_iter().collect();
        self.removals.insert(id.clone(), Removal { deadline, next_look: now, known, waiters });
        Ok(())
    }

    /// Hangs every shell up.
    pub(super) fn remove_all(&mut self, grace: Duration) {
        for id in self.shells.keys().cloned().collect::<Vec<_>>() {
            let _ = self.remove(&id, grace, None);
        }
    }

    /// When [`tick`](Self::tick) wants to be called next.
    pub(super) fn next_tick(&self) -> Option<Instant> {
        self.removals.values().map(|removal| removal.next_look).min()
    }

    /// Goes on with the removals that are due; says who waits for those that are done.
    pub(super) fn tick(&mut self, now: Instant) -> Vec<Waiter> {
        let due: Vec<ShellId> =
            self.removals.iter().filter(|(_, removal)| removal.next_look <= now).map(|(id, _)| id.clone()).collect();
        let mut done = Vec::new();
        for id in due {
            let Some(mut removal) = self.removals.remove(&id) else { continue };
            if self.is_gone(&id, &mut removal, now) {
                self.forget(&id);
                done.append(&mut removal.waiters);
            } else {
                self.removals.insert(id, removal);
            }
        }
        self.leftover.retain(|cgroup| !cgroup.remove());
        done
    }

    /// Whether nothing of a shell is left. Kills what is, once the grace time is over.
    fn is_gone(&self, id: &ShellId, removal: &mut Removal, now: Instant) -> bool {
        let Some(shell) = self.shells.get(id) else { return true };
        if now < removal.deadline && shell.child.is_some() {
            // Its end will be told; until then there is nothing to look at.
            removal.next_look = removal.deadline;
            return false;
        }
        removal.next_look = now + LOOK_AGAIN;
        removal.known.retain(|process| process.is_alive());
        for process in self.members(shell) {
            if !removal.known.contains(&process) {
                removal.known.push(process);
            }
        }
        let populated = shell.cgroup.as_ref().is_some_and(Cgroup::is_populated);
        if shell.child.is_none() && removal.known.is_empty() && !populated {
            return true;
        }
        if now >= removal.deadline {
            self.signal_all(shell, &removal.known, Signal::KILL);
        }
        now >= removal.deadline + KILL_TIMEOUT
    }

    fn forget(&mut self, id: &ShellId) {
        let Some(shell) = self.shells.remove(id) else { return };
        self.tokens.remove(&shell.token);
        if let Some(session) = shell.session {
            self.pids.remove(&session);
        }
        if let Some(cgroup) = shell.cgroup
            && !cgroup.remove()
        {
            self.leftover.push(cgroup);
        }
    }

    /// A watched process has ended: reaps it and says so.
    pub(super) fn ended(&mut self, token: u64) -> Option<Message> {
        let id = self.tokens.get(&token)?.clone();
        let shell = self.shells.get_mut(&id)?;
        let child = shell.child.as_ref()?;
        let pid = child.pid;
        let (status, mut usage) = match pty::reap(pid) {
            Ok(None) => return None,
            Ok(Some((status, usage))) => (status, Some(usage)),
            // Somebody has reaped it under us: that it has ended is all that can be known.
            Err(_) => (Status::Failed { reason: "its exit status was lost".into() }, None),
        };
        if let (Some(cgroup), Some(usage)) = (&shell.cgroup, &mut usage) {
            let whole = cgroup.usage();
            usage.cpu_seconds = usage.cpu_seconds.max(whole.cpu_seconds);
            usage.memory_peak = usage.memory_peak.max(whole.memory_peak);
        }
        // Closing the descriptor ends the watch.
        shell.child = None;
        shell.record.pid = None;
        shell.record.status = status.clone();
        shell.record.ended_at = Some(unix_now());
        shell.record.usage = usage;
        let generation = shell.record.generation;
        self.tokens.remove(&token);
        self.pids.remove(&pid.as_raw_nonzero().get());
        if let Some(removal) = self.removals.get_mut(&id) {
            removal.next_look = Instant::now();
        }
        Some(Message::Exited { shell: id, generation, status, usage })
    }
}

/// Starts `launch` in `cgroup`.
fn launch_in(
    launch: &Launch,
    pty: &OpenPty,
    cgroup: Option<&Cgroup>,
    open_files: Option<u64>,
) -> Result<Child, pty::LaunchError> {
    let cgroup = cgroup.map(Cgroup::open).transpose();
    let cgroup = cgroup.map_err(|source| pty::LaunchError { step: Step::Cgroup, source })?;
    launch.start(pty, cgroup.as_ref().map(AsFd::as_fd), open_files)
}

fn check(spec: &SpawnSpec) -> Result<(), Refusal> {
    let invalid = |reason: &str| Err(Refusal::Invalid { reason: reason.into() });
    check_size(spec.columns, spec.rows)?;
    check_note(&spec.note)?;
    if spec.path.is_empty() {
        return invalid("the command is empty");
    }
    let texts = [&spec.path, &spec.cwd].into_iter().chain(&spec.args);
    let texts = texts.chain(spec.env.iter().flat_map(|(name, value)| [name, value]));
    if texts.into_iter().any(|text| text.contains('\0')) {
        return invalid("command, arguments, directory and environment cannot hold a NUL byte");
    }
    if spec.env.iter().any(|(name, _)| name.is_empty() || name.contains('=')) {
        return invalid("the name of an environment variable cannot be empty or hold `=`");
    }
    Ok(())
}

fn check_size(columns: u16, rows: u16) -> Result<(), Refusal> {
    if (1..=MAX_SIZE).contains(&columns) && (1..=MAX_SIZE).contains(&rows) {
        return Ok(());
    }
    Err(Refusal::Invalid { reason: format!("columns and rows are from 1 to {MAX_SIZE}") })
}

fn check_note(note: &[u8]) -> Result<(), Refusal> {
    if note.len() <= MAX_NOTE {
        return Ok(());
    }
    Err(Refusal::Invalid { reason: format!("a note of {} bytes is longer than {MAX_NOTE}", note.len()) })
}

/// An error in words, without its number.
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

fn exhausted(what: &str, error: &io::Error) -> Refusal {
    Refusal::Exhausted { reason: format!("the system gives no more {what}: {}", words(error)) }
}

fn check_directory(cwd: &str) -> Result<(), Refusal> {
    let wrong = |why: &str| Refusal::CannotStart { reason: format!("cannot start in `{cwd}`: {why}") };
    if !Path::new(cwd).is_absolute() {
        return Err(wrong("it is not an absolute path"));
    }
    match std::fs::metadata(cwd) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(wrong("it is not a directory")),
        Err(error) => Err(wrong(&words(&error))),
    }
}

/// The file that `path` means: itself when it has a slash (beneath `cwd` when relative), else the first in `PATH`.
fn find_program(path: &str, cwd: &str, environment: &[(String, String)]) -> Result<PathBuf, Refusal> {
    let wrong = |why: &str| Refusal::CannotStart { reason: format!("cannot start `{path}`: {why}") };
    let usable = |file: &Path| -> Result<(), String> {
        let found = std::fs::metadata(file).map_err(|error| words(&error))?;
        if found.is_dir() {
            return Err("it is a directory".into());
        }
        rustix::fs::access(file, Access::EXEC_OK).map_err(|error| words(&error.into()))
    };
    if path.contains('/') {
        let file = Path::new(cwd).join(path);
        return usable(&file).map(|()| file).map_err(|why| wrong(&why));
    }
    let search = environment.iter().rev().find(|(name, _)| name == "PATH").map_or(DEFAULT_PATH, |(_, value)| value);
    let mut why = String::from("there is no such program in PATH");
    for directory in search.split(':') {
        let file = Path::new(cwd).join(directory).join(path);
        match usable(&file) {
            Ok(()) => return Ok(file),
            Err(reason) if file.exists() => why = reason,
            Err(_) => {}
        }
    }
    Err(wrong(&why))
}
