//! Running a command: two halves that never wait for each other.

use std::io::{self, Read};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use banger_model::{Code, Error, Result};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::Instant;

use super::stream::{FrameReader, Pending};
use super::{ANSWER_TIMEOUT, broken, failed, open, tame, timely, unexpected};
use crate::frame::{Frame, Kind};
use crate::{Exec, ExecEvent, ExecInput, Reply, Request, STDIN_WINDOW, TtySize};

/// The largest piece of standard input in one frame.
const PIECE: usize = 64 << 10;

/// Something a command did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecOutput {
    /// It runs.
    Started {
        /// Its process id in the guest.
        pid: u32,
    },
    /// It wrote to standard output, or to its terminal.
    Stdout(Vec<u8>),
    /// It wrote to standard error.
    Stderr(Vec<u8>),
    /// It ended by itself with this code. Last.
    Exited(i32),
    /// It was ended by this signal. Last.
    Signalled(i32),
    /// It was not started. Last.
    Refused {
        /// 127, 126 or 125, see [`ExecEvent::Refused`].
        code: i32,
        /// Why, in the guest's words, fit for a terminal.
        message: String,
    },
}

/// Runs a command in the guest behind `socket`.
///
/// Dropping both halves closes the connection; a command that still runs then gets SIGHUP.
///
/// # Errors
/// [`Code::AgentFailed`] when the agent does not accept the request, [`Code::InvalidArgument`]
/// when it is too large.
pub async fn exec(socket: &Path, exec: Exec) -> Result<(ExecSender, ExecReceiver)> {
    let stream = timely(open(socket, Request::Exec(exec))).await?;
    let (receive, send) = stream.into_split();
    let shared = Arc::new(Shared {
        credit: Semaphore::new(STDIN_WINDOW),
        uncredited: AtomicUsize::new(0),
        output: Mutex::new(Output {
            half: send,
            pending: Pending::default(),
        }),
    });
    let sender = ExecSender(Arc::clone(&shared));
    let receiver = ExecReceiver {
        half: receive,
        reader: FrameReader::default(),
        shared,
        answer_by: Some(Instant::now() + ANSWER_TIMEOUT),
        ended: false,
    };
    Ok((sender, receiver))
}

#[derive(Debug)]
struct Shared {
    /// Bytes of standard input the agent will still take. Closed when the command has ended.
    credit: Semaphore,
    /// Bytes sent that the agent has not given credit for. It cannot give more than these.
    uncredited: AtomicUsize,
    output: Mutex<Output>,
}

#[derive(Debug)]
struct Output {
    half: OwnedWriteHalf,
    pending: Pending,
}

/// Sends to a running command. Clones send to the same command; signals and sizes never wait
/// behind standard input the command does not read. All methods are cancel-safe in that the
/// connection stays usable; of a dropped `send_stdin` any prefix may have been sent.
#[derive(Clone, Debug)]
pub struct ExecSender(Arc<Shared>);

impl ExecSender {
    /// Sends standard input, waiting until the command has taken enough of what came before.
    ///
    /// # Errors
    /// When the command has ended or the connection broke: there is nobody to send to.
    pub async fn send_stdin(&self, bytes: &[u8]) -> Result<()> {
        for piece in bytes.chunks(PIECE) {
            // A piece is far below `u32::MAX`.
            let credit = self.0.credit.acquire_many(piece.len() as u32).await;
            let credit = credit.map_err(|_| ended())?;
            // Counted before it is sent: the answer may overtake this task.
            self.0.uncredited.fetch_add(piece.len(), Ordering::AcqRel);
            credit.forget();
            self.write(Kind::Stdin, piece).await?;
        }
        Ok(())
    }

    /// Ends standard input.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn close_stdin(&self) -> Result<()> {
        self.write(Kind::Stdin, &[]).await
    }

    /// Sends a signal to the command's process group.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn signal(&self, signal: i32) -> Result<()> {
        self.control(&ExecInput::Signal { signal }).await
    }

    /// Tells the command's terminal its new size.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn resize(&self, size: TtySize) -> Result<()> {
        self.control(&ExecInput::Resize(size)).await
    }

    async fn control(&self, input: &ExecInput) -> Result<()> {
        let frame = Frame::control(input).map_err(broken)?;
        self.write(frame.kind, &frame.payload).await
    }

    async fn write(&self, kind: Kind, payload: &[u8]) -> Result<()> {
        // The agent always reads, so nobody holds this for long.
        let mut output = self.0.output.lock().await;
        let Output { half, pending } = &mut *output;
        pending.add(kind, payload);
        pending
            .flush(half)
            .await
            .map_err(|error| match error.kind() {
                // How an ended command looks from here before its end has been read.
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => ended(),
                _ => broken(error),
            })
    }
}

fn ended() -> Error {
    Error::new(Code::AgentFailed, "the command no longer takes input")
}

