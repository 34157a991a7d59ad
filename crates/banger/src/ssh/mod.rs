//! OpenSSH to machines: what its client has to be told so that it reaches a guest without a
//! network, logs in with banger's key, and accepts the one host key that this host made.
//!
//! ```text
//! ssh box.vm ──ProxyCommand──▶ banger ssh-proxy box.vm 22
//!                                │ asks the daemon for the machine
//!                                │ writes its host key into known_hosts
//!                                └ dials port 22 through the agent, hands bytes through
//! ```
//!
//! OpenSSH reads `known_hosts` only after the server's first line, which reaches it through the
//! proxy: so the key is pinned before every connection, also the first, and never trusted on
//! first use. The same holds for scp, sftp, rsync and git, which run `ssh`.

mod config;
mod fence;
mod known_hosts;
mod proxy;
mod user_file;

use std::path::{Path, PathBuf};

use banger_config::Paths;
use banger_model::{Code, Error, Result};

pub(crate) use config::{SshConfigArgs, cmd_ssh_config};
pub(crate) use proxy::{SshProxyArgs, cmd_ssh_proxy};

/// What the names of machines end with for OpenSSH.
pub(crate) const SUFFIX: &str = ".vm";

/// The files below the state directory.
pub(crate) struct Files {
    directory: PathBuf,
}

impl Files {
    pub(crate) fn new(paths: &Paths) -> Files {
        Files {
            directory: paths.state_dir.join("ssh"),
        }
    }

    /// The private key that every guest accepts; the daemon makes it.
    pub(crate) fn identity(&self) -> PathBuf {
        self.directory.join("id_ed25519")
    }

    /// The host keys of machines; ours alone.
    fn known_hosts(&self) -> PathBuf {
        self.directory.join("known_hosts")
    }

    /// What the user's configuration includes.
    fn config(&self) -> PathBuf {
        self.directory.join("config")
    }
}

/// The options with which OpenSSH reaches a machine as `NAME.vm`, each a keyword and its value.
///
/// The guest is hostile: it gets no agent, no display and no password prompt, and it teaches us
/// no keys.
///
/// # Errors
/// `invalid_config` when a path cannot be written down for OpenSSH.
pub(crate) fn options(files: &Files, identity: &Path) -> Result<Vec<(&'static str, String)>> {
    Ok(vec![
        // As typed: nothing in the user's own configuration may send it elsewhere.
        ("HostName", "%h".to_owned()),
        ("ProxyCommand", proxy_command()?),
        ("User", "root".to_owned()),
        ("IdentityFile", quoted_path(identity)?),
        ("IdentitiesOnly", "yes".to_owned()),
        ("PreferredAuthentications", "publickey".to_owned()),
        ("StrictHostKeyChecking", "yes".to_owned()),
        ("UserKnownHostsFile", quoted_path(&files.known_hosts())?),
        ("GlobalKnownHostsFile", "/dev/null".to_owned()),
        ("UpdateHostKeys", "no".to_owned()),
        ("CheckHostIP", "no".to_owned()),
        ("CanonicalizeHostname", "no".to_owned()),
        // Longer than the proxy waits for a server that is still starting, whatever limit the
        // user has for hosts that are.
        ("ConnectTimeout", "120".to_owned()),
        ("ForwardAgent", "no".to_owned()),
        ("ForwardX11", "no".to_owned()),
    ])
}

/// This program as OpenSSH has to call it. It runs the line with the user's shell after it has
/// put the host and the port in.
fn proxy_command() -> Result<String> {
    let program = std::env::current_exe()
        .map_err(|error| Error::internal("cannot find this program's own file").because(error))?;
    let program = program.to_str().ok_or_else(|| {
        Error::new(
            Code::InvalidConfig,
            format!("`{}` is not a path that OpenSSH can run", program.display()),
        )
        .hint("install banger in a directory whose path is UTF-8")
    })?;
    let quoted = program.replace('\'', r"'\''").replace('%', "%%");
    Ok(format!("'{quoted}' ssh-proxy '%h' %p"))
}

/// A path as a value for OpenSSH, which would expand some characters and has no way to write
/// others in all its releases.
fn quoted_path(path: &Path) -> Result<String> {
    let expands = |c: char| c.is_control() || matches!(c, '"' | '\\' | '%' | '$' | '*' | '?' | '[');
    match path.to_str() {
        Some(text) if !text.contains(expands) => Ok(format!("\"{text}\"")),
        _ => Err(Error::new(
            Code::InvalidConfig,
            format!("`{}` cannot be written in a configuration of OpenSSH", path.display()),
        )
        .hint("set XDG_STATE_HOME to a directory whose path has none of the characters \" \\ % $ * ? [")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_as_they_are_or_not_at_all() {
        assert_eq!(quoted_path(Path::new("/a b/ö")).unwrap(), "\"/a b/ö\"");
        for bad in [
            "/a\"b", "/a\\b", "/%h", "/${HOME}", "/a*", "/a?", "/[a]", "/a\nb",
        ] {
            let error = quoted_path(Path::new(bad)).unwrap_err();
            assert_eq!(error.code(), Code::InvalidConfig, "{bad}");
        }
    }
}
