//! The image attached read-only under a writable disk of the VM's own, joined in the guest.
//! Works on every file system and costs nothing that grows with the image.

use std::path::{Path, PathBuf};

use banger_guest_api::RootDisk;
use banger_model::Result;
use banger_vmm::{Disk, device_path};

use super::{Source, Strategy, Templates};

pub(super) struct Overlay;

fn upper(vm_dir: &Path) -> PathBuf {
    vm_dir.join("overlay.ext4")
}

impl Strategy for Overlay {
    fn create(&self, templates: &Templates, vm_dir: &Path, source: &Source<'_>) -> Result<()> {
        templates.instantiate(source.writable, &upper(vm_dir))
    }

    fn written(&self, vm_dir: &Path) -> PathBuf {
        upper(vm_dir)
    }

    fn attach(&self, vm_dir: &Path, image: &Path) -> Result<(Vec<Disk>, RootDisk)> {
        let disks = vec![
            Disk {
                path: image.to_owned(),
                read_only: true,
            },
            Disk {
                path: upper(vm_dir),
                read_only: false,
            },
        ];
        let root = RootDisk::Overlay {
            image: device_path(0)?,
            upper: device_path(1)?,
        };
        Ok((disks, root))
    }
}
