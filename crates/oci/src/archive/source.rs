//! The bytes of an archive: counted, stoppable, decompressed.

use std::io::{self, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use banger_model::{Code, Error};
use flate2::read::MultiGzDecoder;
use tokio::sync::watch;

use super::Fault;
use crate::media::Compression;
use crate::progress::Transfer;

const BUFFER: usize = 256 << 10;

/// The tar archive in `source`, however it is compressed.
pub(super) fn open(
    source: impl Read + Send + 'static,
    stop: Arc<AtomicBool>,
    progress: watch::Sender<Transfer>,
) -> Result<Box<dyn Read>, Fault> {
    let mut counted = Counted {
        source,
        stop,
        progress,
    };
    let mut start = Vec::new();
    (&mut counted)
        .take(4)
        .read_to_end(&mut start)
        .map_err(reading)?;
    if start.is_empty() {
        return Err(Fault::Theirs("it is empty".to_owned()));
    }
    let whole = io::Cursor::new(start.clone()).chain(counted);
    let buffered = BufReader::with_capacity(BUFFER, whole);
    Ok(match Compression::of(&start) {
        Compression::None => Box::new(buffered),
        Compression::Gzip => Box::new(MultiGzDecoder::new(buffered)),
        Compression::Zstd => Box::new(
            zstd::stream::read::Decoder::with_buffer(buffered)
                .map_err(|error| Error::internal("cannot set up zstd").because(error))?,
        ),
    })
}

/// The error for a source that cannot be read: damage to the archive or a fault of the machine.
pub(super) fn reading(error: io::Error) -> Fault {
    match error.kind() {
        _ if stopped(&error) => Fault::Ours(Error::new(
            Code::Cancelled,
            "reading the archive was cancelled",
        )),
        io::ErrorKind::UnexpectedEof => Fault::Theirs("it ends too early".to_owned()),
        // What decompressors say about their input.
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::Other => {
            Fault::Theirs(format!("it is damaged: {error}"))
        }
        _ => Fault::Ours(Error::new(Code::Io, "the archive cannot be read").because(error)),
    }
}

#[derive(Debug)]
struct Stopped;

impl std::fmt::Display for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("stopped")
    }
}

impl std::error::Error for Stopped {}

fn stopped(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Stopped>())
}

struct Counted<R> {
    source: R,
    stop: Arc<AtomicBool>,
    progress: watch::Sender<Transfer>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(io::Error::new(io::ErrorKind::ConnectionAborted, Stopped));
            }
            // Decompressors do not all know how to be interrupted.
            match self.source.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(read) => {
                    self.progress.send_modify(|transfer| {
                        transfer.done += read as u64;
                    });
                    return Ok(read);
                }
            }
        }
    }
}
