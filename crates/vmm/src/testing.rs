//! What the unit tests share.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use banger_model::ByteSize;

use crate::{Disk, FirecrackerFacts, LiveBoot, Machine, ProgramFacts, runtime_dir};

/// A private directory, removed at the end.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "banger-vmm-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Scratch(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("cannot remove {}: {error}", self.0.display());
        }
    }
}

/// An ordinary machine.
pub(crate) fn machine(runtime_root: &Path, id: &str) -> Machine {
    let id = id.parse().unwrap();
    let vm = PathBuf::from("/state/vms/box");
    Machine {
        runtime_dir: runtime_dir(runtime_root, &id),
        id,
        console_log: vm.join("console.log"),
        vmm_log: vm.join("vmm.log"),
        kernel: "/state/kernels/vmlinux".into(),
        initramfs: "/state/kernels/initramfs".into(),
        vcpus: 1,
        memory: ByteSize::mib(512),
        disks: vec![
            Disk {
                path: "/state/images/rootfs".into(),
                read_only: true,
            },
            Disk {
                path: vm.join("overlay.img"),
                read_only: false,
            },
        ],
        nat: false,
    }
}

/// A program that is not installed.
pub(crate) fn missing(message: &str) -> ProgramFacts {
    ProgramFacts::Missing {
        message: message.to_owned(),
        hint: "get it".to_owned(),
    }
}

/// A host without Firecracker.
pub(crate) fn no_firecracker() -> FirecrackerFacts {
    FirecrackerFacts {
        program: missing("`firecracker` is not installed"),
        version: Err("it is not there".to_owned()),
        live: LiveBoot::NotTried,
        pasta: missing("`pasta` is not installed"),
    }
}

/// Writes an executable shell script.
pub(crate) fn script(path: &Path, text: &str) {
    banger_testing::write_program(path, format!("#!/bin/sh\n{text}\n"));
}