/// Receives what a command does.
#[derive(Debug)]
pub struct ExecReceiver {
    half: OwnedReadHalf,
    reader: FrameReader,
    shared: Arc<Shared>,
    /// When the agent must have said something, as long as it has not.
    answer_by: Option<Instant>,
    ended: bool,
}

impl ExecReceiver {
    /// The next thing the command did. Cancel-safe. After one that is last, an error.
    ///
    /// # Errors
    /// [`Code::AgentFailed`] when the connection broke before the command ended, or the agent
    /// does not keep the protocol.
    pub async fn next(&mut self) -> Result<ExecOutput> {
        if self.ended {
            return Err(Error::internal("the command has already ended"));
        }
        let result = match self.answer_by {
            Some(deadline) => match tokio::time::timeout_at(deadline, self.receive()).await {
                Ok(result) => result,
                Err(elapsed) => {
                    Err(failed("the guest agent does not answer".to_owned()).because(elapsed))
                }
            },
            None => self.receive().await,
        };
        self.answer_by = None;
        let last = !matches!(
            result,
            Ok(ExecOutput::Started { .. } | ExecOutput::Stdout(_) | ExecOutput::Stderr(_))
        );
        if last {
            self.ended = true;
            self.shared.credit.close();
        }
        result
    }

    async fn receive(&mut self) -> Result<ExecOutput> {
        loop {
            let Some(frame) = self.reader.next(&mut self.half).await.map_err(broken)? else {
                return Err(failed(
                    "the connection to the guest ended before the command did".to_owned(),
                ));
            };
            match frame.kind {
                Kind::Stdout => return Ok(ExecOutput::Stdout(frame.payload)),
                Kind::Stderr => return Ok(ExecOutput::Stderr(frame.payload)),
                Kind::Stdin => {
                    let error = io::Error::new(io::ErrorKind::InvalidData, "input from the guest");
                    return Err(broken(error));
                }
                Kind::Control => {
                    if let Some(output) = self.event(&frame)? {
                        return Ok(output);
                    }
                }
            }
        }
    }

    fn event(&self, frame: &Frame) -> Result<Option<ExecOutput>> {
        let event = frame.parse().map_err(|error| match frame.parse() {
            // The agent refuses the request as a whole.
            Ok(reply @ Reply::Error { .. }) => unexpected(&reply),
            _ => broken(error),
        })?;
        Ok(Some(match event {
            ExecEvent::StdinCredit { bytes } => {
                self.add_credit(bytes as usize)?;
                return Ok(None);
            }
            ExecEvent::Started { pid } => ExecOutput::Started { pid },
            // What no command can end with is not passed on as if one had.
            ExecEvent::Exited {
                code: code @ 0..=255,
            } => ExecOutput::Exited(code),
            ExecEvent::Signalled {
                signal: signal @ 1..=64,
            } => ExecOutput::Signalled(signal),
            ExecEvent::Refused {
                code: code @ 125..=127,
                message,
            } => ExecOutput::Refused {
                code,
                message: tame(&message),
            },
            ExecEvent::Exited { .. } | ExecEvent::Signalled { .. } | ExecEvent::Refused { .. } => {
                let what = "an end that no command has";
                return Err(broken(io::Error::new(io::ErrorKind::InvalidData, what)));
            }
        }))
    }

    /// Credit beyond what was sent would overflow our books.
    fn add_credit(&self, bytes: usize) -> Result<()> {
        let take = |uncredited: usize| uncredited.checked_sub(bytes);
        match self
            .shared
            .uncredited
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, take)
        {
            Ok(_) => {
                self.shared.credit.add_permits(bytes);
                Ok(())
            }
            Err(_) => {
                let what = "credit for input that was never sent";
                Err(broken(io::Error::new(io::ErrorKind::InvalidData, what)))
            }
        }
    }
}

impl Drop for Shared {
    /// Hangs up with nothing left unread. Closing a unix socket with unread output would look
    /// like an error to the vsock device, and one that meets it does not tell the guest, where
    /// the command would then wait for ever instead of getting its SIGHUP.
    fn drop(&mut self) {
        let stream: &tokio::net::UnixStream = self.output.get_mut().half.as_ref();
        // After this the device can send nothing more, so what is there now is all.
        let Ok(fd) = stream.as_fd().try_clone_to_owned() else {
            return;
        };
        let mut stream = std::os::unix::net::UnixStream::from(fd);
        if stream.shutdown(Shutdown::Both).is_ok() {
            let mut scratch = [0; 16 << 10];
            // Non-blocking, like every socket of tokio.
            while matches!(stream.read(&mut scratch), Ok(1..)) {}
        }
    }
}

impl Drop for ExecReceiver {
    /// A sender that waits for credit would otherwise wait for ever.
    fn drop(&mut self) {
        self.shared.credit.close();
    }
}
