//! The QEMU driver: the `microvm` machine, with `banger-vsock` beside it.
//!
//! That program (`crates/vsock`) carries vsock between the guest and unix sockets and keeps the
//! serial console. The two are connected by socket pairs made before either is started, so
//! neither waits for the other, and each ends when the other does.

mod argv;
mod clock;
mod vsock;

#[cfg(test)]
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;

use banger_model::{Result, VmmKind};

use crate::instance::{Makeup, Part};
use crate::log::create_log;
use crate::process::{Detached, Process};
use crate::{Driver, Instance, Machine, Patience, Programs};

pub(crate) use argv::claim;
#[cfg(test)]
pub(crate) use vsock::args as vsock_args;
pub(crate) use vsock::claim as vsock_claim;

/// The name QEMU runs under, whatever its file is called: [`crate::find_all`] looks for it.
pub(crate) const QEMU: &str = "qemu-system-x86_64";
/// The name the vsock program runs under.
pub(crate) const VSOCK: &str = "banger-vsock";

/// How QEMU runs the guest's processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    /// KVM.
    Kvm,
    /// Software emulation.
    Tcg,
}

impl Accel {
    fn kind(self) -> VmmKind {
        match self {
            Accel::Kvm => VmmKind::QemuKvm,
            Accel::Tcg => VmmKind::QemuTcg,
        }
    }
}

/// What such a VM consists of.
fn makeup(accel: Accel) -> Makeup {
    Makeup {
        kind: accel.kind(),
        parts: &[Part::Vmm, Part::Vsock],
    }
}

/// QEMU's `microvm` machine with `banger-vsock`.
#[derive(Clone, Debug)]
pub struct Qemu {
    programs: Programs,
    accel: Accel,
}

impl Qemu {
    /// A driver that uses these programs.
    pub fn new(programs: Programs, accel: Accel) -> Qemu {
        Qemu { programs, accel }
    }
}

impl Driver for Qemu {
    fn kind(&self) -> VmmKind {
        self.accel.kind()
    }

    /// Waits for nobody: QEMU gets everything when it is started.
    fn launch(&self, machine: &Machine, _patience: &Patience) -> Result<Instance> {
        machine.validate()?;
        let args = argv::argv(machine, self.accel, clock::counter());
        let log = create_log(&machine.vmm_log)?;
        let vsock = vsock::start(&self.programs.vsock, machine, &log)?;
        // From here on the instance undoes what was done.
        let mut instance = Instance::new(
            machine.id.clone(),
            machine.runtime_dir.clone(),
            None,
            vec![(Part::Vsock, vsock.process)],
        );
        let qemu = Detached {
            program: &self.programs.qemu,
            arg0: QEMU,
            args,
            stdin: OwnedFd::from(vsock.vhost).into(),
            stdout: Some(OwnedFd::from(vsock.serial).into()),
            log: &log,
            tied: false,
            namespace: None,
        };
        match qemu.spawn() {
            Ok(process) => instance.add(Part::Vmm, process, Some(makeup(self.accel))),
            Err(error) => {
                if let Err(undo) = instance.kill_blocking() {
                    tracing::warn!(%undo, vm = %machine.id, "could not undo a failed launch");
                }
                return Err(error);
            }
        }
        tracing::debug!(vm = %machine.id, pid = instance.pid(), "started QEMU");
        Ok(instance)
    }
}

/// Starts a guest that only says whether it reached user space, for the live probe. It has no
/// vsock, no disk and no network, and ends with the calling thread.
pub(crate) fn spawn_probe(
    program: &Path,
    kernel: &Path,
    initramfs: &Path,
    console: &Path,
    log: &Path,
) -> Result<Process> {
    let args = argv::probe_argv(kernel, initramfs, console);
    Detached {
        program,
        arg0: QEMU,
        args,
        stdin: Stdio::null(),
        stdout: None,
        log: &create_log(log)?,
        tied: true,
        namespace: None,
    }
    .spawn()
}

/// The arguments of an emulated machine.
#[cfg(test)]
pub(crate) fn argv_for_tests(machine: &Machine) -> Vec<OsString> {
    argv::argv(machine, Accel::Tcg, None)
}
