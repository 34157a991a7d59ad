//! One host file or tree as an archive for a guest's home directory.
//!
//! The tree is listed first, so that one that is too large is refused before anything is sent.
//! Nothing of the host's owners goes along, and of its modes only whether the owner may execute
//! a file. Symbolic links in a tree are copied as links, sockets and devices not at all. What
//! cannot be read is left out and said.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use banger_guest_api::archive::{Builder, Copied, Meta};
use banger_model::{ByteSize, Code, Error, IoContext, Result};

/// The most that one entry may be: what is larger is no configuration, and every start waits
/// for it.
const MAX_BYTES: u64 = 256 << 20;
/// The most files, directories and links of one entry.
const MAX_ENTRIES: usize = 50_000;
/// A file up to this size, in bytes, is read at one moment, before it is described.
const WHOLE: u64 = 1 << 20;
/// For directories, and files of a tree that their owner may execute.
const PRIVATE_EXECUTABLE: u32 = 0o700;
/// For other files.
const PRIVATE: u32 = 0o600;
/// Where the guest keeps the key that lets its user in; what the host has there is about logins
/// to the host.
const KEYS: &[u8] = b".ssh/authorized_keys";

/// What is to be copied.
#[derive(Debug)]
pub(super) struct Tree {
    items: Vec<Item>,
    left_out: LeftOut,
}

#[derive(Debug)]
struct Item {
    /// Its name in the guest, from the home directory.
    path: Vec<u8>,
    modified: (i64, u32),
    body: Body,
}

#[derive(Debug)]
enum Body {
    Directory,
    Link(Vec<u8>),
    File { from: PathBuf, mode: u32 },
}

/// What could not be read: how much, and the first of it.
#[derive(Debug, Default)]
struct LeftOut {
    first: Option<Error>,
    count: usize,
}

impl LeftOut {
    fn add(&mut self, error: Error) {
        self.count += 1;
        self.first.get_or_insert(error);
    }

    fn said(self) -> Option<String> {
        let first = self.first?.chain();
        Some(match self.count {
            1 => first,
            count => format!("{first}, and {} more", count - 1),
        })
    }
}

