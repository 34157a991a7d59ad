//! Running the programs of e2fsprogs.

use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use banger_model::{Code, Error, IoContext, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::name::shown;
use crate::watch::Watch;

/// Where they are when the search path of an ordinary user leaves them out.
const SYSTEM_DIRECTORIES: [&str; 2] = ["/usr/sbin", "/sbin"];
/// How much of what a program says is kept.
const KEPT: usize = 4096;
/// How often the caller is asked whether to go on.
const PATIENCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};

/// Finds and runs programs.
pub(crate) struct Tools<'a> {
    /// What the user's `PATH` says.
    pub(crate) search_path: Option<&'a OsStr>,
}

impl Tools<'_> {
    /// Runs a program with `arguments`, `file` and perhaps one argument more, to its end.
    ///
    /// # Errors
    /// `missing_program`; `no_space` or `build_failed` with what it said; `cancelled`.
    pub(crate) fn run(
        &self,
        program: &str,
        arguments: &[&str],
        file: &Path,
        last: Option<&str>,
        watch: &Watch<'_>,
    ) -> Result<()> {
        watch.check()?;
        let path = self.find(program)?;
        let (mut output, input) = std::io::pipe().at("make a pipe for", &path)?;
        let child = Command::new(&path)
            .args(arguments)
            .arg(file)
            .args(last)
            // Nothing of the user's surroundings decides what the file system looks like.
            .env_clear()
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(input.try_clone().at("make a pipe for", &path)?)
            .stderr(input)
            .spawn()
            .at("run", &path)?;
        let (status, said) = std::thread::scope(|scope| {
            let listener = scope.spawn(move || listen(&mut output));
            let status = wait(child, &path, watch);
            (status, listener.join().unwrap_or_default())
        });
        let status = status?;
        if status.success() {
            return Ok(());
        }
        if String::from_utf8_lossy(&said).contains("No space left on device") {
            return Err(Error::io(
                "write",
                file,
                std::io::ErrorKind::StorageFull.into(),
            ));
        }
        Err(Error::new(
            Code::BuildFailed,
            format!(
                "`{program}` failed on `{}` ({status}): {}",
                file.display(),
                shown(said.trim_ascii())
            ),
        ))
    }

    fn find(&self, program: &str) -> Result<PathBuf> {
        let mut directories: Vec<PathBuf> = self
            .search_path
            .map(|path| std::env::split_paths(path).collect())
            .unwrap_or_default();
        directories.extend(SYSTEM_DIRECTORIES.map(PathBuf::from));
        directories
            .into_iter()
            // A relative entry would mean another program in every directory.
            .filter(|directory| directory.is_absolute())
            .map(|directory| directory.join(program))
            .find(|path| rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok())
            .ok_or_else(|| {
                Error::new(
                    Code::MissingProgram,
                    format!("`{program}` is not installed, it makes and checks images"),
                )
                .hint("install it: `sudo apt-get install e2fsprogs`")
            })
    }
}

/// Everything a program says, of which the beginning is kept.
fn listen(output: &mut impl Read) -> Vec<u8> {
    let mut said = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(read @ 1..) = output.read(&mut chunk) {
        let room = KEPT - said.len();
        said.extend_from_slice(&chunk[..read.min(room)]);
    }
    said
}

/// Waits for a program; ends it when the caller gives up.
fn wait(mut child: Child, path: &Path, watch: &Watch<'_>) -> Result<ExitStatus> {
    let watched = Pid::from_raw(child.id().cast_signed())
        .ok_or(rustix::io::Errno::SRCH)
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()));
    let given_up = watched
        .map_err(std::io::Error::from)
        .at("watch", path)
        .and_then(|watched| {
            loop {
                watch.check()?;
                let mut ended = [PollFd::from_borrowed_fd(watched.as_fd(), PollFlags::IN)];
                match poll(&mut ended, Some(&PATIENCE)) {
                    Ok(0) | Err(rustix::io::Errno::INTR) => {}
                    Ok(_) => return Ok(()),
                    Err(error) => return Err(std::io::Error::from(error)).at("watch", path),
                }
            }
        });
    if let Err(error) = given_up {
        if let Err(error) = child.kill() {
            tracing::warn!(program = %path.display(), %error, "cannot end a program");
        }
        child.wait().at("wait for", path)?;
        return Err(error);
    }
    child.wait().at("wait for", path)
}
