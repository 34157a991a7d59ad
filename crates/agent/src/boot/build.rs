//! The other use of a guest: not to become a VM, but to write the files of one to a new disk.
//!
//! The root file system is mounted as for a VM, from copies of its disks, and everything in it
//! goes to the new disk with its owner, mode, times, attributes, links and devices. What makes
//! it that one VM, its identity, is left out. Then the guest ends.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, unmount};

use super::root;
use crate::failure::{Result, Step};

const TARGET: &str = "/mnt/target";
/// Deeper trees are refused: each level holds two descriptors.
const MAX_DEPTH: usize = 400;
/// The most that a list or a value of extended attributes can have.
const XATTR_MAX: usize = 64 << 10;

/// What the agent writes at boot and systems make for themselves; the next VM gets its own.
const IDENTITY: [&str; 6] = [
    "etc/hostname",
    "etc/machine-id",
    "var/lib/dbus/machine-id",
    "var/lib/systemd/random-seed",
    "var/lib/systemd/credential.secret",
    "etc/ssh",
];

/// Fills the empty ext4 on `device` with the root file system that is mounted.
pub(super) fn run(device: &str) -> Result<()> {
    root::mount_ext4(device, TARGET, MountFlags::NOATIME).step("mount the new disk")?;
    let open = |path: &str| open_directory(CWD, path);
    let from = open(root::ROOT).step("open the root")?;
    let to = open(TARGET).step("open the new disk")?;
    let mut copier = Copier::default();
    copier
        .directory(&from, &to, 0)
        .step("copy the root to the new disk")?;
    for (name, path) in root::VOLUMES {
        let volume = format!("{}/volumes/{name}", root::WRITABLE);
        let target = format!("{TARGET}{path}");
        // Where the image has content of its own the VM never saw the volume.
        if Path::new(&volume).is_dir() && is_empty(&target) {
            let from = open(&volume).step("open a volume")?;
            let to = open(&target).step("open a volume's place")?;
            copier.directory(&from, &to, 0).step("copy a volume")?;
        }
    }
    forget_identity().step("leave the identity out")?;
    rustix::fs::syncfs(&to).step("write the new disk")?;
    drop((from, to));
    unmount(TARGET, UnmountFlags::empty()).step("unmount the new disk")
}

fn is_empty(path: &str) -> bool {
    fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

fn forget_identity() -> io::Result<()> {
    for name in IDENTITY {
        let path = Path::new(TARGET).join(name);
        let Ok(found) = fs::symlink_metadata(&path) else {
            continue;
        };
        if name == "etc/ssh" && found.is_dir() {
            for entry in fs::read_dir(&path)? {
                let entry = entry?;
                let is_key = entry.file_name().to_string_lossy().starts_with("ssh_host_");
                if is_key && !entry.file_type()?.is_dir() {
                    fs::remove_file(entry.path())?;
                }
            }
        } else if name == "etc/machine-id" && found.is_file() {
            // Empty means that the next boot makes one; absent would mean a first boot.
            File::create(&path)?;
        } else if found.is_file() {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

#[derive(Default)]
struct Copier {
    /// Where the first name of each file with several is.
    links: HashMap<(u64, u64), (OwnedFd, CString)>,
    buffer: Vec<u8>,
}

impl Copier {
    fn directory(&mut self, from: &OwnedFd, to: &OwnedFd, depth: usize) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(io::Error::other(format!(
                "more than {MAX_DEPTH} directories deep"
            )));
        }
        for entry in Dir::read_from(from)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") || (depth == 0 && name == c"lost+found") {
                continue;
            }
            self.entry(from, to, name, depth)
                .map_err(|error| at(name, error))?;
        }
        let stat = rustix::fs::fstat(from)?;
        self.attributes(&itself(from), &itself(to))?;
        rustix::fs::fchown(to, Some(owner(&stat)), Some(group(&stat)))?;
        rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode))?;
        Ok(rustix::fs::futimens(to, &times(&stat))?)
    }

    fn entry(&mut self, from: &OwnedFd, to: &OwnedFd, name: &CStr, depth: usize) -> io::Result<()> {
        let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            match rustix::fs::mkdirat(to, name, Mode::from(0o700)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            let (from, to) = (open_directory(from, name)?, open_directory(to, name)?);
            return self.directory(&from, &to, depth + 1);
        }
        let several = stat.st_nlink > 1;
        if several && let Some((first, path)) = self.links.get(&(stat.st_dev, stat.st_ino)) {
            return Ok(rustix::fs::linkat(first, path, to, name, AtFlags::empty())?);
        }
        match kind {
            FileType::RegularFile => copy_file(from, to, name)?,
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(from, name, Vec::new())?;
                rustix::fs::symlinkat(target, to, name)?;
            }
            // Nobody listens on a socket of a system that does not run.
            FileType::Socket => return Ok(()),
            kind => rustix::fs::mknodat(to, name, kind, Mode::from(0o600), stat.st_rdev)?,
        }
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(to, name, Some(owner(&stat)), Some(group(&stat)), nofollow)?;
        if kind != FileType::Symlink {
            // After the owner, for a change of that takes set-user-id away.
            rustix::fs::chmodat(
                to,
                name,
                Mode::from_raw_mode(stat.st_mode),
                AtFlags::empty(),
            )?;
        }
        self.attributes(&within(from, name)?, &within(to, name)?)?;
        rustix::fs::utimensat(to, name, &times(&stat), nofollow)?;
        if several {
            let place = (to.try_clone()?, name.to_owned());
            self.links.insert((stat.st_dev, stat.st_ino), place);
        }
        Ok(())
    }

    /// Copies extended attributes, access lists and capabilities among them. Paths lead through
    /// descriptors; a symbolic link at their end is not followed.
    fn attributes(&mut self, from: &CStr, to: &CStr) -> io::Result<()> {
        self.buffer.resize(XATTR_MAX, 0);
        let mut names = vec![0; XATTR_MAX];
        let length = match rustix::fs::llistxattr(from, &mut names) {
            Ok(length) => length,
            Err(Errno::NOTSUP) => 0,
            Err(error) => return Err(error.into()),
        };
        for name in names[..length].split_inclusive(|byte| *byte == 0) {
            let Ok(name) = CStr::from_bytes_with_nul(name) else {
                continue;
            };
            let length = match rustix::fs::lgetxattr(from, name, &mut self.buffer) {
                Ok(length) => length,
                Err(Errno::NODATA) => continue,
                Err(error) => return Err(error.into()),
            };
            rustix::fs::lsetxattr(to, name, &self.buffer[..length], XattrFlags::empty())?;
        }
        Ok(())
    }
}

