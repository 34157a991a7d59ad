//! Writing a file or tree as an archive while others may be changing it.
//!
//! A small file is read whole before it is described, so it is as it was at one moment. Of a
//! larger one as many bytes are copied as it had when it was opened; should it become shorter
//! meanwhile, the copy fails and says so, rather than make up the rest. What disappears between
//! being listed and being read is not part of the copy.

use std::collections::HashMap;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::header::{self, Attributes, BLOCK, Header, Records};
use super::{BUFFER, Copied, MAX_DEPTH, MAX_NAME, at, shown, sparse};
use crate::COPY_ROOT;

/// Files with several names that are remembered; those after them are copied once per name.
const MAX_LINKS: usize = 1 << 17;
/// All extended attributes of one file, names included, in bytes.
const MAX_ATTRIBUTES: usize = 256 << 10;
/// File systems that hold no files of anybody's: what is in them is made up as it is read.
const PSEUDO: [i64; 11] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0x6265_6570, // configfs
    0xcafe_4a11, // bpf
    0x6165_676c, // pstore
    0x1cd1,      // devpts
];

/// Writes the file or tree at `path` as an archive whose top entry is called
/// [`COPY_ROOT`]. Symbolic links are written as links, except `path` itself,
/// unless it leads nowhere. Sockets, devices and file systems such as /proc are left out.
///
/// # Errors
/// Those of `writer`, unchanged. Those of files, with a message that names the file: `NotFound`
/// when there is nothing at `path`, `InvalidInput` when it can not be copied.
pub fn archive_out(path: &Path, writer: impl Write) -> io::Result<Copied> {
    let mut packer = Packer {
        writer: BufWriter::with_capacity(BUFFER, writer),
        top: path,
        links: HashMap::new(),
        buffer: vec![0; BUFFER].into_boxed_slice(),
        copied: Copied::default(),
    };
    packer.tree()?;
    packer.writer.write_all(&[0; 2 * BLOCK])?;
    packer.writer.flush()?;
    Ok(packer.copied)
}

struct Packer<'a, W: Write> {
    writer: BufWriter<W>,
    top: &'a Path,
    /// Where files with several names are in the archive.
    links: HashMap<(u64, u64), Vec<u8>>,
    buffer: Box<[u8]>,
    copied: Copied,
}

/// A directory that is being written: what is still to come of it.
struct Level {
    /// The directory's name in the archive.
    path: Vec<u8>,
    device: u64,
    names: std::vec::IntoIter<CString>,
}

