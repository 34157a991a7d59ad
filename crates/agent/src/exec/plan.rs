//! From a request to exactly what the kernel is asked to execute.
//!
//! Everything that can be decided before the fork is decided here, because between fork and
//! exec a child of a threaded process must not even allocate.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use banger_guest_api::{ByteString, DEFAULT_PATH, Exec};

use super::Refusal;
use crate::users::{self, User};

const DEFAULT_TERM: &str = "xterm";

/// A command, ready to be executed.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) user: User,
    /// What the command is called in messages.
    pub(super) program: String,
    /// Paths to try in order.
    pub(super) candidates: Vec<CString>,
    pub(super) argv: Vec<CString>,
    pub(super) env: Vec<CString>,
    /// Directories to try in order.
    pub(super) workdirs: Vec<CString>,
}

impl Plan {
    /// Plans `exec` with the guest's user database.
    pub(super) fn new(exec: &Exec) -> Result<Plan, Refusal> {
        let user = users::look_up(exec.user.as_deref()).map_err(Refusal::other)?;
        let env = environment(exec, &user)?;
        let (program, candidates, argv) = if exec.argv.is_empty() {
            login_shell(&user)?
        } else {
            let argv = exec
                .argv
                .iter()
                .map(|argument| c_string(argument.as_bytes(), "an argument"))
                .collect::<Result<Vec<_>, _>>()?;
            let program = exec.argv[0].as_bytes();
            let path = env
                .iter()
                .find_map(|variable| variable.as_bytes().strip_prefix(b"PATH="));
            let candidates = search(program, path.unwrap_or_default())?;
            (
                String::from_utf8_lossy(program).into_owned(),
                candidates,
                argv,
            )
        };
        let workdirs = match &exec.workdir {
            Some(workdir) if exec.create_workdir => vec![create_workdir(workdir)?],
            Some(workdir) => vec![c_string(workdir.as_bytes(), "the working directory")?],
            None => vec![
                c_string(user.home.as_bytes(), "the home directory")?,
                c"/".to_owned(),
            ],
        };
        Ok(Plan {
            user,
            program,
            candidates,
            argv,
            env,
            workdirs,
        })
    }

    /// The first of the paths to try that is a file all the same.
    pub(super) fn existing_candidate(&self) -> Option<String> {
        let paths = self.candidates.iter().filter_map(|path| path.to_str().ok());
        let mut paths = paths.filter(|path| path.starts_with('/'));
        paths
            .find(|path| Path::new(path).is_file())
            .map(str::to_owned)
    }
}

/// Makes a missing directory, as container runtimes do: owned by root, whoever the command is.
fn create_workdir(workdir: &ByteString) -> Result<CString, Refusal> {
    let path = c_string(workdir.as_bytes(), "the working directory")?;
    match fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(workdir.as_os_str())
    {
        Ok(()) => Ok(path),
        Err(error) => Err(Refusal::other(format!(
            "cannot make the directory {path:?}: {error}"
        ))),
    }
}

fn environment(exec: &Exec, user: &User) -> Result<Vec<CString>, Refusal> {
    let host = rustix::system::uname().nodename().to_bytes().to_vec();
    let mut variables: Vec<(ByteString, ByteString)> = vec![
        ("PATH".into(), DEFAULT_PATH.into()),
        ("HOME".into(), user.home.clone().into()),
        ("HOSTNAME".into(), host.into()),
        ("USER".into(), user.name.clone().into()),
        ("LOGNAME".into(), user.name.clone().into()),
        ("SHELL".into(), shell(user).into()),
    ];
    if exec.tty.is_some() {
        variables.push(("TERM".into(), DEFAULT_TERM.into()));
    }
    let mut places: HashMap<ByteString, usize> = HashMap::with_capacity(exec.env.len());
    places.extend(
        variables
            .iter()
            .enumerate()
            .map(|(at, (name, _))| (name.clone(), at)),
    );
    for (name, value) in &exec.env {
        if name.as_bytes().is_empty() || name.as_bytes().contains(&b'=') {
            return Err(Refusal::other(format!("{name:?} is not a variable's name")));
        }
        match places.get(name) {
            Some(at) => variables[*at].1 = value.clone(),
            None => {
                places.insert(name.clone(), variables.len());
                variables.push((name.clone(), value.clone()));
            }
        }
    }
    variables
        .iter()
        .map(|(name, value)| {
            let variable = [name.as_bytes(), b"=", value.as_bytes()].concat();
            c_string(&variable, "a variable")
        })
        .collect()
}

/// The user's shell. Programs that only turn people away are none: whoever may start commands
/// here is the machine's owner, and means a session.
fn shell(user: &User) -> &str {
    let name = user.shell.rsplit('/').next().unwrap_or_default();
    match name {
        "nologin" | "false" | "true" | "sync" => users::DEFAULT_SHELL,
        _ => &user.shell,
    }
}

type Program = (String, Vec<CString>, Vec<CString>);

/// The user's shell with the name that makes it a login shell; `/bin/sh` when it is missing.
fn login_shell(user: &User) -> Result<Program, Refusal> {
    let shells = [shell(user), users::DEFAULT_SHELL];
    let Some(shell) = shells.into_iter().find(|shell| Path::new(shell).is_file()) else {
        return Err(Refusal::not_found(format!(
            "no command was given, the image names none, and it has no shell: there is no {}",
            users::DEFAULT_SHELL
        )));
    };
    let name = shell.rsplit('/').next().unwrap_or(shell);
    Ok((
        shell.to_owned(),
        vec![c_string(shell.as_bytes(), "the login shell")?],
        vec![c_string(format!("-{name}").as_bytes(), "the login shell")?],
    ))
}

/// The paths at which `program` may be, in the order of the command's own `PATH`.
fn search(program: &[u8], path: &[u8]) -> Result<Vec<CString>, Refusal> {
    if program.is_empty() {
        return Err(Refusal::not_found("the command is empty"));
    }
    if program.contains(&b'/') {
        return Ok(vec![c_string(program, "the command")?]);
    }
    path.split(|byte| *byte == b':')
        .map(|directory| {
            // An empty element means the current directory, as everywhere.
            let directory = if directory.is_empty() {
                b"."
            } else {
                directory
            };
            c_string(&[directory, b"/", program].concat(), "the command")
        })
        .collect()
}

fn c_string(bytes: &[u8], what: &str) -> Result<CString, Refusal> {
    CString::new(bytes).map_err(|_| Refusal::other(format!("{what} contains a NUL byte")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(shell: &str) -> User {
        User {
            name: "app".to_owned(),
            uid: 1000,
            gid: 1000,
            groups: vec![1000],
            home: "/".to_owned(),
            shell: shell.to_owned(),
        }
    }

    #[test]
    fn a_user_without_a_shell_gets_the_ordinary_one() {
        for none in [
            "/usr/sbin/nologin",
            "/sbin/nologin",
            "/bin/false",
            "/no/such/shell",
        ] {
            let (shell, _, argv) = login_shell(&user(none)).unwrap();
            assert_eq!(
                (shell.as_str(), argv[0].as_c_str()),
                ("/bin/sh", c"-sh"),
                "{none}"
            );
        }
        assert_eq!(login_shell(&user("/bin/bash")).unwrap().0, "/bin/bash");
    }
}
