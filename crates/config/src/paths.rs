//! Where banger's files are, from the environment, and directories nobody else may enter.

use std::ffi::{OsStr, OsString};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use banger_model::{Code, Error, IoContext, Result};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::LogLevel;

/// Every environment variable that banger reads, with what it does. `PATH` apart, nothing
/// else in the environment changes what banger does.
pub const ENVIRONMENT: &[(&str, &str)] = &[
    (
        "BANGER_CONFIG",
        "the configuration file, instead of the one under XDG_CONFIG_HOME",
    ),
    (
        "BANGER_FIRECRACKER",
        "Firecracker's file, instead of firecracker_bin and of the one in PATH",
    ),
    (
        "BANGER_LOG",
        "the log level: error, warn, info, debug or trace",
    ),
    (
        "XDG_CONFIG_HOME",
        "where configuration is kept; ~/.config when unset",
    ),
    (
        "XDG_STATE_HOME",
        "where state is kept; ~/.local/state when unset",
    ),
    (
        "XDG_RUNTIME_DIR",
        "where sockets are made; /run/user/UID or /tmp/banger-UID when unset",
    ),
    ("HOME", "the home directory"),
    (
        "DOCKER_CONFIG",
        "the directory with docker's config.json, which has the credentials for registries; \
         ~/.docker when unset",
    ),
    (
        "REGISTRY_AUTH_FILE",
        "a file with credentials for registries, looked at before docker's and podman's",
    ),
    (
        "HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY",
        "the proxies on the way to registries, bundles and package archives, in upper or lower \
         case; the daemon has them from the command that started it",
    ),
    (
        "CARGO_HOME",
        "where cargo installs programs; ~/.cargo when unset",
    ),
];

/// The longest path of a unix socket that Linux accepts, in bytes.
const SOCKET_PATH_MAX: usize = 107;
/// What the longest socket path adds to the directory of all VMs: an id and a name.
const LONGEST_SOCKET: &str = "000000000000/agent.sock_1023";

/// Where things are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// The configuration file; it need not exist.
    pub config_file: PathBuf,
    /// Durable state: database, images, kernels, disks.
    pub state_dir: PathBuf,
    /// Sockets and what else does not outlive a reboot.
    pub runtime_dir: PathBuf,
    /// The home directory, where there is one.
    pub home: Option<PathBuf>,
    /// The value of `PATH`.
    pub search_path: Option<OsString>,
    /// Firecracker's file, which wins over the one in the configuration file.
    pub firecracker: Option<PathBuf>,
    /// The log level from the environment, which wins over the configuration file.
    pub log_level: Option<LogLevel>,
    /// Where credentials for registries are looked for.
    pub credentials: CredentialPaths,
    /// The proxies on the way to registries and bundles.
    pub proxies: ProxyVariables,
}

/// What the environment says about proxies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyVariables {
    /// `HTTPS_PROXY`.
    pub https: Option<String>,
    /// `HTTP_PROXY`.
    pub http: Option<String>,
    /// `ALL_PROXY`.
    pub all: Option<String>,
    /// `NO_PROXY`.
    pub none: Option<String>,
}

/// Where other programs of the user's keep credentials for registries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CredentialPaths {
    /// The home directory.
    pub home: Option<PathBuf>,
    /// `DOCKER_CONFIG`.
    pub docker_config: Option<PathBuf>,
    /// `REGISTRY_AUTH_FILE`.
    pub auth_file: Option<PathBuf>,
    /// `XDG_RUNTIME_DIR`, in which podman keeps its own.
    pub runtime_dir: Option<PathBuf>,
}

impl Paths {
    /// Reads the environment.
    ///
    /// # Errors
    /// `invalid_config` when it does not say where things are, or says it wrongly.
    pub fn from_env() -> Result<Paths> {
        let uid = rustix::process::geteuid().as_raw();
        let run_user = PathBuf::from(format!("/run/user/{uid}"));
        Paths::resolve(|name| std::env::var_os(name), uid, run_user.is_dir())
    }

