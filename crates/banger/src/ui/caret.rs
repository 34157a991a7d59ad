//! Keeps a terminal from showing Ctrl-C as `^C` in the middle of a progress line, which it
//! would push over the edge.

use std::os::fd::AsFd;

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcgetpgrp, tcsetattr};

/// While it exists, control characters are not shown. A program that is killed leaves them
/// hidden, which harms nothing; all else about the terminal stays as it is.
pub(super) struct HiddenCarets(());

impl HiddenCarets {
    /// Hides them, if standard input is our terminal and showed them.
    pub(super) fn hide() -> Option<HiddenCarets> {
        let terminal = rustix::stdio::stdin();
        // A program in the background would be stopped for this.
        let in_foreground =
            tcgetpgrp(terminal).is_ok_and(|group| group == rustix::process::getpgrp());
        (in_foreground && set(terminal, false)).then_some(HiddenCarets(()))
    }
}

impl Drop for HiddenCarets {
    fn drop(&mut self) {
        set(rustix::stdio::stdin(), true);
    }
}

/// Whether that changed anything.
fn set(terminal: impl AsFd, shown: bool) -> bool {
    let Ok(mut attributes) = tcgetattr(&terminal) else {
        return false;
    };
    if attributes.local_modes.contains(LocalModes::ECHOCTL) == shown {
        return false;
    }
    attributes.local_modes.set(LocalModes::ECHOCTL, shown);
    tcsetattr(&terminal, OptionalActions::Now, &attributes).is_ok()
}
