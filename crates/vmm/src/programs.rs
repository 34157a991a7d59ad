//! Finds the programs a VM needs.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use banger_model::{Code, Error, Result};

use crate::firecracker::{FIRECRACKER, PASTA, install_hint, pasta_hint};
use crate::qemu::{QEMU, VSOCK};

/// Where to look: for a VMM at the path that the environment or else the configuration names,
/// and there alone when one does, else in `PATH`; for banger's own programs in `../lib/banger`
/// of the running executable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Search {
    /// Firecracker, when the environment names it.
    pub firecracker_env: Option<PathBuf>,
    /// Firecracker, when the configuration names it.
    pub firecracker_bin: Option<PathBuf>,
    /// QEMU, when the configuration names it.
    pub qemu_bin: Option<PathBuf>,
    /// The value of `PATH`.
    pub path: Option<OsString>,
    /// The directory of the running executable.
    pub exe_dir: Option<PathBuf>,
}

impl Search {
    /// QEMU.
    ///
    /// # Errors
    /// `missing_program` with how to install it.
    pub fn qemu(&self) -> Result<PathBuf> {
        if let Some(path) = &self.qemu_bin {
            return named(
                path,
                "correct `qemu_bin` in the configuration file, or remove it",
            );
        }
        self.installed(QEMU).ok_or_else(|| {
            Error::new(Code::MissingProgram, format!("`{QEMU}` is not installed"))
                .hint("install it: `sudo apt-get install qemu-system-x86`")
        })
    }

    /// Firecracker.
    ///
    /// # Errors
    /// `missing_program` with how to install it.
    pub fn firecracker(&self) -> Result<PathBuf> {
        if let Some(path) = &self.firecracker_env {
            return named(path, "correct the variable BANGER_FIRECRACKER, or unset it");
        }
        if let Some(path) = &self.firecracker_bin {
            let hint = "correct `firecracker_bin` in the configuration file, or remove it";
            return named(path, hint);
        }
        self.installed(FIRECRACKER).ok_or_else(|| {
            let message = format!("`{FIRECRACKER}` is not installed");
            Error::new(Code::MissingProgram, message).hint(install_hint())
        })
    }

    /// pasta, which carries the network of a VM under Firecracker.
    ///
    /// # Errors
    /// `missing_program` with how to install it.
    pub fn pasta(&self) -> Result<PathBuf> {
        self.installed(PASTA).ok_or_else(|| {
            Error::new(Code::MissingProgram, format!("`{PASTA}` is not installed"))
                .hint(pasta_hint())
        })
    }

    fn installed(&self, program: &str) -> Option<PathBuf> {
        let path = self.path.iter().flat_map(std::env::split_paths);
        // A relative entry would depend on the directory banger is called from.
        path.filter(|dir| dir.is_absolute())
            .map(|dir| dir.join(program))
            .find(|file| is_executable(file))
    }

    /// The vsock program, which is installed with banger.
    ///
    /// # Errors
    /// `missing_program` with how to repair the installation.
    pub fn vsock(&self) -> Result<PathBuf> {
        let prefix = self.exe_dir.as_deref().and_then(Path::parent);
        let file = prefix
            .unwrap_or(Path::new("/"))
            .join("lib/banger")
            .join(VSOCK);
        if is_executable(&file) {
            return Ok(file);
        }
        Err(Error::new(
            Code::MissingProgram,
            format!("`{}`, a part of banger, is missing", file.display()),
        )
        .hint("install banger again: `make install`, or `make build` in its source tree"))
    }
}

/// The programs, found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programs {
    /// QEMU.
    pub qemu: PathBuf,
    /// The vsock program.
    pub vsock: PathBuf,
}

impl Programs {
    /// Finds both.
    ///
    /// # Errors
    /// `missing_program` with how to install it.
    pub fn find(search: &Search) -> Result<Programs> {
        Ok(Programs {
            qemu: search.qemu()?,
            vsock: search.vsock()?,
        })
    }
}

/// A program at a path that somebody wrote down: another is never taken instead.
fn named(path: &Path, hint: &str) -> Result<PathBuf> {
    if path.is_absolute() && is_executable(path) {
        return Ok(path.to_owned());
    }
    Err(Error::new(
        Code::MissingProgram,
        format!("`{}` is not an executable file", path.display()),
    )
    .hint(hint))
}

fn is_executable(path: &Path) -> bool {
    std::fs::metadata(path)
        .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Scratch;

    fn program(dir: &Path, name: &str, mode: u32) -> PathBuf {
        std::fs::create_dir_all(dir).unwrap();
        let path = dir.join(name);
        std::fs::write(&path, "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn the_first_executable_in_order_wins() {
        let scratch = Scratch::new();
        let dir = |name: &str| scratch.path().join(name);
        let search = Search {
            path: Some(std::env::join_paths([dir("p1"), dir("p2")]).unwrap()),
            ..Search::default()
        };
        let error = search.qemu().unwrap_err();
        assert_eq!(error.code(), Code::MissingProgram);
        let hint = error.hint_text().unwrap();
        assert!(hint.contains("apt-get install qemu-system-x86"), "{hint}");
        assert!(Programs::find(&search).is_err());
        program(&dir("p1"), QEMU, 0o644);
        let second = program(&dir("p2"), QEMU, 0o755);
        assert_eq!(search.qemu().unwrap(), second, "not executable is skipped");
    }

    #[test]
    fn our_own_program_is_never_one_from_the_search_path() {
        let scratch = Scratch::new();
        program(scratch.path(), VSOCK, 0o755);
        let search = Search {
            path: Some(scratch.path().into()),
            exe_dir: Some(scratch.path().join("prefix/bin")),
            ..Search::default()
        };
        let error = search.vsock().unwrap_err();
        assert_eq!(error.code(), Code::MissingProgram);
        assert!(error.hint_text().unwrap().contains("make install"));
        let ours = program(&scratch.path().join("prefix/lib/banger"), VSOCK, 0o755);
        assert_eq!(search.vsock().unwrap(), ours);
    }

    #[test]
    fn a_configured_program_is_never_replaced_by_another() {
        let scratch = Scratch::new();
        program(scratch.path(), QEMU, 0o755);
        for bad in ["/nonexistent/qemu", "qemu", "/tmp"] {
            let search = Search {
                qemu_bin: Some(bad.into()),
                path: Some(scratch.path().into()),
                ..Search::default()
            };
            let error = search.qemu().unwrap_err();
            assert_eq!(error.code(), Code::MissingProgram);
            assert!(error.message().contains(bad), "{error}");
            assert!(error.hint_text().unwrap().contains("qemu_bin"), "{error:?}");
        }
    }

    #[test]
    fn relative_path_entries_are_ignored() {
        let search = Search {
            path: Some(".:".into()),
            ..Search::default()
        };
        assert!(search.qemu().is_err());
    }
}
