//! The namespaces in which root's work is done without being root.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use banger_model::{Code, Error, IoContext, Result};

use crate::child::bind_to_this_thread;
use crate::classify::classify;
use crate::programs;

/// Whether this process needs a user namespace to write files of several users.
pub(crate) fn needs_user_namespace() -> bool {
    !rustix::process::geteuid().is_root()
}

fn unshare() -> Result<Command> {
    let mut command = Command::new(programs::find("unshare")?);
    if needs_user_namespace() {
        // Without these two, unshare's own message names a file descriptor.
        programs::find("newuidmap")?;
        programs::find("newgidmap")?;
        command.args(["--user", "--map-auto", "--map-root-user"]);
    }
    Ok(command)
}

/// `program` as root of its own mount and pid namespaces: its mounts are its own, and
/// everything it starts ends with it.
pub(crate) fn isolated(program: &str) -> Result<Command> {
    let program = programs::find(program)?;
    let mut command = unshare()?;
    command
        .args(["--mount", "--pid", "--fork", "--kill-child=KILL"])
        .args(["--mount-proc", "--"])
        .arg(program);
    Ok(command)
}

/// Removes a directory that may hold files of the user's subordinate ids.
///
/// # Errors
/// `io`, naming the directory, when something is left.
pub fn remove_tree(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
        Err(error) => return Err(error).at("remove", path),
    }
    let mut command = unshare()?;
    command
        .args(["--", "rm", "-rf", "--one-file-system", "--"])
        .arg(path)
        .env("PATH", programs::search_path())
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null());
    bind_to_this_thread(&mut command);
    let output = command.output().at("remove", path)?;
    if output.status.success() && !path.exists() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = said.lines().collect();
    Err(
        Error::new(Code::Io, format!("cannot remove `{}`", path.display())).because(classify(
            "unshare",
            output.status,
            &lines,
        )),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_removed_and_a_missing_one_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        std::fs::create_dir_all(tree.join("a/b")).unwrap();
        std::fs::write(tree.join("a/b/c"), "x").unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
        remove_tree(&tree).unwrap();
    }
}
