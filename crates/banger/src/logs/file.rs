//! The end of a file and what is added to it, also when another file takes its name.
//!
//! Nobody polls: inotify tells of every write, and of the directory's end.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use banger_model::{IoContext, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;

/// Bytes read at a time.
const CHUNK: usize = 64 << 10;

/// Where the last `lines` lines of the file begin. An unfinished line at the end counts.
///
/// # Errors
/// Those of the file.
pub(crate) fn last_lines_from(file: &File, lines: u64) -> io::Result<u64> {
    let end = file.metadata()?.len();
    if lines == 0 {
        return Ok(end);
    }
    let mut breaks = 0;
    let mut at = end;
    let mut chunk = vec![0; CHUNK];
    while at > 0 {
        let from = at.saturating_sub(CHUNK as u64);
        let part = &mut chunk[..(at - from) as usize];
        match file.read_exact_at(part, from) {
            // It has become shorter meanwhile: what is left of it is all new.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
            other => other?,
        }
        for (index, _) in part
            .iter()
            .enumerate()
            .rev()
            .filter(|(_, byte)| **byte == b'\n')
        {
            let after = from + index as u64 + 1;
            // The break at the very end finishes the last line and begins none.
            if after < end {
                breaks += 1;
            }
            if breaks == lines {
                return Ok(after);
            }
        }
        at = from;
    }
    Ok(0)
}

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Woken {
    /// There may be more to read.
    Changed,
    /// The directory is gone, and with it all that could come.
    DirectoryGone,
    /// Nobody reads our standard output any more.
    ReaderGone,
}

/// Follows a file by its name.
pub(crate) struct Follower {
    path: PathBuf,
    watch: OwnedFd,
    current: Option<(File, u64)>,
}

impl Follower {
    /// Begins to watch. The file need not exist, its directory must.
    ///
    /// # Errors
    /// `io` when the directory cannot be watched.
    pub(crate) fn new(path: &Path) -> Result<Follower> {
        Ok(Follower {
            path: path.to_owned(),
            watch: watch(path)?,
            current: None,
        })
    }

    /// Skips all but the last lines of what is there.
    ///
    /// # Errors
    /// `io` when the file cannot be read.
    pub(crate) fn skip_to_last(&mut self, lines: u64) -> Result<()> {
        if let Some(file) = open(&self.path)? {
            let from = last_lines_from(&file, lines).at("read", &self.path)?;
            self.current = Some((file, from));
        }
        Ok(())
    }

    /// Hands on everything that is there and was not handed on before. `false` when the
    /// receiver wants no more.
    ///
    /// # Errors
    /// `io` when the file cannot be read, and the receiver's.
    pub(crate) fn read(&mut self, receive: &mut impl FnMut(&[u8]) -> Result<bool>) -> Result<bool> {
        loop {
            if let Some((file, at)) = &mut self.current
                && !read_on(file, at, &self.path, receive)?
            {
                return Ok(false);
            }
            let Some(file) = open(&self.path)? else {
                return Ok(true);
            };
            let is_same = match &self.current {
                Some((current, _)) => same(current, &file).at("examine", &self.path)?,
                None => false,
            };
            if is_same {
                return Ok(true);
            }
            self.current = Some((file, 0));
        }
    }

    /// Waits until there may be more, without end.
    ///
    /// # Errors
    /// `io` when waiting fails.
    pub(crate) fn wait(&self) -> Result<Woken> {
        let stdout = rustix::stdio::stdout();
        let mut fds = [
            PollFd::new(&self.watch, PollFlags::IN),
            // Errors and hang-ups are always reported.
            PollFd::from_borrowed_fd(stdout, PollFlags::empty()),
        ];
        loop {
            match poll(&mut fds, None) {
                Err(Errno::INTR) => continue,
                other => other.map_err(io::Error::from).at("watch", &self.path)?,
            };
            if fds[0].revents().contains(PollFlags::IN) {
                return self.events().at("watch", &self.path);
            }
            if fds[1].revents().intersects(PollFlags::ERR | PollFlags::HUP) {
                return Ok(Woken::ReaderGone);
            }
        }
    }