/// Copies the content without its holes.
fn copy_file(from: &OwnedFd, to: &OwnedFd, name: &CStr) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut from = File::from(rustix::fs::openat(from, name, flags, Mode::empty())?);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mut to = File::from(rustix::fs::openat(to, name, flags, Mode::from(0o600))?);
    let length = from.metadata()?.len();
    to.set_len(length)?;
    let mut position = 0;
    while position < length {
        let start = match rustix::fs::seek(&from, rustix::fs::SeekFrom::Data(position)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(&from, rustix::fs::SeekFrom::Hole(start))?;
        from.seek(SeekFrom::Start(start))?;
        to.seek(SeekFrom::Start(start))?;
        io::copy(&mut io::Read::take(&mut from, end - start), &mut to)?;
        position = end;
    }
    Ok(())
}

fn open_directory(
    parent: impl std::os::fd::AsFd,
    path: impl rustix::path::Arg,
) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, path, flags, Mode::empty())?)
}

fn itself(directory: &OwnedFd) -> CString {
    CString::new(format!("/proc/self/fd/{}/.", directory.as_raw_fd())).unwrap_or_default()
}

fn within(directory: &OwnedFd, name: &CStr) -> io::Result<CString> {
    let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    Ok(CString::new(path)?)
}

fn owner(stat: &Stat) -> Uid {
    Uid::from_raw(stat.st_uid)
}

fn group(stat: &Stat) -> Gid {
    Gid::from_raw(stat.st_gid)
}

fn times(stat: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: stat.st_atime,
            tv_nsec: stat.st_atime_nsec as _,
        },
        last_modification: Timespec {
            tv_sec: stat.st_mtime,
            tv_nsec: stat.st_mtime_nsec as _,
        },
    }
}

fn at(name: &CStr, error: io::Error) -> io::Error {
    // Only the innermost name: the whole path is of no use without the disk.
    if error.raw_os_error().is_none() {
        return error;
    }
    io::Error::other(format!(
        "`{}`: {error}",
        name.to_string_lossy().escape_debug()
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_tree_arrives_with_all_that_makes_its_files() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root may give files away");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        for path in [&from, &to, &from.join("sub")] {
            fs::create_dir(path).unwrap();
        }
        let program = from.join("sub/program");
        fs::write(&program, "content").unwrap();
        std::os::unix::fs::chown(&program, Some(7), Some(8)).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o4751)).unwrap();
        fs::hard_link(&program, from.join("again")).unwrap();
        symlink("/etc/passwd", from.join("link")).unwrap();
        let sparse = File::create(from.join("sparse")).unwrap();
        sparse.set_len(64 << 20).unwrap();
        let value = b"value";
        let named = rustix::fs::lsetxattr(&program, "user.name", value, XattrFlags::empty());
        fs::set_permissions(from.join("sub"), fs::Permissions::from_mode(0o1777)).unwrap();

        let open = |path: &Path| OwnedFd::from(File::open(path).unwrap());
        Copier::default()
            .directory(&open(&from), &open(&to), 0)
            .unwrap();
        let copied = fs::metadata(to.join("sub/program")).unwrap();
        assert_eq!(
            (copied.mode() & 0o7777, copied.uid(), copied.gid()),
            (0o4751, 7, 8)
        );
        assert_eq!(
            copied.mtime_nsec(),
            fs::metadata(&program).unwrap().mtime_nsec()
        );
        assert_eq!(fs::metadata(to.join("again")).unwrap().ino(), copied.ino());
        assert_eq!(
            fs::read_link(to.join("link")).unwrap(),
            Path::new("/etc/passwd")
        );
        assert!(fs::metadata(to.join("sparse")).unwrap().blocks() < 64);
        assert_eq!(
            fs::metadata(to.join("sub")).unwrap().mode() & 0o7777,
            0o1777
        );
        if named.is_ok() {
            let mut read = [0; 5];
            rustix::fs::lgetxattr(to.join("sub/program"), "user.name", &mut read).unwrap();
            assert_eq!(&read, value);
        }
    }
}
