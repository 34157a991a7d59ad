//! Copying files and trees between the host and the guest.
//!
//! Both directions block: a copy has a thread of its own, and the host's hang-up ends every
//! read and write of the socket. The work on files is
//! [`archive`]'s.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use banger_guest_api::archive::{self, Copied, Owner, Unpack};
use banger_guest_api::frame::{self, HEADER, Kind, MAX_PAYLOAD};
use banger_guest_api::{CopyEvent, CopyIn, CopyOut};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::replace::Beside;
use crate::socket::Socket;
use crate::users::{self, User};

/// How long the host may take to hang up after the last frame.
const LINGER: Duration = Duration::from_secs(10);
/// Where relative paths start when nobody else's home is meant.
const HOME: &str = "/root";

/// Serves one copy into the guest.
pub(crate) fn receive(host: Socket, copy: &CopyIn) -> io::Result<()> {
    let mut incoming = Incoming {
        host: &host,
        left: 0,
        ended: false,
    };
    let result = copy_in(copy, &mut incoming);
    conclude(host, result)
}

/// Serves one copy out of the guest.
pub(crate) fn send(mut host: Socket, copy: &CopyOut) -> io::Result<()> {
    let path = Path::new(HOME).join(copy.path.as_os_str());
    let mut outgoing = Outgoing {
        host: &mut host,
        frame: Vec::new(),
        broken: false,
    };
    let result = archive::archive_out(&path, &mut outgoing).and_then(|copied| {
        outgoing.frame(&[])?;
        Ok(copied)
    });
    match result {
        // Nobody is left to be told.
        Err(error) if outgoing.broken => Err(error),
        result => conclude(host, result),
    }
}

fn conclude(mut host: Socket, result: io::Result<Copied>) -> io::Result<()> {
    host.send(&match result {
        Ok(copied) => CopyEvent::Copied {
            entries: copied.entries,
            bytes: copied.bytes,
            left_out: copied.left_out,
        },
        Err(error) => CopyEvent::Failed {
            message: error.to_string(),
            not_found: error.kind() == io::ErrorKind::NotFound,
            no_space: matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ),
        },
    })?;
    // Also takes what the host still sends, so that it comes to read this.
    host.linger(LINGER);
    Ok(())
}

fn copy_in(copy: &CopyIn, archive: &mut Incoming<'_>) -> io::Result<Copied> {
    let user = match &copy.owner {
        Some(owner) => {
            let invalid = |message| io::Error::new(io::ErrorKind::InvalidInput, message);
            Some(users::look_up(Some(owner)).map_err(invalid)?)
        }
        None => None,
    };
    let (uid, gid) = user.as_ref().map_or((0, 0), |user| (user.uid, user.gid));
    let owner = if copy.keep_owners {
        Owner::Archive
    } else {
        Owner::Given(uid, gid)
    };
    let destination = Destination::find(copy, user.as_ref())?;
    if !copy.replace {
        return archive::unpack(archive, &destination.receives(&destination.name, owner));
    }
    let beside = Beside::reserve(&destination.parent, &destination.name, &destination.shown)?;
    let copied = archive::unpack(archive, &destination.receives(beside.name(), owner))?;
    beside.take_place(&destination.name, &destination.shown)?;
    Ok(copied)
}

/// Where a copy goes.
struct Destination {
    parent: OwnedFd,
    name: OsString,
    shown: PathBuf,
    only_directory: bool,
}

impl Destination {
    /// What to do with an archive: it goes here under this name.
    fn receives<'a>(&'a self, name: &'a OsStr, owner: Owner) -> Unpack<'a> {
        Unpack {
            parent: self.parent.as_fd(),
            name,
            shown: &self.shown,
            owner,
            only_directory: self.only_directory,
        }
    }

