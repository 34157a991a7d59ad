//! The end of the boot: the agent gets a process of its own, and PID 1 becomes the image's init.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use banger_guest_api::{BootConfig, InitPolicy};
use rustix::io::FdFlags;
use rustix::mount::{MountFlags, mount};
use rustix::pipe::PipeFlags;
use vsock::VsockListener;

use super::{Never, files, pid1};
use crate::failure::{Failure, Result, Step};
use crate::server::{Inherited, PROCESS_NAME};
use crate::socket::{Socket, wait_readable};

/// Where init systems live, the conventional name first.
const INITS: [&str; 6] = [
    "/sbin/init",
    "/usr/sbin/init",
    "/lib/systemd/systemd",
    "/usr/lib/systemd/systemd",
    "/sbin/openrc-init",
    "/etc/init",
];
/// How long init is held back so that it does not slow down the agent's start.
const AGENT_START: Duration = Duration::from_secs(10);

/// Forks the agent and becomes init.
pub(super) fn hand_over(
    config: &BootConfig,
    listener: VsockListener,
    host: &mut Socket,
) -> Result<Never> {
    let init = match config.init {
        InitPolicy::Auto => files::first_executable(&INITS),
        InitPolicy::None => None,
    };
    if init.is_none() {
        prepare_for_no_init();
    }
    let (ready, ready_child) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC).step("start the agent")?;
    let inherited = Inherited {
        listener: listener.as_raw_fd(),
        boot: host.as_fd().as_raw_fd(),
        ready: ready_child.as_raw_fd(),
    };
    // SAFETY: this process has one thread, so the child may do anything.
    let agent = match unsafe { libc::fork() } {
        -1 => return Err(std::io::Error::last_os_error()).step("start the agent"),
        0 => return Err(become_the_agent(inherited, init)),
        agent => agent,
    };
    drop((listener, ready_child));
    // Readable, because closed, as soon as the host knows.
    if !wait_readable(ready.as_fd(), AGENT_START) {
        return Err(Failure::new(
            "start the agent",
            "it does not report in time",
        ));
    }
    if let Some(init) = init {
        let error = Command::new(init)
            .env_clear()
            .envs([("HOME", "/"), ("TERM", "linux"), ("PATH", pid1::PATH)])
            .exec();
        eprintln!("banger: cannot execute {}: {error}", init.display());
    }
    pid1::reap(agent)
}

/// In the fork's child: leaves only if it fails.
fn become_the_agent(inherited: Inherited, init: Option<&OsStr>) -> Failure {
    let step = "start the agent";
    for fd in [inherited.listener, inherited.boot, inherited.ready] {
        // SAFETY: these descriptors are open and stay so until the exec.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
        if let Err(error) = rustix::io::fcntl_setfd(fd, FdFlags::empty()) {
            return Failure::new(step, error);
        }
    }
    if let Err(error) = rustix::process::setsid() {
        return Failure::new(step, error);
    }
    let error = Command::new("/proc/self/exe")
        .arg0(PROCESS_NAME)
        .args(inherited.arguments(init))
        .env_clear()
        .env("PATH", pid1::PATH)
        .exec();
    Failure::new(step, error)
}

/// The little that init systems do and containers' images still expect.
fn prepare_for_no_init() {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    if let Err(error) = mount(
        c"cgroup2",
        c"/sys/fs/cgroup",
        c"cgroup2",
        flags,
        c"nsdelegate",
    ) {
        eprintln!("banger: mount /sys/fs/cgroup: {error}");
    }
}
