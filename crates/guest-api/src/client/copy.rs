//! Copying files and trees into a guest and out of it.
//!
//! [`copy_in`] and [`copy_out`] carry archives; [`copy_in_with`] and [`copy_out_with`] do the
//! same for code that blocks, such as [`archive_out`](crate::archive::archive_out) and
//! [`unpack()`](crate::archive::unpack()), in a thread of its own.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use banger_model::{Code, Error, Result};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::UnixStream;
use tokio::runtime::Handle;

use super::stream::{FrameReader, Pending};
use super::{broken, failed, older, open, require, tame, timely, unexpected};
use crate::archive::Copied;
use crate::frame::{Frame, Kind};
use crate::{CopyEvent, CopyIn, CopyOut, Reply, Request};

/// Archive bytes in one frame.
const PIECE: usize = 128 << 10;
/// How long a guest may take or give nothing before it counts as stuck. Generous, because its
/// disk may be the host's slowest and its processor emulated.
const STALL: Duration = Duration::from_secs(120);
/// How long a guest that hung up on us may take to say why.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Between the connection and blocking code.
const BRIDGE: usize = 256 << 10;

/// Copies `archive` into the guest; its top entry is called [`COPY_ROOT`](crate::COPY_ROOT).
/// Returns when the guest has everything; ends early when it cannot go on.
///
/// # Errors
/// [`Code::NotFound`] when the destination does not exist, [`Code::NoSpace`] when a disk of the
/// guest is full, [`Code::Io`] for its other failures and those of `archive`, each naming the
/// file; [`Code::Conflict`] when the guest's agent is too old; [`Code::AgentFailed`] when it does
/// not keep the protocol or is stuck. What was copied before an error stays.
pub async fn copy_in(socket: &Path, copy: CopyIn, archive: impl AsyncRead) -> Result<Copied> {
    let replaces = copy.replace;
    let request = Request::CopyIn(copy);
    if replaces {
        require(socket, &request).await?;
    }
    let stream = timely(open(socket, request.clone())).await?;
    let (mut receive, mut send) = stream.into_split();
    let mut reader = FrameReader::default();
    let answered = async {
        let frame = reader.next(&mut receive).await.map_err(broken)?;
        frame.ok_or_else(|| broken(io::ErrorKind::UnexpectedEof.into()))
    };
    tokio::pin!(answered);
    // Both at once: a guest that failed takes no more.
    let (frame, whole) = tokio::select! {
        biased;
        frame = &mut answered => (frame?, false),
        sent = send_archive(&mut send, archive) => {
            let (patience, unsent) = match sent {
                Ok(()) => (STALL, None),
                Err(Unsent::Connection(error)) => (LAST_WORDS, Some(error)),
                // Our own archive is at fault: the guest has nothing to say about it.
                Err(Unsent::Archive(error)) => return Err(error),
            };
            let answer = tokio::time::timeout(patience, answered).await;
            match (answer, unsent) {
                (Ok(Ok(frame)), unsent) => (frame, unsent.is_none()),
                (_, Some(error)) | (Ok(Err(error)), None) => return Err(error),
                (Err(elapsed), None) => return Err(stuck().because(elapsed)),
            }
        }
    };
    match frame.parse() {
        // Nobody has everything before its end.
        Ok(CopyEvent::Copied { .. }) if !whole => Err(no_protocol()),
        Ok(event) => outcome(event),
        Err(error) => Err(refused(socket, &request, &frame, error).await),
    }
}

/// Why an archive was not sent.
enum Unsent {
    Archive(Error),
    Connection(Error),
}

async fn send_archive(
    send: &mut tokio::net::unix::OwnedWriteHalf,
    archive: impl AsyncRead,
) -> Result<(), Unsent> {
    tokio::pin!(archive);
    let mut pending = Pending::default();
    let mut piece = Vec::with_capacity(PIECE);
    loop {
        piece.clear();
        let count = (&mut archive).take(PIECE as u64).read_buf(&mut piece).await;
        let count = count.map_err(|error| Unsent::Archive(archive_error(error)))?;
        pending.add(Kind::Stdin, &piece);
        match tokio::time::timeout(STALL, pending.flush(send)).await {
            Ok(Ok(())) if count == 0 => return Ok(()),
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(Unsent::Connection(broken(error))),
            Err(elapsed) => return Err(Unsent::Connection(stuck().because(elapsed))),
        }
    }
}

