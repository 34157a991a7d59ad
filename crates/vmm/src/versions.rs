//! Which release a program is: asked of the program itself.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use banger_model::FileIdentity;

use crate::process::Process;

/// How long a program may take to say its version.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What programs have said of their versions. Each is asked again once its file has changed.
#[derive(Debug, Default)]
pub struct Versions(Mutex<HashMap<PathBuf, (FileIdentity, String)>>);

impl Versions {
    /// The first line of `program --version`. A failure is not remembered.
    pub(crate) fn ask(&self, program: &Path) -> std::io::Result<String> {
        let identity = FileIdentity::from(&std::fs::metadata(program)?);
        let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((then, said)) = known().get(program)
            && *then == identity
        {
            return Ok(said.clone());
        }
        let said = ask_version(program)?;
        known().insert(program.to_owned(), (identity, said.clone()));
        Ok(said)
    }
}

/// The first line of `program --version`.
pub(crate) fn ask_version(program: &Path) -> std::io::Result<String> {
    // A file takes any amount of output without blocking the program.
    let mut output = anonymous_file()?;
    let child = Command::new(program)
        .arg("--version")
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(Stdio::null())
        .spawn()?;
    let process = Process::adopt(rustix::process::Pid::from_child(&child))?;
    let ended = process.wait_until(Instant::now() + TIMEOUT)?;
    if !ended {
        process.send_kill()?;
        process.wait_until(Instant::now() + TIMEOUT)?;
    }
    let status = process.reap();
    if !ended {
        return Err(std::io::Error::new(
            std::io::ErrorKind::TimedOut,
            format!("no answer within {} s", TIMEOUT.as_secs()),
        ));
    }
    if !status.is_some_and(|status| status.success()) {
        let how = status.map_or_else(|| "it failed".to_owned(), |status| status.to_string());
        return Err(std::io::Error::other(how));
    }
    output.seek(SeekFrom::Start(0))?;
    let mut said = Vec::new();
    output.take(4096).read_to_end(&mut said)?;
    let said = String::from_utf8_lossy(&said);
    Ok(said.lines().next().unwrap_or_default().to_owned())
}

fn anonymous_file() -> std::io::Result<File> {
    let name = c"banger-version";
    Ok(rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Scratch, script};

    #[test]
    fn a_program_is_asked_once_until_its_file_changes() {
        let scratch = Scratch::new();
        let (program, asked) = (scratch.path().join("program"), scratch.path().join("asked"));
        let says = |file: &Path, version: &str| {
            script(
                file,
                &format!("echo >> {}\necho {version}", asked.display()),
            );
        };
        let times = || std::fs::read(&asked).unwrap().len();
        let versions = Versions::default();
        says(&program, "1.2.3");
        for _ in 0..3 {
            assert_eq!(versions.ask(&program).unwrap(), "1.2.3");
        }
        assert_eq!(times(), 1);
        // As long and as old, as an upgrade may leave it.
        let before = std::fs::metadata(&program).unwrap().modified().unwrap();
        let other = scratch.path().join("other");
        says(&other, "1.2.4");
        let file = File::options().append(true).open(&other).unwrap();
        file.set_modified(before).unwrap();
        drop(file);
        std::fs::rename(&other, &program).unwrap();
        assert_eq!(versions.ask(&program).unwrap(), "1.2.4");
        assert_eq!(times(), 2);
    }

    #[test]
    fn a_failure_is_not_remembered() {
        let scratch = Scratch::new();
        let program = scratch.path().join("program");
        let versions = Versions::default();
        assert!(versions.ask(&program).is_err());
        script(&program, "test -e ${0%/*}/well && echo 1.2.3");
        assert!(versions.ask(&program).is_err());
        std::fs::write(scratch.path().join("well"), "").unwrap();
        assert_eq!(versions.ask(&program).unwrap(), "1.2.3");
    }
}
