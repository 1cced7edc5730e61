//! What `/proc` and `statvfs` say of the host: one set of samples, and the facts that do not change.

use std::collections::{BTreeMap, HashSet};

use schemars::JsonSchema;
use serde::Serialize;

/// The user's and the system's share of one core's time, in percent.
#[derive(Clone, Copy, Debug, JsonSchema, PartialEq, Serialize)]
pub struct CpuPoint {
    /// Time in programs, `nice` included.
    pub user: f64,
    /// Time in the kernel, interrupts included.
    pub system: f64,
}

/// How much of something is used.
#[derive(Clone, Copy, Debug, JsonSchema, PartialEq, Serialize)]
pub struct UsePoint {
    /// In percent of the whole.
    pub percent: f64,
    /// In bytes.
    pub value: u64,
}

/// The traffic of one interface.
#[derive(Clone, Copy, Debug, JsonSchema, PartialEq, Serialize)]
pub struct NetworkPoint {
    /// Bytes sent a second.
    pub sent: f64,
    /// Bytes received a second.
    pub received: f64,
}

/// One set of samples: everything at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SampleSet {
    /// When, Unix milliseconds.
    pub time: i64,
    /// By core, `core0` and on.
    pub cpu: BTreeMap<String, CpuPoint>,
    /// `physical` and `swap`.
    pub memory: BTreeMap<String, UsePoint>,
    /// By mount point.
    pub disk: BTreeMap<String, UsePoint>,
    /// By interface.
    pub network: BTreeMap<String, NetworkPoint>,
}

