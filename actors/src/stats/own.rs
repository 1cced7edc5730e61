//! What this process itself uses, from `/proc/self` (proc(5)).

/// What a process uses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Process {
    /// Resident memory in bytes.
    pub resident_bytes: u64,
    /// Open file descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: u64,
}

/// What this process uses now; `None` where there is no `/proc`.
#[must_use]
pub fn own_process() -> Option<Process> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    Some(Process {
        resident_bytes: field("VmRSS")? * 1024,
        // The directory's own descriptor is among them.
        descriptors: std::fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1),
        threads: field("Threads")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_what_it_uses() {
        let before = own_process().expect("Linux");
        assert!(before.resident_bytes > 1 << 20 && before.threads >= 1, "{before:?}");
        let files: Vec<_> = (0..50).map(|_| std::fs::File::open("/proc/self/status").expect("there")).collect();
        let during = own_process().expect("Linux");
        assert!(during.descriptors >= files.len(), "{during:?}");
    }
}
