//! `banger daemon stop`

use std::io;
use std::os::fd::OwnedFd;

use banger_config::Paths;
use banger_model::{Code, Error, Result};
use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::connect::connect_to_running;
use crate::exit::Exit;
use crate::ui::Ui;

/// End the daemon; machines keep running
///
/// The next command that needs it starts it again. Waits until it has ended.
#[derive(Args, Debug)]
pub(crate) struct StopArgs {}

/// How long it may take to end.
const LIMIT: Timespec = Timespec {
    tv_sec: 10,
    tv_nsec: 0,
};

pub(crate) async fn cmd_stop(ui: &Ui, _args: StopArgs) -> Result<Exit> {
    let Some(client) = connect_to_running(&Paths::from_env()?)? else {
        ui.say("the daemon is not running");
        return Ok(Exit::SUCCESS);
    };
    let pid = client.daemon().await?.pid;
    // Opened before the request, while the process is certainly still the daemon.
    let process = open(pid)?;
    client.stop_daemon().await?;
    // Blocking: nothing else happens on this thread, and Ctrl-C ends the program.
    if has_ended(process, LIMIT)? {
        return Ok(Exit::SUCCESS);
    }
    Err(Error::new(
        Code::DaemonUnavailable,
        format!(
            "the daemon (pid {pid}) has not ended within {} seconds",
            LIMIT.tv_sec
        ),
    )
    .hint("it may be finishing an operation; try again, or end the process"))
}

fn open(pid: u32) -> Result<Option<OwnedFd>> {
    let failed = |error: io::Error| {
        Error::new(
            Code::DaemonUnavailable,
            format!("cannot watch the daemon (pid {pid})"),
        )
        .because(error)
    };
    let number = i32::try_from(pid).map_err(|_| failed(io::ErrorKind::InvalidInput.into()))?;
    let Some(process) = Pid::from_raw(number) else {
        return Err(failed(io::ErrorKind::InvalidInput.into()));
    };
    match pidfd_open(process, PidfdFlags::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(rustix::io::Errno::SRCH) => Ok(None),
        Err(error) => Err(failed(error.into())),
    }
}

/// Whether the process ends within the limit. One that is not there has ended.
fn has_ended(process: Option<OwnedFd>, limit: Timespec) -> Result<bool> {
    let Some(process) = process else {
        return Ok(true);
    };
    let mut watched = [PollFd::new(&process, PollFlags::IN)];
    match poll(&mut watched, Some(&limit)) {
        Ok(count) => Ok(count > 0),
        Err(error) => {
            Err(Error::internal("cannot wait for the daemon").because(io::Error::from(error)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_process_is_noticed() {
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        assert!(!has_ended(open(child.id()).unwrap(), now).unwrap());
        let process = open(child.id()).unwrap();
        drop(child.stdin.take());
        assert!(has_ended(process, LIMIT).unwrap());
        child.wait().unwrap();
        assert!(open(child.id()).unwrap().is_none());
    }
}
