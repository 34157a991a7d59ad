//! Printing files that grow: a machine's console, the daemon's log.

mod file;
mod sink;

pub(crate) use file::{Follower, Woken};
pub(crate) use sink::Sink;

use banger_model::Result;

use crate::ui::Ui;

/// Shows what comes until there is nothing more to come or nobody reads it any more.
///
/// # Errors
/// `io` when the file or standard output fails.
pub(crate) fn follow(
    ui: &Ui,
    mut follower: Follower,
    mut show: impl FnMut(&[u8]) -> Result<bool>,
) -> Result<()> {
    loop {
        if !follower.read(&mut show)? {
            return Ok(());
        }
        match follower.wait()? {
            Woken::Changed => {}
            Woken::DirectoryGone => return follower.read(&mut show).map(|_| ()),
            Woken::ReaderGone => {
                ui.output_was_closed();
                return Ok(());
            }
        }
    }
}