    fn find(copy: &CopyIn, user: Option<&User>) -> io::Result<Destination> {
        let home = user.map_or(HOME, |user| user.home.as_str());
        let path = Path::new("/").join(home).join(copy.path.as_os_str());
        let in_slash = path.as_os_str().as_bytes().ends_with(b"/");
        // Without the slashes at the end.
        let path: PathBuf = path.components().collect();
        if copy.replace {
            return Destination::replaced(path, in_slash, user);
        }
        match open_directory(&path) {
            Ok(parent) if copy.exact => Ok(Destination {
                parent,
                name: ".".into(),
                shown: path,
                only_directory: false,
            }),
            Ok(parent) => {
                let name = copy.name.as_os_str().to_owned();
                Ok(Destination {
                    parent,
                    shown: path.join(&name),
                    name,
                    only_directory: false,
                })
            }
            Err(Errno::NOENT | Errno::NOTDIR) => {
                let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
                    return Err(missing(&path));
                };
                if copy.exact {
                    make_parents(parent, user)?;
                }
                Ok(Destination {
                    parent: open_directory(parent).map_err(|error| match error {
                        Errno::NOENT => missing(parent),
                        error => failed("open", parent, error.into()),
                    })?,
                    name: name.to_owned(),
                    only_directory: in_slash,
                    shown: path,
                })
            }
            Err(error) => Err(failed("open", &path, error.into())),
        }
    }
}

impl Destination {
    /// For a copy that takes the place of whatever is at `path`.
    fn replaced(path: PathBuf, in_slash: bool, user: Option<&User>) -> io::Result<Destination> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            let message = format!("`{}` cannot be replaced", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        };
        make_parents(parent, user)?;
        Ok(Destination {
            parent: open_directory(parent).map_err(|error| failed("open", parent, error.into()))?,
            name: name.to_owned(),
            only_directory: in_slash,
            shown: path,
        })
    }
}

fn open_directory(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

/// Creates what is missing of `path`, for the one who gets the copy.
fn make_parents(path: &Path, user: Option<&User>) -> io::Result<()> {
    let mut missing: Vec<&Path> = path.ancestors().take_while(|path| !path.exists()).collect();
    while let Some(path) = missing.pop() {
        let made = match std::fs::create_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            made => made,
        };
        made.and_then(|()| match user {
            Some(user) => std::os::unix::fs::lchown(path, Some(user.uid), Some(user.gid)),
            None => Ok(()),
        })
        .map_err(|error| failed("create", path, error))?;
    }
    Ok(())
}

fn missing(path: &Path) -> io::Error {
    let message = format!("`{}` does not exist", path.display());
    io::Error::new(io::ErrorKind::NotFound, message)
}

fn failed(act: &str, path: &Path, error: io::Error) -> io::Error {
    let message = format!("cannot {act} `{}`: {error}", path.display());
    io::Error::new(error.kind(), message)
}

/// The archive in the frames from the host.
struct Incoming<'a> {
    host: &'a Socket,
    /// Of the current frame.
    left: usize,
    ended: bool,
}

impl Incoming<'_> {
    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match rustix::io::read(self.host, &mut *buffer) {
                Ok(0) => {
                    let why = "the connection ended before the copy did";
                    return Err(io::Error::new(io::ErrorKind::ConnectionAborted, why));
                }
                Ok(count) => return Ok(count),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn next_frame(&mut self) -> io::Result<()> {
        let mut head = [0; HEADER];
        let mut have = 0;
        while have < HEADER {
            have += self.receive(&mut head[have..])?;
        }
        match frame::parse_header(head)? {
            (Kind::Stdin, 0) => self.ended = true,
            (Kind::Stdin, length) => self.left = length,
            (kind, _) => {
                let message = format!("the host sent {kind:?} into a copy");
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
        }
        Ok(())
    }
}

impl Read for Incoming<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 && !self.ended {
            self.next_frame()?;
        }
        if self.ended || buffer.is_empty() {
            return Ok(0);
        }
        let most = self.left.min(buffer.len());
        let count = self.receive(&mut buffer[..most])?;
        self.left -= count;
        Ok(count)
    }
}

/// The archive on its way to the host, in frames.
struct Outgoing<'a> {
    host: &'a mut Socket,
    frame: Vec<u8>,
    broken: bool,
}

impl Outgoing<'_> {
    fn frame(&mut self, payload: &[u8]) -> io::Result<()> {
        self.frame.clear();
        let head = frame::header(Kind::Stdout, payload.len());
        self.frame.extend_from_slice(&head);
        self.frame.extend_from_slice(payload);
        let sent = self.host.write_all(&self.frame);
        self.broken |= sent.is_err();
        sent
    }
}

impl Write for Outgoing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = &bytes[..bytes.len().min(MAX_PAYLOAD)];
        // An empty frame would be the end.
        if !piece.is_empty() {
            self.frame(piece)?;
        }
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
