//! The VM's root file system: mounting its disks, and making it the root.
//!
//! An image may lack every mount point, or have something else under its name: what is needed is
//! made on the VM's own layer, as container runtimes do. What programs find in there is
//! [`super::runtime`]'s.
//!
//! Disks are mounted in the initramfs and reach their places as mounts by descriptor, so that
//! no path of the image is resolved while the initramfs is still the root, where an image's
//! symbolic link would point into it.

use std::ffi::CString;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use banger_guest_api::{BootConfig, RootDisk};
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, move_mount, open_tree, unmount,
};

use super::grow;
use crate::failure::{Failure, Result, Step};

const IMAGE: &str = "/mnt/image";
pub(super) const WRITABLE: &str = "/mnt/writable";
pub(super) const ROOT: &str = "/mnt/root";
const WORK: &str = "/mnt/work";

/// Directories that need a file system other than overlayfs under them, because Docker stacks
/// its own overlays in them, and their names on the writable disk.
pub(super) const VOLUMES: [(&str, &str); 2] = [
    ("docker", "/var/lib/docker"),
    ("containerd", "/var/lib/containerd"),
];

/// Mounted disks, on their way to the new root.
pub(super) struct Disks {
    work: Option<OwnedFd>,
    volumes: Vec<(OwnedFd, &'static str)>,
}

/// Mounts all disks inside the initramfs.
pub(super) fn mount_disks(config: &BootConfig) -> Result<Disks> {
    let mut volumes = Vec::new();
    match &config.root {
        RootDisk::Direct { device } => {
            mount_ext4(device, ROOT, MountFlags::NOATIME).step("mount the root disk")?;
        }
        RootDisk::Overlay { image, upper } => {
            mount_ext4(image, IMAGE, MountFlags::RDONLY).step("mount the image")?;
            mount_ext4(upper, WRITABLE, MountFlags::NOATIME).step("mount the root disk")?;
            mount_overlay().step("join the image and the root disk")?;
            for (name, target) in VOLUMES {
                volumes.push((volume(name).step("prepare Docker's directories")?, target));
            }
        }
    }
    let work = match &config.work_disk {
        None => None,
        Some(device) => {
            mount_ext4(device, WORK, MountFlags::NOATIME | MountFlags::NODEV)
                .step("mount the work disk")?;
            Some(take_mount(WORK).step("mount the work disk")?)
        }
    };
    Ok(Disks { work, volumes })
}

/// `noinit_itable`: the disks live for a day and are mostly holes, so writing empty inode tables
/// in the background would only cost. `discard` gives deleted blocks back to the host where
/// the device can. A writable one grows to the size of its disk.
pub(super) fn mount_ext4(device: &str, target: &str, flags: MountFlags) -> std::io::Result<()> {
    fs::create_dir_all(target)?;
    let options = if flags.contains(MountFlags::RDONLY) {
        c""
    } else if can_discard(device) {
        c"noinit_itable,discard"
    } else {
        c"noinit_itable"
    };
    mount(device, target, c"ext4", flags, options)
        .map_err(|error| std::io::Error::other(format!("{device}: {error}")))?;
    if !flags.contains(MountFlags::RDONLY) {
        grow::to_its_disk(device, target);
    }
    Ok(())
}

fn can_discard(device: &str) -> bool {
    let name = Path::new(device)
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    fs::read_to_string(format!("/sys/class/block/{name}/queue/discard_max_bytes"))
        .is_ok_and(|bytes| bytes.trim() != "0")
}

/// `redirect_dir` lets directories of the image be renamed, which programs expect of a root.
fn mount_overlay() -> std::io::Result<()> {
    for directory in ["upper", "work"] {
        create_directory(&format!("{WRITABLE}/{directory}"))?;
    }
    fs::create_dir_all(ROOT)?;
    let options = CString::new(format!(
        "lowerdir={IMAGE},upperdir={WRITABLE}/upper,workdir={WRITABLE}/work,redirect_dir=on"
    ))?;
    Ok(mount(
        c"overlay",
        ROOT,
        c"overlay",
        MountFlags::NOATIME,
        options.as_c_str(),
    )?)
}

fn volume(name: &str) -> std::io::Result<OwnedFd> {
    let path = format!("{WRITABLE}/volumes/{name}");
    create_directory(&format!("{WRITABLE}/volumes"))?;
    create_directory(&path)?;
    clone_mount(&path)
}

fn create_directory(path: &str) -> std::io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// A detached copy of the mount at `path`, rooted there.
fn clone_mount(path: &str) -> std::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    Ok(open_tree(CWD, path, flags)?)
}

/// Takes the mount from its place. The copy becomes the only one, so that an unmount of where
/// it goes is the disk's.
pub(super) fn take_mount(path: &str) -> std::io::Result<OwnedFd> {
    let mount = clone_mount(path)?;
    unmount(path, UnmountFlags::DETACH)?;
    Ok(mount)
}

/// Attaches a mount to an open directory.
pub(super) fn attach(mount: &impl AsFd, target: &impl AsFd) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, c"", target, c"", flags)
}

/// Makes the VM's root the root of this process and gives back the work disk's mount.
pub(super) fn switch(disks: Disks) -> Result<Option<OwnedFd>> {
    let step = "switch to the VM's root";
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(ROOT, flags, Mode::empty()).step(step)?;
    make_passable(&root).step("prepare the VM's root directory")?;
    for name in ["proc", "sys", "dev"] {
        let target = mount_point(&root, name, 0o755)?;
        let source = rustix::fs::open(format!("/{name}"), flags, Mode::empty()).step(step)?;
        attach(&source, &target).step_with(|| format!("move /{name} to the VM's root"))?;
    }
    empty_the_initramfs().step("empty the initramfs")?;
    rustix::process::fchdir(&root).step(step)?;
    rustix::mount::mount_move(c".", c"/").step(step)?;
    rustix::process::chroot(c".").step(step)?;
    rustix::process::chdir(c"/").step(step)?;

    for (mount, target) in &disks.volumes {
        attach_volume(mount, target)?;
    }
    Ok(disks.work)
}

