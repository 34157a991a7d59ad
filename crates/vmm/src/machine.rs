//! What a VMM is asked to run, and where its sockets are.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use banger_model::{ByteSize, Code, Error, MAX_MEMORY, MAX_VCPUS, MIN_MEMORY, Result, VmId};

/// The longest path of a unix socket that Linux accepts, in bytes.
const SOCKET_PATH_MAX: usize = 107;
/// The most disks a machine can have: QEMU's microvm has 24 virtio slots, two of which are
/// for vsock and the network.
const DISKS_MAX: usize = 22;

/// One VM as its VMM sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Whose machine it is.
    pub id: VmId,
    /// A private directory for sockets, [`runtime_dir`] of the id: it is how the processes are
    /// found again.
    pub runtime_dir: PathBuf,
    /// Where the guest's serial console goes: the newest 4 to 8 MiB of it, the older half in a
    /// file whose name ends in `.1`.
    pub console_log: PathBuf,
    /// Where the VMM's own messages go.
    pub vmm_log: PathBuf,
    /// The kernel, as an uncompressed ELF `vmlinux`.
    pub kernel: PathBuf,
    /// The initial RAM file system.
    pub initramfs: PathBuf,
    /// Virtual processors.
    pub vcpus: u32,
    /// Memory.
    pub memory: ByteSize,
    /// Disks; the guest sees them in this order, see [`device_path`].
    pub disks: Vec<Disk>,
    /// Whether the guest has a network interface that reaches outside networks.
    pub nat: bool,
}

/// One raw disk image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The file.
    pub path: PathBuf,
    /// Whether the guest may not write to it.
    pub read_only: bool,
}

/// What the guest must configure on its one Ethernet interface when it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestNetwork {
    /// Its IPv4 address.
    pub address: Ipv4Addr,
    /// The length of the network prefix.
    pub prefix: u8,
    /// The default gateway.
    pub gateway: Ipv4Addr,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
}

/// The addresses of user-mode networking. They exist only between one guest and its VMM,
/// so every VM has the same.
pub fn guest_network() -> GuestNetwork {
    GuestNetwork {
        address: Ipv4Addr::new(10, 0, 2, 15),
        prefix: 24,
        gateway: Ipv4Addr::new(10, 0, 2, 2),
        dns: vec![Ipv4Addr::new(10, 0, 2, 3)],
    }
}

/// The runtime directory of a VM below the directory that holds those of all VMs.
pub fn runtime_dir(runtime_root: &Path, id: &VmId) -> PathBuf {
    runtime_root.join(id.as_str())
}

/// The socket on which the guest agent is dialled: `CONNECT <port>\n`, answered by `OK …\n`.
pub fn agent_socket(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("agent.sock")
}

/// The socket on which the guest's boot dial arrives. Whoever launches the machine must
/// listen on it before.
pub fn boot_socket(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("agent.sock_1023")
}

/// The guest's device for the disk at `index`: `/dev/vda` for the first.
///
/// # Errors
/// `internal` beyond the 22nd disk.
pub fn device_path(index: usize) -> Result<String> {
    u8::try_from(index)
        .ok()
        .filter(|_| index < DISKS_MAX)
        .map(|index| format!("/dev/vd{}", char::from(b'a' + index)))
        .ok_or_else(|| Error::internal(format!("a machine has at most {DISKS_MAX} disks")))
}

/// The address of the guest's network interface: stable, and under QEMU's prefix. Only the
/// VM's own VMM ever sees it.
pub(crate) fn mac(id: &VmId) -> String {
    let id = id.as_str();
    format!("52:54:00:{}:{}:{}", &id[6..8], &id[8..10], &id[10..12])
}

