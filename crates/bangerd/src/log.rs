//! The daemon's log: one file, bounded, the older half kept beside it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use banger_config::LogLevel;
use banger_model::{Error, IoContext, Result};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

/// A file this large is set aside, and the one set aside before is dropped.
const SIZE_MAX: u64 = 8 << 20;

/// Sends what is logged to the file, and to standard error as well when asked.
///
/// # Errors
/// `io` when the file cannot be opened.
pub(crate) fn start(path: &Path, level: LogLevel, to_stderr: bool) -> Result<()> {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let writer = LogFile::open(path, to_stderr)?;
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(false)
        .with_writer(writer)
        .try_init()
        .map_err(|error| Error::internal("cannot start the log").because(error))
}

/// The file, shared by all threads.
#[derive(Clone)]
struct LogFile {
    state: Arc<Mutex<State>>,
}

struct State {
    path: PathBuf,
    file: File,
    size: u64,
    to_stderr: bool,
}

impl LogFile {
    fn open(path: &Path, to_stderr: bool) -> Result<LogFile> {
        let (file, size) = open(path).at("open", path)?;
        Ok(LogFile {
            state: Arc::new(Mutex::new(State {
                path: path.to_owned(),
                file,
                size,
                to_stderr,
            })),
        })
    }
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

impl State {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.size >= SIZE_MAX {
            fs::rename(&self.path, self.path.with_added_extension("1"))?;
            (self.file, self.size) = open(&self.path)?;
        }
        self.file.write_all(bytes)?;
        self.size += bytes.len() as u64;
        if self.to_stderr {
            io::stderr().write_all(bytes)?;
        }
        Ok(())
    }
}

impl Write for LogFile {
    /// One call is one line; a disk that is full costs the line, never the daemon.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.write(bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogFile {
    type Writer = LogFile;

    fn make_writer(&'a self) -> LogFile {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn the_log_is_bounded_and_private() {
        use std::os::unix::fs::MetadataExt;
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("bangerd.log");
        let mut log = LogFile::open(&path, false).unwrap();
        let line = vec![b'x'; 1 << 20];
        for _ in 0..30 {
            assert_eq!(Write::write(&mut log, &line).unwrap(), line.len());
        }
        let files: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap())
            .collect();
        assert_eq!(files.len(), 2);
        for meta in files {
            assert!(meta.len() <= SIZE_MAX + line.len() as u64);
            assert_eq!(meta.mode() & 0o777, 0o600);
        }
    }
}