/// Begins to copy out of the guest.
///
/// # Errors
/// [`Code::AgentFailed`] when the agent does not accept the connection. What it says about the
/// request comes from the stream.
pub async fn copy_out(socket: &Path, copy: CopyOut) -> Result<CopyOutStream> {
    let request = Request::CopyOut(copy);
    let stream = timely(open(socket, request.clone())).await?;
    Ok(CopyOutStream {
        socket: socket.to_owned(),
        request,
        stream,
        reader: FrameReader::default(),
        ended: false,
    })
}

/// An archive on its way out of a guest.
#[derive(Debug)]
pub struct CopyOutStream {
    socket: PathBuf,
    request: Request,
    stream: UnixStream,
    reader: FrameReader,
    ended: bool,
}

impl CopyOutStream {
    /// The next bytes of the archive; `None` at its end, after which comes
    /// [`finish`](Self::finish). Cancel-safe.
    ///
    /// # Errors
    /// As [`copy_in`].
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        if self.ended {
            return Ok(None);
        }
        let frame = self.frame().await?;
        match frame.kind {
            Kind::Stdout if frame.payload.is_empty() => {
                self.ended = true;
                Ok(None)
            }
            Kind::Stdout => Ok(Some(frame.payload)),
            Kind::Control => match frame.parse() {
                Ok(CopyEvent::Copied { .. }) => Err(no_protocol()),
                Ok(event) => outcome(event).map(|_| None),
                Err(error) => Err(refused(&self.socket, &self.request, &frame, error).await),
            },
            Kind::Stdin | Kind::Stderr => Err(no_protocol()),
        }
    }

    /// What the guest says it copied, once the archive has ended.
    ///
    /// # Errors
    /// As [`copy_in`]; [`Code::Internal`] before the archive's end.
    pub async fn finish(mut self) -> Result<Copied> {
        if !self.ended {
            return Err(Error::internal("the archive has not ended"));
        }
        let frame = self.frame().await?;
        outcome(frame.parse().map_err(broken)?)
    }

    async fn frame(&mut self) -> Result<Frame> {
        let next = self.reader.next(&mut self.stream);
        match tokio::time::timeout(STALL, next).await {
            Ok(Ok(Some(frame))) => Ok(frame),
            Ok(Ok(None)) => Err(failed(
                "the connection to the guest ended before the copy did".to_owned(),
            )),
            Ok(Err(error)) => Err(broken(error)),
            Err(elapsed) => Err(stuck().because(elapsed)),
        }
    }
}

/// Copies into the guest what `write` writes, an archive, in a thread that may block.
///
/// # Errors
/// As [`copy_in`], those of `write` as [`archive_error`] has them.
pub async fn copy_in_with<F>(socket: &Path, copy: CopyIn, write: F) -> Result<Copied>
where
    F: FnOnce(&mut dyn Write) -> io::Result<Copied> + Send + 'static,
{
    copy_in_until(socket, copy, write, || ()).await
}

/// The same for a `write` that may be busy without writing: `over` is called, or dropped with the
/// future, once the guest takes no more, and then `write` is waited for.
///
/// # Errors
/// As [`copy_in_with`].
pub async fn copy_in_until<F>(
    socket: &Path,
    copy: CopyIn,
    write: F,
    over: impl FnOnce(),
) -> Result<Copied>
where
    F: FnOnce(&mut dyn Write) -> io::Result<Copied> + Send + 'static,
{
    let (archive, far) = tokio::io::duplex(BRIDGE);
    let mut bridge = Bridge(far, Handle::current());
    let writing = tokio::task::spawn_blocking(move || write(&mut bridge));
    // An archive that breaks off has no end, and the guest refuses it for that.
    let copied = copy_in(socket, copy, archive).await;
    over();
    match (copied, writing.await.map_err(lost)?) {
        (Ok(copied), Ok(written)) => Ok(Copied {
            left_out: copied.left_out.saturating_add(written.left_out),
            ..copied
        }),
        (Err(error), Ok(_)) => Err(error),
        // We stopped taking because of the guest's error.
        (Err(error), Err(cause)) if cause.kind() == io::ErrorKind::BrokenPipe => Err(error),
        (_, Err(error)) => Err(archive_error(error)),
    }
}

