//! The life of a running command: one poll loop over the connection, the command's streams and
//! the command itself.
//!
//! ```text
//!            ┌──────── host hangs up, or breaks the protocol ──▶ SIGHUP, Abandoned
//!  running ──┤
//!            └─ main process ends ─▶ draining ─ output read out, all sent ─▶ Finished
//! ```
//!
//! The socket is always read, so that signals, sizes and a hang-up are seen whatever the command
//! does; the credit window bounds what that can cost. The command's output is only read when
//! the socket has taken everything before it, so that back-pressure reaches the command.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use banger_guest_api::frame::Kind;
use banger_guest_api::{ExecEvent, ExecInput};
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

use super::incoming::{Incoming, Received};
use super::outgoing::{Filled, Outgoing};
use super::spawn::{self, Running, Stdio};
use crate::socket::{Socket, timespec};

/// A terminal delivers its last output asynchronously; it says when it is done unless a
/// background process keeps it open.
const TERMINAL_DRAIN: Duration = Duration::from_secs(1);

/// How a session ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The command ended and the host has been sent everything.
    Finished(Socket),
    /// The host is gone. The command, if it still runs, has been told and must be reaped.
    Abandoned(Option<OwnedFd>),
}

/// A running command and its connection.
#[derive(Debug)]
pub(super) struct Session {
    socket: Socket,
    pid: Pid,
    pidfd: OwnedFd,
    stdin: Stdin,
    /// Open streams the command writes to.
    outputs: Vec<Output>,
    incoming: Incoming,
    outgoing: Outgoing,
    /// The last frame, once the command has ended.
    ended: Option<ExecEvent>,
}

#[derive(Debug)]
struct Output {
    kind: Kind,
    fd: OwnedFd,
    /// What a pipe held when the command ended: so much is still to be read. Unknown while it
    /// runs, and for a terminal.
    left: Option<usize>,
}

/// Where standard input goes.
#[derive(Debug)]
enum Stdin {
    Pipe(OwnedFd),
    Terminal { master: OwnedFd, line_open: bool },
    Closed,
}

impl Session {
    /// Takes over a started command and its non-blocking connection.
    pub(super) fn new(socket: Socket, running: Running) -> Self {
        let output = |kind, fd| Output {
            kind,
            fd,
            left: None,
        };
        let (stdin, outputs) = match running.stdio {
            Stdio::Pipes {
                stdin,
                stdout,
                stderr,
            } => (
                stdin.map_or(Stdin::Closed, Stdin::Pipe),
                vec![output(Kind::Stdout, stdout), output(Kind::Stderr, stderr)],
            ),
            Stdio::Terminal(master) => match master.try_clone() {
                Ok(clone) => (
                    Stdin::Terminal {
                        master: clone,
                        line_open: false,
                    },
                    vec![output(Kind::Stdout, master)],
                ),
                Err(_) => (Stdin::Closed, vec![output(Kind::Stdout, master)]),
            },
        };
        Session {
            incoming: Incoming::new(matches!(stdin, Stdin::Closed)),
            socket,
            pid: running.pid,
            pidfd: running.pidfd,
            stdin,
            outputs,
            outgoing: Outgoing::new(),
            ended: None,
        }
    }

    /// Runs to the end.
    pub(super) fn run(mut self) -> Outcome {
        match self.drive() {
            Ok(true) => Outcome::Finished(self.socket),
            Ok(false) => self.abandon(),
            Err(error) => {
                // A vanished host is the ordinary case and not worth a line.
                if error.kind() == io::ErrorKind::InvalidData {
                    eprintln!("banger: exec: {error}");
                }
                self.abandon()
            }
        }
    }

    fn abandon(self) -> Outcome {
        if self.ended.is_some() {
            return Outcome::Abandoned(None);
        }
        // As a closing terminal does it: the group, and stopped jobs are woken to see it.
        for signal in [Signal::HUP, Signal::CONT] {
            super::ignore_gone(rustix::process::kill_process_group(self.pid, signal));
        }
        Outcome::Abandoned(Some(self.pidfd))
    }

