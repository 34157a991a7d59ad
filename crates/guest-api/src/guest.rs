//! What the guest listens on and uses, and how to reach a port in it.

use serde::{Deserialize, Serialize};

/// Connects to a TCP port of the guest on its loopback: IPv4 first, then IPv6.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dial {
    /// The port.
    pub port: u16,
    /// How long to wait for something to listen there, in milliseconds; none by default.
    #[serde(default)]
    pub wait_ms: u32,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A socket that waits for peers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Listener {
    /// Its protocol.
    pub transport: Transport,
    /// The address it is bound to; `0.0.0.0` and `::` mean every one.
    pub address: String,
    /// The port.
    pub port: u16,
    /// The process that holds it, as its name in the guest, when that can be found.
    #[serde(default)]
    pub process: Option<String>,
    /// That process's id.
    #[serde(default)]
    pub pid: Option<u32>,
}

/// What the guest uses, counted since its boot where it is a counter.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Seconds since the guest kernel started.
    pub uptime_seconds: f64,
    /// Memory the guest kernel manages, in bytes.
    pub memory_total: u64,
    /// Memory that programs could still get, in bytes.
    pub memory_available: u64,
    /// The load average over one minute.
    pub load_1: f64,
    /// Processes and threads.
    pub tasks: u32,
    /// Bytes received on all interfaces but loopback.
    pub network_received: u64,
    /// Bytes sent on all interfaces but loopback.
    pub network_sent: u64,
    /// The writable file systems banger made: the root and the work disk.
    pub disks: Vec<DiskUse>,
}

/// How full a file system is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DiskUse {
    /// Where it is mounted.
    pub path: String,
    /// Its size, in bytes.
    pub total: u64,
    /// What is taken, in bytes.
    pub used: u64,
}
