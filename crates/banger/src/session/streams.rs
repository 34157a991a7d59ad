//! Our standard streams, byte for byte.
//!
//! They may be files, pipes or terminals, and a file cannot be waited for, so each direction
//! has a thread of its own that blocks. Both are bounded: a slow reader slows the guest.

use std::io::{self, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tokio::sync::{mpsc, oneshot};

/// Bytes read at a time: large enough that system calls do not matter, small beside the
/// agent's window.
const CHUNK: usize = 128 << 10;
/// Chunks on their way between a thread and the session.
const CHUNKS_AHEAD: usize = 4;

/// Whether standard input is `/dev/null`, for which no thread is worth starting.
pub(crate) fn stdin_is_null() -> bool {
    rustix::fs::fstat(rustix::stdio::stdin())
        .is_ok_and(|stat| stat.st_rdev == rustix::fs::makedev(1, 3) && is_character_device(&stat))
}

fn is_character_device(stat: &rustix::fs::Stat) -> bool {
    rustix::fs::FileType::from_raw_mode(stat.st_mode).is_char_device()
}

/// Standard input as a thread reads it. Nothing is taken from it any more once this is dropped:
/// what is typed after a session is not the session's.
pub(crate) struct Input {
    chunks: mpsc::Receiver<io::Result<Vec<u8>>>,
    /// Closed by being dropped, which wakes the thread up.
    _wanted: PipeWriter,
}

impl Input {
    /// The next bytes; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<io::Result<Vec<u8>>> {
        self.chunks.recv().await
    }
}

/// Reads standard input until its end, or until what this returns is dropped.
///
/// # Errors
/// When there can be no pipe.
pub(crate) fn read_stdin() -> io::Result<Input> {
    read_from(rustix::stdio::stdin())
}

fn read_from(input: BorrowedFd<'static>) -> io::Result<Input> {
    let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD);
    let (unwanted, wanted) = io::pipe()?;
    std::thread::spawn(move || {
        loop {
            let mut chunk = vec![0; CHUNK];
            let read = match wait_for_input(input, unwanted.as_fd()) {
                Ok(true) => read(input, &mut chunk),
                Ok(false) => return,
                Err(error) => Err(error),
            };
            let item = match read {
                Ok(0) => return,
                Ok(n) => {
                    chunk.truncate(n);
                    Ok(chunk)
                }
                Err(error) => Err(error),
            };
            let failed = item.is_err();
            if sender.blocking_send(item).is_err() || failed {
                return;
            }
        }
    });
    Ok(Input {
        chunks,
        _wanted: wanted,
    })
}

/// Waits until there is something to read, the end included; false when nobody wants it.
fn wait_for_input(input: BorrowedFd<'_>, unwanted: BorrowedFd<'_>) -> io::Result<bool> {
    loop {
        let mut fds = [
            PollFd::from_borrowed_fd(unwanted, PollFlags::IN),
            PollFd::from_borrowed_fd(input, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) if !fds[0].revents().is_empty() => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// One of the streams we write to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// Writes both output streams in the order of arrival.
pub(super) struct Output {
    sender: Option<mpsc::Sender<(Stream, Vec<u8>)>>,
    result: oneshot::Receiver<io::Result<()>>,
}

impl Output {
    /// Starts the thread that writes.
    pub(super) fn start() -> Output {
        let (sender, mut receiver) = mpsc::channel::<(Stream, Vec<u8>)>(CHUNKS_AHEAD);
        let (report, result) = oneshot::channel();
        std::thread::spawn(move || {
            let mut written = Ok(());
            while let Some((stream, bytes)) = receiver.blocking_recv() {
                let fd = match stream {
                    Stream::Out => rustix::stdio::stdout(),
                    Stream::Err => rustix::stdio::stderr(),
                };
                written = write_all(fd, &bytes);
                if written.is_err() {
                    break;
                }
            }
            // Nobody may be waiting for it any more.
            report.send(written).ok();
        });
        Output {
            sender: Some(sender),
            result,
        }
    }

    /// Hands bytes over; waits while the reader of the stream is behind.
    ///
    /// # Errors
    /// The error that ended the writing, once.
    pub(super) async fn write(&mut self, stream: Stream, bytes: Vec<u8>) -> io::Result<()> {
        let Some(sender) = &self.sender else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        if sender.send((stream, bytes)).await.is_ok() {
            return Ok(());
        }
        match self.finish().await {
            Ok(()) => Err(io::ErrorKind::BrokenPipe.into()),
            failed => failed,
        }
    }

    /// Waits until everything is written.
    ///
    /// # Errors
    /// The error that ended the writing, once.
    pub(super) async fn finish(&mut self) -> io::Result<()> {
        if self.sender.take().is_none() {
            return Ok(());
        }
        (&mut self.result)
            .await
            .unwrap_or(Err(io::ErrorKind::BrokenPipe.into()))
    }
}

fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match rustix::io::read(fd, &mut *buffer) {
            Ok(n) => return Ok(n),
            Err(Errno::INTR) => {}
            // Somebody else who shares the descriptor made it non-blocking.
            Err(Errno::AGAIN) => wait_for(fd, PollFlags::IN)?,
            Err(error) => return Err(error.into()),
        }
    }
}

fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait_for(fd, PollFlags::OUT)?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn wait_for(fd: BorrowedFd<'_>, flags: PollFlags) -> io::Result<()> {
    let fd = fd.as_fd();
    match poll(&mut [PollFd::from_borrowed_fd(fd, flags)], None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_non_blocking_descriptor_loses_nothing() {
        let (reader, writer) = std::io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let bytes: Vec<u8> = (0..1 << 20).map(|n| (n % 251) as u8).collect();
        let expected = bytes.clone();
        let thread = std::thread::spawn(move || {
            let result = write_all(writer.as_fd(), &bytes);
            drop(writer);
            result
        });
        let mut got = Vec::new();
        let mut reader = reader;
        reader.read_to_end(&mut got).unwrap();
        thread.join().unwrap().unwrap();
        assert!(got == expected);
    }

    #[tokio::test]
    async fn what_comes_after_the_session_is_left_for_others() {
        // For ever, as standard input is.
        let (reader, mut writer) = io::pipe().unwrap();
        let reader: &'static io::PipeReader = Box::leak(Box::new(reader));
        let mut input = read_from(reader.as_fd()).unwrap();
        io::Write::write_all(&mut writer, b"for the session").unwrap();
        let got = input.next().await.unwrap().unwrap();
        assert_eq!(got, b"for the session");
        // Ends with its thread, which is the sender.
        let Input {
            mut chunks,
            _wanted,
        } = input;
        drop(_wanted);
        assert!(chunks.recv().await.is_none());
        io::Write::write_all(&mut writer, b"y").unwrap();
        let mut rest = [0; 8];
        let mut reader = reader;
        assert_eq!(reader.read(&mut rest).unwrap(), 1);
    }

    #[test]
    fn a_reader_that_has_gone_is_an_error() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let error = write_all(writer.as_fd(), b"x").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
