//! Reaching the daemon, starting it when nobody has.
//!
//! The daemon is started as `bangerd` in a session of its own, with its standard error in
//! `bangerd.log` in the state directory. Its standard output is a pipe on which it says one
//! line, `ready` or `error {…}`, so nobody polls. Command lines that start it at the same time
//! take turns by a lock on the runtime directory: the first starts it, the others find it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use banger_api::{Client, ErrorBody};
use banger_config::{Paths, ensure_private_dir};
use banger_model::{Code, Error, IoContext, Result};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use crate::ui::Ui;
use crate::version::VERSION;

/// The daemon's program.
const PROGRAM: &str = "bangerd";
/// How long a daemon may take to adopt the machines that run and to open its socket.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long a daemon that drops connections may take to be gone.
const ENDS_WITHIN: Duration = Duration::from_secs(5);
/// How often it is looked at meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// How long another daemon may own the state directory without listening.
const OTHER_LIMIT: Duration = Duration::from_secs(10);
/// How often it is tried again meanwhile.
const OTHER_AGAIN: Duration = Duration::from_millis(50);
/// The most it may say about itself.
const LINE_LIMIT: u64 = 64 << 10;

/// A client for the daemon; starts it when it does not run.
pub(crate) async fn connect(paths: &Paths) -> Result<Client> {
    let (client, ()) = connect_and_ask(paths, greet).await?;
    Ok(client)
}

/// A client for the daemon, which is started when it does not run, and its answer to the first
/// request. That only reads: it may be made more than once.
pub(crate) async fn connect_and_ask<T>(
    paths: &Paths,
    ask: impl AsyncFn(&Client) -> Result<T>,
) -> Result<(Client, T)> {
    ensure_private_dir(&paths.runtime_dir)?;
    let client = Client::new(paths.daemon_socket());
    let answer = match answer(&client, &ask).await? {
        Some(answer) => answer,
        None => {
            start(paths, &client).await?;
            ask(&client).await?
        }
    };
    Ok((client, answer))
}

/// What a daemon that serves answers; nothing when none does. One that is ending may still take a
/// connection, only to drop it: that is waited out, so that nobody's first request is lost with it.
async fn answer<T>(client: &Client, ask: &impl AsyncFn(&Client) -> Result<T>) -> Result<Option<T>> {
    let deadline = Instant::now() + ENDS_WITHIN;
    loop {
        match ask(client).await {
            Ok(answer) => return Ok(Some(answer)),
            Err(error) if error.code() != Code::DaemonUnavailable => return Err(error),
            // It serves, if not what this release expects.
            Err(error) if client.daemon_version().is_some() => return Err(error),
            Err(_) if !listens(client.socket())? => return Ok(None),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => tokio::time::sleep(LOOK_AGAIN).await,
        }
    }
}

/// Whether a daemon serves.
async fn serves(client: &Client) -> Result<bool> {
    Ok(answer(client, &greet).await?.is_some())
}

/// Succeeds when the daemon says anything at all.
async fn greet(client: &Client) -> Result<()> {
    match client.daemon().await {
        Err(error) if error.code() == Code::DaemonUnavailable => Err(error),
        _ => Ok(()),
    }
}

/// A client for the daemon if it runs. Starts nothing and makes nothing.
pub(crate) fn connect_to_running(paths: &Paths) -> Result<Option<Client>> {
    match paths.runtime_dir.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        _ => ensure_private_dir(&paths.runtime_dir)?,
    }
    let socket = paths.daemon_socket();
    Ok(listens(&socket)?.then(|| Client::new(socket)))
}

/// Warns when the daemon that answered is of another release.
pub(crate) fn warn_of_other_release(ui: &Ui, client: &Client) {
    if let Some(version) = client.daemon_version().filter(|version| version != VERSION) {
        ui.warn(
            &format!("the daemon is release {version}, this program is {VERSION}"),
            "run `banger daemon stop`: machines keep running, and the next command starts the new daemon",
        );
    }
}

fn listens(socket: &Path) -> Result<bool> {
    match UnixStream::connect(socket) {
        Ok(_) => Ok(true),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            Ok(false)
        }
        Err(error) => Err(
            Error::new(Code::DaemonUnavailable, "cannot reach the daemon").because(Error::io(
                "connect to",
                socket,
                error,
            )),
        ),
    }
}

async fn start(paths: &Paths, client: &Client) -> Result<()> {
    let _turn = take_turn(&paths.runtime_dir).await?;
    if serves(client).await? {
        return Ok(());
    }
    ensure_private_dir(&paths.state_dir)?;
    let log = paths.state_dir.join("bangerd.log");
    let program = find_program(paths)?;
    let deadline = Instant::now() + OTHER_LIMIT;
    loop {
        let stdout = spawn(&program, &log)?;
        let line = match tokio::time::timeout(START_LIMIT, first_line(stdout)).await {
            Ok(line) => line.map_err(|error| not_started(&log).because(error))?,
            Err(_) => {
                let why = format!("it said nothing for {} seconds", START_LIMIT.as_secs());
                return Err(not_started(&log).because(io::Error::other(why)));
            }
        };
        match understand(&line, &log)? {
            Started::Ready => return Ok(()),
            // Not started by a command line, which would have taken its turn: it does not listen
            // yet, or it is ending, its socket gone before its lock. Nothing announces either.
            Started::ByAnother if serves(client).await? => return Ok(()),
            Started::ByAnother if Instant::now() < deadline => {
                tokio::time::sleep(OTHER_AGAIN).await;
            }
            Started::ByAnother => {
                return Err(Error::new(
                    Code::DaemonUnavailable,
                    "another daemon owns the state directory, but does not listen",
                )
                .hint(format!(
                    "see what holds `{}`, and end it",
                    paths.state_dir.join("bangerd.lock").display()
                )));
            }
        }
    }
}

