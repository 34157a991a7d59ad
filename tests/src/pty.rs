//! A terminal with a program in it, typed at and read by a scenario.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Pid;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::process::limit;

/// A terminal, and the program it was opened for.
pub struct Terminal {
    master: File,
    child: Child,
    screen: String,
    /// How much of `screen` earlier expectations have consumed.
    read_to: usize,
}

impl Terminal {
    /// Starts `command` as the leader of a session on a new terminal of 80 by 24.
    pub fn start(mut command: Command) -> Terminal {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .expect("open a terminal");
        grantpt(&master).expect("grantpt");
        unlockpt(&master).expect("unlockpt");
        let name = ptsname(&master, Vec::new()).expect("ptsname");
        let open = || -> OwnedFd {
            rustix::fs::open(
                &name,
                rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC,
                rustix::fs::Mode::empty(),
            )
            .expect("open the terminal's other side")
        };
        let slave = open();
        command.stdin(open()).stdout(open()).stderr(open());
        command.env("TERM", "xterm");
        // SAFETY: between fork and exec only setsid and an ioctl are called, both
        // async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                rustix::process::setsid()?;
                rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
                Ok(())
            });
        }
        let child = command.spawn().expect("run a program on the terminal");
        drop(command);
        drop(slave);
        let terminal = Terminal {
            master: File::from(master),
            child,
            screen: String::new(),
            read_to: 0,
        };
        terminal.resize(24, 80);
        terminal
    }

    /// The program's process id.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Changes the size.
    pub fn resize(&self, rows: u16, cols: u16) {
        let size = Winsize {
            ws_row: rows,
            ws_col: cols,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&self.master, size).expect("resize the terminal");
    }

    /// Types `text`; `\r` is the Enter key.
    pub fn type_text(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("type");
    }

    /// Waits until `text` appears after everything expected so far; returns what came before.
    #[track_caller]
    pub fn expect(&mut self, text: &str) -> String {
        let deadline = Instant::now() + limit();
        loop {
            if let Some(at) = self.screen[self.read_to..].find(text) {
                let before = self.screen[self.read_to..self.read_to + at].to_owned();
                self.read_to += at + text.len();
                return before;
            }
            if !self.read_more(deadline.saturating_duration_since(Instant::now())) {
                panic!(
                    "the terminal never showed {text:?}; it showed:\n{}",
                    self.screen
                );
            }
        }
    }

    /// Reads until the program closes the terminal; returns its exit code (128 + n for a
    /// signal) and all that was shown.
    #[track_caller]
    pub fn finish(mut self) -> (i32, String) {
        use std::os::unix::process::ExitStatusExt;
        let deadline = Instant::now() + limit();
        while self.read_more(deadline.saturating_duration_since(Instant::now())) {}
        assert!(
            crate::process::ends_within(
                self.pid(),
                deadline.saturating_duration_since(Instant::now())
            ),
            "the program on the terminal did not end; it showed:\n{}",
            self.screen
        );
        let status = self.child.wait().expect("wait for the program");
        (
            status
                .code()
                .unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            self.screen,
        )
    }

    /// Closes the terminal under the program, as closing a window does, and waits for its end.
    #[track_caller]
    pub fn close(self) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        let Terminal {
            master,
            mut child,
            screen,
            ..
        } = self;
        drop(master);
        assert!(
            crate::process::ends_within(Pid::from_child(&child), limit()),
            "the program outlived its terminal; it had shown:\n{screen}"
        );
        let status = child.wait().expect("wait for the program");
        status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
    }

    /// Reads what is there; false when the other side is closed or time is up.
    fn read_more(&mut self, limit: Duration) -> bool {
        let timeout = Timespec {
            tv_sec: limit.as_secs() as i64,
            tv_nsec: limit.subsec_nanos().into(),
        };
        let mut fds = [PollFd::from_borrowed_fd(self.master.as_fd(), PollFlags::IN)];
        if poll(&mut fds, Some(&timeout)).expect("poll the terminal") == 0 {
            return false;
        }
        let mut buffer = [0; 4096];
        match self.master.read(&mut buffer) {
            // Linux answers EIO once the last program has closed its side.
            Ok(0) | Err(_) => false,
            Ok(n) => {
                self.screen.push_str(&String::from_utf8_lossy(&buffer[..n]));
                true
            }
        }
    }
}
