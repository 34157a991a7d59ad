//! The two things an archive gives: whole systems and single packages.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use banger_model::{ByteSize, Code, Error, IoContext, Result};

use crate::classify::classify;
use crate::output::{Tail, Tracker};
use crate::work::Work;
use crate::{child, namespace, programs};

/// Run by mmdebstrap as a hook: fetches one package into `$BANGER_OUT`.
const DOWNLOAD: &str = include_str!("download.sh");

/// Run in the namespaces of a bootstrap: mmdebstrap, then the caller's script.
const BOOTSTRAP: &str = include_str!("bootstrap.sh");
/// A tree lives in memory when that leaves this many times its size free.
const MEMORY_TO_SPARE: u64 = 3;

/// The package archive, by the host's own configuration or through one mirror.
#[derive(Clone, Debug, Default)]
pub struct Archive {
    mirror: Option<String>,
}

/// What is done with the packages of a system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// They are installed, with apt: the tree is a system.
    Installed,
    /// They and all they depend on are unpacked, and none of their scripts is run: the tree
    /// has the files of programs.
    Unpacked,
    /// Nothing: the tree has the lists of packages, and what `prepare` makes of them with apt.
    Listed,
}

/// A system to bootstrap.
pub struct Bootstrap<'a> {
    /// The release, such as `bookworm`.
    pub suite: &'a str,
    /// What is done with the packages.
    pub variant: Variant,
    /// Packages beyond the essential ones.
    pub packages: &'a [String],
    /// An empty directory that becomes the root file system. When there is memory enough, it
    /// is one only as long as the scripts run.
    pub tree: &'a Path,
    /// The most space the tree may take, with the packages it is made of.
    pub tree_size: ByteSize,
    /// A directory for temporary files on the same file system.
    pub scratch: &'a Path,
    /// A script for `sh -eu`, run when all packages are installed, with the tree as `$1`; not
    /// when they are unpacked only.
    pub prepare: &'a str,
    /// A script for `sh -eu`, run when the tree is complete, to make something of it. A line
    /// that begins with `I: making the disk` begins a stage.
    pub finish: &'a str,
    /// Variables for `finish`; values never become part of its text.
    pub variables: &'a [(&'a str, &'a OsStr)],
}

impl Archive {
    /// The archive the host is configured for, or the one at `mirror`.
    ///
    /// # Errors
    /// `invalid_config` when `mirror` is not an address: mmdebstrap would take anything else
    /// for a line of apt's source list, where `[trusted=yes]` turns signatures off.
    pub fn new(mirror: Option<String>) -> Result<Self> {
        if let Some(address) = &mirror {
            let known = ["http://", "https://", "file:///", "copy:///"]
                .iter()
                .any(|scheme| address.starts_with(scheme));
            if !known || address.contains(|c: char| c.is_whitespace() || c.is_control()) {
                return Err(Error::new(
                    Code::InvalidConfig,
                    format!(
                        "`{}` is not the address of a mirror",
                        address.escape_debug()
                    ),
                )
                .hint("write a URL that starts with `http://`, `https://` or `file:///`"));
            }
        }
        Ok(Archive { mirror })
    }

    /// Installs a system into a directory and runs the caller's scripts on it; `on_line`
    /// receives every line of output. What is left of the tree belongs to the subordinate ids
    /// of the user (to the true owners when root does it): see [`crate::remove_tree`].
    ///
    /// # Errors
    /// `fetch_failed`, `no_space`, `missing_program`, `cancelled`, or `build_failed`, with the
    /// last lines of the output. The tree may be there in part.
    pub fn bootstrap(
        &self,
        work: &Work,
        system: &Bootstrap<'_>,
        on_line: &mut dyn FnMut(&str),
    ) -> Result<()> {
        let mut command = namespace::isolated("sh")?;
        command
            .args(["-euc", BOOTSTRAP, "bootstrap"])
            .arg(programs::find("mmdebstrap")?)
            .args([
                "--mode=root",
                match system.variant {
                    Variant::Installed => "--variant=apt",
                    Variant::Unpacked => "--variant=extract",
                    Variant::Listed => "--variant=custom",
                },
                "--format=directory",
                "--verbose",
            ])
            // The finished image is synced as a whole; syncing every file of a tree that a
            // crash throws away anyway takes several times as long on a busy disk.
            .arg("--dpkgopt=force-unsafe-io")
            .arg("--customize-hook=sh -euc \"$BANGER_PREPARE\" prepare \"$1\"")
            .env("BANGER_PREPARE", system.prepare)
            .env("BANGER_FINISH", system.finish)
            .env("BANGER_TREE", system.tree)
            .env("BANGER_MEMORY", memory_for(system.tree_size))
            .envs(system.variables.iter().copied());
        if !system.packages.is_empty() {
            command.arg(format!("--include={}", system.packages.join(",")));
        }
        command.arg(system.suite).arg(system.tree);
        self.run(command, work, system.scratch, on_line)
    }

