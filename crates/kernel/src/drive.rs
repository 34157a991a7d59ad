//! The drive with a kernel's modules: what the guest mounts on `/lib/modules/<release>`.
//!
//! Made once, when the kernel comes, and shared by all its VMs: an ext4 that is only ever read,
//! complete with what depmod makes, so that plain `modprobe` works in the guest.

use std::path::Path;

use banger_archive::{Script, Work};
use banger_model::{Code, Error, Result};

const MAKE_DRIVE: &str = include_str!("make-drive.sh");
/// The programs that the script runs beside those of every system.
const PROGRAMS: [&str; 3] = ["depmod", "mke2fs", "debugfs"];

/// Refuses to begin what could not be finished.
///
/// # Errors
/// `missing_program`, with what to install.
pub(crate) fn check_programs() -> Result<()> {
    banger_archive::require(&PROGRAMS)
}

/// Makes `drive` of the modules of `release` in `base`, a directory that holds `lib/modules`.
///
/// # Errors
/// `build_failed` with what the programs said; `no_space`, `cancelled`.
pub(crate) fn make(
    work: &Work,
    base: &Path,
    release: &str,
    drive: &Path,
    scratch: &Path,
) -> Result<()> {
    Script {
        text: MAKE_DRIVE,
        variables: &[
            ("BANGER_BASE", base.as_os_str()),
            ("BANGER_RELEASE", release.as_ref()),
            ("BANGER_DRIVE", drive.as_os_str()),
        ],
        directory: scratch,
    }
    .run(work, &mut |_| {})
    .map_err(|error| {
        if error.code() != Code::BuildFailed {
            return error;
        }
        Error::new(
            Code::BuildFailed,
            format!("cannot make the drive of the modules of {release}"),
        )
        .because(error)
    })
}
