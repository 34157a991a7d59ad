//! The programs of e2fsprogs, and running them.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use banger_model::{Code, Error, Result};

/// Finds and runs the programs of e2fsprogs.
#[derive(Clone, Debug)]
pub(crate) struct FileSystemTools {
    pub(super) directories: Vec<PathBuf>,
}

impl FileSystemTools {
    /// Looks in the search path, then where they are when the search path of an ordinary user
    /// leaves them out.
    pub(crate) fn new(search_path: Option<&OsStr>) -> FileSystemTools {
        let mut directories: Vec<PathBuf> = search_path
            .map(|path| std::env::split_paths(path).collect())
            .unwrap_or_default();
        directories.extend(["/usr/sbin".into(), "/sbin".into()]);
        // A relative entry would mean another program in every directory.
        directories.retain(|directory| directory.is_absolute());
        FileSystemTools { directories }
    }

    /// Whether the program is installed.
    pub(super) fn has(&self, program: &str) -> bool {
        self.find(program).is_ok()
    }

    /// Runs a program on a file to its end.
    ///
    /// # Errors
    /// `missing_program`; `no_space` or `io` with what the program said.
    pub(super) fn run(&self, program: &str, args: &[&str], file: &Path) -> Result<()> {
        let path = self.find(program)?;
        let output = Command::new(&path)
            .args(args.iter().map(OsString::from))
            .arg(file)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| Error::io("run", &path, error))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("No space left on device") {
            return Err(Error::io("write", file, io::ErrorKind::StorageFull.into()));
        }
        let last = said
            .trim()
            .lines()
            .next_back()
            .unwrap_or("it did not say why");
        Err(Error::new(
            Code::Io,
            format!(
                "`{program}` failed on `{}` ({}): {}",
                file.display(),
                output.status,
                last.escape_debug()
            ),
        ))
    }

    fn find(&self, program: &str) -> Result<PathBuf> {
        self.directories
            .iter()
            .map(|directory| directory.join(program))
            .find(|path| rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok())
            .ok_or_else(|| {
                Error::new(
                    Code::MissingProgram,
                    format!("`{program}` is not installed, it makes the disks of VMs"),
                )
                .hint("install it: `sudo apt-get install e2fsprogs`")
            })
    }
}
