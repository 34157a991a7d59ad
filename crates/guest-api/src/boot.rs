//! What the guest is told while it boots, and what it says about it.

use serde::{Deserialize, Serialize};

use crate::ByteString;

/// The guest's first control frame on the boot connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// The newest protocol the agent speaks.
    pub version: u32,
}

/// Everything the guest needs to become this VM, from outside its disks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BootConfig {
    /// The newest protocol the host speaks.
    pub version: u32,
    /// Host name, written to `/etc/hostname` and `/etc/hosts`.
    pub hostname: String,
    /// 32 hexadecimal digits for `/etc/machine-id`.
    pub machine_id: String,
    /// The host's clock, in nanoseconds since the epoch: the VM may have no clock of its own.
    pub clock_unix_ns: i64,
    /// Where the root file system comes from.
    pub root: RootDisk,
    /// The block device of the work disk, an ext4 mounted on `/root`.
    #[serde(default)]
    pub work_disk: Option<String>,
    /// The block device with the modules of the VM's kernel, an ext4 for
    /// `/lib/modules/<release>`; absent when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modules: Option<String>,
    /// The network interface to configure; absent when the VM has none.
    #[serde(default)]
    pub network: Option<Network>,
    /// The ssh identity.
    #[serde(default)]
    pub ssh: Option<SshIdentity>,
    /// Whether to start the image's init system.
    #[serde(default)]
    pub init: InitPolicy,
    /// Who makes commits, unless something in the guest says otherwise. Absent when the host
    /// does not know; an earlier boot's is then taken back. Agents before this field ignore it.
    #[serde(default)]
    pub git: Option<GitIdentity>,
    /// The block device of an empty ext4. The guest does not become the VM: it writes the files
    /// of its root file system there, without the VM's identity, reports that it is ready, and
    /// ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<String>,
}

/// Who makes commits, as the host's own git has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitIdentity {
    /// `user.name`
    #[serde(default)]
    pub name: Option<ByteString>,
    /// `user.email`
    #[serde(default)]
    pub email: Option<ByteString>,
}

/// Where the root file system comes from. Devices are paths such as `/dev/vda`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum RootDisk {
    /// A read-only image under a writable ext4, joined by overlayfs.
    Overlay {
        /// The image.
        image: String,
        /// The writable layer.
        upper: String,
    },
    /// One writable ext4.
    Direct {
        /// The disk.
        device: String,
    },
}

/// A static address for the guest's one Ethernet interface.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Network {
    /// The guest's IPv4 address.
    pub address: std::net::Ipv4Addr,
    /// The length of the network prefix.
    pub prefix: u8,
    /// The default gateway.
    pub gateway: std::net::Ipv4Addr,
    /// Name servers for `/etc/resolv.conf`.
    pub dns: Vec<std::net::Ipv4Addr>,
}

/// What makes ssh to this guest safe from the first connection on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SshIdentity {
    /// The private ed25519 host key, in OpenSSH's format.
    pub host_key: String,
    /// The public host key line.
    pub host_key_public: String,
    /// Lines for `/root/.ssh/authorized_keys`.
    pub authorized_keys: Vec<String>,
}

/// Whether to start the image's init system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InitPolicy {
    /// Start it when the image has one, else stay PID 1.
    #[default]
    Auto,
    /// Stay PID 1.
    None,
}

/// The guest's last control frame on the boot connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum BootReport {
    /// The root file system is mounted and the agent accepts connections.
    Ready(crate::Info),
    /// The guest cannot become this VM and powers itself off.
    Failed {
        /// The step that failed, such as "mount the root disk".
        step: String,
        /// Why.
        message: String,
    },
}
