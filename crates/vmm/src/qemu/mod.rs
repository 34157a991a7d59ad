//! The QEMU driver: the `microvm` machine, with `banger-vsock` beside it.
//!
//! That program (`crates/vsock`) carries vsock between the guest and unix sockets and keeps the
//! serial console. The two are connected by socket pairs made before either is started, so
//! neither waits for the other, and each ends when the other does.

mod argv;
mod clock;
mod vsock;

use std::ffi::OsStr;
#[cfg(test)]
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;

use banger_model::{IoContext, Result, VmmKind};

use crate::discover::Claim;
use crate::instance::Part;
use crate::process::{Detached, Process};
use crate::{Driver, Instance, Machine, Programs};

#[cfg(test)]
pub(crate) use vsock::args as vsock_args;

/// The name QEMU runs under, whatever its file is called: [`crate::find_all`] looks for it.
pub(crate) const QEMU: &str = "qemu-system-x86_64";
/// The name the vsock program runs under.
pub(crate) const VSOCK: &str = "banger-vsock";

/// QEMU's `microvm` machine with `banger-vsock`.
#[derive(Clone, Debug)]
pub struct Qemu {
    programs: Programs,
    kind: VmmKind,
}

impl Qemu {
    /// A driver that uses these programs; `kind` picks KVM or software emulation.
    pub fn new(programs: Programs, kind: VmmKind) -> Qemu {
        Qemu { programs, kind }
    }
}

impl Driver for Qemu {
    fn kind(&self) -> VmmKind {
        self.kind
    }

    fn launch(&self, machine: &Machine) -> Result<Instance> {
        machine.validate()?;
        let args = argv::argv(machine, self.kind, clock::counter());
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
        };
        match qemu.spawn() {
            Ok(process) => instance.add(Part::Vmm, process, Some(self.kind)),
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
    }
    .spawn()
}

/// A private log, empty: each boot starts it afresh.
fn create_log(path: &Path) -> Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).at("remove", path);
        }
        _ => {}
    }
    // Two programs write to it, so every write must go to the end.
    File::options()
        .append(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .at("create", path)
}

/// What a command line says, when it is that of one of the two programs.
pub(crate) fn claim(args: &[&OsStr]) -> Option<Claim> {
    match Path::new(args.first()?).file_name()?.to_str()? {
        QEMU => argv::claim(args),
        VSOCK => vsock::claim(args),
        _ => None,
    }
}

/// The arguments of an emulated machine.
#[cfg(test)]
pub(crate) fn argv_for_tests(machine: &Machine) -> Vec<OsString> {
    argv::argv(machine, VmmKind::QemuTcg, None)
}
