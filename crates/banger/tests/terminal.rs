//! A session with a real terminal at our end: a pseudo-terminal that the program controls.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Child;

use banger_guest_api::frame::{Frame, Kind};
use banger_guest_api::{ExecEvent, ExecInput, TtySize};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use support::{Boot, Connection, FakeDaemon, Place, fake_agent, kill};

struct Terminal {
    controller: File,
    terminal: OwnedFd,
    _place: Place,
    child: Child,
    daemon: FakeDaemon,
}

fn winsize(rows: u16, cols: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: cols,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

impl Terminal {
    fn start(args: &[&str], serve: impl Fn(Connection) + Send + 'static) -> Terminal {
        Terminal::start_booting(Boot::Succeeds, args, serve)
    }

    /// Starts the program as a terminal emulator would.
    fn start_booting(
        boot: Boot,
        args: &[&str],
        serve: impl Fn(Connection) + Send + 'static,
    ) -> Terminal {
        let place = Place::new();
        let socket = fake_agent(place.path(), serve);
        let daemon = FakeDaemon::start(&place, &socket, boot);
        let controller =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&controller).unwrap();
        unlockpt(&controller).unwrap();
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let terminal = ioctl_tiocgptpeer(&controller, flags).unwrap();
        tcsetwinsize(&terminal, winsize(33, 77)).unwrap();
        let mut command = place.banger();
        command
            .args(args)
            .env("TERM", "xterm-test")
            .stdin(terminal.try_clone().unwrap())
            .stdout(terminal.try_clone().unwrap())
            .stderr(terminal.try_clone().unwrap());
        // SAFETY: setsid(2) and one ioctl(2), both async-signal-safe, between fork and exec.
        unsafe {
            command.pre_exec(|| {
                rustix::process::setsid()?;
                rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
                Ok(())
            });
        }
        let child = command.spawn().unwrap();
        Terminal {
            controller: File::from(controller),
            terminal,
            _place: place,
            child,
            daemon,
        }
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(&self.terminal)
            .unwrap()
            .local_modes
            .contains(LocalModes::ICANON)
    }

    /// Reads until the text appears.
    fn expect(&mut self, text: &str) -> String {
        let mut seen = Vec::new();
        let mut byte = [0];
        while !String::from_utf8_lossy(&seen).contains(text) {
            self.controller.read_exact(&mut byte).unwrap();
            seen.push(byte[0]);
        }
        String::from_utf8_lossy(&seen).into_owned()
    }
}

fn stdin_bytes(frame: Option<Frame>) -> Vec<u8> {
    let frame = frame.unwrap();
    assert_eq!(frame.kind, Kind::Stdin);
    frame.payload
}

#[test]
fn the_guest_gets_keys_sizes_and_the_kind_of_terminal() {
    let mut here = Terminal::start(&["vm", "exec", "box", "--", "sh"], |mut guest| {
        assert_eq!(guest.exec.tty, Some(TtySize { rows: 33, cols: 77 }));
        assert!(
            guest
                .exec
                .env
                .contains(&("TERM".into(), "xterm-test".into()))
        );
        assert!(guest.exec.stdin);
        guest.output(Kind::Stdout, b"first$ ");
        // Ctrl-C is a key like any other, and nothing is echoed at this end.
        assert_eq!(stdin_bytes(guest.next()), b"\x03");
        guest.output(Kind::Stdout, b"second$ ");
        let input: ExecInput = guest.next().unwrap().parse().unwrap();
        assert_eq!(input, ExecInput::Resize(TtySize { rows: 20, cols: 50 }));
        guest.event(&ExecEvent::Exited { code: 5 });
    });
    assert_eq!(here.expect("first$ "), "first$ ");
    assert!(here.is_raw());
    here.controller.write_all(b"\x03").unwrap();
    assert_eq!(here.expect("second$ "), "second$ ");
    tcsetwinsize(&here.terminal, winsize(20, 50)).unwrap();
    assert_eq!(here.child.wait().unwrap().code(), Some(5));
    assert!(!here.is_raw());
}

