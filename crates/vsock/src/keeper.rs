//! Keeps what a VMM writes that carries vsock itself, until it has closed both its outputs or the
//! guest has halted.
//!
//! Firecracker has no way to power off: the kernel of a guest that does halts instead, says so on
//! its console, and Firecracker would run for ever. A guest that says it without being halted
//! ends itself.

use std::io;

use rustix::event::{PollFd, PollFlags, poll};

use crate::console::Console;

/// How much is read at a time, in bytes.
const PIECE: usize = 64 << 10;
/// What kernels say last, after `reboot: `: up to 6.6, since, and with a power switch.
const LAST_WORDS: [&[u8]; 3] = [
    b"System halted",
    b"Power off not available: System halted instead",
    b"Power down",
];

/// What ended the keeping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The VMM closed its outputs: it has ended.
    Closed,
    /// The guest is down and the VMM runs on.
    Halted,
}

/// Keeps the console and the log. A file that cannot be written to is told once.
pub(crate) fn run(console: Console, log: Console) -> io::Result<End> {
    let mut outputs = vec![(console, false, Some(Watch::default())), (log, false, None)];
    let mut buffer = vec![0; PIECE];
    while !outputs.is_empty() {
        let mut fds: Vec<PollFd<'_>> = outputs
            .iter()
            .map(|(output, ..)| PollFd::new(output.source(), PollFlags::IN))
            .collect();
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut halted = false;
        outputs.retain_mut(|(output, has_failed, watch)| {
            let (more, kept) = output.on_ready(&mut buffer, |bytes| {
                halted |= watch.as_mut().is_some_and(|watch| watch.saw(bytes));
            });
            if let Err(error) = kept
                && !std::mem::replace(has_failed, true)
            {
                eprintln!("banger-vsock: cannot keep what the VMM writes: {error}");
            }
            more
        });
        if halted {
            return Ok(End::Halted);
        }
    }
    Ok(End::Closed)
}

/// Looks for a kernel's last words in a console that comes in pieces: on a line that begins as
/// the kernel's lines do and has nothing after them but the end of the line.
#[derive(Default)]
struct Watch {
    line: Vec<u8>,
    too_long: bool,
}

impl Watch {
    /// The longest line that can be one of these: a time, the words, and some room.
    const LINE: usize = 128;

    /// Whether the words were said by the end of these bytes.
    fn saw(&mut self, bytes: &[u8]) -> bool {
        let mut saw = false;
        for byte in bytes {
            match byte {
                b'\r' => {}
                b'\n' => {
                    saw |= !self.too_long && is_last(&self.line);
                    self.line.clear();
                    self.too_long = false;
                }
                _ if self.line.len() == Self::LINE => self.too_long = true,
                byte => self.line.push(*byte),
            }
        }
        saw
    }
}

/// `[   35.043678] reboot: System halted`, or without the time.
fn is_last(line: &[u8]) -> bool {
    let said = match line.strip_prefix(b"[") {
        Some(rest) => match rest.iter().position(|byte| *byte == b']') {
            Some(end) => rest[end + 1..].trim_ascii_start(),
            None => return false,
        },
        None => line,
    };
    let Some(said) = said.strip_prefix(b"reboot: ") else {
        return false;
    };
    LAST_WORDS.contains(&said)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use super::*;

    #[test]
    fn both_outputs_are_kept_to_their_end() {
        let scratch = tempfile::tempdir().unwrap();
        let path = |name: &str| scratch.path().join(name);
        std::fs::write(path("console"), "an earlier boot").unwrap();
        std::fs::write(path("log"), "first\n").unwrap();
        let pipe = || {
            let (read, write) = rustix::pipe::pipe().unwrap();
            (File::from(read), File::from(write))
        };
        let ((console, mut guest), (log, mut vmm)) = (pipe(), pipe());
        let outputs = [
            Console::new(console, &path("console")).unwrap(),
            Console::go_on(log, &path("log")).unwrap(),
        ];
        let [console, log] = outputs;
        let keeper = std::thread::spawn(move || run(console, log));
        vmm.write_all(b"second\n").unwrap();
        drop(vmm);
        // The one goes on when the other has ended.
        let flood = vec![b'x'; 1 << 20];
        guest.write_all(&flood).unwrap();
        drop(guest);
        assert_eq!(keeper.join().unwrap().unwrap(), End::Closed);
        assert_eq!(std::fs::read(path("console")).unwrap(), flood);
        assert_eq!(std::fs::read(path("log")).unwrap(), b"first\nsecond\n");
    }
    #[test]
    fn a_guest_that_is_down_ends_it_and_its_words_are_kept() {
        let scratch = tempfile::tempdir().unwrap();
        let path = |name: &str| scratch.path().join(name);
        let pipe = || {
            let (read, write) = rustix::pipe::pipe().unwrap();
            (File::from(read), File::from(write))
        };
        let ((console, mut guest), (log, _vmm)) = (pipe(), pipe());
        let console = Console::new(console, &path("console")).unwrap();
        let log = Console::go_on(log, &path("log")).unwrap();
        let keeper = std::thread::spawn(move || run(console, log));
        for piece in ["[   35.04] reb", "oot: System hal", "ted\r\n"] {
            guest.write_all(piece.as_bytes()).unwrap();
        }
        assert_eq!(keeper.join().unwrap().unwrap(), End::Halted);
        let kept = std::fs::read_to_string(path("console")).unwrap();
        assert!(kept.ends_with("System halted\r\n"), "{kept}");
    }

    #[test]
    fn only_a_kernels_own_line_is_its_last() {
        let down = |text: &str| Watch::default().saw(text.as_bytes());
        assert!(down("[    1.000000] reboot: System halted\r\n"));
        assert!(down(
            "reboot: Power off not available: System halted instead\n"
        ));
        assert!(down("a line\n[9.9] reboot: Power down\nmore\n"));
        for other in [
            "[    1.000000] reboot: System halted",
            "$ grep 'reboot: System halted' log\n",
            "Nov 21 kernel: [1.0] reboot: System halted\n",
            "[1.0] reboot: System halted by me\n",
            "[1.0 reboot: System halted\n",
            "System halted\n",
        ] {
            assert!(!down(other), "{other:?}");
        }
        let long = format!("{}reboot: Power down\n", "x".repeat(200));
        assert!(!down(&long) && !down(&format!("reboot: Power down{}\n", " ".repeat(200))));
    }
}
