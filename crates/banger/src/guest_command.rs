//! From what was typed and what the image says to what the guest runs.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::IsTerminal;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use banger_guest_api::{ByteString, Exec};
use banger_model::{Code, Error, ImageConfig, Result};
use clap::{Args, ValueHint};

use crate::session::{stdin_is_null, terminal_size};
use crate::vm::bootstrap;
use crate::{env_file, environment};

/// Flags about the command in the guest.
#[derive(Args, Debug, Default, PartialEq, Eq)]
pub(crate) struct CommandArgs {
    /// Set a variable for the command; a NAME alone copies the value from here, if there is one
    #[arg(
        short, long, value_name = "NAME[=VALUE]", value_parser = EnvParser,
        help_heading = "Command options"
    )]
    pub(crate) env: Vec<EnvEntry>,

    /// Read variables from a file: one NAME=VALUE or NAME a line, `#` begins a comment line
    #[arg(
        long, value_name = "FILE", value_hint = ValueHint::FilePath,
        help_heading = "Command options"
    )]
    pub(crate) env_file: Vec<PathBuf>,

    /// Run the command as this user: a name or number, with an optional `:group`
    ///
    /// Without it, the image's user, which is root unless the image says otherwise.
    #[arg(short, long, value_parser = user, help_heading = "Command options")]
    pub(crate) user: Option<String>,

    /// Run the command in this directory of the guest
    ///
    /// Without it, the image's directory, or the home directory of the user.
    #[arg(short, long, value_name = "DIR", value_parser = WorkdirParser, help_heading = "Command options")]
    pub(crate) workdir: Option<OsString>,
}

/// One `--env`, or a line of an environment file.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct EnvEntry {
    name: OsString,
    /// Absent when the value is to be copied from our own environment.
    value: Option<OsString>,
}

/// Without the value, which may be a secret.
impl fmt::Debug for EnvEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EnvEntry").field(&self.name).finish()
    }
}

impl EnvEntry {
    pub(crate) fn parse(text: &OsStr) -> Result<EnvEntry> {
        let bytes = text.as_bytes();
        let (name, value) = match bytes.iter().position(|byte| *byte == b'=') {
            Some(at) => (
                &bytes[..at],
                Some(OsStr::from_bytes(&bytes[at + 1..]).to_owned()),
            ),
            None => (bytes, None),
        };
        // What is after the `=` may be a secret, and an error may end up in a log.
        let shown = String::from_utf8_lossy(name);
        let refuse = |why: String| {
            Err(Error::new(Code::InvalidArgument, why)
                .hint("write `NAME=VALUE`, or `NAME` to copy the value from here"))
        };
        if name.is_empty() {
            return refuse("the variable has no name".to_owned());
        }
        if name.iter().any(u8::is_ascii_whitespace) {
            let shown = shown.escape_debug();
            return refuse(format!("the name `{shown}` contains white space"));
        }
        if bytes.contains(&0) {
            let shown = shown.escape_debug();
            return refuse(format!("the variable `{shown}` contains a zero byte"));
        }
        Ok(EnvEntry {
            name: OsStr::from_bytes(name).to_owned(),
            value,
        })
    }

    pub(crate) fn resolve(
        self,
        here: &dyn Fn(&OsStr) -> Option<OsString>,
    ) -> Option<(OsString, OsString)> {
        let value = self.value.or_else(|| here(&self.name))?;
        Some((self.name, value))
    }
}

/// Parses `--env` without losing bytes that are not UTF-8.
#[derive(Clone)]
struct EnvParser;

impl clap::builder::TypedValueParser for EnvParser {
    type Value = EnvEntry;
    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<EnvEntry, clap::Error> {
        typed(command, argument, value, EnvEntry::parse)
    }
}

/// Parses `--workdir`, which must be absolute: there is no directory it could be relative to.
#[derive(Clone)]
struct WorkdirParser;

impl clap::builder::TypedValueParser for WorkdirParser {
    type Value = OsString;
    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<OsString, clap::Error> {
        typed(command, argument, value, |text| {
            if text.as_bytes().starts_with(b"/") && !text.as_bytes().contains(&0) {
                return Ok(text.to_owned());
            }
            let shown = text.to_string_lossy();
            Err(Error::new(
                Code::InvalidArgument,
                format!("`{}` is not an absolute path", shown.escape_debug()),
            )
            .hint(format!(
                "write it from the root of the guest, such as `/root/{shown}`"
            )))
        })
    }
}

/// Runs one of our parsers the way clap runs its own.
pub(crate) fn typed<T: Clone + Send + Sync + 'static>(
    command: &clap::Command,
    argument: Option<&clap::Arg>,
    value: &OsStr,
    parse: impl Fn(&OsStr) -> Result<T> + Clone + Send + Sync + 'static,
) -> Result<T, clap::Error> {
    use clap::builder::{OsStringValueParser, TypedValueParser};
    OsStringValueParser::new()
        .try_map(move |text| parse(&text))
        .parse_ref(command, argument, value)
}