#[test]
fn the_terminal_is_put_back_before_an_error_is_printed() {
    let mut here = Terminal::start(&["vm", "exec", "box", "--", "sh"], |mut guest| {
        guest.output(Kind::Stdout, b"up");
        assert_eq!(stdin_bytes(guest.next()), b"x");
        // Hangs up.
    });
    here.expect("up");
    assert!(here.is_raw());
    here.controller.write_all(b"x").unwrap();
    // In raw mode the line would not end with a carriage return.
    here.expect("ended before the command did\r\n");
    assert_eq!(here.child.wait().unwrap().code(), Some(125));
    assert!(!here.is_raw());
}

#[test]
fn a_stopped_program_gives_the_terminal_back_until_it_continues() {
    let mut here = Terminal::start(&["vm", "exec", "box", "--", "sh"], |mut guest| {
        guest.output(Kind::Stdout, b"up");
        let input: ExecInput = guest.next().unwrap().parse().unwrap();
        assert!(matches!(input, ExecInput::Resize(_)));
        guest.output(Kind::Stdout, b"back");
        assert_eq!(stdin_bytes(guest.next()), b"q");
        guest.event(&ExecEvent::Exited { code: 0 });
    });
    here.expect("up");
    kill(&here.child, "TSTP");
    let pid = rustix::process::Pid::from_child(&here.child);
    let options = rustix::process::WaitOptions::UNTRACED;
    let (_, status) = rustix::process::waitpid(Some(pid), options)
        .unwrap()
        .unwrap();
    assert!(status.stopped());
    assert!(!here.is_raw());
    kill(&here.child, "CONT");
    here.expect("back");
    assert!(here.is_raw());
    here.controller.write_all(b"q").unwrap();
    assert_eq!(here.child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_terminal_that_closes_ends_the_command_and_deletes_the_machine() {
    let (heard, hung_up) = std::sync::mpsc::channel();
    let mut here = Terminal::start(&["vm", "run", "--rm"], move |mut guest| {
        guest.output(Kind::Stdout, b"up");
        while let Some(frame) = guest.next() {
            if frame.kind == Kind::Control {
                let input: ExecInput = frame.parse().unwrap();
                heard.send(input).unwrap();
                guest.event(&ExecEvent::Signalled { signal: 1 });
            }
        }
    });
    here.expect("up");
    let Terminal {
        controller,
        terminal,
        _place,
        mut child,
        daemon,
    } = here;
    drop((controller, terminal));
    assert_eq!(hung_up.recv().unwrap(), ExecInput::Signal { signal: 1 });
    assert_eq!(child.wait().unwrap().code(), Some(129));
    assert!(
        daemon
            .log()
            .contains(&"DELETE /v1/vms/0123456789ab".to_owned())
    );
    daemon.wait_for("lease ended");
}

#[test]
fn an_interrupt_leaves_no_caret_in_the_progress_line() {
    let mut here = Terminal::start_booting(Boot::Hangs, &["vm", "run", "--rm"], |_| {
        panic!("no command")
    });
    let shows_carets = |here: &Terminal| {
        tcgetattr(&here.terminal)
            .unwrap()
            .local_modes
            .contains(LocalModes::ECHOCTL)
    };
    assert!(shows_carets(&here));
    here.expect("booting");
    assert!(!shows_carets(&here));
    here.controller.write_all(b"\x03").unwrap();
    let seen = here.expect("cancelled; nothing is left behind");
    assert!(!seen.contains("^C"), "{seen:?}");
    assert_eq!(here.child.wait().unwrap().code(), Some(130));
    assert!(shows_carets(&here));
}

#[test]
fn progress_on_a_terminal_leaves_no_trace() {
    let mut here = Terminal::start(&["vm", "run"], |mut guest| {
        guest.output(Kind::Stdout, b"<shell>");
        guest.event(&ExecEvent::Exited { code: 0 });
    });
    let seen = here.expect("deletes it");
    let plain = anstream::adapter::strip_str(&seen).to_string();
    assert!(plain.contains("spec: i | 1 vcpu"), "{plain}");
    assert!(plain.contains("ready in "), "{plain}");
    assert!(plain.contains("`box` keeps running"), "{plain}");
    // The stage was shown on a line that was cleared again, its text made harmless.
    assert!(!seen.contains("booting\x1b[2J"), "{seen:?}");
    assert_eq!(here.child.wait().unwrap().code(), Some(0));
}