/// Copies out of the guest; `read` reads the archive to its end, in a thread that may block.
///
/// # Errors
/// As [`copy_in`], those of `read` as [`archive_error`] has them.
pub async fn copy_out_with<F>(socket: &Path, copy: CopyOut, read: F) -> Result<Copied>
where
    F: FnOnce(&mut dyn Read) -> io::Result<Copied> + Send + 'static,
{
    let mut stream = copy_out(socket, copy).await?;
    let (mut archive, far) = tokio::io::duplex(BRIDGE);
    let mut bridge = Bridge(far, Handle::current());
    let reading = tokio::task::spawn_blocking(move || read(&mut bridge));
    let carried = async {
        while let Some(bytes) = stream.next().await? {
            if archive.write_all(&bytes).await.is_err() {
                return Err(Error::internal("the archive was not read to its end"));
            }
        }
        stream.finish().await
    };
    let carried = carried.await;
    drop(archive);
    match (carried, reading.await.map_err(lost)?) {
        (Ok(theirs), Ok(ours)) => Ok(Copied {
            left_out: theirs.left_out.saturating_add(ours.left_out),
            ..ours
        }),
        (Err(error), Ok(_)) => Err(error),
        // It was cut short because of the guest's error.
        (Err(error), Err(cause)) if cause.kind() == io::ErrorKind::UnexpectedEof => Err(error),
        (_, Err(error)) => Err(archive_error(error)),
    }
}

/// One end of a pipe between the runtime and a thread that blocks.
struct Bridge(DuplexStream, Handle);

impl Read for Bridge {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.1.block_on(self.0.read(buffer))
    }
}

impl Write for Bridge {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.1.block_on(self.0.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An error of packing or unpacking on the host, whose message names the file.
pub fn archive_error(error: io::Error) -> Error {
    let message = tame(&error.to_string());
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Error::new(Code::NoSpace, message)
                .hint("free some space on the file system of the copy and try again")
        }
        io::ErrorKind::NotFound => Error::new(Code::NotFound, message),
        io::ErrorKind::InvalidInput
        | io::ErrorKind::IsADirectory
        | io::ErrorKind::NotADirectory => Error::new(Code::InvalidArgument, message),
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
            failed(format!("the copy cannot be unpacked: {message}"))
        }
        _ => Error::new(Code::Io, message),
    }
}

fn outcome(event: CopyEvent) -> Result<Copied> {
    let (message, not_found, no_space) = match event {
        CopyEvent::Copied {
            entries,
            bytes,
            left_out,
        } => {
            return Ok(Copied {
                entries,
                bytes,
                left_out,
            });
        }
        CopyEvent::Failed {
            message,
            not_found,
            no_space,
        } => (message, not_found, no_space),
    };
    let message = format!("in the guest: {}", tame(&message));
    Err(if no_space {
        Error::new(Code::NoSpace, message)
            .hint("delete something in the guest, or enlarge the VM's disk with `banger vm set`")
    } else if not_found {
        Error::new(Code::NotFound, message)
    } else {
        Error::new(Code::Io, message)
    })
}

/// The answer is no event of a copy: the agent may refuse the request as a whole.
async fn refused(socket: &Path, request: &Request, frame: &Frame, error: io::Error) -> Error {
    match frame.parse() {
        Ok(reply @ Reply::Error { .. }) => older(socket, request, unexpected(&reply)).await,
        _ => broken(error),
    }
}

fn no_protocol() -> Error {
    let what = "something that does not belong into a copy";
    broken(io::Error::new(io::ErrorKind::InvalidData, what))
}

fn stuck() -> Error {
    failed("the guest does not go on with the copy".to_owned())
}

fn lost(error: tokio::task::JoinError) -> Error {
    Error::internal("the archive's task ended early").because(error)
}
