//! Whether KVM works here.
//!
//! That `/dev/kvm` opens proves nothing: on cloud machines without nested virtualisation it
//! opens, makes virtual processors, and then a stock kernel hangs. So a processor that shows
//! neither vmx nor svm decides against KVM, and otherwise only a kernel that has booted
//! decides for it. The answer is kept for as long as nothing it depends on has changed.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

mod probe;

pub use probe::{ProbeInputs, prove, recall};

/// The version every Linux since 2.6.22 reports.
const API_VERSION: i32 = 12;

/// What opening `/dev/kvm` gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceAccess {
    /// There is no such device.
    Absent,
    /// It is there; only members of `group` may open it.
    Denied {
        /// The owning group's name or number.
        group: String,
    },
    /// It cannot be opened for another reason.
    Failed(String),
    /// It opens and speaks this API version.
    Opens {
        /// 12 on every Linux that counts.
        api_version: i32,
    },
}

/// What booting a kernel with KVM gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LiveBoot {
    /// Nobody tried.
    NotTried,
    /// The guest reached user space.
    Works,
    /// It did not.
    Failed(String),
}

/// What is known about KVM on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvmFacts {
    /// What opening the device gave.
    pub device: DeviceAccess,
    /// `vmx` or `svm`, when the processor says so.
    pub cpu_flag: Option<String>,
    /// What booting a kernel with QEMU gave.
    pub live: LiveBoot,
}

/// What the facts come down to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A kernel has booted.
    Works(String),
    /// Nothing speaks against it, and nobody has tried.
    Unproven(String),
    /// It does not work.
    Broken {
        /// What was found.
        found: String,
        /// What to do about it.
        fix: String,
    },
}

impl KvmFacts {
    /// As far as QEMU has tried.
    pub(crate) fn verdict(&self) -> Verdict {
        self.verdict_with(&self.live)
    }

    /// As far as the VMM has tried whose boot gave `live`.
    pub(crate) fn verdict_with(&self, live: &LiveBoot) -> Verdict {
        let broken = |found: String, fix: &str| Verdict::Broken {
            found,
            fix: fix.to_owned(),
        };
        match &self.device {
            DeviceAccess::Absent => {
                return broken(
                    "there is no `/dev/kvm`".to_owned(),
                    "switch on virtualisation in the firmware, or nested virtualisation for this \
                     machine, and load the module: `sudo modprobe kvm-intel` or `kvm-amd`",
                );
            }
            DeviceAccess::Denied { group } => {
                return broken(
                    format!("only members of the group `{group}` may open `/dev/kvm`"),
                    &format!("run `sudo usermod -aG {group} $USER` and log in again"),
                );
            }
            DeviceAccess::Failed(why) => {
                return broken(
                    format!("`/dev/kvm` cannot be opened: {why}"),
                    "see what the kernel says: `sudo dmesg | grep -i kvm`",
                );
            }
            DeviceAccess::Opens { api_version } if *api_version != API_VERSION => {
                return broken(
                    format!("`/dev/kvm` speaks version {api_version} instead of {API_VERSION}"),
                    "use a kernel with the KVM of mainline Linux",
                );
            }
            DeviceAccess::Opens { .. } => {}
        }
        let Some(flag) = &self.cpu_flag else {
            return broken(
                "`/dev/kvm` opens, but the processor shows neither vmx nor svm, and kernels hang \
                 under such a KVM"
                    .to_owned(),
                "switch on virtualisation in the firmware, or nested virtualisation for this \
                 machine",
            );
        };
        match live {
            LiveBoot::Works => Verdict::Works(format!("KVM works: a kernel has booted ({flag})")),
            LiveBoot::NotTried => {
                Verdict::Unproven(format!("KVM has not been tried yet ({flag} is there)"))
            }
            LiveBoot::Failed(why) => broken(
                format!("a kernel did not boot with KVM: {why}"),
                "see what the kernel says: `sudo dmesg | grep -i kvm`",
            ),
        }
    }
}

/// Looks at the device and the processor; starts nothing.
pub(crate) fn look() -> KvmFacts {
    KvmFacts {
        device: open_device(Path::new("/dev/kvm")),
        cpu_flag: std::fs::read_to_string("/proc/cpuinfo")
            .ok()
            .and_then(|text| virtualisation_flag(&text)),
        live: LiveBoot::NotTried,
    }
}

fn open_device(path: &Path) -> DeviceAccess {
    match File::options().read(true).write(true).open(path) {
        Ok(device) => api_version(&device),
        Err(error) => match error.kind() {
            std::io::ErrorKind::NotFound => DeviceAccess::Absent,
            std::io::ErrorKind::PermissionDenied => DeviceAccess::Denied {
                group: group_of(path),
            },
            _ => DeviceAccess::Failed(error.to_string()),
        },
    }
}

fn api_version(device: &File) -> DeviceAccess {
    use std::os::fd::AsRawFd;
    const KVM_GET_API_VERSION: libc::Ioctl = 0xAE00;
    // SAFETY: this request takes no argument and touches no memory of ours; on a descriptor
    // that is not KVM it fails.
    let version = unsafe { libc::ioctl(device.as_raw_fd(), KVM_GET_API_VERSION, 0) };
    if version < 0 {
        return DeviceAccess::Failed(std::io::Error::last_os_error().to_string());
    }
    DeviceAccess::Opens {
        api_version: version,
    }
}

/// The name of the group that owns the file, or its number.
fn group_of(path: &Path) -> String {
    let Ok(metadata) = std::fs::metadata(path) else {
        return "kvm".to_owned();
    };
    let gid = metadata.gid();
    std::fs::read_to_string("/etc/group")
        .ok()
        .and_then(|groups| group_name(&groups, gid))
        .unwrap_or_else(|| gid.to_string())
}

fn group_name(groups: &str, gid: u32) -> Option<String> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let number: u32 = fields.nth(1)?.parse().ok()?;
        (number == gid).then(|| name.to_owned())
    })
}

fn virtualisation_flag(cpuinfo: &str) -> Option<String> {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"))?;
    let flag = flags
        .split_ascii_whitespace()
        .find(|word| matches!(*word, "vmx" | "svm"))?;
    Some(flag.to_owned())
}

#[cfg(test)]
mod tests;
