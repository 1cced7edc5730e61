//! One cgroup (v2) for each shell, where the system lets us make them: then nothing that a shell starts can leave it,
//! `kill` reaches all of it at once, and limits can be set.
//!
//! Where there is none (no cgroup v2, not delegated), `tree` finds a shell's processes by their ancestry instead, and
//! limits are refused. Nothing here is fatal: what fails is "not available".

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::types::{Limits, Usage};

/// The controllers that limits need, and the names of their limits.
const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];
/// The period over which processor time is shared out, in microseconds; the kernel's default.
const CPU_PERIOD_MICROS: u64 = 100_000;

/// The cgroup under which the shells' are made.
#[derive(Debug)]
pub(super) struct Cgroups {
    home: PathBuf,
    controllers: Vec<&'static str>,
}

/// The cgroup of one shell.
#[derive(Debug)]
pub(super) struct Cgroup {
    directory: PathBuf,
}

fn other(text: impl Into<String>) -> io::Error {
    io::Error::other(text.into())
}

/// Where this process's own cgroup (v2) is mounted.
fn own_directory() -> io::Result<PathBuf> {
    let own = std::fs::read_to_string("/proc/self/cgroup")?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::")).ok_or_else(|| other("there is no cgroup v2"))?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    for line in mounts.lines() {
        let Some((fields, kind)) = line.split_once(" - ") else { continue };
        if !kind.starts_with("cgroup2 ") {
            continue;
        }
        let mut fields = fields.split(' ').skip(3);
        let (Some(root), Some(point)) = (fields.next(), fields.next()) else { continue };
        let below = if root == "/" { Some(own) } else { own.strip_prefix(root) };
        if let Some(below) = below {
            return Ok(Path::new(point).join(below.trim_start_matches('/')));
        }
    }
    Err(other("cgroup v2 is not mounted"))
}

/// Writes into a file of the cgroup file system: in one piece, without creating it.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let file = std::fs::OpenOptions::new().write(true).open(path)?;
    rustix::io::write(&file, text.as_bytes())?;
    Ok(())
}

/// Has the controllers handed down to the children of `directory`, as far as that is possible; says which are.
fn hand_down(directory: &Path) -> Vec<&'static str> {
    let control = directory.join("cgroup.subtree_control");
    let has = |text: &str, name: &str| text.split_ascii_whitespace().any(|controller| controller == name);
    let before = std::fs::read_to_string(&control).unwrap_or_default();
    for name in CONTROLLERS {
        if !has(&before, name) {
            // Refused where it is not delegated, or while a process is in `directory` itself.
            let _ = write(&control, &format!("+{name}"));
        }
    }
    let after = std::fs::read_to_string(&control).unwrap_or_default();
    CONTROLLERS.into_iter().filter(|name| has(&after, name)).collect()
}

/// Whether systemd has handed this cgroup over (`Delegate=`): then we may make children beside our own.
fn is_delegated(directory: &Path) -> bool {
    ["trusted.delegate", "user.delegate"].into_iter().any(|name| {
        let mut value = [0_u8; 8];
        rustix::fs::getxattr(directory, name, &mut value).is_ok_and(|length| value[..length] == *b"1")
    })
}

impl Cgroups {
    /// Prepares the place for the shells' cgroups.
    ///
    /// # Errors
    /// When this process may not make cgroups.
    pub(super) fn open() -> io::Result<Self> {
        let own = own_directory()?;
        // With `DelegateSubgroup=` our own cgroup is a leaf of the delegated one, in which we may have neighbours.
        let base = own.parent().filter(|parent| is_delegated(parent)).unwrap_or(&own);
        sweep(base);
        let offered = hand_down(base);
        let home = base.join(format!("dxflow-{}", std::process::id()));
        match std::fs::create_dir(&home) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        if !home.join("cgroup.procs").exists() {
            let _ = std::fs::remove_dir(&home);
            return Err(other("this is not a cgroup"));
        }
        let controllers = if offered.is_empty() { Vec::new() } else { hand_down(&home) };
        Ok(Self { home, controllers })
    }