    /// Downloads the package `name` of `suite`, or, for a metapackage that depends on
    /// exactly such a package, the newest `<prefix>…` it depends on. Returns the `.deb`.
    ///
    /// # Errors
    /// As [`Archive::bootstrap`].
    pub fn download(
        &self,
        work: &Work,
        suite: &str,
        name: &str,
        prefix: Option<&str>,
        directory: &Path,
    ) -> Result<PathBuf> {
        let out = directory.join("out");
        let scratch = directory.join("tmp");
        for dir in [&out, &scratch] {
            fs::create_dir(dir).at("create", dir)?;
        }
        let mut command = namespace::isolated("mmdebstrap")?;
        command
            .args([
                "--mode=root",
                "--variant=custom",
                "--format=null",
                "--verbose",
            ])
            .arg("--customize-hook=sh -euc \"$BANGER_DOWNLOAD\"")
            .env("BANGER_DOWNLOAD", DOWNLOAD)
            .env("BANGER_PACKAGE", name)
            .env("BANGER_PREFIX", prefix.unwrap_or_default())
            .env("BANGER_OUT", &out)
            .arg(suite)
            .arg("/dev/null");
        self.run(command, work, &scratch, &mut |_| {})?;
        let mut found = Vec::new();
        for entry in fs::read_dir(&out).at("list", &out)? {
            let path = entry.at("list", &out)?.path();
            if path.extension() == Some(OsStr::new("deb")) {
                found.push(path);
            }
        }
        match found.pop() {
            Some(package) if found.is_empty() => Ok(package),
            _ => Err(Error::new(
                Code::BuildFailed,
                format!("the archive gave no single package for `{name}` of `{suite}`"),
            )),
        }
    }

    fn run(
        &self,
        mut command: Command,
        work: &Work,
        scratch: &Path,
        on_line: &mut dyn FnMut(&str),
    ) -> Result<()> {
        command
            .args(self.mirror.as_deref())
            .env("TMPDIR", scratch)
            .current_dir(scratch);
        let mut tracker = Tracker::new(work);
        let mut tail = Tail::default();
        let status = child::run(&mut command, work, &mut |line| {
            tail.push(line);
            tracker.line(line);
            on_line(line);
        })?;
        if status.success() {
            return Ok(());
        }
        Err(classify("mmdebstrap", status, &tail.lines()))
    }
}

/// The size of the file system in memory for a tree, or nothing when there is too little.
fn memory_for(tree: ByteSize) -> String {
    let facts = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    match available_memory(&facts) {
        Some(free) if free / (MEMORY_TO_SPARE + 1) >= tree.as_bytes() => {
            tree.as_bytes().to_string()
        }
        _ => String::new(),
    }
}

/// The memory that may still be used without swapping, in bytes.
fn available_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// Says in an error about a full disk that it is the one of `directory`, when it does not yet:
/// the programs only say that some disk is.
pub fn name_full_disk(error: Error, directory: &Path) -> Error {
    let name = directory.display().to_string();
    if error.code() != Code::NoSpace || error.message().contains(&name) {
        return error;
    }
    Error::new(
        Code::NoSpace,
        format!("the file system of `{name}` is full"),
    )
    .hint(format!(
        "free some space on the file system of `{name}` and try again"
    ))
    .because(error)
}

/// The version of the installed mmdebstrap, such as `1.3.5`.
///
/// # Errors
/// `missing_program`, or `build_failed` when it does not answer.
pub fn mmdebstrap_version() -> Result<String> {
    let program = programs::find("mmdebstrap")?;
    let fail = || Error::new(Code::BuildFailed, "`mmdebstrap --version` does not answer");
    let output = Command::new(&program)
        .arg("--version")
        .output()
        .map_err(|error| fail().because(error))?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.split_whitespace()
        .nth(1)
        .filter(|_| output.status.success())
        .map(str::to_owned)
        .ok_or_else(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_gets_its_name_once() {
        let dir = Path::new("/state/images");
        let named = name_full_disk(Error::new(Code::NoSpace, "no space left"), dir);
        assert!(named.message().contains("/state/images"));
        assert!(named.hint_text().unwrap().contains("/state/images"));
        let again = name_full_disk(named, dir);
        assert_eq!(again.chain().matches("/state/images").count(), 1);
        let other = name_full_disk(Error::new(Code::BuildFailed, "x"), dir);
        assert_eq!(other.message(), "x");
    }

    #[test]
    fn available_memory_is_read_from_the_kernel() {
        let text = "MemTotal:       24684084 kB\nMemAvailable:   21000000 kB\n";
        assert_eq!(available_memory(text), Some(21_000_000 * 1024));
        assert_eq!(available_memory("MemTotal: 1 kB\n"), None);
        assert_eq!(memory_for(ByteSize::gib(1 << 20)), "");
    }

    #[test]
    fn mirrors_are_addresses_and_nothing_else() {
        for good in [
            "http://mirror.example/debian",
            "https://m.example",
            "file:///srv/mirror",
        ] {
            assert!(Archive::new(Some(good.to_owned())).is_ok(), "{good}");
        }
        assert!(Archive::new(None).is_ok());
        for bad in [
            "deb [trusted=yes] http://mirror.example/debian bookworm main",
            "http://mirror.example/ [trusted=yes]",
            "http://mirror.example/debian\ndeb [trusted=yes] http://x",
            "-",
            "/etc/apt/sources.list",
            "",
            "--mode=chrootless",
        ] {
            let error = Archive::new(Some(bad.to_owned())).unwrap_err();
            assert_eq!(error.code(), Code::InvalidConfig, "{bad:?}");
        }
    }
}
