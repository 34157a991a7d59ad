//! What a VM is asked to be, and the states it can be in.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{ByteSize, Code, Error, ImageName, KernelName, Result};

/// The most virtual processors a VM may have.
pub const MAX_VCPUS: u32 = 64;
/// The most virtual processors Firecracker gives a VM.
pub const FIRECRACKER_MAX_VCPUS: u32 = 32;
/// The least memory with which the default image boots.
pub const MIN_MEMORY: ByteSize = ByteSize::mib(128);
/// The most memory a VM may have.
pub const MAX_MEMORY: ByteSize = ByteSize::gib(1024);
/// The smallest disk: below it, ext4 has no room for a journal.
pub const MIN_DISK: ByteSize = ByteSize::mib(64);
/// The largest disk, the limit of ext4 with 4 KiB blocks.
const MAX_DISK: ByteSize = ByteSize::gib(16 * 1024);

/// What a VM is: everything a user may choose about it, resolved to definite values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmSpec {
    /// The image its root file system comes from.
    pub image: ImageName,
    /// The kernel it boots.
    pub kernel: KernelName,
    /// Virtual processors.
    pub vcpus: u32,
    /// Memory.
    pub memory: ByteSize,
    /// Size of the work disk mounted on `/root`.
    pub disk_size: ByteSize,
    /// Size of the writable layer over the image.
    pub overlay_size: ByteSize,
    /// Whether the guest reaches outside networks.
    pub nat: bool,
    /// Which VMM runs it.
    pub vmm: VmmChoice,
}

impl VmSpec {
    /// Checks every value against its limits.
    ///
    /// # Errors
    /// `invalid_argument`, naming the value, its limit and the flag.
    pub fn validate(&self) -> Result<()> {
        let fail = |flag: &str, what: String, limit: String| {
            Err(
                Error::new(Code::InvalidArgument, format!("`{flag}` is {what}"))
                    .hint(format!("choose {limit}")),
            )
        };
        if self.vcpus == 0 || self.vcpus > MAX_VCPUS {
            return fail(
                "--vcpu",
                self.vcpus.to_string(),
                format!("from 1 to {MAX_VCPUS} virtual processors"),
            );
        }
        if self.vmm == VmmChoice::Firecracker && self.vcpus > FIRECRACKER_MAX_VCPUS {
            return fail(
                "--vcpu",
                self.vcpus.to_string(),
                format!("at most {FIRECRACKER_MAX_VCPUS} under Firecracker, or `--vmm qemu`"),
            );
        }
        if self.memory < MIN_MEMORY || self.memory > MAX_MEMORY {
            return fail(
                "--memory",
                self.memory.to_string(),
                format!("from {MIN_MEMORY} to {MAX_MEMORY}"),
            );
        }
        for (flag, size) in [
            ("--disk-size", self.disk_size),
            ("system_overlay_size", self.overlay_size),
        ] {
            if size < MIN_DISK || size > MAX_DISK {
                return fail(
                    flag,
                    size.to_string(),
                    format!("from {MIN_DISK} to {MAX_DISK}"),
                );
            }
        }
        Ok(())
    }
}

/// What the user asks of `--vmm`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VmmChoice {
    /// The best that works on this machine.
    #[default]
    Auto,
    /// Firecracker with KVM.
    Firecracker,
    /// QEMU, with KVM if it works, else software emulation.
    Qemu,
    /// QEMU with KVM.
    QemuKvm,
    /// QEMU with software emulation.
    QemuTcg,
}

impl VmmChoice {
    /// Every choice with its word.
    pub const ALL: [(VmmChoice, &str); 5] = [
        (VmmChoice::Auto, "auto"),
        (VmmChoice::Firecracker, "firecracker"),
        (VmmChoice::Qemu, "qemu"),
        (VmmChoice::QemuKvm, "qemu-kvm"),
        (VmmChoice::QemuTcg, "qemu-tcg"),
    ];
}

impl fmt::Display for VmmChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, word) = VmmChoice::ALL
            .into_iter()
            .find(|(choice, _)| choice == self)
            .unwrap_or((VmmChoice::Auto, "auto"));
        f.pad(word)
    }
}

