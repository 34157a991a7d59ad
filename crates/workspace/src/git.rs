//! Running `git`: the only way this crate looks at a repository.
//!
//! Every call has an environment without anything that redirects git, takes no optional locks,
//! asks nobody, fetches nothing, and runs no hook and no file system monitor. The user's own
//! configuration stays in force, because it decides what their files mean: line endings, ignored
//! files, where it is safe.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

use banger_model::{Code, Error, Result};

use crate::stop::Stop;

/// The oldest git that has everything we ask of it.
const OLDEST: (u32, u32) = (2, 30);
/// How much of what git says on standard error is kept, in bytes.
const MAX_STDERR: u64 = 16 << 10;
/// Settings of every call.
const SETTINGS: [&str; 12] = [
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
    "core.untrackedCache=keep",
    "core.quotePath=true",
    "core.safecrlf=false",
    "protocol.allow=never",
    "gc.auto=0",
    "maintenance.auto=false",
    "advice.detachedHead=false",
    "submodule.recurse=false",
    "apply.whitespace=nowarn",
    "apply.ignoreWhitespace=false",
];

/// Where and how git is called.
#[derive(Clone, Debug)]
pub(crate) struct Git {
    directory: PathBuf,
    environment: Vec<(&'static str, OsString)>,
    settings: Vec<&'static str>,
    apart: bool,
    stop: Stop,
}

/// Writes what git reads, in a thread of its own.
pub(crate) type Writing<'a> = Box<dyn FnOnce(&mut ChildStdin) -> Result<()> + Send + 'a>;

/// What git reads on its standard input.
pub(crate) enum Input<'a> {
    Nothing,
    Bytes(&'a [u8]),
    From(Stdio),
    Written(Writing<'a>),
}

/// How a call ended.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stderr: String,
}

impl Git {
    /// Calls git in this directory.
    pub(crate) fn new(directory: &Path) -> Git {
        Git {
            directory: directory.to_owned(),
            environment: Vec::new(),
            settings: Vec::new(),
            apart: false,
            stop: Stop::default(),
        }
    }

    /// The same, out of reach of Ctrl-C: for what must not be torn apart.
    pub(crate) fn apart(&self) -> Git {
        Git {
            apart: true,
            ..self.clone()
        }
    }

    /// The same, ended by `stop`.
    pub(crate) fn under(&self, stop: &Stop) -> Git {
        Git {
            stop: stop.clone(),
            ..self.clone()
        }
    }

    /// The same, with a variable of git's.
    pub(crate) fn with(&self, name: &'static str, value: impl AsRef<OsStr>) -> Git {
        let mut git = self.clone();
        git.environment.push((name, value.as_ref().to_owned()));
        git
    }

    /// The same, with settings that override the configuration.
    pub(crate) fn setting(&self, settings: &[&'static str]) -> Git {
        let mut git = self.clone();
        git.settings.extend(settings);
        git
    }

    /// Checks that git is there and new enough.
    pub(crate) fn check() -> Result<()> {
        let hint = "install git 2.30 or newer";
        let said = Git::new(Path::new("/")).run(&["--version"])?;
        let said = String::from_utf8_lossy(&said).trim().to_owned();
        match version(&said) {
            Some(version) if version >= OLDEST => Ok(()),
            Some(_) => {
                let message = format!("`{said}` is too old for workspaces");
                Err(Error::new(Code::MissingProgram, message).hint(hint))
            }
            None => {
                let message = "`git --version` does not answer as git does";
                Err(Error::new(Code::MissingProgram, message).hint(hint))
            }
        }
    }

    /// Runs git and gives back what it writes.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<Vec<u8>> {
        self.feed(arguments, Input::Nothing)
    }

    /// The same, its one line of text without the end of the line.
    pub(crate) fn line<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<Vec<u8>> {
        let mut line = self.run(arguments)?;
        line.pop_if(|last| *last == b'\n');
        Ok(line)
    }

    /// The same, for what is text by its nature, such as an object's id.
    pub(crate) fn word<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<String> {
        self.word_of(arguments, Input::Nothing)
    }

    pub(crate) fn word_of<S: AsRef<OsStr>>(
        &self,
        arguments: &[S],
        input: Input<'_>,
    ) -> Result<String> {
        let said = self.feed(arguments, input)?;
        Ok(String::from_utf8_lossy(&said).trim().to_owned())
    }

