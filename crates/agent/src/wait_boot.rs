//! Waiting until the image's init system has finished booting.

use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::init::{Init, Kind};
use crate::socket::{Socket, wait_readable};

/// An init system cannot be asked before it listens, and says nothing when it begins to.
const RETRY: Duration = Duration::from_millis(200);
/// How often it may be unreachable in a row before that is the answer.
const UNREACHABLE: u32 = 300;
/// Where OpenRC keeps its state.
const OPENRC: &str = "/run/openrc";

/// Returns when the guest has booted; at once when its init can tell nobody. Gives up when the
/// host hangs up `host`.
pub(crate) fn wait(init: Option<&Init>, host: &Socket) -> Result<(), String> {
    match init.map(|init| init.kind) {
        None => Ok(()),
        Some(Kind::Systemd) => systemd(host),
        // It also runs under the other ones.
        Some(Kind::OpenRc | Kind::SysV | Kind::BusyBox) if has_openrc() => openrc(host),
        Some(_) => Ok(()),
    }
}

fn has_openrc() -> bool {
    ["/sbin/openrc", "/usr/sbin/openrc"]
        .iter()
        .any(|path| Path::new(path).is_file())
}

fn systemd(host: &Socket) -> Result<(), String> {
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
        pause(host)?;
    }
}

fn openrc(host: &Socket) -> Result<(), String> {
    let mut unreachable = 0;
    loop {
        match runlevel(Path::new(OPENRC)) {
            Runlevel::Reached => return Ok(()),
            Runlevel::OnTheWay => unreachable = 0,
            Runlevel::Unknown => {
                unreachable += 1;
                if unreachable > UNREACHABLE {
                    return Err(format!("OpenRC does not start: there is no {OPENRC}"));
                }
            }
        }
        pause(host)?;
    }
}

/// How far OpenRC is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Runlevel {
    /// It has written nothing yet.
    Unknown,
    /// In the runlevels before the last, or changing to it.
    OnTheWay,
    Reached,
}

/// OpenRC writes the name of a runlevel when it begins to change to it, and has a file there for
/// as long as the change lasts.
fn runlevel(state: &Path) -> Runlevel {
    match fs::read_to_string(state.join("softlevel")) {
        Err(_) => Runlevel::Unknown,
        Ok(level) => match level.trim() {
            "" | "sysinit" | "boot" => Runlevel::OnTheWay,
            _ if state.join("rc.starting").exists() => Runlevel::OnTheWay,
            _ => Runlevel::Reached,
        },
    }
}

fn pause(host: &Socket) -> Result<(), String> {
    if wait_readable(host.as_fd(), RETRY) {
        return Err("the host hung up".to_owned());
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openrc_has_booted_when_its_last_runlevel_is_complete() {
        let state = tempfile::tempdir().unwrap();
        let path = state.path();
        assert_eq!(runlevel(path), Runlevel::Unknown);
        let set = |level: &str| fs::write(path.join("softlevel"), level).unwrap();
        for level in ["", "sysinit", "boot\n"] {
            set(level);
            assert_eq!(runlevel(path), Runlevel::OnTheWay, "{level}");
        }
        fs::create_dir(path.join("rc.starting")).unwrap();
        set("default");
        assert_eq!(runlevel(path), Runlevel::OnTheWay);
        fs::remove_dir(path.join("rc.starting")).unwrap();
        assert_eq!(runlevel(path), Runlevel::Reached);
    }
}