fn user(text: &str) -> Result<String> {
    let well_formed = |part: &str| {
        !part.is_empty()
            && part
                .chars()
                .all(|c| !c.is_whitespace() && !c.is_control() && c != ':')
    };
    let (name, group) = match text.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (text, None),
    };
    if well_formed(name) && group.is_none_or(well_formed) {
        return Ok(text.to_owned());
    }
    Err(Error::new(
        Code::InvalidArgument,
        format!("`{}` is not a user", text.escape_debug()),
    )
    .hint("write `NAME`, `UID`, `NAME:GROUP` or `UID:GID`"))
}

/// What was asked, with every file read and every value at hand: nothing in here can fail any
/// more.
#[derive(Default)]
pub(crate) struct GuestCommand {
    argv: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    user: Option<String>,
    workdir: Option<OsString>,
    with_entrypoint: bool,
    with_tools: bool,
}

/// Without the variables, which may be secrets.
impl fmt::Debug for GuestCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestCommand")
            .field("argv", &self.argv)
            .finish_non_exhaustive()
    }
}

impl GuestCommand {
    /// Reads the environment files and copies values from our environment.
    pub(crate) fn new(args: CommandArgs, argv: Vec<OsString>) -> Result<GuestCommand> {
        let here = &environment::value_to_hand_on;
        let mut env = Vec::new();
        for file in &args.env_file {
            let entries = env_file::read(file)?;
            env.extend(entries.into_iter().filter_map(|entry| entry.resolve(here)));
        }
        env.extend(args.env.into_iter().filter_map(|entry| entry.resolve(here)));
        Ok(GuestCommand {
            argv,
            env,
            user: args.user,
            workdir: args.workdir,
            with_entrypoint: false,
            with_tools: false,
        })
    }

    /// Runs through the image's entry point, and the image's own command when none was given:
    /// this is the machine's first command.
    pub(crate) fn with_entrypoint(mut self) -> GuestCommand {
        self.with_entrypoint = true;
        self
    }

    /// Runs in a workspace: finds the tools that its bootstrap installed, if there was one.
    pub(crate) fn with_tools(mut self) -> GuestCommand {
        self.with_tools = true;
        self
    }

    /// Runs in this directory unless another was asked for.
    pub(crate) fn in_directory(mut self, directory: String) -> GuestCommand {
        self.workdir.get_or_insert_with(|| directory.into());
        self
    }

    /// Whether a command was given; without one it is the login shell.
    pub(crate) fn is_shell(&self) -> bool {
        self.argv.is_empty()
    }

    /// Joins this with what the image says and the streams we have.
    pub(crate) fn into_exec(self, image: &ImageConfig) -> Exec {
        let tty = (std::io::stdin().is_terminal() && std::io::stdout().is_terminal())
            .then(terminal_size)
            .flatten();
        let mut exec = self.merge(image);
        if tty.is_some() {
            let term = environment::terminal_kind();
            let name = ByteString::from("TERM");
            if let Some(term) = term.filter(|_| !exec.env.iter().any(|(set, _)| *set == name)) {
                exec.env.push((name, term.into()));
            }
        }
        exec.tty = tty;
        exec.stdin = tty.is_some() || !stdin_is_null();
        exec
    }