    /// Runs git with an input and gives back what it writes.
    pub(crate) fn feed<S: AsRef<OsStr>>(
        &self,
        arguments: &[S],
        input: Input<'_>,
    ) -> Result<Vec<u8>> {
        let mut output = Vec::new();
        self.stream(arguments, input, |mut stdout| {
            stdout
                .read_to_end(&mut output)
                .map_err(|error| broken(&error))?;
            Ok(())
        })?;
        Ok(output)
    }

    /// Whether git succeeds: for questions it answers with its exit status.
    pub(crate) fn asks<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<bool> {
        let ended = self.end(arguments, Input::Nothing, |mut stdout| {
            io::copy(&mut stdout, &mut io::sink()).map_err(|error| broken(&error))?;
            Ok(())
        })?;
        Ok(ended.status.success())
    }

    /// Runs git; `output` takes what it writes while it runs.
    pub(crate) fn stream<S: AsRef<OsStr>>(
        &self,
        arguments: &[S],
        input: Input<'_>,
        output: impl FnOnce(ChildStdout) -> Result<()>,
    ) -> Result<()> {
        let ended = self.end(arguments, input, output)?;
        if ended.status.success() {
            return Ok(());
        }
        Err(self.failure(arguments, &ended))
    }

    /// Runs git to its end, whichever that is.
    pub(crate) fn end<S: AsRef<OsStr>>(
        &self,
        arguments: &[S],
        input: Input<'_>,
        output: impl FnOnce(ChildStdout) -> Result<()>,
    ) -> Result<Ended> {
        self.stop.check()?;
        let mut command = self.command();
        command.args(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let write = match input {
            Input::Nothing => {
                command.stdin(Stdio::null());
                None
            }
            Input::From(stdio) => {
                command.stdin(stdio);
                None
            }
            Input::Bytes(bytes) => {
                command.stdin(Stdio::piped());
                let write = move |stdin: &mut ChildStdin| {
                    stdin.write_all(bytes).map_err(|error| broken(&error))
                };
                Some(Box::new(write) as Writing<'_>)
            }
            Input::Written(write) => {
                command.stdin(Stdio::piped());
                Some(write)
            }
        };
        let child = command.spawn().map_err(missing)?;
        // The parent's copies of what was handed on.
        drop(command);
        let running = self.stop.watch(&child);
        let ended = attend(child, write, output);
        drop(running?);
        // However it ended then, that is why.
        self.stop.check()?;
        ended
    }

    fn command(&self) -> Command {
        let mut command = Command::new("git");
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"GIT_") {
                command.env_remove(name);
            }
        }
        command
            .current_dir(&self.directory)
            .env("LC_ALL", "C")
            .env("LANGUAGE", "C")
            .env("GIT_OPTIONAL_LOCKS", "0")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ASKPASS", "true")
            .env("SSH_ASKPASS", "true")
            .env("GIT_NO_LAZY_FETCH", "1")
            .env("GIT_NO_REPLACE_OBJECTS", "1")
            .env("GIT_LITERAL_PATHSPECS", "1")
            .env("GIT_PAGER", "cat");
        if self.apart {
            command.process_group(0);
        }
        for (name, value) in &self.environment {
            command.env(name, value);
        }
        for setting in SETTINGS.iter().chain(&self.settings) {
            command.args(["-c", setting]);
        }
        command
    }