/// Holds the right to start the daemon, until dropped.
async fn take_turn(runtime_dir: &Path) -> Result<File> {
    let dir = File::open(runtime_dir).at("open", runtime_dir)?;
    match dir.try_lock() {
        Ok(()) => return Ok(dir),
        Err(std::fs::TryLockError::WouldBlock) => {}
        Err(std::fs::TryLockError::Error(error)) => {
            return Err(Error::io("lock", runtime_dir, error));
        }
    }
    // Somebody else is starting it. They are bounded, so this is.
    let path = runtime_dir.to_owned();
    let locked = tokio::task::spawn_blocking(move || dir.lock().at("lock", &path).map(|()| dir));
    locked
        .await
        .map_err(|error| Error::internal("the lock was not taken").because(error))?
}

/// Finds the daemon: beside this program, as in a build directory or prefix, else in `PATH`.
fn find_program(paths: &Paths) -> Result<PathBuf> {
    let own = std::env::current_exe()
        .map_err(|error| Error::internal("cannot find this program's own file").because(error))?;
    let beside = own.parent().map(|dir| dir.join(PROGRAM));
    let in_path = paths
        .search_path
        .iter()
        .flat_map(std::env::split_paths)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(PROGRAM));
    beside
        .into_iter()
        .chain(in_path)
        .find(|path| path.is_file())
        .ok_or_else(|| {
            Error::new(
                Code::MissingProgram,
                format!("the daemon `{PROGRAM}` is not installed"),
            )
            .hint(format!("put `{PROGRAM}` beside `{}`", own.display()))
        })
}

fn spawn(program: &Path, log: &Path) -> Result<OwnedFd> {
    let log_file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(log)
        .at("open", log)?;
    let mut command = Command::new(program);
    command
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log_file);
    // SAFETY: between fork and exec only setsid(2) and close_range(2) are called, which are
    // async-signal-safe and allocate nothing.
    unsafe {
        command.pre_exec(|| {
            rustix::process::setsid()?;
            // The daemon outlives us: what our caller left open, a pipe or a lock, must not
            // stay open with it. Marked rather than closed, because the standard library
            // still needs one to report a failed exec.
            let marked = libc::close_range(3, libc::c_uint::MAX, CLOSE_RANGE_CLOEXEC);
            if marked != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
    let child = command.spawn().at("run", program)?;
    // Nobody waits for it: it outlives us, and if it does not, its last word says why.
    let stdout = child
        .stdout
        .ok_or_else(|| Error::internal("the daemon has no standard output"))?;
    Ok(stdout.into())
}

/// Not in libc's bindings for glibc as the type close_range takes.
const CLOSE_RANGE_CLOEXEC: libc::c_int = libc::CLOSE_RANGE_CLOEXEC as libc::c_int;

async fn first_line(stdout: OwnedFd) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut reader = pipe::Receiver::from_owned_fd(stdout)?.take(LINE_LIMIT);
    while !line.contains(&b'\n') && reader.read_buf(&mut line).await? > 0 {}
    Ok(line)
}

/// What the daemon we started says.
#[derive(Debug, PartialEq, Eq)]
enum Started {
    /// It serves.
    Ready,
    /// It has ended, because another one owns the state directory.
    ByAnother,
}

fn understand(line: &[u8], log: &Path) -> Result<Started> {
    let line = String::from_utf8_lossy(line);
    let line = line.trim_end();
    if line == "ready" {
        return Ok(Started::Ready);
    }
    if let Some(json) = line.strip_prefix("error ") {
        let body: ErrorBody =
            serde_json::from_str(json).map_err(|error| not_started(log).because(error))?;
        let error = Error::from(body);
        return match error.code() {
            Code::DaemonRunning => Ok(Started::ByAnother),
            _ => Err(error),
        };
    }
    let how = match line.is_empty() {
        true => "it ended without a word".to_owned(),
        false => format!("it said `{line}`"),
    };
    Err(not_started(log).because(io::Error::other(how)))
}

fn not_started(log: &Path) -> Error {
    Error::new(Code::DaemonUnavailable, "the daemon did not start")
        .hint(format!("read `{}`", log.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemons_first_line_is_understood() {
        let log = Path::new("/x/bangerd.log");
        assert_eq!(understand(b"ready\n", log).unwrap(), Started::Ready);
        let running = b"error {\"code\":\"daemon_running\",\"message\":\"m\"}\n";
        assert_eq!(understand(running, log).unwrap(), Started::ByAnother);
        let failed = b"error {\"code\":\"no_space\",\"message\":\"m\",\"hint\":\"h\"}\n";
        let error = understand(failed, log).unwrap_err();
        assert_eq!(
            (error.code(), error.hint_text()),
            (Code::NoSpace, Some("h"))
        );
        for junk in [&b""[..], b"hello\n", b"error {\n", b"\xff\n"] {
            let error = understand(junk, log).unwrap_err();
            assert_eq!(error.code(), Code::DaemonUnavailable, "{junk:?}");
            assert_eq!(error.hint_text(), Some("read `/x/bangerd.log`"));
        }
    }

    #[tokio::test]
    async fn starters_take_turns() {
        let dir = tempfile::tempdir().unwrap();
        let turn = take_turn(dir.path()).await.unwrap();
        let path = dir.path().to_owned();
        let next = tokio::spawn(async move { take_turn(&path).await });
        assert!(matches!(
            File::open(dir.path()).unwrap().try_lock(),
            Err(std::fs::TryLockError::WouldBlock)
        ));
        drop(turn);
        next.await.unwrap().unwrap();
    }
}