    /// Takes what has happened: several changes are one.
    fn events(&self) -> io::Result<Woken> {
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.watch, &mut buffer);
        loop {
            match reader.next() {
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(match directory(&self.path).try_exists()? {
            true => Woken::Changed,
            false => Woken::DirectoryGone,
        })
    }
}

fn directory(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

/// Watches what happens in the directory, and to it. The latter from above: a directory in which
/// somebody still has a file open does not tell of its own end.
fn watch(path: &Path) -> Result<OwnedFd> {
    let directory = directory(path);
    let above = directory.parent().unwrap_or(directory);
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
        .map_err(io::Error::from)
        .at("watch", directory)?;
    let add = |path: &Path, flags: WatchFlags| {
        inotify::add_watch(&watch, path, flags | WatchFlags::ONLYDIR)
            .map_err(io::Error::from)
            .at("watch", path)
    };
    add(above, WatchFlags::DELETE | WatchFlags::MOVED_FROM)?;
    add(
        directory,
        WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO,
    )?;
    Ok(watch)
}

/// Opens the file if there is one.
fn open(path: &Path) -> Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).at("open", path),
    }
}

fn same(a: &File, b: &File) -> io::Result<bool> {
    let (a, b) = (a.metadata()?, b.metadata()?);
    Ok((a.dev(), a.ino()) == (b.dev(), b.ino()))
}

/// Reads to the end; from the beginning when the file has become shorter.
fn read_on(
    file: &File,
    at: &mut u64,
    path: &Path,
    receive: &mut impl FnMut(&[u8]) -> Result<bool>,
) -> Result<bool> {
    let mut chunk = vec![0; CHUNK];
    if file.metadata().at("examine", path)?.len() < *at {
        *at = 0;
    }
    loop {
        let count = file.read_at(&mut chunk, *at).at("read", path)?;
        if count == 0 {
            return Ok(true);
        }
        *at += count as u64;
        if !receive(&chunk[..count])? {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn everything(follower: &mut Follower) -> String {
        let mut seen = Vec::new();
        follower
            .read(&mut |bytes| {
                seen.extend_from_slice(bytes);
                Ok(true)
            })
            .unwrap();
        String::from_utf8(seen).unwrap()
    }

    #[test]
    fn a_file_is_followed_through_all_that_happens_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("vm");
        fs::create_dir(&inner).unwrap();
        let path = inner.join("console.log");
        let mut follower = Follower::new(&path).unwrap();
        assert_eq!(everything(&mut follower), "");

        fs::write(&path, "one\n").unwrap();
        assert_eq!(follower.wait().unwrap(), Woken::Changed);
        assert_eq!(everything(&mut follower), "one\n");
        assert_eq!(everything(&mut follower), "");

        let mut old = fs::OpenOptions::new().append(true).open(&path).unwrap();
        old.write_all(b"two\n").unwrap();
        assert_eq!(follower.wait().unwrap(), Woken::Changed);
        // Another file takes the name; the end of the old one is not lost.
        old.write_all(b"last\n").unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "new\n").unwrap();
        assert_eq!(everything(&mut follower), "two\nlast\nnew\n");

        fs::write(&path, "").unwrap();
        assert_eq!(everything(&mut follower), "");
        fs::write(&path, "short\n").unwrap();
        assert_eq!(everything(&mut follower), "short\n");

        fs::remove_dir_all(&inner).unwrap();
        while follower.wait().unwrap() != Woken::DirectoryGone {}
    }

    proptest! {
        #[test]
        fn the_last_lines_are_those_that_tail_prints(
            parts in prop::collection::vec(prop::sample::select(vec!["\n", "a", "bcd\n", "x"]), 0..40),
            lines in 0..8u64,
            fill in prop::sample::select(vec![0, CHUNK - 3, CHUNK]),
        ) {
            let text = "f".repeat(fill) + &parts.concat();
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            let from = last_lines_from(&file, lines).unwrap() as usize;
            let all: Vec<_> = text.split_inclusive('\n').collect();
            let expected = all[all.len().saturating_sub(lines as usize)..].concat();
            prop_assert_eq!(&text[from..], expected);
        }
    }
}
