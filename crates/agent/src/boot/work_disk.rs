//! The work disk on `/root`.
//!
//! On its first use it gets a copy of the image's own `/root` (shell start-up files and the
//! like). A mark on the disk's root directory, invisible to users, says that this is done; the
//! copy is on the disk before the mark is, so a crash in between only repeats it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, move_mount};

use super::files::Directory;
use crate::failure::{Result, Step};

const MARK: &str = "trusted.banger.populated";
/// Deeper trees are not dotfiles; also bounds the recursion.
const MAX_DEPTH: usize = 32;

/// Prepares `/root`, on the work disk when there is one.
pub(super) fn attach(work_disk: Option<OwnedFd>) -> Result<()> {
    let step = "prepare /root";
    let root = Directory::open("/").step(step)?;
    let home = match root {
        Some(root) => root.subdirectory("root", 0o755).step(step)?,
        None => return Err(crate::failure::Failure::new(step, "there is no /")),
    };
    let Some(disk) = work_disk else {
        return Ok(());
    };
    let disk_root = open_directory(&disk, ".").step("open the work disk")?;
    populate(&home, &disk_root).step("copy the image's /root to the work disk")?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&disk, c"", &home, c"", flags).step("mount the work disk on /root")
}

fn populate(home: &impl AsFd, disk: &OwnedFd) -> io::Result<()> {
    let mut mark = [0; 1];
    match rustix::fs::fgetxattr(disk, MARK, &mut mark) {
        Ok(_) => return Ok(()),
        Err(Errno::NODATA) => {}
        Err(error) => return Err(error.into()),
    }
    match rustix::fs::unlinkat(disk, "lost+found", AtFlags::REMOVEDIR) {
        // Something found is something to keep.
        Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::NOTDIR) => {}
        Err(error) => return Err(error.into()),
    }
    let source = open_directory(home, ".")?;
    copy_entries(&source, disk, 0)?;
    rustix::fs::fchown(disk, Some(Uid::ROOT), Some(Gid::ROOT))?;
    rustix::fs::fchmod(disk, Mode::from(0o755))?;
    rustix::fs::syncfs(disk)?;
    Ok(rustix::fs::fsetxattr(
        disk,
        MARK,
        b"1",
        XattrFlags::empty(),
    )?)
}

fn open_directory(parent: &impl AsFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?)
}

fn copy_entries(from: &OwnedFd, to: &OwnedFd, depth: usize) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(io::Error::other(format!(
            "more than {MAX_DEPTH} directories deep"
        )));
    }
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        let (owner, group) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        let mode = Mode::from_raw_mode(stat.st_mode);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                match rustix::fs::mkdirat(to, name, Mode::from(0o700)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let source = rustix::fs::openat(from, name, flags, Mode::empty())?;
                let target = rustix::fs::openat(to, name, flags, Mode::empty())?;
                copy_entries(&source, &target, depth + 1)?;
                rustix::fs::fchown(&target, Some(owner), Some(group))?;
                rustix::fs::fchmod(&target, mode)?;
            }
            FileType::RegularFile => {
                remove(to, name)?;
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let source = rustix::fs::openat(from, name, flags, Mode::empty())?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let target = rustix::fs::openat(to, name, flags, Mode::from(0o600))?;
                io::copy(
                    &mut std::fs::File::from(source),
                    &mut std::fs::File::from(target.try_clone()?),
                )?;
                rustix::fs::fchown(&target, Some(owner), Some(group))?;
                rustix::fs::fchmod(&target, mode)?;
            }
            FileType::Symlink => {
                remove(to, name)?;
                let target = rustix::fs::readlinkat(from, name, Vec::new())?;
                rustix::fs::symlinkat(target, to, name)?;
                rustix::fs::chownat(to, name, Some(owner), Some(group), nofollow)?;
            }
            // Sockets, pipes and devices are nobody's dotfiles.
            _ => continue,
        }
        rustix::fs::utimensat(to, name, &times(&stat), nofollow)?;
    }
    Ok(())
}

/// What an earlier, interrupted copy left.
fn remove(directory: &OwnedFd, name: &std::ffi::CStr) -> io::Result<()> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn times(stat: &Stat) -> Timestamps {
    let modified = Timespec {
        tv_sec: stat.st_mtime,
        tv_nsec: stat.st_mtime_nsec as _,
    };
    Timestamps {
        last_access: modified,
        last_modification: modified,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::Path;

    #[test]
    fn the_first_use_copies_and_later_ones_do_not() {
        let place = tempfile::tempdir().unwrap();
        let directory = fs::File::open(place.path()).unwrap();
        let trusted = rustix::fs::fsetxattr(&directory, MARK, b"", rustix::fs::XattrFlags::empty());
        if trusted.is_err() {
            eprintln!("skipped: only root, outside user namespaces, may set trusted attributes");
            return;
        }
        let (home, disk) = (place.path().join("home"), place.path().join("disk"));
        fs::create_dir_all(home.join("dir")).unwrap();
        fs::create_dir_all(disk.join("lost+found")).unwrap();
        fs::write(home.join("dir/script"), "#!/bin/sh").unwrap();
        fs::set_permissions(home.join("dir/script"), fs::Permissions::from_mode(0o4751)).unwrap();
        std::os::unix::fs::chown(home.join("dir/script"), Some(7), Some(8)).unwrap();
        fs::set_permissions(home.join("dir/script"), fs::Permissions::from_mode(0o4751)).unwrap();
        symlink("/etc/passwd", home.join("link")).unwrap();

        let open = |path: &Path| OwnedFd::from(fs::File::open(path).unwrap());
        populate(&open(&home), &open(&disk)).unwrap();
        let script = fs::metadata(disk.join("dir/script")).unwrap();
        assert_eq!(
            (script.mode() & 0o7777, script.uid(), script.gid()),
            (0o4751, 7, 8)
        );
        assert_eq!(
            fs::read_link(disk.join("link")).unwrap(),
            Path::new("/etc/passwd")
        );
        assert!(!disk.join("lost+found").exists());

        fs::write(disk.join("dir/script"), "changed").unwrap();
        fs::remove_file(disk.join("link")).unwrap();
        populate(&open(&home), &open(&disk)).unwrap();
        assert_eq!(fs::read(disk.join("dir/script")).unwrap(), b"changed");
        assert!(fs::symlink_metadata(disk.join("link")).is_err());

        // As after a crash before the mark: the copy is made again over what is there.
        rustix::fs::fremovexattr(open(&disk), MARK).unwrap();
        populate(&open(&home), &open(&disk)).unwrap();
        assert_eq!(fs::read(disk.join("dir/script")).unwrap(), b"#!/bin/sh");
    }
}
