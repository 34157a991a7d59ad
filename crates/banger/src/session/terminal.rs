//! Our own terminal while a guest's program has it.

use std::io::IsTerminal;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, Once, PoisonError};

use banger_guest_api::TtySize;
use banger_model::{Error, Result};
use rustix::termios::{
    OptionalActions, QueueSelector, Termios, tcflush, tcgetattr, tcgetwinsize, tcsetattr,
};

/// What to put back, and where. Global, so that a panic anywhere can put it back before its
/// message is printed.
static SAVED: Mutex<Option<(OwnedFd, Termios)>> = Mutex::new(None);
static PANIC_HOOK: Once = Once::new();

/// The terminal in raw mode: every key goes to the guest, Ctrl-C included. It is put back when
/// this is dropped, or on a panic.
pub(super) struct RawMode(());

impl RawMode {
    /// Switches the terminal behind standard input.
    pub(super) fn enter() -> Result<RawMode> {
        RawMode::enter_on(std::io::stdin().as_fd())
    }

    fn enter_on(terminal: impl AsFd) -> Result<RawMode> {
        let failed = |error: std::io::Error| {
            Error::new(
                banger_model::Code::Io,
                "cannot switch the terminal to raw mode",
            )
            .because(error)
        };
        PANIC_HOOK.call_once(|| {
            let hook = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                restore();
                hook(info);
            }));
        });
        let terminal = terminal.as_fd().try_clone_to_owned().map_err(failed)?;
        let saved = tcgetattr(&terminal).map_err(|error| failed(error.into()))?;
        let mut raw = saved.clone();
        raw.make_raw();
        tcsetattr(&terminal, OptionalActions::Now, &raw).map_err(|error| failed(error.into()))?;
        *SAVED.lock().unwrap_or_else(PoisonError::into_inner) = Some((terminal, saved));
        Ok(RawMode(()))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    let saved = SAVED.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some((terminal, saved)) = saved {
        // A terminal that has closed cannot be put back, and need not be.
        tcsetattr(&terminal, OptionalActions::Now, &saved).ok();
    }
}

/// The size of our terminal, when standard output is one.
pub(crate) fn terminal_size() -> Option<TtySize> {
    let stdout = std::io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    let size = tcgetwinsize(&stdout).ok()?;
    // Some terminals do not know their size and say zero.
    Some(TtySize {
        rows: if size.ws_row == 0 { 24 } else { size.ws_row },
        cols: if size.ws_col == 0 { 80 } else { size.ws_col },
    })
}

/// Forgets what was typed and not yet read: it was no answer to what is asked next.
pub(crate) fn forget_typed() {
    // What is no terminal has nothing typed.
    tcflush(std::io::stdin(), QueueSelector::IFlush).ok();
}

#[cfg(test)]
mod tests {
    use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
    use rustix::termios::LocalModes;

    use super::*;

    /// One test, because the saved state is global.
    #[test]
    fn the_terminal_is_put_back_on_every_way_out() {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&controller).unwrap();
        unlockpt(&controller).unwrap();
        let terminal =
            ioctl_tiocgptpeer(&controller, OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        let is_raw = || {
            !tcgetattr(&terminal)
                .unwrap()
                .local_modes
                .contains(LocalModes::ICANON)
        };

        assert!(!is_raw());
        let guard = RawMode::enter_on(&terminal).unwrap();
        assert!(is_raw());
        drop(guard);
        assert!(!is_raw());

        let panicked = std::panic::catch_unwind(|| {
            let guard = RawMode::enter_on(&terminal).unwrap();
            // The hook alone must do it: a program that aborts drops nothing.
            std::mem::forget(guard);
            panic!("expected by the test");
        });
        assert!(panicked.is_err());
        assert!(!is_raw());
    }
}
