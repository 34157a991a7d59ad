//! The end of the boot: the agent gets a process of its own, and PID 1 becomes the image's init.

use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use rustix::io::FdFlags;
use rustix::pipe::PipeFlags;
use vsock::VsockListener;

use super::{Never, pid1, runtime};
use crate::failure::{Failure, Result, Step};
use crate::init::Init;
use crate::server::{Inherited, PROCESS_NAME};
use crate::socket::{Socket, wait_readable};

/// How long init is held back so that it does not slow down the agent's start.
const AGENT_START: Duration = Duration::from_secs(10);

/// Forks the agent and becomes init.
pub(super) fn hand_over(
    init: Option<&Init>,
    listener: VsockListener,
    host: &mut Socket,
) -> Result<Never> {
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
        let error = Command::new(&init.path)
            .env_clear()
            .envs([("HOME", "/"), ("TERM", "linux"), ("PATH", pid1::PATH)])
            .exec();
        eprintln!("banger: cannot execute {}: {error}", init.path);
        runtime::without_init();
    }
    pid1::reap(agent)
}

/// In the fork's child: leaves only if it fails.
fn become_the_agent(inherited: Inherited, init: Option<&Init>) -> Failure {
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
