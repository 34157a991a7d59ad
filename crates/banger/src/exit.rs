//! Exit codes.
//!
//! | | |
//! |---|---|
//! | `vm run`, `vm exec` | the guest command's own code; 128+n when signal n ended it; 125 when banger failed; 126 when the guest could not execute the command, 127 when it has none of that name |
//! | `vm ssh` | those of ssh, which are the command's; 255 when ssh or banger failed |
//! | every other command | 0 success, 1 failure |
//! | a command line that does not parse | 2, for every command: 125 is for what fails after parsing |
//! | ended by signal n, or by the reader of our output (SIGPIPE) | 128+n |

use std::process::ExitCode;

use banger_model::{Class, Code, Error};

/// Whom standard output, and with it the exit code, belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// banger: data and JSON, errors in JSON included.
    Banger,
    /// The command in the guest: not one byte of ours.
    Guest,
    /// OpenSSH, or the command it runs in the guest.
    Ssh,
    /// Lines that are handed on as they are: an error is none of them.
    Text,
}

/// What the program ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exit(u8);

impl Exit {
    /// Done.
    pub(crate) const SUCCESS: Exit = Exit(0);
    /// Not done.
    pub(crate) const FAILURE: Exit = Exit(1);
    /// The command line does not parse.
    pub(crate) const USAGE: Exit = Exit(2);
    /// banger failed before or while the guest's command ran.
    pub(crate) const BANGER_FAILED: Exit = Exit(125);

    /// ssh failed, or banger before it.
    pub(crate) const SSH_FAILED: Exit = Exit(255);

    /// The guest command's own code. Whatever the guest says, only eight bits exist.
    pub(crate) fn guest(code: i32) -> Exit {
        Exit((code & 0xff) as u8)
    }

    /// Ended by a signal.
    pub(crate) fn signal(number: i32) -> Exit {
        Exit(128u8.wrapping_add((number & 0x7f) as u8))
    }

    /// The reader of standard output has gone, as if by SIGPIPE.
    pub(crate) fn output_closed() -> Exit {
        Exit::signal(13)
    }

    /// The code for an error: the one place where classes become codes.
    pub(crate) fn for_error(error: &Error, owner: Owner) -> Exit {
        match (owner, error.class()) {
            (Owner::Guest, Class::User) if error.code() == Code::CommandNotFound => Exit(127),
            (Owner::Guest, Class::User) if error.code() == Code::CommandNotExecutable => Exit(126),
            (Owner::Guest, Class::User | Class::Config | Class::Environment | Class::Internal) => {
                Exit::BANGER_FAILED
            }
            (Owner::Ssh, Class::User | Class::Config | Class::Environment | Class::Internal) => {
                Exit::SSH_FAILED
            }
            (
                Owner::Banger | Owner::Text,
                Class::User | Class::Config | Class::Environment | Class::Internal,
            ) => Exit::FAILURE,
        }
    }

    /// The number.
    pub(crate) fn code(self) -> u8 {
        self.0
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_the_codes_of_their_command() {
        for code in Code::ALL {
            let error = Error::new(*code, "x");
            let guest = match code {
                Code::CommandNotFound => 127,
                Code::CommandNotExecutable => 126,
                _ => 125,
            };
            assert_eq!(
                Exit::for_error(&error, Owner::Guest).code(),
                guest,
                "{code:?}"
            );
            assert_eq!(Exit::for_error(&error, Owner::Ssh).code(), 255, "{code:?}");
            for owner in [Owner::Banger, Owner::Text] {
                assert_eq!(Exit::for_error(&error, owner).code(), 1, "{code:?}");
            }
        }
    }

    #[test]
    fn the_guest_cannot_make_impossible_codes() {
        assert_eq!(Exit::guest(3).code(), 3);
        assert_eq!(Exit::guest(256).code(), 0);
        assert_eq!(Exit::guest(-1).code(), 255);
        assert_eq!(Exit::signal(9).code(), 137);
        assert_eq!(Exit::signal(i32::MAX).code(), 255);
        assert_eq!(Exit::signal(-1).code(), 255);
        assert_eq!(Exit::output_closed().code(), 141);
    }
}
