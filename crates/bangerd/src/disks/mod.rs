//! The disks of a VM: its root, made from an image, and its work disk on `/root`.
//!
//! How the root is made is a [`Strategy`], chosen once when the VM is made and recorded with
//! it. No image is ever written to. Everything here blocks on the disk.

mod overlay;
mod programs;
mod reflink;
mod sparse;
mod template;

use std::fs;
use std::path::{Path, PathBuf};

use banger_guest_api::RootDisk;
use banger_model::{ByteSize, DiskStrategy, IoContext, Result};
use banger_vmm::Disk;

use overlay::Overlay;
pub(crate) use programs::FileSystemTools;
use reflink::Reflink;
pub(crate) use template::Templates;

use crate::failpoint;

/// The disks of one VM, as the VMM and the guest must be told.
#[derive(Clone, Debug)]
pub(crate) struct Attached {
    /// In the order in which the guest sees them.
    pub(crate) disks: Vec<Disk>,
    /// Where the guest finds its root file system.
    pub(crate) root: RootDisk,
    /// Where the guest finds its work disk.
    pub(crate) work: String,
    /// Where the guest finds the modules of its kernel, when there is a drive with them.
    pub(crate) modules: Option<String>,
}

/// How the root disk of a VM is made from its image.
trait Strategy {
    /// Makes the VM's own files in `vm_dir`. Doing it again starts afresh.
    fn create(&self, templates: &Templates, vm_dir: &Path, source: &Source<'_>) -> Result<()>;

    /// The file that the VM writes to.
    fn written(&self, vm_dir: &Path) -> PathBuf;

    /// The root disks that [`Strategy::create`] made, and what the guest does with them.
    fn attach(&self, vm_dir: &Path, image: &Path) -> Result<(Vec<Disk>, RootDisk)>;
}

/// What a root disk is made from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'a> {
    /// The image's root file system.
    pub(crate) image: &'a Path,
    /// How much the VM may write to its root.
    pub(crate) writable: ByteSize,
}

fn strategy(kind: DiskStrategy) -> &'static dyn Strategy {
    match kind {
        DiskStrategy::Overlay => &Overlay,
        DiskStrategy::Reflink => &Reflink,
    }
}

/// The strategy for new VMs of this image: whatever the file systems can do.
///
/// # Errors
/// `io` or `no_space` when the directory cannot be written.
pub(crate) fn choose(templates: &Templates, vm_dir: &Path, image: &Path) -> Result<DiskStrategy> {
    if reflink::is_possible(templates.tools(), vm_dir, image)? {
        Ok(DiskStrategy::Reflink)
    } else {
        Ok(DiskStrategy::Overlay)
    }
}

/// Makes every disk of a VM in its directory. Doing it again starts afresh.
///
/// # Errors
/// `no_space`; `missing_program` when the file system tools are not installed.
pub(crate) fn create(
    templates: &Templates,
    kind: DiskStrategy,
    vm_dir: &Path,
    source: &Source<'_>,
    work_size: ByteSize,
) -> Result<()> {
    strategy(kind).create(templates, vm_dir, source)?;
    templates.instantiate(work_size, &work_disk(vm_dir))
}

/// Enlarges the work disk's file to this size, unless it is that large already. The new space
/// is a hole; the guest grows the file system when it boots.
///
/// # Errors
/// `no_space`; `io` when there is no such disk.
pub(crate) fn grow(vm_dir: &Path, work_size: ByteSize) -> Result<()> {
    let path = work_disk(vm_dir);
    let size = work_size.as_bytes() / template::BLOCK * template::BLOCK;
    let old = fs::metadata(&path).at("look at", &path)?.len();
    if old >= size {
        return Ok(());
    }
    failpoint::hit("enlarge the work disk")?;
    let file = fs::File::options()
        .write(true)
        .open(&path)
        .at("open", &path)?;
    let grown = file.set_len(size).at("extend", &path).and_then(|()| {
        failpoint::hit("make the work disk's size durable")?;
        file.sync_all().at("write", &path)
    });
    if grown.is_err()
        // Nothing has been written to the new space: no guest knows of it.
        && let Err(error) = file.set_len(old)
    {
        tracing::warn!(path = %path.display(), %error, "a disk stays larger than it should be");
    }
    grown
}

/// What [`create`] made, and the drive with the modules of its kernel, for the VMM and the guest.
///
/// # Errors
/// `internal` when there are too many disks.
pub(crate) fn attach(
    kind: DiskStrategy,
    vm_dir: &Path,
    image: &Path,
    modules: Option<&Path>,
) -> Result<Attached> {
    let (mut disks, root) = strategy(kind).attach(vm_dir, image)?;
    let work = banger_vmm::device_path(disks.len())?;
    disks.push(Disk {
        path: work_disk(vm_dir),
        read_only: false,
    });
    let modules = match modules {
        Some(path) => {
            let device = banger_vmm::device_path(disks.len())?;
            disks.push(Disk {
                path: path.to_owned(),
                read_only: true,
            });
            Some(device)
        }
        None => None,
    };
    Ok(Attached {
        disks,
        root,
        work,
        modules,
    })
}

/// The file that has what a VM wrote to its root.
pub(crate) fn root_disk(kind: DiskStrategy, vm_dir: &Path) -> PathBuf {
    strategy(kind).written(vm_dir)
}

/// Copies the root disk of a VM that does not run to another VM's directory, with an empty work
/// disk beside it.
///
/// # Errors
/// `no_space`; `io` when there is no such disk.
pub(crate) fn copy(
    templates: &Templates,
    kind: DiskStrategy,
    from: &Path,
    to: &Path,
) -> Result<()> {
    sparse::clone_or_copy(&root_disk(kind, from), &root_disk(kind, to))?;
    templates.instantiate(banger_model::MIN_DISK, &work_disk(to))
}

fn work_disk(vm_dir: &Path) -> PathBuf {
    vm_dir.join("work.ext4")
}

#[cfg(test)]
mod tests;