/// Gives back the memory of what nobody reaches once the root is another; a kernel's own initrd
/// may have filled it. The program itself stays in memory for as long as it runs.
fn empty_the_initramfs() -> std::io::Result<()> {
    let device = fs::metadata("/")?.dev();
    for entry in fs::read_dir("/")? {
        let path = entry?.path();
        let found = fs::symlink_metadata(&path)?;
        // The VM's root is still mounted below `/mnt`.
        if found.dev() != device || path == Path::new("/mnt") {
            continue;
        }
        if found.is_dir() {
            fs::remove_dir_all(&path)?;
        } else {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Everybody must be able to pass through the root directory, and only root to change it; sshd
/// insists on the latter. Images made from a directory often have what that had.
fn make_passable(root: &impl AsFd) -> rustix::io::Result<()> {
    let stat = rustix::fs::statat(root, ".", AtFlags::empty())?;
    let is_well = stat.st_uid == 0 && stat.st_mode & 0o577 == 0o555;
    if is_well {
        return Ok(());
    }
    rustix::fs::chownat(
        root,
        ".",
        Some(Uid::ROOT),
        Some(Gid::ROOT),
        AtFlags::empty(),
    )?;
    rustix::fs::chmodat(root, ".", Mode::from(0o755), AtFlags::empty())
}

/// Opens a directory directly under `root`, made with this mode when it is missing. A link or a
/// file of that name gives way: a mount there would be the image's word on where it is mounted.
pub(super) fn mount_point(root: &impl AsFd, name: &str, mode: u32) -> Result<OwnedFd> {
    let step = || format!("make the mount point /{name}");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = || {
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
        rustix::fs::openat2(root, name, flags, Mode::empty(), resolve)
    };
    match open() {
        Ok(directory) => return Ok(directory),
        Err(Errno::NOENT) => {}
        Err(Errno::LOOP | Errno::NOTDIR) => {
            println!("banger: the image's /{name} is no directory; it is replaced");
            rustix::fs::unlinkat(root, name, AtFlags::empty()).step_with(step)?;
        }
        Err(error) => return Err(Failure::new(step(), error)),
    }
    rustix::fs::mkdirat(root, name, Mode::from(mode)).step_with(step)?;
    // Whatever the umask is.
    rustix::fs::chmodat(root, name, Mode::from(mode), AtFlags::empty()).step_with(step)?;
    open().step_with(step)
}

/// Puts a directory of the writable disk in place, unless the image brings content of its own
/// there, or has no `/var/lib`.
fn attach_volume(mount: &OwnedFd, target: &'static str) -> Result<()> {
    let step = || format!("mount {target}");
    if !Path::new("/var/lib").is_dir() {
        return Ok(());
    }
    create_directory(target).step_with(step)?;
    let resolve = ResolveFlags::NO_SYMLINKS;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = match rustix::fs::openat2(CWD, target, flags, Mode::empty(), resolve) {
        Ok(directory) => directory,
        // The image keeps it elsewhere on purpose.
        Err(Errno::LOOP | Errno::NOTDIR) => return Ok(()),
        Err(error) => return Err(Failure::new(step(), error)),
    };
    let mut entries = rustix::fs::Dir::read_from(&directory).step_with(step)?;
    let has_content = entries.any(|entry| {
        entry.is_ok_and(|entry| !matches!(entry.file_name().to_bytes(), b"." | b".."))
    });
    if has_content {
        return Ok(());
    }
    attach(mount, &directory).step_with(step)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn mount_points_are_made_and_never_followed() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        fs::create_dir(at("elsewhere")).unwrap();
        symlink(at("elsewhere"), at("dev")).unwrap();
        symlink("/no/where", at("sys")).unwrap();
        fs::write(at("proc"), "a file").unwrap();
        fs::create_dir(at("run")).unwrap();
        fs::set_permissions(at("run"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(at("run/kept"), "").unwrap();
        let root = fs::File::open(place.path()).unwrap();
        for (name, mode) in [
            ("dev", 0o755),
            ("sys", 0o755),
            ("proc", 0o755),
            ("run", 0o700),
            ("tmp", 0o1777),
        ] {
            let wanted = if name == "tmp" { 0o1777 } else { 0o755 };
            drop(mount_point(&root, name, wanted).unwrap());
            let made = fs::symlink_metadata(at(name)).unwrap();
            assert!(made.is_dir(), "{name}");
            assert_eq!(made.mode() & 0o7777, mode, "{name}");
        }
        assert!(at("run/kept").exists() && at("elsewhere").exists());
    }

    #[test]
    fn odd_modes_of_the_root_directory_are_put_right() {
        let place = tempfile::tempdir().unwrap();
        let root = fs::File::open(place.path()).unwrap();
        for (mode, expected) in [
            (0o000, 0o755),
            (0o700, 0o755),
            (0o711, 0o755),
            (0o777, 0o755),
            (0o1777, 0o755),
            (0o755, 0o755),
            (0o555, 0o555),
        ] {
            fs::set_permissions(place.path(), fs::Permissions::from_mode(mode)).unwrap();
            if !rustix::process::geteuid().is_root() {
                eprintln!("skipped: only root may give directories to root");
                return;
            }
            make_passable(&root).unwrap();
            let now = fs::metadata(place.path()).unwrap().mode() & 0o7777;
            assert_eq!(now, expected, "{mode:o}");
        }
    }
}
