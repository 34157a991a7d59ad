//! The few words the daemon takes.

use std::ffi::OsString;

/// What it is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Args {
    /// Serve; also log to standard error when `foreground`.
    Serve {
        /// For people who look.
        foreground: bool,
    },
    /// Print the release.
    Version,
    /// Print how it is used.
    Help,
}

/// How it is used.
pub(crate) const USAGE: &str = "\
Usage: bangerd [--foreground]

The daemon of banger; `banger` starts it when it is needed.

Options:
  --foreground  Also log to standard error
  --version     Print the release
  --help        Print this
";

/// Reads the arguments; an unknown one is the error.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Args, String> {
    let mut parsed = Args::Serve { foreground: false };
    for arg in args {
        match arg.to_str() {
            Some("--foreground") => parsed = Args::Serve { foreground: true },
            Some("--version" | "-V") => return Ok(Args::Version),
            Some("--help" | "-h") => return Ok(Args::Help),
            _ => return Err(arg.to_string_lossy().escape_debug().to_string()),
        }
    }
    Ok(parsed)
}
