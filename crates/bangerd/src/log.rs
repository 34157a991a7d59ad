//! The daemon's log: one file, bounded, with the older ones kept beside it as `bangerd.log.1` to
//! `bangerd.log.3`.
//!
//! A writer of our own: tracing-appender rotates by time only, and what rotates by size rotates
//! with an error for the line at hand, or into files of any mode. Here a line is written to
//! whichever file there is, and one that cannot be rotated is written to still.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use banger_config::LogLevel;
use banger_model::{Error, IoContext, Result};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

/// A file this large is set aside.
const SIZE_MAX: u64 = 4 << 20;
/// How many are kept, the one that is written to included.
const FILES: u32 = 4;

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
        .map_err(|error| Error::internal("cannot start the log").because(error))?;
    // Standard error may be an older file of the log by then, or nothing.
    std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
    Ok(())
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
    size_max: u64,
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
                size_max: SIZE_MAX,
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
        if self.size > 0 && self.size + bytes.len() as u64 > self.size_max {
            match self.rotate() {
                Ok(()) => {}
                // Too large a file is better than a lost line. The next try is a file later.
                Err(error) => {
                    self.size = 0;
                    let line = format!("the log cannot be rotated: {error}\n");
                    self.file.write_all(line.as_bytes())?;
                }
            }
        }
        self.file.write_all(bytes)?;
        self.size += bytes.len() as u64;
        if self.to_stderr {
            io::stderr().write_all(bytes)?;
        }
        Ok(())
    }

    /// Sets the file aside. From the oldest on, so that whatever is cut short here leaves every
    /// line but the oldest in some file.
    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..FILES).rev() {
            let from = match number {
                1 => self.path.clone(),
                _ => numbered(&self.path, number - 1),
            };
            match fs::rename(from, numbered(&self.path, number)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        (self.file, self.size) = open(&self.path)?;
        Ok(())
    }
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    path.with_added_extension(number.to_string())
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

    /// A log with small files.
    fn small(path: &Path) -> LogFile {
        let log = LogFile::open(path, false).unwrap();
        log.state.lock().unwrap().size_max = 1000;
        log
    }

    /// The lines of all files, oldest first.
    fn lines(path: &Path) -> Vec<String> {
        let older = (1..FILES).rev().map(|number| numbered(path, number));
        older
            .chain([path.to_owned()])
            .filter_map(|file| fs::read_to_string(file).ok())
            .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
            .collect()
    }

    #[test]
    fn the_log_is_bounded_and_private_over_several_daemons() {
        use std::os::unix::fs::MetadataExt;
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("bangerd.log");
        let written: Vec<String> = (0..1000).map(|number| format!("line {number}")).collect();
        // Daemons end wherever they are in a file.
        for chunk in written.chunks(37) {
            let mut log = small(&path);
            for line in chunk {
                log.write_all(format!("{line}\n").as_bytes()).unwrap();
            }
        }
        let kept = lines(&path);
        assert!(kept.len() > 200, "{} lines", kept.len());
        assert_eq!(
            kept,
            written[written.len() - kept.len()..],
            "the newest, in order"
        );
        let files: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap())
            .collect();
        assert_eq!(files.len(), FILES as usize);
        for meta in files {
            assert!(meta.len() <= 1000, "{}", meta.len());
            assert_eq!(meta.mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn a_log_that_cannot_be_rotated_keeps_its_lines() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("bangerd.log");
        // Nothing can be renamed over a directory that is not empty.
        fs::create_dir_all(numbered(&path, FILES - 1).join("x")).unwrap();
        let mut log = small(&path);
        for number in 0..500 {
            log.write_all(format!("line {number}\n").as_bytes())
                .unwrap();
        }
        let text = lines(&path).join("\n") + "\n";
        for number in 0..500 {
            assert!(text.contains(&format!("line {number}\n")), "{number}");
        }
        let complaints = text.matches("cannot be rotated").count();
        assert!((1..20).contains(&complaints), "{complaints}");
    }

    #[test]
    fn a_line_larger_than_a_file_is_whole() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("bangerd.log");
        let mut log = small(&path);
        let line = "x".repeat(5000);
        for text in ["a", line.as_str(), "b"] {
            log.write_all(format!("{text}\n").as_bytes()).unwrap();
        }
        assert_eq!(lines(&path), ["a", line.as_str(), "b"]);
    }
}
