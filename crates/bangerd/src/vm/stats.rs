//! What a VM costs its host, asked of the kernel. Blocks on `/proc` and the disk.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use banger_api::VmStats;
use banger_vmm::Instance;

use super::view::Shared;
use crate::layout::Layout;

/// Clock ticks per second in `/proc/<pid>/stat`; fixed by the kernel's interface on every
/// architecture banger runs on.
const USER_HZ: f64 = 100.0;
/// The unit of `st_blocks`, whatever the file system's own.
const BLOCK: u64 = 512;

/// Measures one VM. What cannot be read, because it ended meanwhile, is absent or zero.
pub(super) fn measure(layout: &Layout, shared: &Shared) -> VmStats {
    let vm = shared.vm();
    let costs = shared.instance().and_then(|instance| costs(&instance));
    VmStats {
        id: vm.id.clone(),
        name: vm.name.clone(),
        state: vm.state,
        at: format!("{:.3}", jiff::Timestamp::now()),
        cpu_seconds: costs.map(|costs| costs.cpu_seconds),
        memory_used: costs.map(|costs| costs.memory),
        memory: vm.memory,
        disk_used: disk_used(&layout.vm(shared.id()).dir),
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Costs {
    cpu_seconds: f64,
    memory: u64,
}

/// What the processes of an instance have used; nothing when it has ended.
fn costs(instance: &Instance) -> Option<Costs> {
    let mut sum = Costs::default();
    for pid in instance.pids() {
        let costs = process(Path::new(&format!("/proc/{pid}")))
            .inspect_err(|error| tracing::debug!(pid, %error, "not measured"))
            .ok()?;
        sum.cpu_seconds += costs.cpu_seconds;
        sum.memory += costs.memory;
    }
    // If they are alive now, their ids were theirs while they were looked at.
    instance.is_alive().then_some(sum)
}

fn process(dir: &Path) -> io::Result<Costs> {
    let stat = fs::read_to_string(dir.join("stat"))?;
    let rollup = fs::read_to_string(dir.join("smaps_rollup"))?;
    let nonsense = || io::Error::new(io::ErrorKind::InvalidData, "it makes no sense");
    Ok(Costs {
        cpu_seconds: cpu_seconds(&stat).ok_or_else(nonsense)?,
        memory: proportional(&rollup).ok_or_else(nonsense)?,
    })
}

/// User and system time, fields 14 and 15.
fn cpu_seconds(stat: &str) -> Option<f64> {
    // The second field is the program's name in parentheses and may hold anything, so count
    // from the last one: what follows is field 3.
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut times = after_name.split_ascii_whitespace().skip(11);
    let (user, system): (u64, u64) = (times.next()?.parse().ok()?, times.next()?.parse().ok()?);
    Some(user.checked_add(system)? as f64 / USER_HZ)
}

/// The proportional set size, in bytes.
fn proportional(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    kib.checked_mul(1024)
}

/// What the files directly in `dir` take on the disk.
fn disk_used(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else {
        return 0;
    };
    entries
        .flatten()
        .filter_map(|entry| entry.metadata().ok())
        .filter(|meta| meta.is_file())
        .map(|meta| meta.blocks() * BLOCK)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_survives_odd_program_names() {
        let fields = "S 1 2 3 4 5 6 7 8 9 10 150 50 13 14";
        for name in ["qemu", "a) S 9 9 (b", ""] {
            assert_eq!(cpu_seconds(&format!("42 ({name}) {fields}")), Some(2.0));
        }
        for bad in ["", "1 (x) S", "1 (x) S 1 2 3 4 5 6 7 8 9 10 a b"] {
            assert_eq!(cpu_seconds(bad), None, "{bad}");
        }
    }

    #[test]
    fn memory_is_the_proportional_set() {
        let rollup = "5581-7ffd ---p 00000000 00:00 0  [rollup]\nRss:  9000 kB\nPss:  1234 kB\n\
                      Pss_Anon:  1 kB\n";
        assert_eq!(proportional(rollup), Some(1234 << 10));
        assert_eq!(proportional("Rss: 1 kB"), None);
    }

    #[test]
    fn a_real_process_costs_something() {
        let own = process(Path::new("/proc/self")).unwrap();
        assert!(own.memory > 100 << 10, "{own:?}");
        assert!(process(Path::new("/proc/self/nothing")).is_err());
    }

    #[test]
    fn a_disk_counts_what_is_allocated() {
        let dir = tempfile::TempDir::new().unwrap();
        assert_eq!(disk_used(&dir.path().join("gone")), 0);
        let sparse = fs::File::create(dir.path().join("sparse")).unwrap();
        sparse.set_len(1 << 30).unwrap();
        let written = dir.path().join("written");
        fs::write(&written, vec![1; 1 << 20]).unwrap();
        fs::File::open(&written).unwrap().sync_all().unwrap();
        let used = disk_used(dir.path());
        assert!((1 << 20..2 << 20).contains(&used), "{used}");
    }
}
