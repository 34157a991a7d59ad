//! Running a command in the guest.
//!
//! After [`Open`](crate::Open) the host sends [`ExecInput`] control frames and
//! [`Kind::Stdin`](crate::frame::Kind::Stdin) data frames, an empty one meaning the end of
//! input. The agent sends `Stdout` and `Stderr` data frames and [`ExecEvent`] control frames,
//! the last of which is `Exited`, `Signalled` or `Refused`. When the host closes the
//! connection early, the command's process group gets SIGHUP, as if its terminal had closed.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ByteString;

/// The `PATH` of a command whose [`Exec::env`] has none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command to run.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Exec {
    /// The program and its arguments, exactly. Empty means the user's login shell.
    pub argv: Vec<ByteString>,
    /// Environment on top of the agent's base: `PATH`, `HOME`, `HOSTNAME`, `USER`, `LOGNAME`,
    /// `SHELL`.
    #[serde(default)]
    pub env: Vec<(ByteString, ByteString)>,
    /// `name`, `uid`, `name:group` or `uid:gid`; root when absent.
    #[serde(default)]
    pub user: Option<String>,
    /// The directory to run in; the user's home when absent, `/` if that is missing.
    #[serde(default)]
    pub workdir: Option<ByteString>,
    /// Makes `workdir` when it is missing. An agent that does not know this refuses instead.
    #[serde(default)]
    pub create_workdir: bool,
    /// Allocates a terminal of this size; then there is no separate standard error.
    #[serde(default)]
    pub tty: Option<TtySize>,
    /// Whether standard input follows; else it is `/dev/null`.
    #[serde(default)]
    pub stdin: bool,
}

/// Names of variables only: their values may be secrets.
impl fmt::Debug for Exec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.env.iter().map(|(name, _)| name).collect();
        f.debug_struct("Exec")
            .field("argv", &self.argv)
            .field("env", &names)
            .field("user", &self.user)
            .field("workdir", &self.workdir)
            .field("tty", &self.tty)
            .field("stdin", &self.stdin)
            .finish()
    }
}

/// The size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TtySize {
    /// Height.
    pub rows: u16,
    /// Width.
    pub cols: u16,
}

/// Control frames from the host to a running command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ExecInput {
    /// The host's terminal changed its size.
    Resize(TtySize),
    /// Sends this signal to the command's process group (the terminal's foreground group when
    /// there is a terminal).
    Signal {
        /// Linux signal number.
        signal: i32,
    },
}

/// Control frames from the agent about a running command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ExecEvent {
    /// The command runs.
    Started {
        /// Its process id in the guest.
        pid: u32,
    },
    /// The host may send this many more bytes of standard input.
    StdinCredit {
        /// Bytes taken by the command since the last credit.
        bytes: u32,
    },
    /// The command ended by itself; all its output has been sent.
    Exited {
        /// Its exit code.
        code: i32,
    },
    /// The command was ended by a signal; all its output has been sent.
    Signalled {
        /// Linux signal number.
        signal: i32,
    },
    /// The command was not started.
    Refused {
        /// 127 when the program was not found, 126 when it could not be executed, 125 for
        /// everything else (no such user, no such directory).
        code: i32,
        /// Why.
        message: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_variables_are_not_shown() {
        let exec = Exec {
            env: vec![("TOKEN".into(), "hunter2".into())],
            ..Exec::default()
        };
        let shown = format!("{exec:?}");
        assert!(
            shown.contains("TOKEN") && !shown.contains("hunter2"),
            "{shown}"
        );
    }
}
