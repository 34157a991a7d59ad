//! The environment, the configuration file and the defaults they resolve to.
//!
//! This is the only crate that reads environment variables. It writes nothing except private
//! directories it is asked to make.

mod defaults;
mod faults;
mod file;
mod paths;

pub use defaults::{Host, Resolved, Source, Value};
pub use faults::{Fault, Faults};
pub use file::{Config, FileSync, GuestPath, HostPath, ImagesConfig, LogLevel, VmDefaults};
pub use paths::{CredentialPaths, ENVIRONMENT, Paths, ProxyVariables, ensure_private_dir};