impl Tree {
    /// Lists what is at `host` for `guest`, a path from the guest's home directory. `mode` is
    /// for every file.
    ///
    /// # Errors
    /// `not_found`; `invalid_argument` for what is no file or directory or is too large; `io`.
    pub(super) fn find(host: &Path, guest: &str, mode: Option<u32>) -> Result<Tree> {
        // What was named is meant, wherever it is.
        let top = match std::fs::metadata(host) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let message = format!("`{}` does not exist", host.display());
                return Err(Error::new(Code::NotFound, message));
            }
            found => found.at("examine", host)?,
        };
        let mut tree = Tree {
            items: Vec::new(),
            left_out: LeftOut::default(),
        };
        let above = guest.match_indices('/').map(|(at, _)| &guest[..at]);
        for parent in std::iter::once("").chain(above) {
            tree.push(parent.as_bytes().to_vec(), &top, Body::Directory);
        }
        let path = guest.as_bytes().to_vec();
        if top.is_dir() {
            tree.walk(host, path, &top, mode)?;
        } else if top.is_file() {
            check_size(host, top.len())?;
            let from = host.to_owned();
            let mode = mode.unwrap_or(PRIVATE);
            tree.push(path, &top, Body::File { from, mode });
        } else {
            let message = format!("`{}` is neither a file nor a directory", host.display());
            return Err(Error::new(Code::InvalidArgument, message));
        }
        Ok(tree)
    }

    /// Lists a directory and everything in it, each directory before what is in it.
    fn walk(
        &mut self,
        host: &Path,
        guest: Vec<u8>,
        top: &Metadata,
        mode: Option<u32>,
    ) -> Result<()> {
        let mut bytes = 0;
        let mut waiting = vec![(host.to_owned(), guest, top.clone())];
        while let Some((from, path, metadata)) = waiting.pop() {
            if self.items.len() + waiting.len() >= MAX_ENTRIES {
                let message = format!(
                    "`{}` holds more than {MAX_ENTRIES} files and directories",
                    host.display()
                );
                return Err(Error::new(Code::InvalidArgument, message));
            }
            if path == KEYS {
                tracing::debug!("the authorized keys of the host stay on the host");
            } else if metadata.is_dir() {
                match children(&from) {
                    Ok(names) => {
                        for (name, metadata) in names {
                            let path = [path.as_slice(), b"/", name.as_bytes()].concat();
                            waiting.push((from.join(&name), path, metadata));
                        }
                    }
                    // Of the top, nothing would be left.
                    Err(error) if from == host => return Err(error),
                    Err(error) => self.left_out.add(error),
                }
                self.push(path, &metadata, Body::Directory);
            } else if metadata.is_file() {
                bytes += metadata.len();
                check_size(host, bytes)?;
                let executable = metadata.mode() & 0o100 != 0;
                let mode = mode.unwrap_or(match executable {
                    true => PRIVATE_EXECUTABLE,
                    false => PRIVATE,
                });
                self.push(path, &metadata, Body::File { from, mode });
            } else if metadata.is_symlink() {
                match std::fs::read_link(&from).at("read", &from) {
                    Ok(target) => {
                        let target = target.as_os_str().as_bytes().to_vec();
                        self.push(path, &metadata, Body::Link(target));
                    }
                    Err(error) => self.left_out.add(error),
                }
            }
        }
        Ok(())
    }

    fn push(&mut self, path: Vec<u8>, metadata: &Metadata, body: Body) {
        let nanoseconds = u32::try_from(metadata.mtime_nsec()).unwrap_or(0);
        self.items.push(Item {
            path,
            modified: (metadata.mtime(), nanoseconds),
            body,
        });
    }

    /// Writes the archive, its top the guest's home directory. Also says what was left out.
    ///
    /// # Errors
    /// As those of [`Builder`].
    pub(super) fn write(self, writer: impl Write) -> io::Result<(Copied, Option<String>)> {
        let mut archive = Builder::new(writer);
        let mut left_out = self.left_out;
        for item in self.items {
            let meta = |mode| Meta {
                mode,
                modified: item.modified,
            };
            match item.body {
                // One that is there keeps its own mode, the home directory itself above all.
                Body::Directory => archive.directory(&item.path, meta(PRIVATE_EXECUTABLE))?,
                Body::Link(target) => archive.symlink(&item.path, &target, meta(0o777))?,
                Body::File { from, mode } => match open(&from) {
                    Ok((content, size)) => archive.file(&item.path, content, size, meta(mode))?,
                    Err(error) => left_out.add(error),
                },
            }
        }
        Ok((archive.finish()?, left_out.said()))
    }
}

fn check_size(host: &Path, bytes: u64) -> Result<()> {
    if bytes <= MAX_BYTES {
        return Ok(());
    }
    let message = format!(
        "`{}` holds more than the {} that a file sync may",
        host.display(),
        ByteSize::bytes(MAX_BYTES)
    );
    Err(Error::new(Code::InvalidArgument, message))
}

/// What is in a directory, in reverse order of name: the last is taken first.
fn children(directory: &Path) -> Result<Vec<(std::ffi::OsString, Metadata)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).at("read", directory)? {
        let entry = entry.at("read", directory)?;
        if found.len() >= MAX_ENTRIES {
            // More than may be in the whole tree, which is refused for it.
            break;
        }
        match entry.metadata() {
            Ok(metadata) => found.push((entry.file_name(), metadata)),
            // It went away meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("examine", &entry.path(), error)),
        }
    }
    found.sort_unstable_by(|(one, _), (other, _)| other.cmp(one));
    Ok(found)
}

/// Opens a file, and says how many bytes of it are to be copied.
fn open(path: &Path) -> Result<(Box<dyn Read>, u64)> {
    let mut file: File = OpenOptions::new()
        .read(true)
        // Should it be a pipe by now, nobody waits for its other end.
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
        .at("open", path)?;
    let metadata = file.metadata().at("examine", path)?;
    if !metadata.is_file() {
        let message = format!("`{}` is no longer a file", path.display());
        return Err(Error::new(Code::InvalidArgument, message));
    }
    if metadata.len() > WHOLE {
        check_size(path, metadata.len())?;
        return Ok((Box::new(file), metadata.len()));
    }
    let mut bytes = Vec::new();
    (&mut file)
        .take(WHOLE + 1)
        .read_to_end(&mut bytes)
        .at("read", path)?;
    let size = bytes.len() as u64;
    Ok((Box::new(io::Cursor::new(bytes)), size))
}

#[cfg(test)]
mod tests;
