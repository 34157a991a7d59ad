//! The protocol between the host and the guest agent.
//!
//! Two ports on the VM's vsock:
//!
//! - [`BOOT_PORT`]: the guest dials the host once while it boots, says [`Hello`], receives a
//!   [`BootConfig`] and answers with one [`BootReport`]. That dial is the readiness signal, so
//!   nobody polls.
//! - [`AGENT_PORT`]: the host dials the agent, one connection per stream. It sends an
//!   [`Open`] and the connection then belongs to that one request. vsock already gives
//!   streams and back-pressure, so there is no multiplexer.
//!
//! Everything is a [`frame`]: a length, a kind and a payload. Control frames hold JSON, which
//! is self-describing: an older peer ignores fields it does not know. Everything that comes
//! from the guest is hostile: lengths are bounded before anything is allocated.

#[cfg(feature = "archive")]
pub mod archive;
mod boot;
mod bytes;
#[cfg(feature = "client")]
pub mod client;
mod copy;
mod exec;
pub mod frame;
mod guest;

pub use boot::{
    BootConfig, BootReport, GitIdentity, Hello, InitPolicy, Network, RootDisk, SshIdentity,
};
pub use bytes::ByteString;
pub use copy::{CopyEvent, CopyIn, CopyOut, ROOT as COPY_ROOT};
pub use exec::{DEFAULT_PATH, Exec, ExecEvent, ExecInput, TtySize};
pub use guest::{Dial, DiskUse, Listener, Stats, Transport};

#[cfg(feature = "archive")]
pub use archive::Copied;
use serde::{Deserialize, Serialize};

/// The vsock port the agent listens on in the guest.
pub const AGENT_PORT: u32 = 1024;
/// The vsock port the guest dials on the host for its boot configuration. Hybrid vsock turns
/// it into a unix socket: the VM's socket path followed by `_1023`.
pub const BOOT_PORT: u32 = 1023;
/// The newest protocol this build speaks.
///
/// Version 2 added [`Request::Listeners`], [`Request::Stats`], [`Request::CopyIn`] and
/// [`Request::CopyOut`]. Version 3 added [`CopyIn::replace`]. Version 4 added
/// [`Request::Connect`] in place of a request `dial`, whose connection had no frames.
pub const PROTOCOL_VERSION: u32 = 4;
/// The most sockets that [`Reply::Listeners`] names, so that it fits into a frame.
pub const MAX_LISTENERS: usize = 1024;
/// How much standard input may be on its way without the agent's acknowledgement, in bytes.
///
/// The agent buffers at most this much, so control frames never wait behind input that the
/// command does not read.
pub const STDIN_WINDOW: usize = 1 << 20;

/// The first control frame on an agent connection, from the host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Open {
    /// The newest protocol the host speaks.
    pub version: u32,
    /// What the connection is for.
    pub request: Request,
}

/// What a connection to the agent is for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Request {
    /// Answers [`Reply::Info`] and ends.
    Info,
    /// Runs a command; [`ExecInput`] and [`ExecEvent`] frames follow.
    Exec(Exec),
    /// Sends every byte after the frame back as it is, without frames: the floor against which
    /// benchmarks measure. Ends when the host closes its side. The host must keep less than
    /// 256 KiB unanswered: with both directions full, some vsock devices stop for ever.
    Echo,
    /// Answers [`Reply::Done`] when the image's init system has finished booting; at once when
    /// there is none.
    WaitBoot,
    /// Flushes all disks, answers [`Reply::Done`] and then brings the guest down. The host
    /// learns that it is down from the end of the VMM.
    Shutdown,
    /// Connects to a port in the guest. Answers [`Reply::Done`]; after that frame what the
    /// connection carries goes in frames of its own, `Stdin` to the guest and `Stdout` from it.
    /// An empty one ends its direction and leaves the other alone: Firecracker makes the end of
    /// one half of a vsock stream the end of both. Who is told both hangs up; the guest never
    /// does first. Answers [`Reply::NothingListens`] when that is so.
    Connect(Dial),
    /// Answers [`Reply::Listeners`]: what the guest listens on.
    Listeners,
    /// Answers [`Reply::Stats`]: what the guest uses.
    Stats,
    /// Copies a file or tree into the guest; see [`CopyIn`].
    CopyIn(CopyIn),
    /// Copies a file or tree out of the guest; see [`CopyOut`].
    CopyOut(CopyOut),
}

impl Request {
    /// The protocol that brought this request, and what it does in words for a person whose
    /// guest runs an older agent.
    pub fn since(&self) -> (u32, &'static str) {
        match self {
            Request::Info => (1, "describe itself"),
            Request::Exec(_) => (1, "run commands"),
            Request::Echo => (1, "echo"),
            Request::WaitBoot => (1, "wait for the end of the boot"),
            Request::Shutdown => (1, "shut down"),
            Request::Connect(_) => (4, "forward ports"),
            Request::Listeners => (2, "list what it listens on"),
            Request::Stats => (2, "say what it uses"),
            Request::CopyIn(copy) if copy.replace => (3, "replace a tree at once"),
            Request::CopyIn(_) | Request::CopyOut(_) => (2, "copy files"),
        }
    }
}

/// The agent's answer to a request that is not a stream, or its refusal of any request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Reply {
    /// The request is carried out.
    Done,
    /// What the guest is.
    Info(Info),
    /// What the guest listens on.
    Listeners {
        /// In order of transport and port; the first [`MAX_LISTENERS`] of them.
        listeners: Vec<Listener>,
    },
    /// Nothing in the guest accepts connections on the port, even after the wait.
    NothingListens,
    /// What the guest uses.
    Stats(Stats),
    /// The request is refused or failed.
    Error {
        /// What happened.
        message: String,
    },
}

/// What the agent says about itself and its guest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Info {
    /// The newest protocol the agent speaks.
    pub version: u32,
    /// The agent's own release.
    pub agent_release: String,
    /// The guest kernel's boot id, new at every boot.
    pub boot_id: String,
    /// The guest kernel's release.
    pub kernel: String,
    /// The init system that was started: its path, or absent when the agent's own is PID 1.
    #[serde(default)]
    pub init: Option<String>,
    /// Whether the guest has an ssh server's program now; absent when the agent does not say.
    #[serde(default)]
    pub ssh_server: Option<bool>,
}

/// Text from the other side, made fit for a terminal: no control characters, nothing that turns
/// the direction of writing, and no end.
#[cfg(any(feature = "archive", feature = "client"))]
fn tame(text: &str) -> String {
    const MAX: usize = 500;
    let harmless = |c: char| match c {
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    text.chars().take(MAX).map(harmless).collect()
}
