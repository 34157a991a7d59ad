//! Keeps what a VMM writes that carries vsock itself, until it has closed both its outputs.

use std::io;

use rustix::event::{PollFd, PollFlags, poll};

use crate::console::Console;

/// How much is read at a time, in bytes.
const PIECE: usize = 64 << 10;

/// Keeps the console and the log. A file that cannot be written to is told once.
pub(crate) fn run(outputs: [Console; 2]) -> io::Result<()> {
    let mut outputs: Vec<(Console, bool)> = outputs.map(|output| (output, false)).into();
    let mut buffer = vec![0; PIECE];
    while !outputs.is_empty() {
        let mut fds: Vec<PollFd<'_>> = outputs
            .iter()
            .map(|(output, _)| PollFd::new(output.source(), PollFlags::IN))
            .collect();
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        outputs.retain_mut(|(output, has_failed)| {
            let (more, kept) = output.on_ready(&mut buffer);
            if let Err(error) = kept
                && !std::mem::replace(has_failed, true)
            {
                eprintln!("banger-vsock: cannot keep what the VMM writes: {error}");
            }
            more
        });
    }
    Ok(())
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
        let keeper = std::thread::spawn(move || run(outputs));
        vmm.write_all(b"second\n").unwrap();
        drop(vmm);
        // The one goes on when the other has ended.
        let flood = vec![b'x'; 1 << 20];
        guest.write_all(&flood).unwrap();
        drop(guest);
        keeper.join().unwrap().unwrap();
        assert_eq!(std::fs::read(path("console")).unwrap(), flood);
        assert_eq!(std::fs::read(path("log")).unwrap(), b"first\nsecond\n");
    }
}