    /// Makes the cgroup of the shell called `name`, with `limits`.
    ///
    /// # Errors
    /// When it cannot be made, or a limit cannot be enforced; nothing is left then.
    pub(super) fn create(&self, name: &str, limits: Option<&Limits>) -> io::Result<Cgroup> {
        // The prefix keeps a shell called `cgroup.procs` apart from the file.
        let cgroup = Cgroup { directory: self.home.join(format!("shell-{name}")) };
        match std::fs::create_dir(&cgroup.directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made?,
        }
        if let Some(limits) = limits
            && let Err(error) = cgroup.limit(limits)
        {
            cgroup.remove();
            return Err(error);
        }
        Ok(cgroup)
    }

    /// Which of `limits` cannot be enforced here.
    pub(super) fn missing(&self, limits: &Limits) -> Vec<&'static str> {
        let wanted = [limits.memory.is_some(), limits.cpu_millis.is_some(), limits.pids.is_some()];
        CONTROLLERS
            .into_iter()
            .zip(wanted)
            .filter(|(name, wanted)| *wanted && !self.controllers.contains(name))
            .map(|(name, _)| name)
            .collect()
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        remove_all(&self.home);
    }
}

impl Cgroup {
    fn limit(&self, limits: &Limits) -> io::Result<()> {
        if let Some(bytes) = limits.memory {
            write(&self.directory.join("memory.max"), &bytes.to_string())?;
        }
        if let Some(millis) = limits.cpu_millis {
            let quota = u64::from(millis) * CPU_PERIOD_MICROS / 1000;
            write(&self.directory.join("cpu.max"), &format!("{quota} {CPU_PERIOD_MICROS}"))?;
        }
        if let Some(count) = limits.pids {
            write(&self.directory.join("pids.max"), &count.to_string())?;
        }
        Ok(())
    }

    /// Its directory, to start a process in it.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(super) fn open(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(rustix::fs::open(&self.directory, flags, Mode::empty())?)
    }

    /// The processes in it.
    pub(super) fn members(&self) -> Vec<i32> {
        let procs = std::fs::read_to_string(self.directory.join("cgroup.procs")).unwrap_or_default();
        procs.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Whether there is any process in it or below it.
    pub(super) fn is_populated(&self) -> bool {
        std::fs::read_to_string(self.directory.join("cgroup.events"))
            .is_ok_and(|events| events.lines().any(|line| line == "populated 1"))
    }

    /// Kills all that is in it, forks in progress included (Linux 5.14).
    ///
    /// # Errors
    /// Where the kernel cannot do that.
    pub(super) fn kill(&self) -> io::Result<()> {
        write(&self.directory.join("cgroup.kill"), "1")
    }

    /// What all that was in it has used.
    pub(super) fn usage(&self) -> Usage {
        let read = |name: &str| std::fs::read_to_string(self.directory.join(name)).unwrap_or_default();
        let micros = read("cpu.stat")
            .lines()
            .find_map(|line| line.strip_prefix("usage_usec "))
            .and_then(|number| number.parse::<u64>().ok());
        Usage {
            cpu_seconds: micros.unwrap_or(0) as f64 / 1e6,
            memory_peak: read("memory.peak").trim().parse().unwrap_or(0),
        }
    }

    /// Removes it; `false` while a process is still in it.
    pub(super) fn remove(&self) -> bool {
        remove_all(&self.directory)
    }
}

/// Removes a cgroup and those below it; `false` when one was not empty.
fn remove_all(directory: &Path) -> bool {
    match std::fs::remove_dir(directory) {
        Ok(()) => return true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return true,
        Err(_) => {}
    }
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_all(&entry.path());
        }
    }
    std::fs::remove_dir(directory).is_ok()
}

/// Removes what keepers that were killed have left behind, as far as it is empty.
fn sweep(base: &Path) {
    for entry in std::fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let keeper =
            name.to_str().and_then(|name| name.strip_prefix("dxflow-")).and_then(|pid| pid.parse::<u32>().ok());
        if let Some(pid) = keeper
            && (pid == std::process::id() || !Path::new(&format!("/proc/{pid}")).exists())
        {
            remove_all(&entry.path());
        }
    }
}
