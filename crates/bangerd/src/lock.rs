//! The lock that makes a state directory one daemon's alone.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use banger_model::{Code, Error, IoContext, Result};

/// Held as long as the daemon lives: the kernel lets go of it however the daemon ends, so a
/// stale one cannot be in the way.
#[derive(Debug)]
pub(crate) struct StateLock {
    _file: File,
}

impl StateLock {
    /// Takes the lock, or refuses at once.
    ///
    /// # Errors
    /// `daemon_running` when another daemon has it.
    pub(crate) fn take(path: &Path) -> Result<StateLock> {
        // Opened close-on-exec like every file, so no VMM inherits it.
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32)
            .open(path)
            .at("open", path)?;
        match file.try_lock() {
            Ok(()) => Ok(StateLock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(Error::new(
                Code::DaemonRunning,
                format!(
                    "another daemon already serves `{}`",
                    path.parent().unwrap_or(path).display()
                ),
            )
            .hint("`banger daemon status` shows it, `banger daemon stop` ends it")),
            Err(TryLockError::Error(error)) => Err(Error::io("lock", path, error)),
        }
    }
}
