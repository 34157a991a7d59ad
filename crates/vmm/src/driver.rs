//! What every VMM driver does.

use banger_model::{Result, VmmKind};

use crate::{Instance, Machine, Patience};

/// Starts VMs with one kind of VMM.
///
/// Everything above a driver is the same for all of them: hybrid vsock sockets in the runtime
/// directory, disks in the order given, one console file. What differs (a jailer, an API socket,
/// helper programs) stays behind this trait.
pub trait Driver: Send + Sync {
    /// Which VMM this is.
    fn kind(&self) -> VmmKind;

    /// Starts the machine and returns once its processes run; the guest has not booted then.
    ///
    /// Blocks, for little more than its patience at most. On failure nothing that it started is
    /// left behind.
    ///
    /// # Errors
    /// `invalid_argument` when the machine cannot be expressed to the VMM, `missing_program`
    /// when a program is not installed, `vmm_failed` when one ended at once,
    /// `cancelled` when nobody wants it any longer.
    fn launch(&self, machine: &Machine, patience: &Patience) -> Result<Instance>;
}
