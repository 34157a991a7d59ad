//! Why a build failed, from what the programs said.

use std::fmt;
use std::process::ExitStatus;

use banger_model::{Code, Error};

use crate::output::is_complaint;
use crate::{probe, programs};

/// How many lines the error shows.
const SHOWN: usize = 8;

/// The end of a program's output, as the cause of an error.
#[derive(Debug)]
struct Said(String);

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Said {}

/// The error for `program`, which ended with `status` after saying `lines`.
pub(crate) fn classify(program: &str, status: ExitStatus, lines: &[&str]) -> Error {
    let (code, message, hint) = verdict(lines).unwrap_or_else(|| {
        (
            Code::BuildFailed,
            format!("`{program}` failed ({status})"),
            None,
        )
    });
    let error = Error::new(code, message);
    let error = match hint {
        Some(hint) => error.hint(hint),
        None => error,
    };
    let shown = worth_showing(lines);
    if shown.is_empty() {
        return error;
    }
    error.because(Said(shown.join("\n")))
}

/// The lines that look like errors, or the last ones when none does.
fn worth_showing<'a>(lines: &[&'a str]) -> Vec<&'a str> {
    let telling = || lines.iter().copied().filter(|line| !is_routine(line));
    let mut shown: Vec<&str> = telling().filter(|line| is_complaint(line)).collect();
    if shown.is_empty() {
        shown = telling().collect();
    }
    shown.split_off(shown.len().saturating_sub(SHOWN))
}

/// Warnings that mmdebstrap and apt print in a successful build as well.
fn is_routine(line: &str) -> bool {
    line.contains("Download is performed unsandboxed") || line.contains("W: skipping ")
}

type Verdict = (Code, String, Option<String>);

fn verdict(lines: &[&str]) -> Option<Verdict> {
    let find = |patterns: &[&str]| {
        lines
            .iter()
            .find(|line| patterns.iter().any(|pattern| line.contains(pattern)))
    };
    if find(&[
        "No space left on device",
        "enough free space in",
        "Disk quota exceeded",
        "Could not allocate block in ext2 filesystem",
    ])
    .is_some()
    {
        return Some((
            Code::NoSpace,
            "there is no space left for the build".to_owned(),
            None,
        ));
    }
    if let Some(verdict) = namespace_trouble(lines) {
        return Some(verdict);
    }
    if find(&["Unable to locate package", "has no installation candidate"]).is_some() {
        return Some((
            Code::BuildFailed,
            "the archive lacks a package of the image".to_owned(),
            Some("check the mirror in the configuration: it may be incomplete".to_owned()),
        ));
    }
    if find(&[
        "NO_PUBKEY",
        "is not signed",
        "signatures couldn't be verified",
        "signatures were invalid",
        "GPG error",
        "OpenPGP signature verification failed",
    ])
    .is_some()
    {
        return Some((
            Code::FetchFailed,
            "the package archive's signature cannot be verified".to_owned(),
            Some(format!(
                "run `{}`, and check the mirror in the configuration",
                programs::install_command("debian-archive-keyring")
            )),
        ));
    }
    if find(&["is not valid yet", "Release file expired", "is expired"]).is_some() {
        return Some((
            Code::FetchFailed,
            "the package archive's lists are out of date, or this machine's clock is wrong"
                .to_owned(),
            Some("check the clock with `date`, or choose another mirror".to_owned()),
        ));
    }
    if find(&["Hash Sum mismatch", "File has unexpected size"]).is_some() {
        return Some((
            Code::FetchFailed,
            "a download does not match the archive's signed list".to_owned(),
            Some("try again in some minutes: the mirror may be in the middle of an update".into()),
        ));
    }
    if find(&[
        "Could not resolve",
        "Temporary failure resolving",
        "Could not connect",
        "Unable to connect",
        "Cannot initiate the connection",
        "Connection failed",
        "Connection timed out",
        "connection timed out",
        "Connection refused",
        "Connection reset",
        "Network is unreachable",
        "Error reading from server",
        "Could not handshake",
        "Undetermined Error",
        "Certificate verification failed",
        "Failed to fetch",
        "does not have a Release file",
        "Some index files failed to download",
        "Err:",
        "404  Not Found",
    ])
    .is_some()
    {
        return Some((
            Code::FetchFailed,
            "the package archive cannot be reached".to_owned(),
            Some(
                "check the network, the proxy (`http_proxy`) and the mirror in the configuration, \
                 then try again"
                    .to_owned(),
            ),
        ));
    }
    None
}

/// What `unshare` and the programs it calls say when namespaces cannot be had.
fn namespace_trouble(lines: &[&str]) -> Option<Verdict> {
    let said = |line: &&str| {
        ["unshare: ", "newuidmap: ", "newgidmap: "]
            .iter()
            .any(|program| line.starts_with(program))
    };
    let line = lines.iter().find(|line| said(line))?;
    if line.contains("/etc/subuid") || line.contains("/etc/subgid") {
        return Some((
            Code::MissingProgram,
            "this user has no subordinate user ids".to_owned(),
            Some(probe::subordinate_ids_fix()),
        ));
    }
    Some((
        Code::MissingProgram,
        "this machine does not let the user make namespaces".to_owned(),
        Some(
            "allow user namespaces (see `sysctl kernel.unprivileged_userns_clone \
             user.max_user_namespaces kernel.apparmor_restrict_unprivileged_userns`), or run as \
             root"
                .to_owned(),
        ),
    ))
}

#[cfg(test)]
mod tests;