/// What the counters stood at, from which the next sample makes rates.
#[derive(Clone, Debug, Default)]
pub(super) struct Counters {
    cores: BTreeMap<String, [u64; 3]>,
    interfaces: BTreeMap<String, [u64; 2]>,
    at: Option<std::time::Instant>,
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Takes a set of samples; rates are against the counters of the one before, which are replaced.
pub(super) fn take(counters: &mut Counters) -> SampleSet {
    let now = std::time::Instant::now();
    let cores = cores_of(&read("/proc/stat"));
    let interfaces = interfaces_of(&read("/proc/net/dev"));
    let seconds = counters.at.map_or(0.0, |at| now.saturating_duration_since(at).as_secs_f64());
    let cpu = cores
        .iter()
        .map(|(name, now)| {
            let before = counters.cores.get(name).copied().unwrap_or([0; 3]);
            (name.clone(), cpu_point(before, *now))
        })
        .collect();
    let network = interfaces
        .iter()
        .map(|(name, now)| {
            let before = counters.interfaces.get(name).unwrap_or(now);
            let rate = |n: usize| {
                if seconds > 0.0 { round(now[n].saturating_sub(before[n]) as f64 / seconds) } else { 0.0 }
            };
            (name.clone(), NetworkPoint { received: rate(0), sent: rate(1) })
        })
        .collect();
    *counters = Counters { cores, interfaces, at: Some(now) };
    let disk = mounts()
        .into_iter()
        .filter_map(|(_, path)| {
            let space = rustix::fs::statvfs(path.as_str()).ok()?;
            let whole = space.f_blocks.saturating_mul(space.f_frsize);
            let free = space.f_bfree.saturating_mul(space.f_frsize);
            Some((path, use_point(whole, whole.saturating_sub(free))))
        })
        .collect();
    SampleSet { time: crate::time::unix_millis(), cpu, memory: memory_of(&read("/proc/meminfo")), disk, network }
}

fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

fn use_point(whole: u64, used: u64) -> UsePoint {
    let percent = if whole == 0 { 0.0 } else { round(used as f64 * 100.0 / whole as f64) };
    UsePoint { percent, value: used }
}

/// User, system and all time of each core, in ticks (proc_stat(5)).
fn cores_of(stat: &str) -> BTreeMap<String, [u64; 3]> {
    let core = |line: &str| {
        let (name, rest) = line.split_once(' ')?;
        let number: u32 = name.strip_prefix("cpu")?.parse().ok()?;
        let ticks: Vec<u64> = rest.split_whitespace().map_while(|field| field.parse().ok()).collect();
        let at = |n: usize| ticks.get(n).copied().unwrap_or(0);
        // user nice system idle iowait irq softirq steal; guest time is in user already
        Some((format!("core{number}"), [at(0) + at(1), at(2) + at(5) + at(6), ticks.iter().take(8).sum()]))
    };
    stat.lines().filter_map(core).collect()
}

fn cpu_point(before: [u64; 3], now: [u64; 3]) -> CpuPoint {
    let all = now[2].saturating_sub(before[2]);
    let share = |n: usize| {
        if all == 0 { 0.0 } else { round(now[n].saturating_sub(before[n]) as f64 * 100.0 / all as f64) }
    };
    CpuPoint { user: share(0), system: share(1) }
}

fn memory_of(meminfo: &str) -> BTreeMap<String, UsePoint> {
    let kib = |name: &str| -> u64 {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    let point = |whole: u64, free: u64| use_point(whole * 1024, whole.saturating_sub(free) * 1024);
    BTreeMap::from([
        ("physical".into(), point(kib("MemTotal"), kib("MemAvailable"))),
        ("swap".into(), point(kib("SwapTotal"), kib("SwapFree"))),
    ])
}

/// Received and sent bytes of each interface.
fn interfaces_of(dev: &str) -> BTreeMap<String, [u64; 2]> {
    let interface = |line: &str| {
        let (name, rest) = line.split_once(':')?;
        let fields: Vec<u64> = rest.split_whitespace().map_while(|field| field.parse().ok()).collect();
        Some((name.trim().to_owned(), [*fields.first()?, *fields.get(8)?]))
    };
    dev.lines().filter_map(interface).collect()
}

/// Real filesystems: the device, and where it is mounted first.
fn mounts() -> Vec<(String, String)> {
    let mut seen = HashSet::new();
    let text = read("/proc/self/mounts");
    let mount = |line: &str| {
        let mut fields = line.split(' ');
        let (device, path) = (fields.next()?, fields.next()?);
        let path = path.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\");
        (device.starts_with('/') && std::fs::metadata(&path).is_ok_and(|metadata| metadata.is_dir()))
            .then(|| (device.to_owned(), path))
    };
    text.lines().filter_map(mount).filter(|(device, _)| seen.insert(device.clone())).collect()
}

/// What the host is.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct Attributes {
    /// The engine's version.
    pub version: String,
    /// When the engine started, Unix seconds.
    pub boot: i64,
    /// The machine and its system.
    pub host: HostFacts,
    /// Its processor.
    pub cpu: CpuFacts,
    /// Its memory.
    pub memory: MemoryFacts,
    /// Its disks.
    pub disk: Vec<DiskFacts>,
    /// Its addresses.
    pub network: Vec<NetworkFacts>,
}

/// The machine and its system.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct HostFacts {
    /// `linux`.
    pub os: String,
    /// The distribution, `debian`.
    pub platform: String,
    /// Its version, `12`.
    pub version: String,
    /// `x86_64`, `aarch64`.
    pub arch: String,
    /// The host's name.
    pub name: String,
    /// When the machine started, Unix seconds.
    pub boot: i64,
}

/// The processor.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct CpuFacts {
    /// Its model.
    pub model: String,
    /// Its vendor.
    pub vendor: String,
    /// How many logical cores.
    pub cores: u64,
}

/// The memory, in bytes.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct MemoryFacts {
    /// Physical memory.
    pub physical: u64,
    /// Swap.
    pub swap: u64,
}

/// A mounted disk.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct DiskFacts {
    /// The device.
    pub name: String,
    /// Where it is mounted.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
}

/// An address of an interface.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct NetworkFacts {
    /// The interface.
    pub name: String,
    /// The address.
    pub address: String,
}

/// Looks what the host is.
#[must_use]
pub fn attributes(version: &str, boot: i64) -> Attributes {
    let release = read("/etc/os-release");
    let of = |name: &str| {
        let value = release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        value.map_or_else(|| "unknown".into(), |value| value.trim_matches('"').to_owned())
    };
    let cpuinfo = read("/proc/cpuinfo");
    let cpu = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':'))
            .map_or_else(|| "unknown".into(), |(_, value)| value.trim().to_owned())
    };
    let meminfo = read("/proc/meminfo");
    let bytes = |name: &str| -> u64 {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    let started = read("/proc/stat").lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok());
    let disk = mounts()
        .into_iter()
        .filter_map(|(name, path)| {
            let space = rustix::fs::statvfs(path.as_str()).ok()?;
            Some(DiskFacts { name, size: space.f_blocks.saturating_mul(space.f_frsize), path })
        })
        .collect();
    Attributes {
        version: version.into(),
        boot,
        host: HostFacts {
            os: std::env::consts::OS.into(),
            platform: of("ID"),
            version: of("VERSION_ID"),
            arch: std::env::consts::ARCH.into(),
            name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            boot: started.unwrap_or(0),
        },
        cpu: CpuFacts {
            model: cpu("model name"),
            vendor: cpu("vendor_id"),
            cores: std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64),
        },
        memory: MemoryFacts { physical: bytes("MemTotal"), swap: bytes("SwapTotal") },
        disk,
        network: addresses(),
    }
}

