//! Running one command for one connection.
//!
//! `plan` decides what to execute, `spawn` executes it, `session` moves its bytes and events
//! until it ends or the host hangs up.
//!
//! When a command's main process has ended, its output is what had been written by then:
//! background processes that still hold the pipes do not keep the connection open. A command
//! that outlives its connection gets SIGHUP, as if its terminal had closed, and may ignore it.

mod incoming;
mod outgoing;
mod plan;
mod session;
mod spawn;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use banger_guest_api::{Exec, ExecEvent};
use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions};

use crate::server::Slot;
use crate::socket::Socket;
use session::{Outcome, Session};

/// How long the host may take to hang up after the last frame.
const LINGER: Duration = Duration::from_secs(10);

/// Why a command was not started.
#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    code: i32,
    message: String,
}

impl Refusal {
    fn not_found(message: impl Into<String>) -> Self {
        Refusal {
            code: 127,
            message: message.into(),
        }
    }

    fn not_executable(message: impl Into<String>) -> Self {
        Refusal {
            code: 126,
            message: message.into(),
        }
    }

    fn other(message: impl Into<String>) -> Self {
        Refusal {
            code: 125,
            message: message.into(),
        }
    }
}

/// Serves one exec connection to its end. `slot` is given back as soon as the host is gone,
/// even when the command lives on.
pub(crate) fn serve(mut socket: Socket, exec: &Exec, slot: Slot) -> io::Result<()> {
    let started = plan::Plan::new(exec).and_then(|plan| spawn::start(&plan, exec));
    let running = match started {
        Ok(running) => running,
        Err(Refusal { code, message }) => {
            socket.send(&ExecEvent::Refused { code, message })?;
            socket.linger(LINGER);
            return Ok(());
        }
    };
    socket.set_nonblocking(true)?;
    match Session::new(socket, running).run() {
        Outcome::Finished(socket) => socket.linger(LINGER),
        Outcome::Abandoned(None) => {}
        Outcome::Abandoned(Some(pidfd)) => {
            drop(slot);
            // Its pipes and terminal are closed by now. Whoever ignores SIGHUP lives on, and
            // this thread waits so that it never becomes a zombie.
            reap(WaitId::PidFd(pidfd.as_fd()));
        }
    }
    Ok(())
}

/// Waits for the end of a child, whatever it is.
fn reap(child: WaitId<'_>) {
    while let Err(Errno::INTR) =
        rustix::process::waitid(child.clone(), WaitIdOptions::EXITED).map(drop)
    {}
}

/// For signals to processes that may just have ended.
fn ignore_gone(result: rustix::io::Result<()>) {
    match result {
        Ok(()) | Err(Errno::SRCH) => {}
        Err(error) => eprintln!("banger: signal a command: {error}"),
    }
}
