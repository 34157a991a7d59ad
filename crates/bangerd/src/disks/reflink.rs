//! The image cloned by the file system and attached writable.
//!
//! An image has no room to grow, for it is never written, and mostly no journal. The clone gets
//! both, so that it holds as much as an overlay would and survives a crash of its guest.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use banger_guest_api::RootDisk;
use banger_model::{ByteSize, Error, IoContext, Result};
use banger_vmm::{Disk, device_path};

use super::template::{BLOCK, journal_mib};
use super::{FileSystemTools, Source, Strategy, Templates};
use crate::failpoint;

pub(super) struct Reflink;

fn root(vm_dir: &Path) -> PathBuf {
    vm_dir.join("root.ext4")
}

impl Strategy for Reflink {
    fn create(&self, templates: &Templates, vm_dir: &Path, source: &Source<'_>) -> Result<()> {
        let path = root(vm_dir);
        let image = File::open(source.image).at("open", source.image)?;
        failpoint::hit("clone an image")?;
        let clone = new_file(&path)?;
        rustix::fs::ioctl_ficlone(&clone, &image)
            .map_err(std::io::Error::from)
            .at("clone an image to", &path)?;
        let size = image.metadata().at("look at", source.image)?.len();
        let size = size
            .checked_add(source.writable.as_bytes())
            .map(|size| size / BLOCK * BLOCK)
            .ok_or_else(|| Error::internal("a disk larger than any file"))?;
        clone.set_len(size).at("extend", &path)?;
        failpoint::hit("grow a clone")?;
        let tools = templates.tools();
        // `-f`: the usual demand for a check first is for disks that have been written to.
        tools.run("resize2fs", &["-f"], &path)?;
        if banger_image::has_journal(&path)? {
            return clone.sync_data().at("write", &path);
        }
        // Only now is there room for it.
        let journal = format!("size={}", journal_mib(ByteSize::bytes(size)));
        tools.run("tune2fs", &["-O", "has_journal", "-J", &journal], &path)?;
        clone.sync_data().at("write", &path)
    }

    fn written(&self, vm_dir: &Path) -> PathBuf {
        root(vm_dir)
    }

    fn attach(&self, vm_dir: &Path, _image: &Path) -> Result<(Vec<Disk>, RootDisk)> {
        let disks = vec![Disk {
            path: root(vm_dir),
            read_only: false,
        }];
        let root = RootDisk::Direct {
            device: device_path(0)?,
        };
        Ok((disks, root))
    }
}

/// Whether a file in `vm_dir` can share the image's blocks, found out by trying it.
///
/// # Errors
/// `io` or `no_space` when `vm_dir` cannot be written.
pub(super) fn is_possible(tools: &FileSystemTools, vm_dir: &Path, image: &Path) -> Result<bool> {
    if !tools.has("tune2fs") || !tools.has("resize2fs") {
        return Ok(false);
    }
    let path = vm_dir.join("clone-probe");
    let source = File::open(image).at("open", image)?;
    failpoint::hit("try to clone an image")?;
    let target = new_file(&path)?;
    let cloned = rustix::fs::ioctl_ficlone(&target, &source).is_ok();
    failpoint::hit("remove what was tried")?;
    std::fs::remove_file(&path).at("remove", &path)?;
    Ok(cloned)
}

fn new_file(path: &Path) -> Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .at("create", path)
}