    /// `true` when the command ended and everything was sent, `false` when the host hung up.
    fn drive(&mut self) -> io::Result<bool> {
        self.outgoing.control(&ExecEvent::Started {
            pid: self.pid.as_raw_pid().unsigned_abs(),
        })?;
        loop {
            self.outgoing.flush(&self.socket)?;
            if self.outgoing.is_empty()
                && self.outputs.is_empty()
                && let Some(event) = &self.ended
            {
                self.outgoing.control(event)?;
                return self.send_rest();
            }
            // Before waiting: the credit may be all that the host waits for.
            if self.outgoing.is_empty()
                && let Some(bytes) = self.incoming.take_credit()
            {
                self.outgoing.control(&ExecEvent::StdinCredit { bytes })?;
                self.outgoing.flush(&self.socket)?;
            }
            let ready = self.wait()?;
            if ready.socket && self.receive()? == Received::HangUp {
                return Ok(false);
            }
            if ready.stdin_gone {
                self.abandon_stdin();
            } else if ready.stdin {
                self.deliver();
            }
            if ready.ended {
                self.note_end()?;
            }
            self.read_outputs(&ready.outputs)?;
            if ready.quiet && self.ended.is_some() {
                self.outputs.clear();
            }
        }
    }

    /// Waits for the socket to take the last frame, still noticing a hang-up.
    fn send_rest(&mut self) -> io::Result<bool> {
        loop {
            self.outgoing.flush(&self.socket)?;
            if self.outgoing.is_empty() {
                return Ok(true);
            }
            let ready = self.wait()?;
            if ready.socket && self.receive()? == Received::HangUp {
                return Ok(false);
            }
        }
    }

    fn wait(&self) -> io::Result<Ready> {
        let mut polled = Vec::with_capacity(5);
        let mut socket_events = PollFlags::IN;
        if !self.outgoing.is_empty() {
            socket_events |= PollFlags::OUT;
        }
        polled.push(PollFd::from_borrowed_fd(self.socket.as_fd(), socket_events));
        // A descriptor that is not wanted is left out: a hang-up would be reported for ever.
        let running = self.ended.is_none();
        if running {
            polled.push(PollFd::from_borrowed_fd(self.pidfd.as_fd(), PollFlags::IN));
        }
        let stdin = match &self.stdin {
            // Also when there is nothing to write, to see that nobody reads any more.
            Stdin::Pipe(fd) if !self.incoming.has_stdin() => Some((fd, PollFlags::empty())),
            Stdin::Pipe(fd) => Some((fd, PollFlags::OUT)),
            Stdin::Terminal { master, .. } if self.incoming.has_stdin() => {
                Some((master, PollFlags::OUT))
            }
            Stdin::Terminal { .. } | Stdin::Closed => None,
        };
        if let Some((fd, events)) = stdin {
            polled.push(PollFd::from_borrowed_fd(fd.as_fd(), events));
        }
        let read_outputs = self.outgoing.is_empty();
        if read_outputs {
            polled.extend(
                self.outputs
                    .iter()
                    .map(|output| PollFd::from_borrowed_fd(output.fd.as_fd(), PollFlags::IN)),
            );
        }
        // Only a terminal's end needs a clock: what a pipe still holds is there at once, and
        // while the host takes nothing there is no hurry.
        let timeout = (!running && read_outputs).then(|| timespec(TERMINAL_DRAIN));
        let count = match rustix::event::poll(&mut polled, timeout.as_ref()) {
            Ok(count) => Some(count),
            Err(rustix::io::Errno::INTR) => None,
            Err(error) => return Err(error.into()),
        };
        let mut happened = polled.iter().map(PollFd::revents);
        let mut next = || happened.next().unwrap_or(PollFlags::empty());
        let socket = !next().is_empty();
        let ended = running && !next().is_empty();
        let stdin = if stdin.is_some() {
            next()
        } else {
            PollFlags::empty()
        };
        let outputs = happened.map(|events| !events.is_empty()).collect();
        Ok(Ready {
            socket,
            ended,
            stdin: !stdin.is_empty(),
            stdin_gone: stdin.intersects(PollFlags::ERR | PollFlags::HUP),
            outputs,
            quiet: count == Some(0),
        })
    }

    fn receive(&mut self) -> io::Result<Received> {
        let received = self.incoming.receive(&self.socket, &mut self.stdin)?;
        for event in self.incoming.take_events() {
            self.handle(&event);
        }
        if received == Received::Something {
            self.deliver();
        }
        Ok(received)
    }

    fn handle(&mut self, event: &ExecInput) {
        if self.ended.is_some() {
            return;
        }
        match (event, &self.stdin) {
            (ExecInput::Resize(size), Stdin::Terminal { master, .. }) => {
                if let Err(error) = spawn::resize(master, *size) {
                    eprintln!("banger: resize a terminal: {error}");
                }
            }
            (ExecInput::Resize(_), _) => {}
            (ExecInput::Signal { signal }, stdin) => {
                let Some(signal) = named_signal(*signal) else {
                    return;
                };
                let foreground = match stdin {
                    Stdin::Terminal { master, .. } => rustix::termios::tcgetpgrp(master).ok(),
                    Stdin::Pipe(_) | Stdin::Closed => None,
                };
                let group = foreground.unwrap_or(self.pid);
                super::ignore_gone(rustix::process::kill_process_group(group, signal));
            }
        }
    }