impl FromStr for VmmChoice {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        VmmChoice::ALL
            .into_iter()
            .find(|(_, word)| *word == text)
            .map(|(choice, _)| choice)
            .ok_or_else(|| {
                let words: Vec<_> = VmmChoice::ALL.iter().map(|(_, word)| *word).collect();
                Error::new(
                    Code::InvalidArgument,
                    format!("`{}` is not a VMM", text.escape_debug()),
                )
                .hint(format!("choose one of {}", words.join(", ")))
            })
    }
}

/// The VMM that really runs a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VmmKind {
    /// Firecracker with KVM.
    Firecracker,
    /// QEMU with KVM.
    QemuKvm,
    /// QEMU with software emulation.
    QemuTcg,
}

impl fmt::Display for VmmKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            VmmKind::Firecracker => "firecracker",
            VmmKind::QemuKvm => "qemu-kvm",
            VmmKind::QemuTcg => "qemu-tcg",
        })
    }
}

/// How a VM's root disk is made from its image, chosen by probe and recorded per VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskStrategy {
    /// The image is attached read-only under a per-VM overlay, assembled in the guest.
    Overlay,
    /// The image file is cloned by the file system (`FICLONE`) and attached writable.
    Reflink,
}

/// The states of a VM. The daemon's owner task draws who moves them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VmState {
    /// Being made; it disappears if that fails.
    Creating,
    /// Exists, not running.
    Stopped,
    /// The VMM runs, the agent has not answered yet.
    Starting,
    /// The agent answers.
    Running,
    /// Being stopped.
    Stopping,
    /// Being removed.
    Deleting,
    /// Removal failed half-way; only `delete` is accepted.
    Broken,
}

impl fmt::Display for VmState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            VmState::Creating => "creating",
            VmState::Stopped => "stopped",
            VmState::Starting => "starting",
            VmState::Running => "running",
            VmState::Stopping => "stopping",
            VmState::Deleting => "deleting",
            VmState::Broken => "broken",
        })
    }
}

/// What an image says about the commands run from it (the OCI image config).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// Environment, in order of the keys.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// User to run commands as; `root` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Directory to run commands in; the user's home when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// Put before the command.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// The command when none is given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> VmSpec {
        VmSpec {
            image: "debian-bookworm".parse().unwrap(),
            kernel: "debian-bookworm".parse().unwrap(),
            vcpus: 1,
            memory: ByteSize::mib(512),
            disk_size: ByteSize::gib(8),
            overlay_size: ByteSize::gib(8),
            nat: false,
            vmm: VmmChoice::Auto,
        }
    }

    #[test]
    fn limits_are_inclusive_and_name_the_flag() {
        assert!(spec().validate().is_ok());
        let cases: [(VmSpec, &str); 7] = [
            (VmSpec { vcpus: 0, ..spec() }, "--vcpu"),
            (
                VmSpec {
                    vcpus: FIRECRACKER_MAX_VCPUS + 1,
                    vmm: VmmChoice::Firecracker,
                    ..spec()
                },
                "--vcpu",
            ),
            (
                VmSpec {
                    vcpus: MAX_VCPUS + 1,
                    ..spec()
                },
                "--vcpu",
            ),
            (
                VmSpec {
                    memory: ByteSize::mib(127),
                    ..spec()
                },
                "--memory",
            ),
            (
                VmSpec {
                    memory: ByteSize::gib(1025),
                    ..spec()
                },
                "--memory",
            ),
            (
                VmSpec {
                    disk_size: ByteSize::mib(63),
                    ..spec()
                },
                "--disk-size",
            ),
            (
                VmSpec {
                    overlay_size: ByteSize::mib(1),
                    ..spec()
                },
                "system_overlay_size",
            ),
        ];
        for (bad, flag) in cases {
            let error = bad.validate().unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument);
            assert!(error.message().contains(flag), "{error}");
        }
        assert!(
            VmSpec {
                vcpus: MAX_VCPUS,
                memory: MIN_MEMORY,
                ..spec()
            }
            .validate()
            .is_ok()
        );
    }

    #[test]
    fn every_vmm_word_parses_back() {
        for (choice, word) in VmmChoice::ALL {
            assert_eq!(word.parse::<VmmChoice>().unwrap(), choice);
            assert_eq!(choice.to_string(), word);
            assert_eq!(
                serde_json::to_string(&choice).unwrap(),
                format!("\"{word}\"")
            );
        }
        assert!("xen".parse::<VmmChoice>().is_err());
    }
}
