//! What the guest uses, from the kernel's own accounts.

use std::fs;

use banger_guest_api::{DiskUse, Stats};

/// Where banger's writable file systems are.
const DISKS: [&str; 2] = ["/", "/root"];

/// What the guest uses now.
pub(crate) fn gather() -> Result<Stats, String> {
    let meminfo = read("/proc/meminfo")?;
    let network = read("/proc/net/dev")?;
    let (network_received, network_sent) = parse_network(&network);
    let (load_1, tasks) = parse_load(&read("/proc/loadavg")?);
    Ok(Stats {
        uptime_seconds: first_number(&read("/proc/uptime")?),
        memory_total: parse_memory(&meminfo, "MemTotal:"),
        memory_available: parse_memory(&meminfo, "MemAvailable:"),
        load_1,
        tasks,
        network_received,
        network_sent,
        disks: disks()?,
    })
}

fn read(path: &str) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"))
}

fn first_number(text: &str) -> f64 {
    let first = text.split_ascii_whitespace().next();
    first.and_then(|number| number.parse().ok()).unwrap_or(0.0)
}

/// In bytes; the kernel says kibibytes.
fn parse_memory(meminfo: &str, name: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name));
    let kibibytes = line.and_then(|line| line.split_ascii_whitespace().next());
    let kibibytes = kibibytes.and_then(|number| number.parse::<u64>().ok());
    kibibytes.unwrap_or(0).saturating_mul(1024)
}

/// The load over one minute, and all processes and threads: `0.1 0.2 0.3 1/234 567`.
fn parse_load(loadavg: &str) -> (f64, u32) {
    let tasks = loadavg
        .split_ascii_whitespace()
        .nth(3)
        .and_then(|tasks| tasks.split_once('/'))
        .and_then(|(_, all)| all.parse().ok());
    (first_number(loadavg), tasks.unwrap_or(0))
}

/// Bytes received and sent on all interfaces but loopback.
fn parse_network(dev: &str) -> (u64, u64) {
    let mut sums = (0u64, 0u64);
    for (name, counters) in dev.lines().filter_map(|line| line.split_once(':')) {
        if name.trim() == "lo" {
            continue;
        }
        let mut counters = counters
            .split_ascii_whitespace()
            .map(|number| number.parse().unwrap_or(0));
        sums.0 = sums.0.saturating_add(counters.next().unwrap_or(0));
        sums.1 = sums.1.saturating_add(counters.nth(7).unwrap_or(0));
    }
    sums
}

/// Each file system once.
fn disks() -> Result<Vec<DiskUse>, String> {
    let mut devices = Vec::new();
    let mut disks = Vec::new();
    for path in DISKS {
        let fail = |error| format!("cannot examine {path}: {error}");
        let device = match rustix::fs::stat(path) {
            Ok(stat) => stat.st_dev,
            Err(rustix::io::Errno::NOENT) => continue,
            Err(error) => return Err(fail(error)),
        };
        if devices.contains(&device) {
            continue;
        }
        devices.push(device);
        let stat = rustix::fs::statvfs(path).map_err(fail)?;
        let blocks = |count: u64| count.saturating_mul(stat.f_frsize);
        disks.push(DiskUse {
            path: path.to_owned(),
            total: blocks(stat.f_blocks),
            used: blocks(stat.f_blocks.saturating_sub(stat.f_bfree)),
        });
    }
    Ok(disks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_understood() {
        let meminfo = "MemTotal:        2048 kB\nMemFree: 1 kB\nMemAvailable:    1024 kB\n";
        assert_eq!(parse_memory(meminfo, "MemTotal:"), 2 << 20);
        assert_eq!(parse_memory(meminfo, "MemAvailable:"), 1 << 20);
        assert_eq!(parse_memory(meminfo, "Nothing:"), 0);
        assert_eq!(parse_load("0.25 0.10 0.00 2/117 4242\n"), (0.25, 117));
        let dev = "Inter-|   Receive                |  Transmit\n \
            face |bytes    packets errs drop fifo frame compressed multicast|bytes packets\n    \
            lo:  500 5 0 0 0 0 0 0  500 5 0 0 0 0 0 0\n  \
            eth0: 1000 9 0 0 0 0 0 0 2000 8 0 0 0 0 0 0\n  \
            eth1:1 9 0 0 0 0 0 0 2 8 0 0 0 0 0 0\n";
        assert_eq!(parse_network(dev), (1001, 2002));
        assert_eq!(
            (parse_network("a:b\nc:"), parse_load("")),
            ((0, 0), (0.0, 0))
        );
    }

    #[test]
    fn this_machine_has_numbers() {
        let stats = gather().unwrap();
        assert!(stats.uptime_seconds > 0.0);
        assert!(stats.memory_available > 0 && stats.memory_available <= stats.memory_total);
        assert!(stats.tasks > 0);
        assert_eq!(stats.disks[0].path, "/");
        assert!(stats.disks.iter().all(|disk| disk.used <= disk.total));
    }
}
