//! `banger vm ssh`

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::process::Command;

use banger_api::Vm;
use banger_config::Paths;
use banger_model::{Code, Error, Result};
use clap::{ArgAction, Args};
use clap_complete::engine::ArgValueCandidates;

use super::{agent_socket, reference};
use crate::completion::vm_names;
use crate::connect::{connect_and_ask, warn_of_other_release};
use crate::exit::Exit;
use crate::ssh::{self, Files};
use crate::ui::Ui;

/// Log in to a running machine with ssh, or run a command over it
///
/// Runs the OpenSSH client with the right key, a `known_hosts` of banger's own that has the
/// machine's host key before the first connection, and a connection that needs no network in the
/// guest. Your own ssh configuration applies otherwise.
///
/// The words of the command reach the guest as they are: no shell there takes them apart again.
/// For a shell, say so: `-- sh -c 'cd /srv && ls'`.
///
/// Exit codes: those of ssh, which are the command's own, or 255 when ssh or banger failed; 2 for
/// a command line that is not valid.
#[derive(Args, Debug)]
#[command(after_help = "For scp, sftp, rsync and git, see `banger ssh-config`.")]
pub(crate) struct SshArgs {
    /// Name, id, or a unique beginning of either
    #[arg(value_parser = reference, add = ArgValueCandidates::new(vm_names))]
    name: String,

    /// Have a terminal in the guest also for a command, as `ssh -t`; twice also without one here
    #[arg(short, long, action = ArgAction::Count)]
    tty: u8,

    /// Command to run, after `--`, and its arguments
    #[arg(last = true)]
    command: Vec<OsString>,
}

pub(crate) async fn cmd_ssh(ui: &Ui, args: SshArgs) -> Result<Exit> {
    let paths = Paths::from_env()?;
    let (client, vm) = connect_and_ask(&paths, async |client| client.vm(&args.name).await).await?;
    warn_of_other_release(ui, &client);
    agent_socket(&vm)?;
    let argv = argv(&Files::new(&paths), &vm, args.tty, &args.command)?;
    // In our place: signals, the terminal and the exit code are between ssh and its caller.
    let error = Command::new("ssh").args(argv).exec();
    Err(match error.kind() {
        io::ErrorKind::NotFound => Error::new(
            Code::MissingProgram,
            "the program `ssh` is not installed",
        )
        .hint(format!(
            "install the OpenSSH client, such as with `sudo apt-get install openssh-client`, or \
                 use `banger vm exec {}`, which needs none",
            vm.name
        )),
        _ => Error::new(Code::MissingProgram, "cannot run `ssh`").because(error),
    })
}

fn argv(files: &Files, vm: &Vm, tty: u8, command: &[OsString]) -> Result<Vec<OsString>> {
    let mut argv = Vec::new();
    for _ in 0..tty.min(2) {
        argv.push("-t".into());
    }
    let identity = match vm.ssh_identity.as_str() {
        // A daemon of an older release does not say.
        "" => files.identity(),
        path => path.into(),
    };
    let mut options = ssh::options(files, &identity)?;
    // What belongs to other hosts in the user's own configuration.
    options.push(("ControlPath", "none".into()));
    options.push(("ClearAllForwardings", "yes".into()));
    for (keyword, value) in options {
        argv.push("-o".into());
        argv.push(format!("{keyword}={value}").into());
    }
    argv.push("--".into());
    argv.push(format!("{}{}", vm.name, ssh::SUFFIX).into());
    argv.extend(command.iter().map(|word| quote(word)));
    Ok(argv)
}

/// A word for the shell that the guest's ssh server hands the command to: ssh only joins words
/// with spaces.
fn quote(word: &OsStr) -> OsString {
    let is_plain = |byte: &u8| {
        byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'-' | b'_' | b'.' | b'/' | b':' | b',' | b'+' | b'@' | b'%'
            )
    };
    let bytes = word.as_bytes();
    if !bytes.is_empty() && bytes.iter().all(is_plain) {
        return word.to_owned();
    }
    let mut quoted = vec![b'\''];
    for byte in bytes {
        match byte {
            b'\'' => quoted.extend_from_slice(br"'\''"),
            other => quoted.push(*other),
        }
    }
    quoted.push(b'\'');
    OsString::from_vec(quoted)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_words_stay_readable() {
        for (word, quoted) in [
            ("ls", "ls"),
            ("-la", "-la"),
            ("", "''"),
            ("a b", "'a b'"),
            ("it's", r"'it'\''s'"),
            ("$HOME", "'$HOME'"),
            ("A=b", "'A=b'"),
            ("~", "'~'"),
        ] {
            assert_eq!(quote(OsStr::new(word)), quoted, "{word}");
        }
    }

    proptest! {
        // A shell a word: enough to meet every byte.
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_shell_gives_every_word_back(words in prop::collection::vec(prop::collection::vec(1..=255u8, 0..12), 1..5)) {
            let words: Vec<_> = words.into_iter().map(OsString::from_vec).collect();
            let mut line = OsString::from("printf '%s\\0'");
            for word in &words {
                line.push(" ");
                line.push(quote(word));
            }
            let output = Command::new("sh").arg("-c").arg(line).output().unwrap();
            let mut expected: Vec<u8> = Vec::new();
            for word in &words {
                expected.extend_from_slice(word.as_bytes());
                expected.push(0);
            }
            prop_assert_eq!(output.stdout, expected);
        }
    }
}
