//! From a request to exactly what the kernel is asked to execute.
//!
//! Everything that can be decided before the fork is decided here, because between fork and
//! exec a child of a threaded process must not even allocate.

use std::ffi::CString;
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
}

fn environment(exec: &Exec, user: &User) -> Result<Vec<CString>, Refusal> {
    let mut variables: Vec<(ByteString, ByteString)> = vec![
        ("PATH".into(), DEFAULT_PATH.into()),
        ("HOME".into(), user.home.clone().into()),
        ("USER".into(), user.name.clone().into()),
        ("LOGNAME".into(), user.name.clone().into()),
        ("SHELL".into(), user.shell.clone().into()),
    ];
    if exec.tty.is_some() {
        variables.push(("TERM".into(), DEFAULT_TERM.into()));
    }
    for (name, value) in &exec.env {
        if name.as_bytes().is_empty() || name.as_bytes().contains(&b'=') {
            return Err(Refusal::other(format!("{name:?} is not a variable's name")));
        }
        match variables.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = value.clone(),
            None => variables.push((name.clone(), value.clone())),
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

type Program = (String, Vec<CString>, Vec<CString>);

/// The user's shell with the name that makes it a login shell; `/bin/sh` when it is missing.
fn login_shell(user: &User) -> Result<Program, Refusal> {
    let shell = if Path::new(&user.shell).is_file() {
        user.shell.as_str()
    } else {
        "/bin/sh"
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
