//! Keeps the guest's serial console, or the log of its VMM, in a file, within a limit.
//!
//! The guest decides how much is written, so the file is bounded: when it is full it becomes
//! `<name>.1`, replacing an earlier one, and a new one begins. What is kept is between one and
//! two times the limit, always the newest.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// How long the file may become, in bytes.
const LIMIT: u64 = 4 << 20;

/// See the module.
#[derive(Debug)]
pub(crate) struct Console {
    source: File,
    path: PathBuf,
    file: File,
    written: u64,
    limit: u64,
}

impl Console {
    /// Begins a new file at `path`, without what an earlier boot printed.
    pub(crate) fn new(source: File, path: &Path) -> io::Result<Console> {
        remove(path)?;
        Console::go_on(source, path)
    }

    /// Begins at the end of the file at `path`, which others may write to as well.
    pub(crate) fn go_on(source: File, path: &Path) -> io::Result<Console> {
        rustix::io::ioctl_fionbio(&source, true)?;
        remove(&older(path))?;
        let file = create(path)?;
        Ok(Console {
            source,
            path: path.to_owned(),
            written: file.metadata()?.len(),
            file,
            limit: LIMIT,
        })
    }

    pub(crate) fn source(&self) -> &File {
        &self.source
    }

    /// Writes down what has arrived and shows it; says whether there will be more. A file that cannot be
    /// written to is told once in the result; the guest is listened to all the same, because one
    /// that cannot print stops.
    pub(crate) fn on_ready(
        &mut self,
        buffer: &mut [u8],
        mut see: impl FnMut(&[u8]),
    ) -> (bool, io::Result<()>) {
        let mut kept = Ok(());
        loop {
            match (&self.source).read(buffer) {
                Ok(0) => return (false, kept),
                Ok(count) => {
                    see(&buffer[..count]);
                    let wrote = self.keep(&buffer[..count]);
                    kept = kept.and(wrote);
                    // One piece at a time: a guest that floods must not keep the others waiting.
                    return (true, kept);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return (true, kept),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return (false, kept),
            }
        }
    }

    /// Writes down everything that is left.
    pub(crate) fn drain(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        rustix::io::ioctl_fionbio(&self.source, false)?;
        loop {
            let (more, kept) = self.on_ready(buffer, |_| {});
            kept?;
            if !more {
                return Ok(());
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.written + bytes.len() as u64 > self.limit {
            std::fs::rename(&self.path, older(&self.path))?;
            self.file = create(&self.path)?;
            self.written = 0;
        }
        self.file.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }
}

/// Where the older half is.
fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

fn create(path: &Path) -> io::Result<File> {
    File::options()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn the_newest_is_kept_and_the_rest_is_bounded() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("console.log");
        std::fs::write(&path, "an earlier boot").unwrap();
        std::fs::write(older(&path), "much earlier").unwrap();
        let (ours, mut guest) = UnixStream::pair().unwrap();
        let ours = File::from(OwnedFd::from(ours));
        let mut console = Console::new(ours, &path).unwrap();
        console.limit = 100;
        assert!(!older(&path).exists());
        let mut buffer = [0; 64];
        let mut all = Vec::new();
        for line in 0..50 {
            let line = format!("line {line:02}\n");
            guest.write_all(line.as_bytes()).unwrap();
            all.extend_from_slice(line.as_bytes());
            let (more, kept) = console.on_ready(&mut buffer, |_| {});
            kept.unwrap();
            assert!(more);
        }
        drop(guest);
        console.drain(&mut buffer).unwrap();
        let mut kept = std::fs::read(older(&path)).unwrap();
        assert!(kept.len() <= 100);
        kept.extend(std::fs::read(&path).unwrap());
        assert!(kept.len() > 100 && all.ends_with(&kept));
    }

    #[test]
    fn a_full_disk_does_not_silence_the_guest() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("console.log");
        let (ours, mut guest) = UnixStream::pair().unwrap();
        let ours = File::from(OwnedFd::from(ours));
        let mut console = Console::new(ours, &path).unwrap();
        console.file = File::options().write(true).open("/dev/full").unwrap();
        let mut buffer = [0; 64];
        guest.write_all(b"hello").unwrap();
        let (more, kept) = console.on_ready(&mut buffer, |_| {});
        assert!(more, "listens on");
        assert_eq!(kept.unwrap_err().kind(), ErrorKind::StorageFull);
    }
}