    fn deliver(&mut self) {
        if self.incoming.deliver(&mut self.stdin).is_err() {
            self.abandon_stdin();
        } else if self.incoming.take_end() {
            self.stdin.end();
        }
    }

    /// The command no longer takes input; the host may go on sending in vain.
    fn abandon_stdin(&mut self) {
        self.incoming.discard_stdin();
        if let Stdin::Pipe(_) = self.stdin {
            self.stdin = Stdin::Closed;
        }
    }

    fn note_end(&mut self) -> io::Result<()> {
        let status =
            rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED)?;
        let Some(status) = status else {
            return Ok(());
        };
        self.ended = Some(match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => ExecEvent::Exited { code },
            (None, signal) => ExecEvent::Signalled {
                signal: signal.unwrap_or_default(),
            },
        });
        self.abandon_stdin();
        if !matches!(self.stdin, Stdin::Terminal { .. }) {
            // A pipe holds everything its writer wrote; what others add later is not waited for.
            for output in &mut self.outputs {
                let waiting = rustix::io::ioctl_fionread(&output.fd)?;
                output.left = Some(usize::try_from(waiting).unwrap_or(usize::MAX));
            }
            self.outputs.retain(|output| output.left != Some(0));
        }
        Ok(())
    }

    fn read_outputs(&mut self, ready: &[bool]) -> io::Result<()> {
        let ready: Vec<Kind> = self
            .outputs
            .iter()
            .zip(ready)
            .filter_map(|(output, ready)| ready.then_some(output.kind))
            .collect();
        for kind in ready {
            // `note_end` may have dropped it since it was found ready.
            let Some(at) = self.outputs.iter().position(|output| output.kind == kind) else {
                continue;
            };
            if !self.outgoing.is_empty() {
                // Whoever had to wait comes first the next time.
                self.outputs.rotate_left(at);
                break;
            }
            let output = &mut self.outputs[at];
            let over = match self.outgoing.fill(kind, &output.fd)? {
                Filled::Data(count) => {
                    output.left = output.left.map(|left| left.saturating_sub(count));
                    output.left == Some(0)
                }
                Filled::Empty => false,
                Filled::End => true,
            };
            if over {
                self.outputs.remove(at);
                if matches!(self.stdin, Stdin::Terminal { .. }) {
                    // Every process has closed the terminal, so none will read it.
                    self.incoming.discard_stdin();
                }
            }
            self.outgoing.flush(&self.socket)?;
        }
        Ok(())
    }
}

/// What `wait` found.
struct Ready {
    socket: bool,
    stdin: bool,
    stdin_gone: bool,
    ended: bool,
    outputs: Vec<bool>,
    /// Nothing happened for the time a terminal is given to end.
    quiet: bool,
}

fn named_signal(signal: i32) -> Option<Signal> {
    let real_time = libc::SIGRTMIN()..=libc::SIGRTMAX();
    Signal::from_named_raw(signal).or_else(|| {
        // SAFETY: a real-time signal the C library leaves to applications.
        real_time
            .contains(&signal)
            .then(|| unsafe { Signal::from_raw_unchecked(signal) })
    })
}

impl Stdin {
    /// Passes on the end of input. On a terminal it is a character, and it takes two when a
    /// line is open; the terminal itself stays for signals and sizes.
    fn end(&mut self) {
        let Stdin::Terminal { master, line_open } = self else {
            *self = Stdin::Closed;
            return;
        };
        if let Ok(attributes) = rustix::termios::tcgetattr(&*master)
            && attributes
                .local_modes
                .contains(rustix::termios::LocalModes::ICANON)
        {
            let end = attributes.special_codes[rustix::termios::SpecialCodeIndex::VEOF];
            let count = if std::mem::take(line_open) { 2 } else { 1 };
            if let Err(error) = rustix::io::write(&*master, &[end, end][..count]) {
                eprintln!("banger: end a terminal's input: {error}");
            }
        }
    }
}

impl Write for Stdin {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stdin::Pipe(fd) => Ok(rustix::io::write(fd, bytes)?),
            Stdin::Terminal { master, line_open } => {
                let count = rustix::io::write(master, bytes)?;
                if let Some(last) = bytes[..count].last() {
                    *line_open = !matches!(last, b'\n' | b'\r');
                }
                Ok(count)
            }
            Stdin::Closed => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
