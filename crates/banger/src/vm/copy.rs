//! `banger vm cp`

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use banger_config::Paths;
use banger_guest_api::archive::{Owner, Unpack, archive_out, unpack};
use banger_guest_api::{Copied, CopyIn, CopyOut, client};
use banger_model::{ByteSize, Code, Error, IoContext, Result};
use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use serde::Serialize;
use tokio::sync::oneshot;

use super::agent_socket;
use super::place::{self, Place};
use crate::connect::{connect_and_ask, warn_of_other_release};
use crate::exit::Exit;
use crate::signals::Signals;
use crate::ui::{Format, Progress, Ui, human_size};

/// Copy a file or tree into a running machine or out of it
///
/// One side is `NAME:PATH`, with a path in the guest; relative ones start at /root. The other is
/// a path here; write `./a:b` for one with a colon.
///
/// As `cp -R` does: a destination that is a directory receives the copy under its own name, any
/// other is what the copy will be called. A source that ends in `/.` means what is in it.
/// Existing files are replaced, each at once and whole; directories merge; a file never replaces
/// a directory. Modes, times, links and holes stay; the owner is root in the guest, and you here.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    banger vm cp ./src box:/srv\n  \
    banger vm cp box:/var/log/app.log .")]
pub(crate) struct CopyArgs {
    /// What to copy
    #[arg(value_name = "SRC", value_parser = place::Parser, add = ArgValueCompleter::new(place::complete))]
    source: Place,

    /// Where to
    #[arg(value_name = "DST", value_parser = place::Parser, add = ArgValueCompleter::new(place::complete))]
    destination: Place,
}

impl CopyArgs {
    /// Refuses what is not between a machine and this host.
    pub(super) fn check(&self) -> Result<()> {
        let what = match (&self.source, &self.destination) {
            (Place::Guest { .. }, Place::Guest { .. }) => "both are in a machine",
            (Place::Host(_), Place::Host(_)) => "none of the two is in a machine",
            _ => return Ok(()),
        };
        Err(
            Error::new(Code::InvalidArgument, format!("cannot copy: {what}"))
                .hint("write one of them as `NAME:PATH`, such as `box:/srv`"),
        )
    }
}

/// What was copied, as JSON.
#[derive(Serialize)]
struct Report {
    entries: u64,
    bytes: u64,
    left_out: u64,
}

pub(crate) async fn cmd_copy(ui: &Ui, args: CopyArgs) -> Result<Exit> {
    let mut signals = Signals::listen()?;
    let carried = Arc::new(AtomicU64::new(0));
    // Dropped when the thread that writes on this host has come to its end.
    let (working, at_rest) = oneshot::channel();
    let copied = tokio::select! {
        biased;
        copied = copy(ui, args, carried.clone(), working) => copied,
        never = show_progress(ui, &carried) => match never {},
        signal = signals.next_to_end() => {
            // The copy is gone with its connection, and the thread notices: what is not whole
            // is removed before we end, unless somebody is in a hurry.
            tokio::select! {
                _ = at_rest => {}
                _ = signals.next_to_end() => {}
            }
            ui.say("interrupted; what was copied before is there, each file whole");
            return Ok(Exit::signal(signal.number()));
        }
    }?;
    if ui.format() == Format::Json {
        ui.json(&Report {
            entries: copied.entries,
            bytes: copied.bytes,
            left_out: copied.left_out,
        })?;
    }
    if copied.left_out > 0 {
        ui.warn(
            &format!(
                "{} sockets, devices or the like are left out",
                copied.left_out
            ),
            "only files, directories and links can be copied",
        );
    }
    ui.note(&format!(
        "copied {} entries, {}",
        copied.entries,
        human_size(ByteSize::bytes(copied.bytes))
    ));
    Ok(Exit::SUCCESS)
}

async fn copy(
    ui: &Ui,
    args: CopyArgs,
    carried: Arc<AtomicU64>,
    working: oneshot::Sender<()>,
) -> Result<Copied> {
    match (args.source, args.destination) {
        (Place::Host(from), Place::Guest { name, path }) => {
            let (request, from) = into_guest(&from, path)?;
            let socket = find(ui, &name).await?;
            client::copy_in_with(&socket, request, move |archive| {
                archive_out(&from, Counted(archive, &carried))
            })
            .await
        }
        (Place::Guest { name, path }, Place::Host(to)) => {
            let target = Target::new(&to, &path)?;
            let socket = find(ui, &name).await?;
            let request = CopyOut { path: path.into() };
            client::copy_out_with(&socket, request, move |archive| {
                let _working = working;
                target.unpack(Counted(archive, &carried))
            })
            .await
        }
        _ => Err(Error::internal(
            "the places to copy between were not checked",
        )),
    }
}

/// Where the machine's agent answers.
async fn find(ui: &Ui, name: &str) -> Result<PathBuf> {
    let (daemon, vm) =
        connect_and_ask(&Paths::from_env()?, async |client| client.vm(name).await).await?;
    warn_of_other_release(ui, &daemon);
    agent_socket(&vm)
}

/// The request for a copy of `from`, which must exist, and the path to read.
fn into_guest(from: &Path, path: OsString) -> Result<(CopyIn, PathBuf)> {
    let found = std::fs::symlink_metadata(from).at("read", from)?;
    let is_contents = names_contents(from.as_os_str());
    if is_contents && !found.is_dir() && !from.is_dir() {
        let error = io::Error::from(io::ErrorKind::NotADirectory);
        return Err(Error::io("read", from, error));
    }
    let name = match from.file_name() {
        Some(name) => name.to_owned(),
        // Such as `.` and `..`, whose names are others.
        None => {
            let real = from.canonicalize().at("resolve", from)?;
            real.file_name().unwrap_or(OsStr::new("root")).to_owned()
        }
    };
    let request = CopyIn {
        path: path.into(),
        name: name.into(),
        owner: None,
        keep_owners: false,
        exact: is_contents,
        replace: false,
    };
    Ok((request, from.to_owned()))
}

