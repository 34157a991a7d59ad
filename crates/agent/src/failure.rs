//! A step that failed, and the end of the guest when it cannot go on.
//!
//! The agent has no user to ask: whatever it cannot handle is told to the host, printed on the
//! console and followed by the end of the VM, so that nobody waits for a guest that never comes.

use std::fmt;
use std::time::Duration;

use rustix::system::RebootCommand;

/// What could not be done, and why.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The step, a verb phrase such as "mount the root disk".
    pub(crate) step: String,
    /// Why it failed.
    pub(crate) message: String,
}

/// The result of a step.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// A failure of `step`.
    pub(crate) fn new(step: impl Into<String>, message: impl fmt::Display) -> Self {
        Failure {
            step: step.into(),
            message: message.to_string(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, self.message)
    }
}

/// Names the step at the place where it is known.
pub(crate) trait Step<T> {
    /// Turns the error into a [`Failure`] of `step`.
    fn step(self, step: &str) -> Result<T>;
    /// The same, for a step whose name must be composed.
    fn step_with(self, step: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: fmt::Display> Step<T> for std::result::Result<T, E> {
    fn step(self, step: &str) -> Result<T> {
        self.map_err(|error| Failure::new(step, error))
    }

    fn step_with(self, step: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Failure::new(step(), error))
    }
}

/// Makes a panic end the guest with its message on the console, like any other failure.
pub(crate) fn end_the_guest_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("banger: agent defect: {panic}");
        end_the_guest();
    }));
}

/// Flushes the disks and resets the machine, which ends the VMM.
///
/// Reset and not power-off, because it ends every VMM we drive: QEMU runs with `-no-reboot`, and
/// Firecracker ends on a reset but ignores a power-off.
pub(crate) fn end_the_guest() -> ! {
    rustix::fs::sync();
    loop {
        if let Err(error) = rustix::system::reboot(RebootCommand::Restart) {
            eprintln!("banger: reset the machine: {error}");
        }
        // Not reached on a machine that resets; never return into a half-made guest.
        std::thread::sleep(Duration::from_secs(1));
    }
}
