//! What the tests of several crates need.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Writes an executable file, such as a shell script or an ELF program.
///
/// Another process does the writing: a test beside this one that forks at that moment would
/// otherwise carry the open file into its child, and until that executes its own program this
/// one could not be executed (`ETXTBSY`, "text file busy").
///
/// # Panics
/// When it cannot be written.
pub fn write_program(path: &Path, content: impl AsRef<[u8]>) {
    let mut install = Command::new("install")
        .args(["--mode=0755", "/dev/stdin"])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .expect("run install");
    let mut input = install.stdin.take().expect("a pipe");
    input.write_all(content.as_ref()).expect("write a program");
    drop(input);
    let status = install.wait().expect("wait for install");
    assert!(status.success(), "{}: {status}", path.display());
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_written_runs_however_many_processes_begin_meanwhile() {
        let dir = std::env::temp_dir().join(format!("banger-testing-{}", std::process::id()));
        std::fs::create_dir(&dir).expect("make a directory");
        let program = dir.join("program");
        std::thread::scope(|scope| {
            let others = scope.spawn(|| {
                for _ in 0..50 {
                    let mut other = Command::new("true");
                    // It holds what it has inherited for a while.
                    // SAFETY: nanosleep(2) is async-signal-safe and allocates nothing.
                    unsafe {
                        other.pre_exec(|| {
                            std::thread::sleep(Duration::from_millis(2));
                            Ok(())
                        });
                    }
                    assert!(other.status().expect("run true").success());
                }
            });
            let mut round = 0;
            while !others.is_finished() {
                round += 1;
                write_program(&program, format!("#!/bin/sh\nexit {}\n", round % 100));
                let status = Command::new(&program).status().expect("run it");
                assert_eq!(status.code(), Some(round % 100));
            }
        });
        std::fs::remove_dir_all(&dir).expect("remove the directory");
    }
}
