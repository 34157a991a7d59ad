//! Finding the programs of the host.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use banger_model::{Code, Error, Result};

/// Where Debian keeps mke2fs and friends, which the PATH of an ordinary user leaves out.
const SYSTEM_DIRS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// The programs this crate and its callers start, each with the Debian package it is in.
const PACKAGES: [(&str, &str); 10] = [
    ("mmdebstrap", "mmdebstrap"),
    ("unshare", "util-linux"),
    ("newuidmap", "uidmap"),
    ("newgidmap", "uidmap"),
    ("dpkg-deb", "dpkg"),
    ("mke2fs", "e2fsprogs"),
    ("e2fsck", "e2fsprogs"),
    ("debugfs", "e2fsprogs"),
    ("depmod", "kmod"),
    ("apt-get", "apt"),
];

/// The search path for every process we start: the user's, then the system directories.
pub(crate) fn search_path() -> OsString {
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = std::env::split_paths(&inherited)
        // A relative entry would mean another place for every working directory.
        .filter(|dir| dir.is_absolute())
        .collect();
    for dir in ["/usr/bin", "/bin"].into_iter().chain(SYSTEM_DIRS) {
        if !dirs.iter().any(|known| known == Path::new(dir)) {
            dirs.push(dir.into());
        }
    }
    std::env::join_paths(dirs).unwrap_or_else(|_| "/usr/bin:/bin:/usr/sbin:/sbin".into())
}

/// The full path of `program`.
///
/// # Errors
/// `missing_program` with the package to install.
pub(crate) fn find(program: &str) -> Result<PathBuf> {
    find_in(program, &search_path()).ok_or_else(|| missing(program))
}

/// Refuses work that would find these programs missing later.
///
/// # Errors
/// `missing_program` with the package to install.
pub fn require(programs: &[&str]) -> Result<()> {
    programs.iter().try_for_each(|name| find(name).map(drop))
}

fn find_in(program: &str, path: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(path)
        .map(|dir| dir.join(program))
        .find(|candidate| {
            candidate
                .metadata()
                .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
        })
}

/// The error for a program that is not there.
pub(crate) fn missing(program: &str) -> Error {
    Error::new(
        Code::MissingProgram,
        format!("`{program}` is not installed"),
    )
    .hint(format!("run `{}`", install_command(program)))
}

/// What to type to get `program`.
pub(crate) fn install_command(program: &str) -> String {
    let package = PACKAGES
        .iter()
        .find(|(known, _)| *known == program)
        .map_or(program, |(_, package)| package);
    format!("sudo apt-get install {package}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_executable_files_count() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("prog");
        std::fs::write(&file, "").unwrap();
        assert_eq!(find_in("prog", dir.path().as_os_str()), None);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find_in("prog", dir.path().as_os_str()), Some(file));
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        assert_eq!(find_in("sub", dir.path().as_os_str()), None);
    }

    #[test]
    fn a_missing_program_names_its_package() {
        let error = missing("newuidmap");
        assert_eq!(error.code(), Code::MissingProgram);
        assert!(
            error
                .hint_text()
                .unwrap()
                .contains("apt-get install uidmap")
        );
    }

    #[test]
    fn the_system_directories_are_always_searched() {
        let path = search_path();
        let dirs: Vec<_> = std::env::split_paths(&path).collect();
        assert!(dirs.contains(&PathBuf::from("/usr/sbin")));
        assert!(dirs.iter().all(|dir| dir.is_absolute()));
    }
}