/// Whether a path means what is in a directory, and not the directory.
fn names_contents(path: &OsStr) -> bool {
    let bytes = path.as_bytes();
    bytes == b"." || bytes.ends_with(b"/.")
}

/// Where a copy goes on this host.
struct Target {
    parent: File,
    name: OsString,
    shown: PathBuf,
    only_directory: bool,
}

impl Target {
    /// As `cp -R` decides it, before anything is asked of the guest.
    fn new(to: &Path, source: &OsStr) -> Result<Target> {
        if to.is_dir() {
            let name = basename(source).unwrap_or(OsStr::new("."));
            return Ok(Target {
                parent: directory(to)?,
                name: name.to_owned(),
                shown: to.join(name),
                only_directory: basename(source).is_none(),
            });
        }
        let parent = match to.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let name = to.file_name().ok_or_else(|| {
            Error::new(
                Code::InvalidArgument,
                format!("`{}` is not what a copy can be called", to.display()),
            )
        })?;
        Ok(Target {
            parent: directory(parent)?,
            name: name.to_owned(),
            shown: to.to_owned(),
            only_directory: to.as_os_str().as_bytes().ends_with(b"/") || basename(source).is_none(),
        })
    }

    fn unpack(self, archive: impl Read) -> io::Result<Copied> {
        let to = Unpack {
            parent: self.parent.as_fd(),
            name: &self.name,
            shown: &self.shown,
            owner: Owner::Caller,
            only_directory: self.only_directory,
        };
        unpack(archive, &to)
    }
}

fn directory(path: &Path) -> Result<File> {
    File::options()
        .read(true)
        .custom_flags(libc::O_DIRECTORY)
        .open(path)
        .at("open", path)
}

/// The last name of a path in the guest; none when it means what is in a directory.
fn basename(path: &OsStr) -> Option<&OsStr> {
    match names_contents(path) {
        true => None,
        false => Path::new(path).file_name(),
    }
}

/// Counts the bytes of an archive.
struct Counted<'a, T>(T, &'a AtomicU64);

impl<T: Read> Read for Counted<'_, T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(buffer)?;
        self.1.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

impl<T: Write> Write for Counted<'_, T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.0.write(bytes)?;
        self.1.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Shows on a terminal how much has been carried. Never ends.
async fn show_progress(ui: &Ui, carried: &AtomicU64) -> std::convert::Infallible {
    /// A person reads no faster; what is done sooner needs no progress.
    const BETWEEN: Duration = Duration::from_millis(250);
    if !ui.redraws() {
        return std::future::pending().await;
    }
    let mut progress = Progress::new(ui);
    loop {
        tokio::time::sleep(BETWEEN).await;
        let bytes = ByteSize::bytes(carried.load(Ordering::Relaxed));
        progress.say(&format!("copying: {}", human_size(bytes)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_receives_the_copy_and_any_other_name_is_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let at = |to: &str| dir.path().join(to);
        std::fs::create_dir(at("d")).unwrap();
        std::fs::write(at("f"), "").unwrap();
        for (to, source, name, shown, only_directory) in [
            ("d", "/srv/x", "x", "d/x", false),
            ("d/", "x/", "x", "d/x", false),
            ("d/.", "/a/../x", "x", "d/./x", false),
            ("d", "/srv/.", ".", "d/.", true),
            ("d", "", ".", "d/.", true),
            ("d", "/", ".", "d/.", true),
            ("d", "..", ".", "d/.", true),
            ("f", "/srv/x", "f", "f", false),
            ("new", "/srv/x", "new", "new", false),
            ("new/", "/srv/x", "new", "new/", true),
            ("new", "/srv/.", "new", "new", true),
        ] {
            let target = Target::new(&at(to), OsStr::new(source)).unwrap();
            assert_eq!(target.name, name, "{to} {source}");
            assert_eq!(
                target.shown.as_os_str(),
                at(shown).as_os_str(),
                "{to} {source}"
            );
            assert_eq!(target.only_directory, only_directory, "{to} {source}");
        }
        assert!(Target::new(&at("absent/x"), OsStr::new("/x")).is_err());
        assert!(Target::new(&at("f/x"), OsStr::new("/x")).is_err());
    }

    #[test]
    fn what_goes_into_the_guest_has_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let at = |to: &str| dir.path().join(to);
        std::fs::create_dir_all(at("d/e")).unwrap();
        std::fs::write(at("f"), "").unwrap();
        std::os::unix::fs::symlink("nowhere", at("dangling")).unwrap();
        for (from, name, exact) in [
            ("f", "f", false),
            ("d", "d", false),
            ("d/", "d", false),
            ("d/.", "d", true),
            ("d/e/..", "d", false),
            ("dangling", "dangling", false),
        ] {
            let (request, _) = into_guest(&at(from), "/srv".into()).unwrap();
            assert_eq!(request.name, name.into(), "{from}");
            assert_eq!(request.exact, exact, "{from}");
        }
        assert!(into_guest(&at("absent"), "/srv".into()).is_err());
        assert!(into_guest(&at("f/."), "/srv".into()).is_err());
    }
}