impl<W: Write> Packer<'_, W> {
    /// Walks without recursion, and with two descriptors however deep the tree is.
    fn tree(&mut self) -> io::Result<()> {
        let root = COPY_ROOT.as_bytes();
        let Some((top, level)) = self.top()? else {
            return Ok(());
        };
        let mut here = top
            .try_clone()
            .map_err(|error| self.at("open", root, error))?;
        let mut levels = vec![level];
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.names.next() else {
                levels.pop();
                if let Some(parent) = levels.last() {
                    here = self.reopen(&top, &parent.path)?;
                }
                continue;
            };
            let path = [level.path.as_slice(), b"/", name.as_bytes()].concat();
            let device = level.device;
            if let Some((directory, level)) = self.entry(&here, &name, path, device)? {
                here = directory;
                levels.push(level);
            }
        }
        Ok(())
    }

    fn top(&mut self) -> io::Result<Option<(OwnedFd, Level)>> {
        let root = COPY_ROOT.as_bytes();
        // What was named is meant, wherever it is; a link to nothing is copied as it is.
        let named = match self.top.canonicalize() {
            Ok(real) if self.top.is_symlink() => real,
            _ => self.top.to_owned(),
        };
        let name = CString::new(named.as_os_str().as_bytes())
            .map_err(|error| self.at("find", root, error))?;
        let stat = match rustix::fs::statat(CWD, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => {
                let message = format!("`{}` does not exist", self.shown(root));
                return Err(io::Error::new(io::ErrorKind::NotFound, message));
            }
            Err(error) => return Err(self.at("find", root, error)),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if !matches!(
            kind,
            FileType::Directory | FileType::RegularFile | FileType::Symlink
        ) {
            let message = format!("`{}` is neither a file nor a directory", self.shown(root));
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        self.entry(&CWD, &name, root.to_vec(), stat.st_dev)
    }

    /// Writes one entry; gives back a directory that is to be entered.
    fn entry(
        &mut self,
        parent: &impl AsFd,
        name: &CString,
        path: Vec<u8>,
        device: u64,
    ) -> io::Result<Option<(OwnedFd, Level)>> {
        let depth = path.iter().filter(|byte| **byte == b'/').count();
        if path.len() > MAX_NAME || depth >= MAX_DEPTH {
            let message = format!("`{}` is too deep to be copied", self.shown(&path));
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(self.at("read", &path, error)),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => return self.directory(parent, name, path, device),
            FileType::RegularFile => self.file(parent, name, &path)?,
            FileType::Symlink => {
                let target = match rustix::fs::readlinkat(parent, name, Vec::new()) {
                    Ok(target) => target,
                    Err(Errno::NOENT | Errno::INVAL) => return Ok(None),
                    Err(error) => return Err(self.at("read", &path, error)),
                };
                let header = Header {
                    path: &path,
                    link: target.as_bytes(),
                    kind: header::SYMLINK,
                    size: 0,
                    attributes: attributes(&stat),
                };
                self.describe(&header, Records::default())?;
            }
            _ => self.copied.left_out += 1,
        }
        Ok(None)
    }

    /// Opens without following a link, without waiting for the other end of a pipe. `None` when
    /// it is no longer there, or something else by now.
    fn open(
        &self,
        parent: &impl AsFd,
        name: &CString,
        path: &[u8],
        kind: FileType,
    ) -> io::Result<Option<(OwnedFd, Stat)>> {
        let mut flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        if kind == FileType::Directory {
            flags |= OFlags::DIRECTORY;
        }
        let fd = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::NXIO) => return Ok(None),
            Err(error) => return Err(self.at("open", path, error)),
        };
        let stat = rustix::fs::fstat(&fd).map_err(|error| self.at("read", path, error))?;
        let same = FileType::from_raw_mode(stat.st_mode) == kind;
        Ok(same.then_some((fd, stat)))
    }

    fn directory(
        &mut self,
        parent: &impl AsFd,
        name: &CString,
        path: Vec<u8>,
        device: u64,
    ) -> io::Result<Option<(OwnedFd, Level)>> {
        let Some((fd, stat)) = self.open(parent, name, &path, FileType::Directory)? else {
            return Ok(None);
        };
        if stat.st_dev != device && is_pseudo(&fd) {
            self.copied.left_out += 1;
            return Ok(None);
        }
        let mut names = Vec::new();
        let entries = Dir::read_from(&fd).map_err(|error| self.at("read", &path, error))?;
        for entry in entries {
            let entry = entry.map_err(|error| self.at("read", &path, error))?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(entry.file_name().to_owned());
            }
        }
        names.sort_unstable();
        let header = Header {
            path: &path,
            link: b"",
            kind: header::DIRECTORY,
            size: 0,
            attributes: attributes(&stat),
        };
        let mut records = Records::default();
        self.extended(&fd, &path, &mut records)?;
        self.describe(&header, records)?;
        let level = Level {
            path,
            device: stat.st_dev,
            names: names.into_iter(),
        };
        Ok(Some((fd, level)))
    }

    /// A directory on the way back up.
    fn reopen(&self, top: &OwnedFd, path: &[u8]) -> io::Result<OwnedFd> {
        let below = path.get(COPY_ROOT.len() + 1..).unwrap_or(b".");
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        rustix::fs::openat2(top, OsStr::from_bytes(below), flags, Mode::empty(), resolve)
            .map_err(|error| self.at("return to", path, error))
    }

    fn file(&mut self, parent: &impl AsFd, name: &CString, path: &[u8]) -> io::Result<()> {
        let Some((fd, stat)) = self.open(parent, name, path, FileType::RegularFile)? else {
            return Ok(());
        };
        if self.is_linked(path, &stat)? {
            return Ok(());
        }
        let mut records = Records::default();
        self.extended(&fd, path, &mut records)?;
        let mut file = File::from(fd);
        let header = Header {
            path,
            link: b"",
            kind: header::FILE,
            size: stat.st_size.unsigned_abs(),
            attributes: attributes(&stat),
        };
        let stored = stat.st_blocks.unsigned_abs().saturating_mul(512);
        if header.size > BUFFER as u64
            && stored < header.size
            && let Some(pieces) = sparse::pieces(&file, header.size)
        {
            return self.sparse_file(&mut file, header, records, &pieces);
        }
        let head = self.read_head(&mut file, path)?;
        let size = if head < self.buffer.len() {
            // Also the truth about files in /proc and /sys, which lie about their size.
            head as u64
        } else if header.size < head as u64 && !self.has_grown(&file, path)? {
            let message = format!("cannot read `{}`: its size is not known", self.shown(path));
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        } else {
            header.size.max(head as u64)
        };
        self.describe(&Header { size, ..header }, records)?;
        self.writer.write_all(&self.buffer[..head])?;
        self.bytes(&mut file, path, size - head as u64)?;
        self.pad(size)?;
        self.copied.bytes = self.copied.bytes.saturating_add(size);
        Ok(())
    }

    /// Fills the buffer from the beginning of the file.
    fn read_head(&mut self, file: &mut File, path: &[u8]) -> io::Result<usize> {
        let mut have = 0;
        while have < self.buffer.len() {
            match file.read(&mut self.buffer[have..]) {
                Ok(0) => break,
                Ok(count) => have += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.at("read", path, error)),
            }
        }
        Ok(have)
    }

    /// Whether the file has as many bytes by now as were read of it.
    fn has_grown(&self, file: &File, path: &[u8]) -> io::Result<bool> {
        let stat = rustix::fs::fstat(file).map_err(|error| self.at("read", path, error))?;
        Ok(stat.st_size.unsigned_abs() >= self.buffer.len() as u64)
    }

    fn sparse_file(
        &mut self,
        file: &mut File,
        header: Header<'_>,
        mut records: Records,
        pieces: &[sparse::Piece],
    ) -> io::Result<()> {
        let real = header.size;
        let map = sparse::encode(pieces, real);
        let size = map.len() as u64 + pieces.iter().map(|piece| piece.length).sum::<u64>();
        records.add(header::KEY_SPARSE_MAJOR, b"1");
        records.add(header::KEY_SPARSE_MINOR, b"0");
        records.add(header::KEY_SPARSE_NAME, header.path);
        records.add(header::KEY_SPARSE_SIZE, real.to_string().as_bytes());
        self.describe(&Header { size, ..header }, records)?;
        self.writer.write_all(&map)?;
        for piece in pieces {
            file.seek(SeekFrom::Start(piece.offset))
                .map_err(|error| self.at("read", header.path, error))?;
            self.bytes(file, header.path, piece.length)?;
        }
        self.pad(size)?;
        self.copied.bytes = self.copied.bytes.saturating_add(real);
        Ok(())
    }

    /// Copies exactly this many bytes.
    fn bytes(&mut self, file: &mut File, path: &[u8], mut left: u64) -> io::Result<()> {
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX);
            let most = most.min(self.buffer.len());
            match file.read(&mut self.buffer[..most]) {
                Ok(0) => {
                    let message = format!(
                        "cannot read `{}`: it became shorter while it was copied",
                        self.shown(path)
                    );
                    return Err(io::Error::other(message));
                }
                Ok(count) => {
                    self.writer.write_all(&self.buffer[..count])?;
                    left -= count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.at("read", path, error)),
            }
        }
        Ok(())
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let padding = size.wrapping_neg() % BLOCK as u64;
        self.writer.write_all(&[0; BLOCK][..padding as usize])
    }

    /// Writes a further name of a file that is in the archive already.
    fn is_linked(&mut self, path: &[u8], stat: &Stat) -> io::Result<bool> {
        if stat.st_nlink < 2 {
            return Ok(false);
        }
        let inode = (stat.st_dev, stat.st_ino);
        let Some(first) = self.links.get(&inode).cloned() else {
            if self.links.len() < MAX_LINKS {
                self.links.insert(inode, path.to_vec());
            }
            return Ok(false);
        };
        let header = Header {
            path,
            link: &first,
            kind: header::HARD_LINK,
            size: 0,
            attributes: attributes(stat),
        };
        self.describe(&header, Records::default())?;
        Ok(true)
    }

    fn describe(&mut self, header: &Header<'_>, records: Records) -> io::Result<()> {
        let blocks =
            header::encode(header, records).map_err(|error| self.at("copy", header.path, error))?;
        self.writer.write_all(&blocks)?;
        self.copied.entries += 1;
        Ok(())
    }

    /// Reads the attributes anybody may set; the system's own belong to the other system.
    fn extended(&self, fd: &OwnedFd, path: &[u8], records: &mut Records) -> io::Result<()> {
        let fail = |error| self.at("read the attributes of", path, error);
        let length = match rustix::fs::flistxattr_query(fd) {
            Ok(0) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(()),
            Ok(length) => length,
            Err(error) => return Err(fail(error)),
        };
        let mut names = vec![0; length];
        let length = rustix::fs::flistxattr(fd, names.as_mut_slice()).map_err(fail)?;
        let mut value = Vec::new();
        for name in names[..length].split(|byte| *byte == 0) {
            if !name.starts_with(b"user.") || name.contains(&b'=') {
                continue;
            }
            value.resize(MAX_ATTRIBUTES, 0);
            match rustix::fs::fgetxattr(fd, OsStr::from_bytes(name), value.as_mut_slice()) {
                Ok(length) => {
                    let key = [header::KEY_ATTRIBUTE, name].concat();
                    records.add(&key, &value[..length]);
                }
                Err(Errno::NODATA) => {}
                Err(error) => return Err(fail(error)),
            }
        }
        Ok(())
    }

    /// The path a person knows the entry by.
    fn known(&self, path: &[u8]) -> Vec<u8> {
        let top = self.top.as_os_str().as_bytes();
        let below = path.get(COPY_ROOT.len()..).unwrap_or_default();
        match top.strip_suffix(b"/") {
            Some(top) if !below.is_empty() => [top, below].concat(),
            _ => [top, below].concat(),
        }
    }

    fn shown(&self, path: &[u8]) -> String {
        shown(&self.known(path))
    }

    fn at(&self, act: &str, path: &[u8], error: impl Into<io::Error>) -> io::Error {
        at(act, &self.known(path), error)
    }
}

fn attributes(stat: &Stat) -> Attributes {
    Attributes {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        modified: (
            stat.st_mtime,
            u32::try_from(stat.st_mtime_nsec).unwrap_or_default(),
        ),
    }
}

fn is_pseudo(directory: &OwnedFd) -> bool {
    rustix::fs::fstatfs(directory).is_ok_and(|stat| PSEUDO.contains(&stat.f_type))
}
