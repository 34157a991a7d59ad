//! Where things are below the state directory and the runtime directory.

use std::path::{Path, PathBuf};

use banger_config::{Paths, ensure_private_dir};
use banger_model::{Result, VmId};

/// The paths the daemon uses.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// Durable state.
    pub(crate) state_dir: PathBuf,
    /// The daemon's socket.
    pub(crate) socket: PathBuf,
    /// What the KVM probe found.
    pub(crate) kvm_cache: PathBuf,
    /// The directory that holds the runtime directories of all VMs.
    pub(crate) vm_runtime_root: PathBuf,
    runtime_dir: PathBuf,
}

impl Layout {
    /// The layout for these paths.
    pub(crate) fn new(paths: &Paths) -> Layout {
        Layout {
            state_dir: paths.state_dir.clone(),
            socket: paths.daemon_socket(),
            kvm_cache: paths.kvm_cache(),
            vm_runtime_root: paths.vm_runtime_root(),
            runtime_dir: paths.runtime_dir.clone(),
        }
    }

    /// Makes the two roots, or checks that they are this user's alone.
    ///
    /// # Errors
    /// `unsafe_permissions` when one belongs to somebody else or is open to others.
    pub(crate) fn ensure_roots(&self) -> Result<()> {
        ensure_private_dir(&self.state_dir)?;
        ensure_private_dir(&self.runtime_dir)
    }

    /// Makes the directories below the roots, or checks them.
    ///
    /// # Errors
    /// As [`Layout::ensure_roots`].
    pub(crate) fn ensure_rest(&self) -> Result<()> {
        for dir in [
            self.vms(),
            self.templates(),
            self.ssh(),
            self.images(),
            self.kernels(),
            self.vm_runtime_root.clone(),
        ] {
            ensure_private_dir(&dir)?;
        }
        Ok(())
    }

    /// The file whose lock says which daemon owns the state directory.
    pub(crate) fn lock(&self) -> PathBuf {
        self.state_dir.join("bangerd.lock")
    }

    /// The daemon's log.
    pub(crate) fn log(&self) -> PathBuf {
        self.state_dir.join("bangerd.log")
    }

    /// The database.
    pub(crate) fn database(&self) -> PathBuf {
        self.state_dir.join("banger.db")
    }

    /// The images.
    pub(crate) fn images(&self) -> PathBuf {
        self.state_dir.join("images")
    }

    /// The kernels.
    pub(crate) fn kernels(&self) -> PathBuf {
        self.state_dir.join("kernels")
    }

    /// Empty file systems to copy.
    pub(crate) fn templates(&self) -> PathBuf {
        self.state_dir.join("templates")
    }

    /// The private half of the user's client key.
    pub(crate) fn client_key(&self) -> PathBuf {
        self.ssh().join("id_ed25519")
    }

    /// Work that was saved as files.
    pub(crate) fn saved(&self) -> PathBuf {
        self.state_dir.join("saved")
    }

    /// The directory that holds those of all VMs.
    pub(crate) fn vms(&self) -> PathBuf {
        self.state_dir.join("vms")
    }

    /// One VM's durable files.
    pub(crate) fn vm(&self, id: &VmId) -> VmFiles {
        VmFiles {
            dir: self.vms().join(id.as_str()),
            runtime: banger_vmm::runtime_dir(&self.vm_runtime_root, id),
        }
    }

    fn ssh(&self) -> PathBuf {
        self.state_dir.join("ssh")
    }
}

/// The files of one VM.
#[derive(Clone, Debug)]
pub(crate) struct VmFiles {
    /// Its durable directory.
    pub(crate) dir: PathBuf,
    /// Its runtime directory, there while it runs.
    pub(crate) runtime: PathBuf,
}

impl VmFiles {
    /// What the guest wrote to its serial console.
    pub(crate) fn console_log(&self) -> PathBuf {
        self.dir.join("console.log")
    }

    /// What the VMM said.
    pub(crate) fn vmm_log(&self) -> PathBuf {
        self.dir.join("vmm.log")
    }

    /// What is being saved of its work.
    pub(crate) fn saving(&self) -> PathBuf {
        self.dir.join("saving")
    }

    /// There while it runs only for its work to be saved.
    pub(crate) fn saving_mark(&self) -> PathBuf {
        self.runtime.join("only-to-save")
    }

    /// The private half of its ssh host key.
    pub(crate) fn host_key(&self) -> PathBuf {
        self.dir.join("ssh_host_ed25519_key")
    }
}

/// The guest agent that belongs to the program in `exe_dir`: beside it in a prefix and in a
/// build directory alike.
pub(crate) fn agent(exe_dir: &Path) -> PathBuf {
    exe_dir.join("../lib/banger/banger-agent")
}
