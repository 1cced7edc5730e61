//! Finds what a shell has started, where there is no cgroup to ask.
//!
//! The keeper is a subreaper: a process whose parent has ended becomes the keeper's child, so that all that its shells
//! ever start stays below it. A shell's own are then
//! - the descendants of its process, whatever session or group they are in, and
//! - those of the keeper's other children that are in the shell's session, or carry its mark in their environment
//!   (`DXFLOW_SHELL=<identity>`, which the engine sets), with their descendants.
//!
//! Only children lists are read, so that the cost depends on the size of one tree and not on the machine.

use std::collections::BTreeSet;
use std::fmt::Write;

use rustix::process::{Pid, PidfdFlags, Signal};

/// The environment variable that marks the processes of a shell.
pub(super) const MARK: &str = "DXFLOW_SHELL";
/// A tree deeper or wider than this is not followed to its end at once; killing is repeated until nothing is left.
const MAX_PROCESSES: usize = 20_000;

/// One process, told apart from a later one with the same number by its start.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Process {
    pid: i32,
    started: u64,
}

/// What `/proc/<pid>/stat` says.
struct Stat {
    state: char,
    session: i32,
    started: u64,
}

fn stat(pid: i32) -> Option<Stat> {
    let text = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may hold anything, parentheses too.
    let after = text.iter().rposition(|byte| *byte == b')')? + 1;
    let fields = std::str::from_utf8(text.get(after..)?).ok()?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let session = fields.nth(2)?.parse().ok()?;
    let started = fields.nth(15)?.parse().ok()?;
    Some(Stat { state, session, started })
}

/// The children of all threads of a process.
fn children(pid: i32) -> Vec<i32> {
    let mut found = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let list = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        found.extend(list.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
    }
    found
}

fn is_marked(pid: i32, mark: &str) -> bool {
    std::fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|environ| environ.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes()))
}

impl Process {
    /// The process with this number, if it is there and has not ended.
    pub(super) fn of(pid: i32) -> Option<Self> {
        let stat = stat(pid)?;
        (!matches!(stat.state, 'Z' | 'X')).then_some(Self { pid, started: stat.started })
    }

    /// Whether it has not ended.
    pub(super) fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Sends it a signal; never to a later process with the same number.
    pub(super) fn signal(self, signal: Signal) {
        let Some(pid) = Pid::from_raw(self.pid) else { return };
        let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { return };
        if self.is_alive() {
            let _ = rustix::process::pidfd_send_signal(&pidfd, signal);
        }
    }
}

/// The living processes of the shell whose session is `session`, its own first. `mark` is `MARK=<identity>`;
/// `is_shell` says which children of the keeper are shells of their own.
pub(super) fn members(session: i32, mark: &str, is_shell: impl Fn(i32) -> bool) -> Vec<Process> {
    let mut seen = BTreeSet::new();
    let mut next = vec![session];
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    for orphan in children(own) {
        if !is_shell(orphan) && (stat(orphan).is_some_and(|stat| stat.session == session) || is_marked(orphan, mark)) {
            next.push(orphan);
        }
    }
    let mut found = Vec::new();
    while let Some(pid) = next.pop() {
        if found.len() < MAX_PROCESSES && seen.insert(pid) {
            found.extend(Process::of(pid));
            next.extend(children(pid));
        }
    }
    found
}

/// The mark of the shell called `name`.
pub(super) fn mark(name: &str) -> String {
    let mut mark = String::from(MARK);
    let _ = write!(mark, "={name}");
    mark
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_apart_from_its_number() {
        let own = Process::of(std::process::id() as i32).expect("we are alive");
        assert!(own.is_alive());
        assert!(!Process { started: own.started + 1, ..own }.is_alive());
        assert_eq!(Process::of(i32::MAX), None);
    }
}
