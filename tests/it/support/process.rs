//! Processes, as `/proc` shows them.

use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

/// Sends a signal; a process that is gone already is no matter.
pub fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}

/// Whether a process is there and not a zombie.
pub fn lives(pid: i32) -> bool {
    stat(pid).is_some_and(|(_, state)| state != 'Z' && state != 'X')
}

/// The name of a process's program; empty when it is gone.
pub fn name(pid: i32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

/// Every process: its pid and its parent's.
pub fn all() -> Vec<(i32, i32)> {
    let entries = std::fs::read_dir("/proc").expect("/proc can be read").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| Some((pid, stat(pid)?.0))).collect()
}

/// The parent and the state of a process.
fn stat(pid: i32) -> Option<(i32, char)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let mut fields = text[text.rfind(')')? + 1..].split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((fields.next()?.parse().ok()?, state))
}

/// A process's descendants, itself first.
pub fn tree(root: i32) -> Vec<i32> {
    let all = all();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(all.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found
}

/// The keeper of a data directory and all that it has started.
pub fn keeper_tree(data_dir: &Path) -> Vec<i32> {
    let directory = data_dir.to_string_lossy().into_owned();
    let is_keeper = |pid: i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        words.contains(&b"keeper".as_slice()) && words.contains(&directory.as_bytes())
    };
    all().into_iter().filter(|(pid, _)| is_keeper(*pid)).flat_map(|(pid, _)| tree(pid)).collect()
}

/// The number of a process's open descriptors.
pub fn descriptors(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// A process's private memory in KiB, as the kernel counts it (`Private_Clean` and `Private_Dirty` of smaps_rollup).
pub fn private_kib(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    text.lines()
        .filter(|line| line.starts_with("Private_"))
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum()
}
