//! What the kernel needs before anything else: its own file systems, drivers, the clock.

use std::fs;
use std::fs::File;
use std::io::ErrorKind;

use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use rustix::time::{ClockId, Timespec, clock_settime};

use crate::failure::{Failure, Result, Step};

/// Where the initramfs keeps modules and the lists that order them.
const LIBRARY: &str = "/banger";
/// The word that asks whether this machine's virtualisation works at all.
const PROBE: &str = "banger.probe";

/// Mounts /proc, /sys and /dev in the initramfs; they move along to the VM's root.
pub(super) fn mount_basics() -> Result<()> {
    let guarded = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    for (file_system, path, flags, options) in [
        (c"proc", c"/proc", guarded, c""),
        (c"sysfs", c"/sys", guarded, c""),
        (c"devtmpfs", c"/dev", MountFlags::NOSUID, c"mode=0755"),
    ] {
        match mount(file_system, path, file_system, flags, options) {
            // Some kernels mount devtmpfs themselves.
            Ok(()) | Err(Errno::BUSY) => {}
            Err(error) => return Err(Failure::new(format!("mount {path:?}"), error)),
        }
    }
    Ok(())
}

/// Whether the host only wants to know that a guest comes this far.
pub(super) fn is_probe() -> Result<bool> {
    let line = fs::read_to_string("/proc/cmdline").step("read the kernel command line")?;
    Ok(line.split_whitespace().any(|word| word == PROBE))
}

/// Loads the modules of a list in its order. A list that is not there is an empty one.
pub(super) fn load_modules(list: &str) -> Result<()> {
    let list = match fs::read_to_string(format!("{LIBRARY}/{list}")) {
        Ok(list) => list,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Failure::new(format!("read the module list {list}"), error)),
    };
    for name in list.lines().map(str::trim).filter(|name| !name.is_empty()) {
        let file = File::open(format!("{LIBRARY}/modules/{name}"))
            .step_with(|| format!("open the kernel module {name}"))?;
        match rustix::system::finit_module(&file, c"", 0) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => {
                return Err(Failure::new(
                    format!("load the kernel module {name}"),
                    error,
                ));
            }
        }
    }
    Ok(())
}

/// Sets the clock to the host's.
pub(super) fn set_clock(unix_ns: i64) -> Result<()> {
    const NANOSECONDS: i64 = 1_000_000_000;
    let time = Timespec {
        tv_sec: unix_ns.div_euclid(NANOSECONDS),
        tv_nsec: unix_ns.rem_euclid(NANOSECONDS),
    };
    clock_settime(ClockId::Realtime, time).step("set the clock")
}
