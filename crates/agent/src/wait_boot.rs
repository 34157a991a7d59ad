//! Waiting until the image's init system has finished booting.

use std::io::Read;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::socket::{Socket, wait_readable};

/// systemd cannot be asked before it listens, and says nothing when it begins to.
const RETRY: Duration = Duration::from_millis(200);
/// How often systemd may be unreachable in a row before that is the answer.
const UNREACHABLE: u32 = 300;

/// Returns when the guest has booted; at once when its init is not systemd, because no other
/// one can tell. Gives up when the host hangs up `host`.
pub(crate) fn wait(init: Option<&str>, host: &Socket) -> Result<(), String> {
    if !is_systemd(init) {
        return Ok(());
    }
    let mut unreachable = 0;
    loop {
        match system_state(host)?.as_str() {
            // Degraded: some unit failed, and the boot is over all the same.
            "running" | "degraded" => return Ok(()),
            state @ ("maintenance" | "stopping") => return Err(format!("the guest is in {state}")),
            "initializing" | "starting" => unreachable = 0,
            state => {
                unreachable += 1;
                if unreachable > UNREACHABLE {
                    return Err(format!("systemd does not answer (it says `{state}`)"));
                }
            }
        }
        if wait_readable(host.as_fd(), RETRY) {
            return Err("the host hung up".to_owned());
        }
    }
}

/// Whether PID 1 is systemd, or is about to become it: `init` is often just a link to it.
pub(crate) fn is_systemd(init: Option<&str>) -> bool {
    let program = init.and_then(|path| std::fs::canonicalize(path).ok());
    program.is_some_and(|path| path.file_name().is_some_and(|name| name == "systemd"))
}

/// One `systemctl is-system-running --wait`, ended early when the host hangs up.
fn system_state(host: &Socket) -> Result<String, String> {
    let mut systemctl = Command::new("systemctl")
        .args(["is-system-running", "--wait"])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("cannot run systemctl: {error}"))?;
    let mut state = String::new();
    if let Some(mut output) = systemctl.stdout.take() {
        use rustix::event::{PollFd, PollFlags, poll};
        let mut polled = [
            PollFd::new(&output, PollFlags::IN),
            PollFd::new(host, PollFlags::IN),
        ];
        let ready = poll(&mut polled, None).is_ok();
        if ready && !polled[1].revents().is_empty() && polled[0].revents().is_empty() {
            if let Err(error) = systemctl.kill() {
                eprintln!("banger: end systemctl: {error}");
            }
        } else if let Err(error) = output.read_to_string(&mut state) {
            eprintln!("banger: read from systemctl: {error}");
        }
    }
    systemctl
        .wait()
        .map_err(|error| format!("cannot run systemctl: {error}"))?;
    Ok(state.trim().to_owned())
}
