//! What an engine of this machine, and its keeper, take of it: memory, processor time and descriptors, as `/proc` says.

use std::path::Path;

/// In which Linux tells processor time to programs, on every architecture (USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;

/// What one process takes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Process {
    /// Resident bytes.
    pub(crate) memory: u64,
    /// Seconds of processor time so far.
    pub(crate) cpu: f64,
    /// Open descriptors.
    pub(crate) descriptors: usize,
}

/// The processes of an engine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Processes {
    engine: i32,
    keeper: Option<i32>,
}

/// What they take at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    pub(crate) engine: Process,
    pub(crate) keeper: Process,
}

impl Processes {
    /// Finds the processes of a data directory's engine.
    pub(crate) fn find(data_dir: &Path) -> Option<Self> {
        let engine = std::fs::read_to_string(data_dir.join("engine.pid")).ok()?.trim().parse().ok()?;
        process(engine)?;
        Some(Self { engine, keeper: None }.with_keeper(data_dir))
    }

    /// Looks for the keeper: it starts with the first shell.
    pub(crate) fn with_keeper(mut self, data_dir: &Path) -> Self {
        let whole = std::fs::canonicalize(data_dir).unwrap_or_else(|_| data_dir.to_owned());
        let names = [data_dir.as_os_str().as_encoded_bytes(), whole.as_os_str().as_encoded_bytes()];
        let is_keeper = |pid: &i32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
            words.contains(&b"keeper".as_slice()) && names.iter().any(|name| words.contains(name))
        };
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        self.keeper = pids.find(is_keeper);
        self
    }

    pub(crate) fn has_keeper(&self) -> bool {
        self.keeper.is_some()
    }

    /// What they take now.
    pub(crate) fn usage(&self) -> Option<Usage> {
        let keeper = self.keeper.and_then(process).unwrap_or_default();
        Some(Usage { engine: process(self.engine)?, keeper })
    }
}

fn process(pid: i32) -> Option<Process> {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).ok();
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    let cpu = ticks(&read("stat")?)? as f64 / TICKS_PER_SECOND;
    Some(Process { memory: resident(&read("status")?)?, cpu, descriptors })
}

/// Clock ticks of processor time from `/proc/PID/stat`.
fn ticks(stat: &str) -> Option<u64> {
    // The name, in parentheses, may hold anything; the fields after it are numbered from 3.
    let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(field(14)? + field(15)?)
}

/// Resident bytes from `/proc/PID/status`.
fn resident(status: &str) -> Option<u64> {
    let kibibytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix("kB")?;
    Some(kibibytes.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let stat =
            "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 50 25 0 0 20 0 4 0 100 1000000 300 18446744073709551615 1";
        assert_eq!(ticks(stat), Some(75));
        assert_eq!(ticks("7 (a"), None);
        assert_eq!(resident("Name:\tx\nVmRSS:\t  1200 kB\n"), Some(1200 * 1024));
        let own = i32::try_from(std::process::id()).expect("a pid");
        assert!(process(own).is_some_and(|process| process.memory > 0 && process.descriptors > 0));
    }
}
