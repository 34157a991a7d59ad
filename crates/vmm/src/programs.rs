//! Finds the programs a VM needs.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use banger_model::{Code, Error, Result};

use crate::qemu::{QEMU, VSOCK};

/// Where to look: a path from the configuration alone when it names one; else beside the
/// running executable, in `../lib/banger`, in `PATH`, and where cargo installs programs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Search {
    /// QEMU, when the configuration names it.
    pub qemu_bin: Option<PathBuf>,
    /// vhost-device-vsock, when the configuration names it.
    pub vhost_device_vsock_bin: Option<PathBuf>,
    /// The value of `PATH`.
    pub path: Option<OsString>,
    /// Where cargo installs programs.
    pub cargo_bin: Option<PathBuf>,
    /// The directory of the running executable.
    pub exe_dir: Option<PathBuf>,
}

impl Search {
    /// QEMU.
    ///
    /// # Errors
    /// `missing_program` with how to install it.
    pub fn qemu(&self) -> Result<PathBuf> {
        self.find(
            QEMU,
            self.qemu_bin.as_deref(),
            "qemu_bin",
            "sudo apt-get install qemu-system-x86",
        )
    }

    /// The vsock program.
    ///
    /// # Errors
    /// `missing_program` with how to install it.
    pub fn vhost_device_vsock(&self) -> Result<PathBuf> {
        self.find(
            VSOCK,
            self.vhost_device_vsock_bin.as_deref(),
            "vhost_device_vsock_bin",
            "cargo install vhost-device-vsock",
        )
    }

    fn find(
        &self,
        name: &str,
        configured: Option<&Path>,
        key: &str,
        install: &str,
    ) -> Result<PathBuf> {
        if let Some(path) = configured {
            if path.is_absolute() && is_executable(path) {
                return Ok(path.to_owned());
            }
            return Err(Error::new(
                Code::MissingProgram,
                format!("`{}` is not an executable file", path.display()),
            )
            .hint(format!(
                "correct `{key}` in the configuration file, or remove it"
            )));
        }
        let beside = self.exe_dir.iter().flat_map(|dir| {
            let library = dir.parent().map(|prefix| prefix.join("lib/banger"));
            [Some(dir.clone()), library].into_iter().flatten()
        });
        let path = self.path.iter().flat_map(std::env::split_paths);
        beside
            .chain(path)
            .chain(self.cargo_bin.clone())
            // A relative entry would depend on the directory banger is called from.
            .filter(|dir| dir.is_absolute())
            .map(|dir| dir.join(name))
            .find(|file| is_executable(file))
            .ok_or_else(|| {
                Error::new(Code::MissingProgram, format!("`{name}` is not installed"))
                    .hint(format!("install it: `{install}`"))
            })
    }
}

/// The programs, found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programs {
    /// QEMU.
    pub qemu: PathBuf,
    /// The vsock program.
    pub vhost_device_vsock: PathBuf,
}

impl Programs {
    /// Finds both.
    ///
    /// # Errors
    /// `missing_program` with how to install it.
    pub fn find(search: &Search) -> Result<Programs> {
        Ok(Programs {
            qemu: search.qemu()?,
            vhost_device_vsock: search.vhost_device_vsock()?,
        })
    }
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
        let mut search = Search {
            path: Some(std::env::join_paths([dir("p1"), dir("p2")]).unwrap()),
            cargo_bin: Some(dir("cargo")),
            exe_dir: Some(dir("prefix/bin")),
            ..Search::default()
        };
        let error = search.qemu().unwrap_err();
        assert_eq!(error.code(), Code::MissingProgram);
        assert!(
            error
                .hint_text()
                .unwrap()
                .contains("apt-get install qemu-system-x86")
        );
        let error = search.vhost_device_vsock().unwrap_err();
        assert!(
            error
                .hint_text()
                .unwrap()
                .contains("cargo install vhost-device-vsock")
        );
        assert!(Programs::find(&search).is_err());

        let cargo = program(&dir("cargo"), VSOCK, 0o755);
        assert_eq!(search.vhost_device_vsock().unwrap(), cargo);
        program(&dir("p1"), VSOCK, 0o644);
        let second = program(&dir("p2"), VSOCK, 0o755);
        assert_eq!(
            search.vhost_device_vsock().unwrap(),
            second,
            "not executable is skipped"
        );
        let library = program(&dir("prefix/lib/banger"), VSOCK, 0o755);
        assert_eq!(search.vhost_device_vsock().unwrap(), library);
        let beside = program(&dir("prefix/bin"), VSOCK, 0o755);
        assert_eq!(search.vhost_device_vsock().unwrap(), beside);
        search.vhost_device_vsock_bin = Some(second.clone());
        assert_eq!(search.vhost_device_vsock().unwrap(), second);
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
