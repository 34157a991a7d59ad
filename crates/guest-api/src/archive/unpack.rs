//! Making a file or tree out of an archive that nobody vouches for.
//!
//! Everything is opened beneath one directory with a resolution that leaves it neither upwards
//! nor through a link. A file is written under a temporary name in its directory and renamed
//! when it is whole, so an existing file is replaced and never written through, whatever else
//! it is linked to.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::header::Attributes;
use super::place::{Place, Temporary, known};
use super::read::{Body, Entries, Entry};
use super::{BUFFER, Copied, at, invalid, shown, sparse};
use crate::COPY_ROOT;

const SPECIAL_BITS: u32 = 0o6000;

/// Who owns what is unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Owner {
    /// Whoever unpacks. Set-uid and set-gid bits are dropped.
    #[default]
    Caller,
    /// This user and group. Set-uid and set-gid bits are dropped: they were meant for others.
    Given(u32, u32),
    /// The numbers in the archive, set-uid and set-gid bits included.
    Archive,
}

/// Where and how to unpack.
#[derive(Clone, Copy, Debug)]
pub struct Unpack<'a> {
    /// The directory that receives the copy.
    pub parent: BorrowedFd<'a>,
    /// What the copy will be called in it, one name; `.` to merge into `parent` itself.
    pub name: &'a OsStr,
    /// The copy's whole path as messages show it.
    pub shown: &'a Path,
    /// Who owns it.
    pub owner: Owner,
    /// Refuses an archive of a single file: a directory was asked for.
    pub only_directory: bool,
}

/// Unpacks the archive that `reader` holds up to its end; its top entry must be called
/// [`COPY_ROOT`].
///
/// An existing file is replaced whole; a directory merges into one that is there, which keeps
/// its own mode, owner and time; a file never replaces a directory, nor a directory a file. What
/// was unpacked before an error stays, and is whole.
///
/// # Errors
/// Those of `reader`, unchanged; `UnexpectedEof` when the archive is cut short; `InvalidData`
/// when it is none or tries to be where it must not; those of files with a message that names
/// the file, `StorageFull` or `QuotaExceeded` when a disk is full.
pub fn unpack(reader: impl Read, to: &Unpack<'_>) -> io::Result<Copied> {
    let name = to.name.as_bytes();
    if matches!(name, b"" | b"..") || name.contains(&b'/') || name.contains(&0) {
        let message = format!("`{}` cannot be the name of a copy", shown(name));
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let mut unpacker = Unpacker {
        to,
        entries: Entries::new(BufReader::with_capacity(BUFFER, reader)),
        open: None,
        unfinished: Vec::new(),
        buffer: vec![0; BUFFER].into_boxed_slice(),
        temporary: 0,
        copied: Copied::default(),
    };
    while let Some(entry) = unpacker.entries.next_entry()? {
        unpacker.entry(entry)?;
    }
    unpacker.finish_directories(b"")?;
    if unpacker.copied == Copied::default() {
        return Err(invalid("the archive is empty"));
    }
    Ok(unpacker.copied)
}

struct Unpacker<'a, R: Read> {
    to: &'a Unpack<'a>,
    entries: Entries<BufReader<R>>,
    /// The directory of the last entry, open: its path below `parent`.
    open: Option<(Vec<u8>, Rc<OwnedFd>)>,
    /// New directories that may still get entries, each below the one before it.
    unfinished: Vec<(Vec<u8>, Attributes)>,
    buffer: Box<[u8]>,
    /// Counts temporary names.
    temporary: u64,
    copied: Copied,
}