/// The addresses of all interfaces, without asking the network: IPv6 from if_inet6, IPv4 from the local routes.
fn addresses() -> Vec<NetworkFacts> {
    let mut found = Vec::new();
    let mut last = None;
    for line in read("/proc/net/fib_trie").lines() {
        let line = line.trim();
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse::<std::net::Ipv4Addr>().ok();
        } else if line == "/32 host LOCAL"
            && let Some(address) = last.take()
        {
            let address = address.to_string();
            if !found.iter().any(|known: &NetworkFacts| known.address == address) {
                found.push(NetworkFacts { name: interface_of(&address), address });
            }
        }
    }
    for line in read("/proc/net/if_inet6").lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (Some(digits), Some(name)) = (fields.first(), fields.get(5)) else { continue };
        if let Ok(bits) = u128::from_str_radix(digits, 16) {
            found.push(NetworkFacts {
                name: (*name).to_owned(),
                address: std::net::Ipv6Addr::from_bits(bits).to_string(),
            });
        }
    }
    found
}

/// The interface on whose network an IPv4 address lies, by the routing table; `lo` for loopback.
fn interface_of(address: &str) -> String {
    let Ok(address) = address.parse::<std::net::Ipv4Addr>() else { return "unknown".into() };
    if address.is_loopback() {
        return "lo".into();
    }
    let bits = u32::from_le_bytes(address.octets());
    let routes = read("/proc/net/route");
    let route = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let of = |n: usize| u32::from_str_radix(fields.get(n)?, 16).ok();
        let (destination, mask) = (of(1)?, of(7)?);
        (mask != 0 && bits & mask == destination).then(|| (mask.count_ones(), fields[0].to_owned()))
    };
    routes.lines().skip(1).filter_map(route).max().map_or_else(|| "unknown".into(), |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_read_as_the_kernel_writes_them() {
        let stat = "cpu  10 1 5 100 0 1 1 0 0 0\ncpu0 10 2 5 100 3 1 1 2 0 0\ncpu12 1 1 1 1\nintr 5\n";
        let cores = cores_of(stat);
        assert_eq!(cores.len(), 2);
        assert_eq!(cores["core0"], [12, 7, 124]);
        assert_eq!(cpu_point([0, 0, 0], [12, 7, 124]), CpuPoint { user: 9.7, system: 5.6 });
        assert_eq!(cpu_point([1, 1, 1], [1, 1, 1]), CpuPoint { user: 0.0, system: 0.0 });
    }

    #[test]
    fn memory_and_interfaces_are_read_as_the_kernel_writes_them() {
        let memory = memory_of("MemTotal:  1000 kB\nMemAvailable:  750 kB\nSwapTotal: 0 kB\n");
        assert_eq!(memory["physical"], UsePoint { percent: 25.0, value: 250 * 1024 });
        assert_eq!(memory["swap"], UsePoint { percent: 0.0, value: 0 });
        let dev = "Inter-| Receive\n face |bytes\n  eth0: 100 1 0 0 0 0 0 0 200 2 0 0 0 0 0 0\n";
        assert_eq!(interfaces_of(dev), BTreeMap::from([("eth0".to_owned(), [100, 200])]));
    }

    #[test]
    fn this_host_has_all_that_a_host_has() {
        let mut counters = Counters::default();
        let first = take(&mut counters);
        assert!(!first.cpu.is_empty() && first.memory["physical"].value > 0);
        let facts = attributes("1", 2);
        assert!(facts.memory.physical > 0 && facts.cpu.cores > 0 && facts.host.boot > 0);
        assert!(facts.network.iter().any(|address| address.name == "lo" && address.address == "127.0.0.1"));
    }
}
