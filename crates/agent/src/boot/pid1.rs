//! PID 1 of images without an init system: reaps, and goes down when told to.

use std::io;

use rustix::process::{Pid, WaitOptions};

use super::Never;
use crate::failure::{Failure, Result};
use crate::shutdown;

/// The search path for whatever is started without one of its own.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The signals that mean "go down" to one init or another: `reboot`, `poweroff` and `halt` of
/// BusyBox send three different ones, ctrl-alt-del and a power failure two more.
const GO_DOWN: [libc::c_int; 5] = [
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGPWR,
];

/// Reaps until told to go down, or until `agent` is lost.
pub(super) fn reap(agent: libc::pid_t) -> Result<Never> {
    let signals = block_signals();
    loop {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if Some(pid) == Pid::from_raw(agent) => {
                    return Err(Failure::new(
                        "keep the agent running",
                        format!("it ended: {status:?}"),
                    ));
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
        // SAFETY: waits for signals of an initialised set; nothing is written.
        let signal = unsafe { libc::sigwaitinfo(&signals, std::ptr::null_mut()) };
        if GO_DOWN.contains(&signal) {
            shutdown::force();
        }
        if signal < 0 && io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return Err(Failure::new("wait for signals", io::Error::last_os_error()));
        }
    }
}

/// Blocks what [`reap`] waits for, so that nothing is lost between two waits.
fn block_signals() -> libc::sigset_t {
    // SAFETY: a zeroed set is memory for `sigemptyset`; this process has one thread.
    unsafe {
        let mut signals: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut signals);
        for signal in GO_DOWN.into_iter().chain([libc::SIGCHLD]) {
            libc::sigaddset(&mut signals, signal);
        }
        libc::sigprocmask(libc::SIG_BLOCK, &signals, std::ptr::null_mut());
        signals
    }
}