impl<R: Read> Unpacker<'_, R> {
    fn entry(&mut self, entry: Entry) -> io::Result<()> {
        let path = self.place(&entry.path)?;
        if self.copied.entries == 0 && path.len() > self.to.name.len() {
            return Err(invalid("the archive does not begin with its top"));
        }
        self.finish_directories(&path)?;
        let (parent, name) = self.parent(&path)?;
        let place = Place {
            parent,
            name: OsStr::from_bytes(&name),
            path: &path,
            shown: self.to.shown,
            top: self.to.name.len(),
        };
        self.copied.entries += 1;
        match &entry.body {
            Body::Directory => self.directory(&place, &entry)?,
            _ if path == self.to.name.as_bytes() && self.to.only_directory => {
                let message = format!("there is no directory `{}`", place.known());
                return Err(io::Error::new(io::ErrorKind::NotFound, message));
            }
            Body::File { sparse } => self.file(&place, &entry, *sparse)?,
            Body::Symlink(target) => self.symlink(&place, &entry, target)?,
            Body::HardLink(target) => self.hard_link(&place, target)?,
            Body::Special => {
                self.copied.entries -= 1;
                self.copied.left_out += 1;
            }
        }
        Ok(())
    }

    /// Where an entry goes, from `parent`.
    fn place(&self, path: &[u8]) -> io::Result<Vec<u8>> {
        let below = path.strip_prefix(COPY_ROOT.as_bytes());
        let below = below.filter(|below| below.is_empty() || below[0] == b'/');
        let below = below.ok_or_else(|| {
            invalid(format!(
                "the archive holds `{}`, which is not part of it",
                shown(path)
            ))
        })?;
        Ok([self.to.name.as_bytes(), below].concat())
    }

    /// The open directory that `path` is in, and its name there.
    fn parent(&mut self, path: &[u8]) -> io::Result<(Rc<OwnedFd>, Vec<u8>)> {
        let Some(slash) = path.iter().rposition(|byte| *byte == b'/') else {
            let parent = self.to.parent.try_clone_to_owned()?;
            return Ok((Rc::new(parent), path.to_vec()));
        };
        let (directory, name) = (&path[..slash], path[slash + 1..].to_vec());
        let parent = match &self.open {
            Some((path, parent)) if path == directory => Rc::clone(parent),
            _ => Rc::new(self.beneath(directory)?),
        };
        self.open = Some((directory.to_vec(), Rc::clone(&parent)));
        Ok((parent, name))
    }

    fn beneath(&self, path: &[u8]) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let name = OsStr::from_bytes(path);
        rustix::fs::openat2(self.to.parent, name, flags, Mode::empty(), resolve).map_err(|error| {
            match error {
                Errno::LOOP => {
                    let path = known(self.to.shown, path, self.to.name.len());
                    let message = format!(
                        "`{}` is not below the copy: a link is on the way",
                        shown(&path)
                    );
                    io::Error::other(message)
                }
                error => self.at("write into", path, error),
            }
        })
    }

    fn directory(&mut self, place: &Place<'_>, entry: &Entry) -> io::Result<()> {
        let fail = |error: Errno| place.at("create the directory", error);
        // Ours alone, and writable, until it is finished.
        match rustix::fs::mkdirat(&place.parent, place.name, Mode::from(0o700)) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                return match rustix::fs::openat(&place.parent, place.name, flags, Mode::empty()) {
                    Ok(_) => Ok(()),
                    Err(Errno::NOTDIR | Errno::LOOP) => {
                        let message = format!("`{}` exists and is not a directory", place.known());
                        Err(io::Error::new(io::ErrorKind::NotADirectory, message))
                    }
                    Err(error) => Err(fail(error)),
                };
            }
            Err(error) => return Err(fail(error)),
        }
        if !entry.extended.is_empty() {
            let directory = self.beneath(place.path)?;
            extended(&directory, entry, place)?;
        }
        self.unfinished
            .push((place.path.to_vec(), entry.attributes));
        Ok(())
    }

    /// Gives directories that get no more entries their modes and times: all but those `path`
    /// is in.
    fn finish_directories(&mut self, path: &[u8]) -> io::Result<()> {
        while let Some((last, attributes)) = self.unfinished.last() {
            if path
                .strip_prefix(last.as_slice())
                .is_some_and(|rest| rest.starts_with(b"/"))
            {
                break;
            }
            let directory = self.beneath(last)?;
            let result = self.own(&directory, attributes);
            let result = result.and_then(|()| rustix::fs::futimens(&directory, &times(attributes)));
            result.map_err(|error| self.at("finish", last, error))?;
            self.unfinished.pop();
        }
        Ok(())
    }

    fn own(&self, fd: &impl AsFd, attributes: &Attributes) -> rustix::io::Result<()> {
        let mut mode = attributes.mode;
        let owner = match self.to.owner {
            Owner::Caller => None,
            Owner::Given(uid, gid) => Some((uid, gid)),
            Owner::Archive => Some((attributes.uid, attributes.gid)),
        };
        if let Some((uid, gid)) = owner {
            // Before the mode, whose special bits a new owner would clear.
            rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        if self.to.owner != Owner::Archive {
            mode &= !SPECIAL_BITS;
        }
        rustix::fs::fchmod(fd, Mode::from(mode))
    }

    fn file(&mut self, place: &Place<'_>, entry: &Entry, sparse: Option<u64>) -> io::Result<()> {
        let temporary = self.temporary();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&place.parent, temporary.as_str(), flags, Mode::from(0o600));
        let file = file.map_err(|error| place.at("create", error))?;
        let temporary = Temporary::new(&place.parent, temporary);
        let mut file = File::from(file);
        let size = match sparse {
            None => {
                let size = self.entries.left();
                self.bytes(&mut file, place, size)?;
                size
            }
            Some(size) => self.pieces(&mut file, place, size)?,
        };
        extended(&file, entry, place)?;
        self.own(&file, &entry.attributes)
            .and_then(|()| rustix::fs::futimens(&file, &times(&entry.attributes)))
            .map_err(|error| place.at("finish", error))?;
        self.copied.bytes = self.copied.bytes.saturating_add(size);
        temporary.publish(place)
    }

    fn bytes(&mut self, file: &mut File, place: &Place<'_>, mut left: u64) -> io::Result<()> {
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX);
            let most = most.min(self.buffer.len());
            let count = match self.entries.read(&mut self.buffer[..most]) {
                // The data ends before the piece does.
                Ok(0) => return Err(invalid("the archive holds less of a file than it says")),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            file.write_all(&self.buffer[..count])
                .map_err(|error| place.at("write", error))?;
            left -= count as u64;
        }
        Ok(())
    }

    fn pieces(&mut self, file: &mut File, place: &Place<'_>, size: u64) -> io::Result<u64> {
        let fail = |error: io::Error| place.at("write", error);
        let (pieces, _) = sparse::decode(&mut self.entries, size)?;
        // One that says more than a file can hold fails here.
        file.set_len(size).map_err(fail)?;
        for piece in pieces {
            file.seek(SeekFrom::Start(piece.offset)).map_err(fail)?;
            self.bytes(file, place, piece.length)?;
        }
        if self.entries.left() != 0 {
            return Err(invalid("the archive holds more of a file than it says"));
        }
        Ok(size)
    }

    fn symlink(&mut self, place: &Place<'_>, entry: &Entry, target: &[u8]) -> io::Result<()> {
        let temporary = self.temporary();
        let fail = |error: Errno| place.at("create the link", error);
        rustix::fs::symlinkat(OsStr::from_bytes(target), &place.parent, temporary.as_str())
            .map_err(fail)?;
        let temporary = Temporary::new(&place.parent, temporary);
        let owner = match self.to.owner {
            Owner::Caller => None,
            Owner::Given(uid, gid) => Some((uid, gid)),
            Owner::Archive => Some((entry.attributes.uid, entry.attributes.gid)),
        };
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        if let Some((uid, gid)) = owner {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            let name = temporary.name();
            rustix::fs::chownat(&place.parent, name, Some(uid), Some(gid), nofollow)
                .map_err(fail)?;
        }
        let times = times(&entry.attributes);
        rustix::fs::utimensat(&place.parent, temporary.name(), &times, nofollow).map_err(fail)?;
        temporary.publish(place)
    }

    /// Only to a regular file of the copy. Made under a temporary name, because the name may be
    /// taken already.
    fn hard_link(&mut self, place: &Place<'_>, target: &[u8]) -> io::Result<()> {
        let target = self.place(target)?;
        if target.len() <= self.to.name.len() || target == place.path {
            return Err(invalid("the archive holds a hard link to nothing"));
        }
        let slash = target.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        let directory = self.beneath(&target[..slash])?;
        let name = OsStr::from_bytes(&target[slash + 1..]);
        let fail = |error: Errno| place.at("create the link", error);
        let stat = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW).map_err(fail)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(invalid(format!(
                "the archive holds a hard link to `{}`, which is no file",
                shown(&target)
            )));
        }
        let temporary = self.temporary();
        rustix::fs::linkat(
            &directory,
            name,
            &place.parent,
            temporary.as_str(),
            AtFlags::empty(),
        )
        .map_err(fail)?;
        let temporary = Temporary::new(&place.parent, temporary);
        temporary.publish_link(place)
    }

    /// A name nothing has by chance; a file that has it all the same makes the copy fail.
    fn temporary(&mut self) -> String {
        self.temporary += 1;
        let clock = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        format!(
            ".banger-{:x}-{:x}-{:x}",
            std::process::id(),
            clock.as_nanos(),
            self.temporary
        )
    }

    fn at(&self, act: &str, path: &[u8], error: impl Into<io::Error>) -> io::Error {
        at(act, &known(self.to.shown, path, self.to.name.len()), error)
    }
}

/// Sets what anybody may set, and only that: the rest gives rights.
fn extended(fd: &impl AsFd, entry: &Entry, place: &Place<'_>) -> io::Result<()> {
    for (name, value) in &entry.extended {
        if !name.starts_with(b"user.") || name.contains(&0) {
            continue;
        }
        let name = OsStr::from_bytes(name);
        match rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()) {
            // Not every file system has them.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
            Err(error) => return Err(place.at("set the attributes of", error)),
        }
    }
    Ok(())
}

fn times(attributes: &Attributes) -> Timestamps {
    let modified = Timespec {
        tv_sec: attributes.modified.0,
        tv_nsec: attributes.modified.1.into(),
    };
    Timestamps {
        last_access: modified,
        last_modification: modified,
    }
}