impl Machine {
    /// Checks what no VMM could carry out.
    pub(crate) fn validate(&self) -> Result<()> {
        let fail = |message: String| Err(Error::new(Code::InvalidArgument, message));
        if self.vcpus == 0 || self.vcpus > MAX_VCPUS {
            return fail(format!(
                "a VM has 1 to {MAX_VCPUS} virtual processors, not {}",
                self.vcpus
            ));
        }
        if self.memory < MIN_MEMORY || self.memory > MAX_MEMORY {
            return fail(format!(
                "a VM has {MIN_MEMORY} to {MAX_MEMORY} of memory, not {}",
                self.memory
            ));
        }
        if self.disks.len() > DISKS_MAX {
            return fail(format!(
                "a VM has at most {DISKS_MAX} disks, not {}",
                self.disks.len()
            ));
        }
        let files = [
            &self.console_log,
            &self.vmm_log,
            &self.kernel,
            &self.initramfs,
            &self.runtime_dir,
        ];
        let disks = self.disks.iter().map(|disk| &disk.path);
        if let Some(relative) = files
            .into_iter()
            .chain(disks)
            .find(|path| path.is_relative())
        {
            return Err(Error::internal(format!(
                "the path `{}` of VM {} is not absolute",
                relative.display(),
                self.id
            )));
        }
        check_runtime_dir(&self.runtime_dir)
    }
}

/// Checks that every socket of a VM can be made below this directory.
fn check_runtime_dir(runtime_dir: &Path) -> Result<()> {
    let hint = "set XDG_RUNTIME_DIR to a shorter directory of your own, such as `/run/user/$UID`";
    let longest = boot_socket(runtime_dir);
    let length = longest.as_os_str().len();
    if length > SOCKET_PATH_MAX {
        return Err(Error::new(
            Code::InvalidArgument,
            format!(
                "the socket path `{}` has {length} bytes and Linux allows {SOCKET_PATH_MAX}",
                longest.display()
            ),
        )
        .hint(hint));
    }
    // The vsock program derives the path of the boot socket as text.
    if runtime_dir.to_str().is_none() {
        return Err(Error::new(
            Code::InvalidArgument,
            format!("the path `{}` is not UTF-8", runtime_dir.display()),
        )
        .hint(hint));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn devices_are_named_in_order() {
        assert_eq!(device_path(0).unwrap(), "/dev/vda");
        assert_eq!(device_path(21).unwrap(), "/dev/vdv");
        assert!(device_path(22).is_err());
        assert!(device_path(usize::MAX).is_err());
    }

    #[test]
    fn a_socket_path_may_have_107_bytes_and_no_more() {
        // `/agent.sock_1023` has 16 bytes.
        let fits = PathBuf::from(format!("/{}", "a".repeat(107 - 16 - 1)));
        assert!(check_runtime_dir(&fits).is_ok());
        std::os::unix::net::SocketAddr::from_pathname(boot_socket(&fits)).unwrap();
        let long = PathBuf::from(format!("/{}", "a".repeat(107 - 16)));
        let error = check_runtime_dir(&long).unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
        assert!(error.hint_text().unwrap().contains("XDG_RUNTIME_DIR"));
        assert!(std::os::unix::net::SocketAddr::from_pathname(boot_socket(&long)).is_err());
    }

    #[test]
    fn impossible_machines_are_refused() {
        let good = crate::testing::machine(Path::new("/run/banger/vm"), "00000000000a");
        assert!(good.validate().is_ok());
        let disk = good.disks[0].clone();
        let bad = [
            Machine {
                vcpus: 0,
                ..good.clone()
            },
            Machine {
                vcpus: MAX_VCPUS + 1,
                ..good.clone()
            },
            Machine {
                memory: ByteSize::mib(1),
                ..good.clone()
            },
            Machine {
                memory: ByteSize::gib(4096),
                ..good.clone()
            },
            Machine {
                disks: vec![disk; DISKS_MAX + 1],
                ..good.clone()
            },
            Machine {
                kernel: "vmlinux".into(),
                ..good.clone()
            },
            Machine {
                runtime_dir: "vm".into(),
                ..good.clone()
            },
            Machine {
                runtime_dir: OsStr::from_bytes(b"/run/\xff").into(),
                ..good.clone()
            },
        ];
        for machine in bad {
            assert!(machine.validate().is_err(), "{machine:?}");
        }
    }
}
