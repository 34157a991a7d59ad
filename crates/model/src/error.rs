//! The one error type that crosses crate boundaries.
//!
//! An error carries a stable code, a message for this layer only, an optional hint saying
//! what to type next, and its cause. Each code belongs to one class; the class decides the
//! exit code and the HTTP status, each in one `match`.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// The result type of the workspace.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whose fault an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The request cannot be carried out as asked; the user can change it.
    User,
    /// The configuration file is wrong.
    Config,
    /// The machine lacks something or failed: a program, disk space, the network, a VMM.
    Environment,
    /// A defect in banger.
    Internal,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $class:ident;)*) => {
        /// What went wrong, as a stable word that scripts may match on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Code { $($(#[$doc])* #[serde(rename = $text)] $name,)* }

        impl Code {
            /// Every code, in the order of declaration.
            pub const ALL: &[Code] = &[$(Code::$name,)*];

            /// The code as it appears in JSON.
            pub fn as_str(self) -> &'static str {
                match self { $(Code::$name => $text,)* }
            }

            /// Whose fault errors with this code are.
            pub fn class(self) -> Class {
                match self { $(Code::$name => Class::$class,)* }
            }
        }
    };
}

codes! {
    /// A name, size, reference or flag value is not valid.
    InvalidArgument = "invalid_argument", User;
    /// No such VM, image, kernel or operation.
    NotFound = "not_found", User;
    /// A prefix matches several VMs.
    Ambiguous = "ambiguous", User;
    /// The name is already taken.
    AlreadyExists = "already_exists", User;
    /// The object is in a state in which this cannot be done, or somebody else is changing it.
    Conflict = "conflict", User;
    /// The operation was cancelled before it finished.
    Cancelled = "cancelled", User;
    /// The guest has no such program (exit code 127).
    CommandNotFound = "command_not_found", User;
    /// The guest could not execute the program (exit code 126).
    CommandNotExecutable = "command_not_executable", User;
    /// The configuration file is not valid.
    InvalidConfig = "invalid_config", Config;
    /// A program banger needs is not installed or cannot be run.
    MissingProgram = "missing_program", Environment;
    /// The VMM, or what it needs, does not work on this machine.
    VmmUnavailable = "vmm_unavailable", Environment;
    /// The VMM or one of its helpers ended or failed.
    VmmFailed = "vmm_failed", Environment;
    /// The guest did not come up.
    BootFailed = "boot_failed", Environment;
    /// The guest agent did not answer, or answered something that is not its protocol.
    AgentFailed = "agent_failed", Environment;
    /// A disk is full.
    NoSpace = "no_space", Environment;
    /// A package archive, registry or mirror could not be reached or answered badly.
    FetchFailed = "fetch_failed", Environment;
    /// An image or kernel could not be built.
    BuildFailed = "build_failed", Environment;
    /// A file or directory could not be read or written.
    Io = "io", Environment;
    /// A directory or socket has the wrong owner or mode.
    Unsafe = "unsafe_permissions", Environment;
    /// Another daemon already serves this state directory.
    DaemonRunning = "daemon_running", Environment;
    /// The daemon cannot be started or reached.
    DaemonUnavailable = "daemon_unavailable", Environment;
    /// The database cannot be read or written.
    Store = "store_failed", Environment;
    /// A defect in banger.
    Internal = "internal", Internal;
}

/// An error with a code, a message, a hint and a cause.
pub struct Error(Box<Inner>);

struct Inner {
    code: Code,
    message: String,
    hint: Option<String>,
    op_id: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// A new error; `message` says what happened, without a trailing full stop.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Error(Box::new(Inner {
            code,
            message: message.into(),
            hint: None,
            op_id: None,
            source: None,
        }))
    }

    /// Adds what to do next, as an instruction. Replaces an earlier hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Names the operation whose log lines explain this error.
    #[must_use]
    pub fn operation(mut self, op_id: impl Into<String>) -> Self {
        self.0.op_id = Some(op_id.into());
        self
    }

    /// An error for a failed system call or file operation: `act` is a verb phrase such as
    /// "read" and `path` what it was done to. A full disk gets its own code and hint.
    pub fn io(act: &str, path: &Path, source: std::io::Error) -> Self {
        let full = matches!(
            source.kind(),
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
        );
        let message = format!("cannot {act} `{}`", path.display());
        if full {
            return Error::new(Code::NoSpace, message)
                .hint(format!(
                    "free some space on the file system of `{}` and try again",
                    path.display()
                ))
                .because(source);
        }
        Error::new(Code::Io, message).because(source)
    }

    /// How an operation ends that nobody wants any longer.
    pub fn cancelled() -> Self {
        Error::new(Code::Cancelled, "the operation was cancelled")
    }

    /// An error for something that cannot happen unless banger is wrong.
    pub fn internal(message: impl Into<String>) -> Self {
        Error::new(Code::Internal, message)
    }

    /// The stable code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The class of the code.
    pub fn class(&self) -> Class {
        self.0.code.class()
    }

    /// What happened, this layer only.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What to do next.
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The operation whose log lines explain this error.
    pub fn op_id(&self) -> Option<&str> {
        self.0.op_id.as_deref()
    }

    /// The message followed by every cause, joined with ": ".
    pub fn chain(&self) -> String {
        let mut text = self.0.message.clone();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.chain(), self.0.code.as_str())?;
        match &self.0.hint {
            Some(hint) => write!(f, "; hint: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0.source {
            Some(source) => Some(source.as_ref()),
            None => None,
        }
    }
}

/// Adds the act and the path to an I/O error, at the place where both are known.
pub trait IoContext<T> {
    /// Turns the error into "cannot `act` `path`".
    fn at(self, act: &str, path: &Path) -> Result<T>;
}

impl<T> IoContext<T> for std::io::Result<T> {
    fn at(self, act: &str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::io(act, path, source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_round_trips_through_its_word() {
        for code in Code::ALL {
            let json = serde_json::to_string(code).unwrap();
            assert_eq!(json, format!("\"{}\"", code.as_str()));
            assert_eq!(serde_json::from_str::<Code>(&json).unwrap(), *code);
        }
    }

    #[test]
    fn chain_lists_every_cause_once() {
        let io = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let error =
            Error::new(Code::Internal, "outer").because(Error::io("read", Path::new("/x"), io));
        assert_eq!(error.to_string(), "outer");
        assert_eq!(error.chain(), "outer: cannot read `/x`: permission denied");
    }

    #[test]
    fn a_full_disk_is_named_as_such() {
        let io = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let error = Error::io("write", Path::new("/x"), io);
        assert_eq!(error.code(), Code::NoSpace);
        assert!(error.hint_text().unwrap().contains("free some space"));
    }
}