    fn merge(self, image: &ImageConfig) -> Exec {
        let mut argv: Vec<ByteString> = Vec::new();
        if self.with_entrypoint {
            argv.extend(image.entrypoint.iter().cloned().map(ByteString::from));
            if self.argv.is_empty() {
                argv.extend(image.cmd.iter().cloned().map(ByteString::from));
            }
        }
        argv.extend(self.argv.into_iter().map(ByteString::from));

        let path_was_asked = self.env.iter().any(|(name, _)| name == "PATH");
        // Later values win; each name goes once.
        let mut env: Vec<(ByteString, ByteString)> = Vec::new();
        let mut places: HashMap<ByteString, usize> = HashMap::new();
        let from_image = image
            .env
            .iter()
            .map(|(name, value)| (name.clone().into(), value.clone().into()));
        let asked = self
            .env
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()));
        for (name, value) in from_image.chain(asked) {
            match places.entry(name) {
                Entry::Occupied(place) => env[*place.get()].1 = value,
                Entry::Vacant(place) => {
                    env.push((place.key().clone(), value));
                    place.insert(env.len() - 1);
                }
            }
        }
        // An image that says nothing may say it with an empty word.
        let said = |word: &Option<String>| word.clone().filter(|word| !word.is_empty());
        let user = self.user.or_else(|| said(&image.user));
        if self.with_tools && !path_was_asked {
            bootstrap::put_tools_on_path(&mut env, user.as_deref());
        }
        // As `docker run` does, but not `docker exec`, except for what the image itself names.
        let create_workdir = self.with_entrypoint || self.workdir.is_none();
        let workdir = self.workdir.map(ByteString::from);
        Exec {
            argv,
            env,
            user,
            workdir: workdir.or_else(|| said(&image.workdir).map(ByteString::from)),
            create_workdir,
            tty: None,
            stdin: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: &str) -> EnvEntry {
        EnvEntry::parse(OsStr::new(text)).unwrap()
    }

    fn strings(exec: &Exec) -> Vec<String> {
        exec.argv
            .iter()
            .map(|arg| arg.as_os_str().to_string_lossy().into_owned())
            .collect()
    }

    fn image() -> ImageConfig {
        ImageConfig {
            env: [("A", "image"), ("B", "image")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            user: Some("app".into()),
            workdir: Some("/srv".into()),
            entrypoint: vec!["/entry".into()],
            cmd: vec!["serve".into()],
        }
    }

    #[test]
    fn variables_are_given_or_copied() {
        let here = |name: &OsStr| (name == "HERE").then(|| OsString::from("value"));
        assert_eq!(
            entry("A=b=c").resolve(&here),
            Some(("A".into(), "b=c".into()))
        );
        assert_eq!(entry("A=").resolve(&here), Some(("A".into(), "".into())));
        assert_eq!(
            entry("HERE").resolve(&here),
            Some(("HERE".into(), "value".into()))
        );
        assert_eq!(entry("ABSENT").resolve(&here), None);
        for bad in ["", "=hunter2", "A B=hunter2", "A\nB=c", "A=hunter2\0"] {
            let error = EnvEntry::parse(OsStr::new(bad)).unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument, "{bad:?}");
            assert!(!error.chain().contains("hunter2"), "{error}");
        }
        assert!(!format!("{:?}", entry("A=hunter2")).contains("hunter2"));
    }

    #[test]
    fn values_may_be_any_bytes() {
        let raw = OsStr::from_bytes(b"A=\xff\xfe");
        let (_, value) = EnvEntry::parse(raw).unwrap().resolve(&|_| None).unwrap();
        assert_eq!(value.as_bytes(), b"\xff\xfe");
    }

    #[test]
    fn the_image_speaks_where_the_user_does_not() {
        let exec = GuestCommand::default().with_entrypoint().merge(&image());
        assert_eq!(strings(&exec), ["/entry", "serve"]);
        assert_eq!(exec.user.as_deref(), Some("app"));
        assert_eq!(exec.workdir, Some("/srv".into()));
        assert!(exec.create_workdir);

        let asked = GuestCommand {
            argv: vec!["ls".into()],
            env: vec![("A".into(), "mine".into()), ("C".into(), "mine".into())],
            user: Some("root".into()),
            workdir: Some("/tmp".into()),
            with_entrypoint: false,
            with_tools: true,
        };
        let exec = asked.merge(&image());
        assert_eq!(strings(&exec), ["ls"]);
        assert_eq!(exec.user.as_deref(), Some("root"));
        assert_eq!(exec.workdir, Some("/tmp".into()));
        assert!(!exec.create_workdir, "only of the first command");
        let env: [(ByteString, ByteString); 3] =
            [("A", "mine"), ("B", "image"), ("C", "mine")].map(|(a, b)| (a.into(), b.into()));
        assert_eq!(exec.env[..3], env);
        assert_eq!(exec.env[3].0, "PATH".into());
    }

    #[test]
    fn a_path_that_was_asked_for_stays() {
        let asked = GuestCommand {
            env: vec![("PATH".into(), "/mine".into())],
            with_tools: true,
            ..GuestCommand::default()
        };
        let exec = asked.merge(&ImageConfig::default());
        assert_eq!(exec.env, [("PATH".into(), "/mine".into())]);
    }

    #[test]
    fn nothing_asked_and_nothing_said_is_the_login_shell() {
        let exec = GuestCommand::default()
            .with_entrypoint()
            .merge(&ImageConfig::default());
        assert!(exec.argv.is_empty());
    }

    #[test]
    fn an_empty_word_of_the_image_says_nothing() {
        let image = ImageConfig {
            user: Some(String::new()),
            workdir: Some(String::new()),
            ..image()
        };
        let exec = GuestCommand::default().merge(&image);
        assert_eq!((exec.user, exec.workdir), (None, None));
    }

    #[test]
    fn users_are_checked_before_anything_happens() {
        for good in ["root", "1000", "app:staff", "1000:1000", "first.last"] {
            assert!(user(good).is_ok(), "{good}");
        }
        for bad in ["", ":", "a:", ":b", "a b", "a:b:c", "a\n"] {
            assert!(user(bad).is_err(), "{bad:?}");
        }
    }
}