    fn resolve(
        variable: impl Fn(&str) -> Option<OsString>,
        uid: u32,
        has_run_user: bool,
    ) -> Result<Paths> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        // The XDG rules: a relative path is as good as none.
        let directory = |name: &str| set(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
        let home = || {
            directory("HOME").ok_or_else(|| {
                Error::new(Code::InvalidConfig, "HOME is not set to an absolute path")
                    .hint("set HOME to your home directory")
            })
        };
        let config_file = match set("BANGER_CONFIG") {
            Some(file) => {
                let file = PathBuf::from(file);
                std::path::absolute(&file).at("resolve", &file)?
            }
            None => match directory("XDG_CONFIG_HOME") {
                Some(dir) => dir,
                None => home()?.join(".config"),
            }
            .join("banger/config.toml"),
        };
        let state_dir = match directory("XDG_STATE_HOME") {
            Some(dir) => dir,
            None => home()?.join(".local/state"),
        }
        .join("banger");
        let runtime_dir = match directory("XDG_RUNTIME_DIR") {
            Some(dir) => dir.join("banger"),
            None if has_run_user => PathBuf::from(format!("/run/user/{uid}/banger")),
            None => PathBuf::from(format!("/tmp/banger-{uid}")),
        };
        // Lower case first, as curl has it.
        let proxy = |name: &str| {
            let value = set(&name.to_lowercase()).or_else(|| set(name))?;
            Some(value.to_string_lossy().into_owned())
        };
        let log_level = match set("BANGER_LOG") {
            Some(level) => Some(level.to_string_lossy().parse().map_err(|error: Error| {
                Error::new(Code::InvalidConfig, "the variable BANGER_LOG is not valid")
                    .hint("set it to error, warn, info, debug or trace, or unset it")
                    .because(error)
            })?),
            None => None,
        };
        let paths = Paths {
            config_file,
            state_dir,
            runtime_dir,
            home: directory("HOME"),
            search_path: set("PATH"),
            firecracker: set("BANGER_FIRECRACKER").map(PathBuf::from),
            log_level,
            credentials: CredentialPaths {
                home: directory("HOME"),
                docker_config: directory("DOCKER_CONFIG"),
                auth_file: directory("REGISTRY_AUTH_FILE"),
                runtime_dir: directory("XDG_RUNTIME_DIR"),
            },
            proxies: ProxyVariables {
                https: proxy("HTTPS_PROXY"),
                http: proxy("HTTP_PROXY"),
                all: proxy("ALL_PROXY"),
                none: proxy("NO_PROXY"),
            },
        };
        paths.check_length()?;
        Ok(paths)
    }

    /// Refuses at once what would make every VM fail to start.
    fn check_length(&self) -> Result<()> {
        let longest = self.vm_runtime_root().join(LONGEST_SOCKET);
        let length = longest.as_os_str().len();
        if length <= SOCKET_PATH_MAX {
            return Ok(());
        }
        Err(Error::new(
            Code::InvalidConfig,
            format!(
                "the runtime directory `{}` is too long: sockets in it would have paths of \
                 {length} bytes and Linux allows {SOCKET_PATH_MAX}",
                self.runtime_dir.display()
            ),
        )
        .hint("set XDG_RUNTIME_DIR to a shorter directory of your own, such as /run/user/UID"))
    }

    /// The daemon's socket.
    pub fn daemon_socket(&self) -> PathBuf {
        self.runtime_dir.join("bangerd.sock")
    }

    /// What the KVM probe found: the daemon writes it.
    pub fn kvm_cache(&self) -> PathBuf {
        self.state_dir.join("kvm-probe.json")
    }

    /// The directory that holds the runtime directories of all VMs.
    pub fn vm_runtime_root(&self) -> PathBuf {
        self.runtime_dir.join("vm")
    }
}

/// Makes sure `path` is a directory only this user can enter: makes it with mode 0700, with its
/// parents, or checks the one that is there. What is there is never changed.
///
/// # Errors
/// `unsafe_permissions` when it is a symbolic link or no directory, belongs to somebody else or
/// is open to others.
pub fn ensure_private_dir(path: &Path) -> Result<()> {
    // With `recursive`, one that exists is no error, and nothing follows from it: it is checked
    // below all the same.
    match DirBuilder::new().recursive(true).mode(0o700).create(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(error).at("create", path);
        }
        _ => {}
    }
    check_private_dir(path, rustix::process::geteuid().as_raw())
}

fn check_private_dir(path: &Path, uid: u32) -> Result<()> {
    let refuse = |what: String, hint: String| {
        let message = format!("`{}` {what}", path.display());
        Err(Error::new(Code::Unsafe, message).hint(hint))
    };
    let elsewhere = || {
        format!(
            "remove `{}` if it is not needed, or move it away",
            path.display()
        )
    };
    // A trailing slash would follow a link in spite of `NOFOLLOW`.
    let bare: &OsStr = path.components().as_path().as_os_str();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // All that follows is about what was opened, whatever the name means later.
    let directory = match rustix::fs::open(bare, flags, Mode::empty()) {
        Ok(directory) => directory,
        Err(Errno::NOTDIR | Errno::LOOP) => {
            return refuse("is not a directory of its own".to_owned(), elsewhere());
        }
        Err(errno) => return Err(std::io::Error::from(errno)).at("open", path),
    };
    let found = rustix::fs::fstat(&directory)
        .map_err(std::io::Error::from)
        .at("examine", path)?;
    if FileType::from_raw_mode(found.st_mode) != FileType::Directory {
        return refuse("is not a directory".to_owned(), elsewhere());
    }
    if found.st_uid != uid {
        return refuse(
            format!("belongs to user {}, not to you (user {uid})", found.st_uid),
            elsewhere(),
        );
    }
    let mode = found.st_mode & 0o7777;
    if mode & 0o077 != 0 {
        return refuse(
            format!("is open to others (mode {mode:04o})"),
            format!("make it private: `chmod 700 {}`", path.display()),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests;