    /// The error of a call that ended badly.
    pub(crate) fn failure<S: AsRef<OsStr>>(&self, arguments: &[S], ended: &Ended) -> Error {
        let verb = arguments.first().map_or(OsStr::new(""), AsRef::as_ref);
        let message = format!(
            "`git {}` failed in `{}`",
            verb.to_string_lossy(),
            self.directory.display()
        );
        let said = ended.stderr.as_str();
        let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
        let error = if has(&["No space left", "Disk quota exceeded"]) {
            Error::new(Code::NoSpace, message).hint("free some space and try again")
        } else if has(&["dubious ownership"]) {
            Error::new(Code::Unsafe, message).hint(
                "git does not trust a repository of another user: copy it, or name it with \
                 `git config --global --add safe.directory PATH`",
            )
        } else if has(&["promisor", "lazy fetch", "transport 'file' not allowed"]) {
            Error::new(Code::Conflict, message).hint(
                "the repository is a partial clone that lacks objects; `git fetch --refetch \
                 --no-filter` brings them",
            )
        } else if has(&["index.lock", "Another git process"]) {
            Error::new(Code::Conflict, message).hint("wait until the other git process has ended")
        } else if has(&["bad object", "missing", "unable to read", "corrupt"]) {
            Error::new(Code::Io, message).hint("`git fsck` says what is wrong with the repository")
        } else {
            Error::new(Code::Io, message)
        };
        let why = if said.is_empty() {
            format!("git ended with {}", ended.status)
        } else {
            said.to_owned()
        };
        error.because(why)
    }
}

fn attend(
    mut child: Child,
    write: Option<Writing<'_>>,
    output: impl FnOnce(ChildStdout) -> Result<()>,
) -> Result<Ended> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(stdout), Some(mut stderr)) = (stdout, stderr) else {
        return Err(Error::internal("git was started without pipes"));
    };
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| match (write, stdin) {
            (Some(write), Some(mut stdin)) => write(&mut stdin),
            _ => Ok(()),
        });
        let complaining = scope.spawn(move || {
            let mut said = Vec::new();
            // What cannot be read is not said; the exit status speaks too.
            let mut rest = stderr.by_ref().take(MAX_STDERR);
            match rest.read_to_end(&mut said) {
                Ok(_) | Err(_) => {}
            }
            match io::copy(&mut stderr, &mut io::sink()) {
                Ok(_) | Err(_) => {}
            }
            plain(&said)
        });
        let read = output(stdout);
        let written = writing.join().unwrap_or_else(|_| Err(lost()));
        let stderr = complaining.join().map_err(|_| lost())?;
        let status = child.wait().map_err(|error| broken(&error))?;
        let ended = Ended { status, stderr };
        if ended.status.success() {
            written?;
        } else if let Err(error) = written
            && error.code() != Code::Cancelled
        {
            return Err(error);
        }
        // When git failed, that is why its output broke off.
        match read {
            Err(error) if ended.status.success() || error.code() != Code::Cancelled => Err(error),
            _ => Ok(ended),
        }
    })
}

/// The other end of a pipe is gone, which has a reason that is told elsewhere.
pub(crate) fn broken(error: &io::Error) -> Error {
    let code = match error.kind() {
        io::ErrorKind::BrokenPipe => Code::Cancelled,
        _ => Code::Io,
    };
    Error::new(code, format!("the connection to git broke: {error}"))
}

fn lost() -> Error {
    Error::internal("a thread that talks to git ended early")
}

fn missing(error: io::Error) -> Error {
    let error_kind = error.kind();
    let error = Error::new(Code::MissingProgram, "cannot run `git`").because(error);
    match error_kind {
        io::ErrorKind::NotFound => error.hint("install git 2.30 or newer"),
        _ => error,
    }
}

fn version(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said.strip_prefix("git version ")?.split(['.', ' ']);
    let mut number = || numbers.next()?.parse().ok();
    Some((number()?, number()?))
}

/// Text from elsewhere, fit to be printed.
fn plain(bytes: &[u8]) -> String {
    let mut text = String::new();
    for c in String::from_utf8_lossy(bytes).trim_end().chars() {
        match c {
            '\n' => text.push_str("; "),
            '\t' => text.push(' '),
            c if c.is_control() => text.push('\u{fffd}'),
            c => text.push(c),
        }
    }
    text
}

/// A name that may be any bytes, fit to be printed.
pub(crate) fn shown(name: &[u8]) -> String {
    let mut text = String::new();
    for c in String::from_utf8_lossy(name).chars().take(500) {
        text.push(if c.is_control() { '\u{fffd}' } else { c });
    }
    text
}

/// A word as a POSIX shell reads it.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// A name as git reads it from a list of lines.
pub(crate) fn c_quoted(name: &[u8]) -> String {
    let mut text = String::from("\"");
    for byte in name {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => {
                text.push(char::from(*byte));
            }
            byte => {
                let written = write!(text, "\\{byte:03o}");
                debug_assert!(written.is_ok(), "a string takes everything");
            }
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(version("git version 2.47.3"), Some((2, 47)));
        assert_eq!(version("git version 2.30.1 (Apple Git-130)"), Some((2, 30)));
        assert_eq!(version("git version 2.9.windows.1"), Some((2, 9)));
        assert_eq!(version("hub 1"), None);
    }

    #[test]
    fn a_failure_carries_what_git_says() {
        let error = Git::new(Path::new("/")).run(&["no-such-verb"]).unwrap_err();
        assert!(error.message().contains("git no-such-verb"), "{error:?}");
        assert!(error.chain().contains("not a git command"), "{error:?}");
    }

    #[test]
    fn words_are_quoted() {
        assert_eq!(quoted("a b'c"), "'a b'\\''c'");
        assert_eq!(quoted("/plain/path"), "/plain/path");
        assert_eq!(c_quoted(b"a b\xff"), "\"a\\040b\\377\"");
        assert_eq!(shown(b"a\n\x1bb"), "a\u{fffd}\u{fffd}b");
    }
}
