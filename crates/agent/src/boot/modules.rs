//! The kernel's modules on `/lib/modules/<release>`, for an image that does not bring them.
//!
//! They come on a drive of the kernel's, which is only ever read. An image that has something
//! of its own in that place keeps it.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;
use rustix::mount::MountFlags;

use super::files::Directory;
use super::root;
use crate::failure::{Result, Step};

const PLACE: &str = "/mnt/modules";

/// Mounts the drive inside the initramfs, on its way to the new root.
pub(super) fn mount(device: Option<&str>) -> Result<Option<OwnedFd>> {
    let Some(device) = device else {
        return Ok(None);
    };
    let step = "mount the kernel's modules";
    let guarded = MountFlags::NOSUID | MountFlags::NODEV;
    root::mount_ext4(device, PLACE, MountFlags::RDONLY | guarded).step(step)?;
    root::take_mount(PLACE).step(step).map(Some)
}

/// Puts the drive in its place in the VM's root.
pub(super) fn attach(mount: Option<OwnedFd>) -> Result<()> {
    let Some(mount) = mount else {
        return Ok(());
    };
    let step = "find a place for the kernel's modules";
    let uname = rustix::system::uname();
    let release = uname.release().to_str().step(step)?;
    match mount_point("/lib", release).step(step)? {
        Some(place) => root::attach(&mount, &place).step("mount the kernel's modules"),
        None => {
            println!("banger: the image has its own /lib/modules/{release}, or no place for it");
            Ok(())
        }
    }
}

/// The directory for the modules of `release` below `lib`, which may be a link; made where it
/// is missing. `None` when the image has one that is not empty, or something else there.
fn mount_point(lib: &str, release: &str) -> io::Result<Option<Directory>> {
    let Some(above) = Directory::open(lib)? else {
        return Ok(None);
    };
    let modules = match Directory::open(&format!("{lib}/modules"))? {
        Some(modules) => modules,
        None if is_absent(&above, "modules")? => above.subdirectory("modules", 0o755)?,
        // A link that leads nowhere yet, for example.
        None => return Ok(None),
    };
    if is_absent(&modules, release)? {
        return modules.subdirectory(release, 0o755).map(Some);
    }
    let stat = rustix::fs::statat(&modules, release, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Ok(None);
    }
    let own = modules.subdirectory(release, 0o755)?;
    Ok(own.is_empty()?.then_some(own))
}

fn is_absent(directory: &Directory, name: &str) -> io::Result<bool> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(false),
        Err(Errno::NOENT) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    fn place(root: &Path) -> bool {
        let lib = root.join("lib");
        mount_point(lib.to_str().unwrap(), "6.1-x")
            .unwrap()
            .is_some()
    }

    #[test]
    fn a_place_is_made_also_behind_a_link() {
        let root = tempfile::tempdir().unwrap();
        assert!(!place(root.path()), "an image without /lib has no modprobe");
        fs::create_dir_all(root.path().join("usr/lib")).unwrap();
        symlink("usr/lib", root.path().join("lib")).unwrap();
        for _ in 0..2 {
            assert!(place(root.path()));
            assert!(root.path().join("usr/lib/modules/6.1-x").is_dir());
        }
        assert!(
            fs::symlink_metadata(root.path().join("lib"))
                .unwrap()
                .is_symlink()
        );
    }

    #[test]
    fn what_the_image_has_there_stays() {
        let root = tempfile::tempdir().unwrap();
        let modules = root.path().join("lib/modules");
        fs::create_dir_all(modules.join("6.1-x/kernel")).unwrap();
        fs::create_dir_all(modules.join("other")).unwrap();
        assert!(!place(root.path()));
        fs::remove_dir_all(modules.join("6.1-x")).unwrap();
        symlink("other", modules.join("6.1-x")).unwrap();
        assert!(!place(root.path()));
        fs::remove_dir_all(&modules).unwrap();
        symlink("/nowhere", &modules).unwrap();
        assert!(!place(root.path()));
        assert!(fs::symlink_metadata(&modules).unwrap().is_symlink());
    }
}
