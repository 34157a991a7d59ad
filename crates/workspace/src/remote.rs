//! A workspace in a running guest, reached through its agent.
//!
//! Unlike the rest of the crate this is asynchronous: what blocks runs in threads of its own.

mod commits;

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use banger_guest_api::archive::{Owner, Unpack, unpack};
use banger_guest_api::client::{self, ExecOutput};
use banger_guest_api::{CopyIn, CopyOut, Exec};
use banger_model::{Code, Error, IoContext, Result};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use crate::export::{Base, Export, TreeBase, export_failure, export_from_tree, export_script};
use crate::git::quoted;
use crate::plan::{Options, Plan};
use crate::repository::Repository;
use crate::stop::Stop;
use crate::{SavedRef, Summary, save_ref};
pub use commits::Bundle;

/// How long a guest may say nothing while it makes a patch: a large tree is read whole, and its
/// processor may be emulated.
const QUIET: Duration = Duration::from_secs(300);
/// The largest patch that is taken from a guest, in bytes.
const MAX_PATCH: u64 = 4 << 30;
/// How much a guest may say on standard error, in bytes.
const MAX_SAID: usize = 16 << 10;

/// What a workspace was made of.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The top directory of the host's repository.
    pub repository: PathBuf,
    /// How it was copied.
    pub options: Options,
    /// The commit that its files stood on; absent before the first one.
    pub base: Option<String>,
}

/// A workspace in a guest.
#[derive(Clone, Debug)]
pub struct Remote {
    agent: PathBuf,
    path: OsString,
}

/// What an export wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Bytes; none when there is nothing to export.
    pub size: u64,
    /// SHA-256 of them, in hexadecimal digits.
    pub digest: String,
    /// What the guest left out and why, a line each, fit for a terminal.
    pub left_out: Vec<String>,
}

/// Where work was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// In the host's repository.
    Reference(SavedRef),
    /// As a patch file, because the repository does not take it.
    Patch {
        /// The file.
        file: PathBuf,
        /// Why it is not in the repository.
        because: String,
        /// The command that brings the work into the repository's working tree, for a shell.
        restore: String,
    },
}

/// Work that was kept before it would have been lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// What the files hold; absent when there is nothing that an export does not have.
    pub work: Option<Kept>,
    /// What only other references hold; absent when the host has all of their commits.
    pub commits: Option<Bundle>,
}

impl Remote {
    /// The workspace at `path`, absolute, of the guest whose agent answers on the socket `agent`.
    pub fn new(agent: &Path, path: &OsStr) -> Remote {
        Remote {
            agent: agent.to_owned(),
            path: path.to_owned(),
        }
    }

    /// Copies a repository in as it was planned. It takes the place of what was there at once
    /// and whole; until then, and after an error, everything is as it was. `temporary` is an
    /// existing directory on the host with room for the repository's objects. `carried` is told
    /// the bytes of each piece of the archive. Dropping the future ends the copy; `carried` is
    /// dropped once nothing works on it here any more and `temporary` is empty again.
    ///
    /// # Errors
    /// Those of [`Plan::write_archive`] and [`client::copy_in`].
    pub async fn copy_in(
        &self,
        plan: Arc<Plan>,
        temporary: &Path,
        carried: impl Fn(u64) + Send + 'static,
    ) -> Result<Summary> {
        let request = CopyIn {
            path: self.path.clone().into(),
            name: "repo".into(),
            owner: owner(&self.path),
            keep_owners: false,
            exact: true,
            replace: true,
        };
        let temporary = temporary.to_owned();
        let (outcome, written) = tokio::sync::oneshot::channel();
        let stop = Stop::default();
        let given_up = stop.on_drop();
        let write = move |archive: &mut dyn Write| {
            let summary = plan.write_archive_until(&stop, &temporary, Counted(archive, &carried));
            let result = match &summary {
                Ok(summary) => Ok(summary.copied),
                // Ours to explain: the guest only sees an archive without an end.
                Err(_) => Err(io::ErrorKind::BrokenPipe.into()),
            };
            // Nobody waits for it when the copy was given up.
            outcome.send(summary).ok();
            result
        };
        let copied =
            client::copy_in_until(&self.agent, request, write, move || drop(given_up)).await;
        match (copied, written.await) {
            (_, Ok(Err(error))) if error.code() != Code::Cancelled => Err(error),
            (Err(error), _) => Err(error),
            (Ok(_), Ok(summary)) => summary,
            (Ok(_), Err(_)) => Err(Error::internal("the copy ended without a result")),
        }
    }

    /// Writes what was changed in the guest to the new file `patch`. Where the guest has no git,
    /// no repository any more, or no room, its files are copied out below `temporary` and compared
    /// on the host. Changes nothing in the guest.
    ///
    /// # Errors
    /// Those of [`export_failure`] and [`export_from_tree`]; [`Code::AgentFailed`] when the guest
    /// hangs or goes away; [`Code::NoSpace`] when the host's disk is full. The file is then
    /// incomplete.
    pub async fn export(
        &self,
        export: &Export,
        origin: &Origin,
        patch: &Path,
        temporary: &Path,
    ) -> Result<Exported> {
        let exported = self.look(export, origin, patch, temporary).await?;
        exported.ok_or_else(|| export_failure(NO_WORKSPACE, b""))
    }

    /// As [`export`](Self::export); `None` when there is no workspace in the guest.
    async fn look(
        &self,
        export: &Export,
        origin: &Origin,
        patch: &Path,
        temporary: &Path,
    ) -> Result<Option<Exported>> {
        match self.export_in_guest(export, patch).await? {
            InGuest::Made(exported) => Ok(Some(exported)),
            InGuest::Absent => Ok(None),
            InGuest::Unable => {
                std::fs::remove_file(patch).at("remove", patch)?;
                self.export_on_host(export, origin, patch, temporary).await
            }
        }
    }

    async fn export_in_guest(&self, export: &Export, patch: &Path) -> Result<InGuest> {
        let argv = export_script(&self.path, export)?;
        let mut file = PatchFile::create(patch).await?;
        let ended = self.run(argv, &mut file).await?;
        let failure = || export_failure(ended.status, &ended.said);
        match ended.status {
            0 => {
                let said = String::from_utf8_lossy(&ended.said);
                let left_out = said.lines().map(tame).collect();
                file.finish(left_out).await.map(InGuest::Made)
            }
            NO_WORKSPACE => Ok(InGuest::Absent),
            NO_GIT | OLD_GIT | NO_SHELL | NO_REPOSITORY => Ok(InGuest::Unable),
            _ if failure().code() == Code::NoSpace => Ok(InGuest::Unable),
            _ => Err(failure()),
        }
    }

    async fn export_on_host(
        &self,
        export: &Export,
        origin: &Origin,
        patch: &Path,
        temporary: &Path,
    ) -> Result<Option<Exported>> {
        let directory = tempfile::Builder::new()
            .prefix("banger-tree-")
            .tempdir_in(temporary)
            .at("create a directory in", temporary)?;
        let (parent, shown) = {
            let path = directory.path();
            let parent = std::fs::File::open(path).at("open", path)?;
            (parent, path.join("tree"))
        };
        let copy = CopyOut {
            path: self.path.clone().into(),
        };
        let copied = client::copy_out_with(&self.agent, copy, move |archive| {
            let to = Unpack {
                parent: std::os::fd::AsFd::as_fd(&parent),
                name: OsStr::new("tree"),
                shown: &shown,
                owner: Owner::Caller,
                only_directory: true,
            };
            unpack(archive, &to)
        });
        match copied.await {
            // The guest's word: nothing of the host's is looked for by then.
            Err(error) if error.code() == Code::NotFound => return Ok(None),
            copied => copied.map(drop)?,
        }
        let (export, origin) = (export.clone(), origin.clone());
        let (patch, temporary) = (patch.to_owned(), temporary.to_owned());
        blocking(move || {
            let plan = Repository::open(&origin.repository)?.plan(&origin.options)?;
            let base = match (&export.base, &origin.base) {
                (Base::Commit(id), _) => TreeBase::Commit(id),
                (Base::Prepared, _) => TreeBase::WorkingTree,
                (Base::Recorded | Base::Head, Some(base)) => TreeBase::Commit(base),
                (Base::Recorded | Base::Head, None) | (Base::Empty, _) => TreeBase::Empty,
            };
            let file = create(&patch)?;
            let mut writer = Hashed::new(io::BufWriter::new(file));
            let tree = directory.path().join("tree");
            let left_out = export_from_tree(&plan, base, &tree, &temporary, &mut writer)?;
            writer.flush().at("write", &patch)?;
            let name = |name: &Vec<u8>| tame(&String::from_utf8_lossy(name));
            let lines = left_out
                .iter()
                .map(|path| format!("left out, it is a repository of its own: {}", name(path)));
            Ok(Some(writer.exported(lines.collect())))
        })
        .await
    }

    /// The commit that the guest says its files were copied on top of: `None` when it stands on
    /// none, or says nothing that makes sense.
    ///
    /// # Errors
    /// [`Code::AgentFailed`] when the guest hangs or goes away.
    pub async fn base(&self) -> Result<Option<String>> {
        let argv = ["git", "-c", "safe.directory=*", "-C"].map(OsString::from);
        let rest = ["rev-parse", "--verify", "--quiet", crate::guest::BASE_REF];
        let argv = argv
            .into_iter()
            .chain([self.path.clone()])
            .chain(rest.map(OsString::from));
        let mut answer = Answer::within(MAX_SAID);
        let ended = self.run(argv.collect(), &mut answer).await?;
        let word = String::from_utf8_lossy(&answer.0).trim().to_owned();
        let is_id = matches!(word.len(), 40 | 64) && word.bytes().all(|b| b.is_ascii_hexdigit());
        Ok((ended.status == 0 && is_id).then_some(word))
    }

    /// Keeps the work that was done in the guest, for whoever removes or replaces it: files that
    /// are in no export whose digest is `exported` go into the host's repository, else into a
    /// file in the directory `kept`, which is made; commits on other references into another.
    /// `temporary` is an existing directory.
    ///
    /// # Errors
    /// As [`export`](Self::export), and [`Code::Io`] when commits cannot be read; what was kept
    /// before stays. A workspace that is not there holds no work.
    pub async fn save(
        &self,
        origin: &Origin,
        vm_name: &str,
        exported: Option<&str>,
        kept: &Path,
        temporary: &Path,
    ) -> Result<Saved> {
        let work = self.save_files(origin, vm_name, exported, kept, temporary);
        let work = work.await?;
        let commits = self.save_commits(origin, vm_name, kept, temporary).await?;
        Ok(Saved { work, commits })
    }

    async fn save_files(
        &self,
        origin: &Origin,
        vm_name: &str,
        exported: Option<&str>,
        kept: &Path,
        temporary: &Path,
    ) -> Result<Option<Kept>> {
        let directory = tempfile::Builder::new()
            .prefix("banger-save-")
            .tempdir_in(temporary)
            .at("create a directory in", temporary)?;
        let look = |base| Export {
            base,
            thorough: true,
            ..Export::default()
        };
        let done = directory.path().join("done");
        match self
            .look(&look(Base::Prepared), origin, &done, temporary)
            .await
        {
            Ok(None | Some(Exported { size: 0, .. })) => return Ok(None),
            // The guest lost its record, or the host moved on: whether there is work cannot be
            // told from here, so the whole difference is kept.
            Ok(_) => {}
            Err(error) if matches!(error.code(), Code::InvalidArgument | Code::Conflict) => {}
            Err(error) => return Err(error),
        }
        let patch = directory.path().join("patch");
        let all = self
            .export(&look(Base::Recorded), origin, &patch, temporary)
            .await?;
        if exported == Some(all.digest.as_str()) || all.size == 0 {
            return Ok(None);
        }
        let base = self.base().await?.or_else(|| origin.base.clone());
        let (repository, name) = (origin.repository.clone(), vm_name.to_owned());
        let (kept, scratch) = (kept.to_owned(), temporary.to_owned());
        blocking(move || {
            let saved = Repository::find(&repository).and_then(|repository| {
                save_ref(&repository, &name, base.as_deref(), &patch, &scratch)
            });
            match saved {
                Ok(saved) => Ok(Some(Kept::Reference(saved))),
                Err(error) => {
                    let file = keep_file(&patch, &kept, &name, "patch")?;
                    let because = error.chain();
                    let word = |path: &Path| quoted(&path.to_string_lossy());
                    let restore = format!("git -C {} apply {}", word(&repository), word(&file));
                    Ok(Some(Kept::Patch {
                        file,
                        because,
                        restore,
                    }))
                }
            }
        })
        .await
    }

    /// Runs a command as root, with its output into `output`.
    async fn run(&self, argv: Vec<OsString>, output: &mut impl Output) -> Result<Finished> {
        let exec = Exec {
            argv: argv.into_iter().map(Into::into).collect(),
            workdir: Some("/".into()),
            ..Exec::default()
        };
        let (_sender, mut receiver) = client::exec(&self.agent, exec).await?;
        let mut said = Vec::new();
        let status = loop {
            let next = tokio::time::timeout(QUIET, receiver.next()).await;
            let next = next.map_err(|elapsed| {
                let message = format!(
                    "the guest has said nothing for {} s while it made a patch",
                    QUIET.as_secs()
                );
                Error::new(Code::AgentFailed, message).because(elapsed)
            })?;
            match next? {
                ExecOutput::Started { .. } => {}
                ExecOutput::Stdout(bytes) => output.take(&bytes).await?,
                ExecOutput::Stderr(bytes) => {
                    let room = MAX_SAID.saturating_sub(said.len()).min(bytes.len());
                    said.extend_from_slice(&bytes[..room]);
                }
                ExecOutput::Exited(status) => break status,
                ExecOutput::Signalled(signal) => break 128 + signal,
                ExecOutput::Refused { code, message } => {
                    said = message.into_bytes();
                    break code;
                }
            }
        };
        Ok(Finished { status, said })
    }
}

/// What came of an export by the guest.
enum InGuest {
    Made(Exported),
    /// There is no workspace.
    Absent,
    /// There is one, and the guest has not what it takes.
    Unable,
}

/// Exit statuses of the script; the last is a shell's, or the agent's when there is none.
const NO_GIT: i32 = 65;
/// Git's own, for an option that it does not know.
const OLD_GIT: i32 = 129;
const NO_WORKSPACE: i32 = 66;
const NO_REPOSITORY: i32 = 68;
const NO_SHELL: i32 = 127;

struct Finished {
    status: i32,
    said: Vec<u8>,
}

/// Takes what a command writes.
trait Output {
    async fn take(&mut self, bytes: &[u8]) -> Result<()>;
}

/// What a command writes, up to a limit.
struct Answer(Vec<u8>, usize);

impl Answer {
    fn within(limit: usize) -> Answer {
        Answer(Vec::new(), limit)
    }
}

impl Output for Answer {
    async fn take(&mut self, bytes: &[u8]) -> Result<()> {
        let room = self.1.saturating_sub(self.0.len()).min(bytes.len());
        self.0.extend_from_slice(&bytes[..room]);
        Ok(())
    }
}

struct PatchFile {
    path: PathBuf,
    file: tokio::fs::File,
    hasher: Sha256,
    size: u64,
}

impl PatchFile {
    async fn create(path: &Path) -> Result<PatchFile> {
        let file = tokio::fs::File::from_std(create(path)?);
        Ok(PatchFile {
            path: path.to_owned(),
            file,
            hasher: Sha256::new(),
            size: 0,
        })
    }

    async fn finish(mut self, left_out: Vec<String>) -> Result<Exported> {
        self.file.flush().await.at("write", &self.path)?;
        Ok(Exported {
            size: self.size,
            digest: hex(&self.hasher.finalize()),
            left_out,
        })
    }
}

impl Output for PatchFile {
    async fn take(&mut self, bytes: &[u8]) -> Result<()> {
        self.size += bytes.len() as u64;
        if self.size > MAX_PATCH {
            let message = format!("the changes take more than {} GiB", MAX_PATCH >> 30);
            return Err(Error::new(Code::NoSpace, message)
                .hint("copy large files out with `banger vm cp` and delete them in the guest"));
        }
        self.hasher.update(bytes);
        self.file.write_all(bytes).await.at("write", &self.path)
    }
}

/// Hashes and counts what is written.
struct Hashed<W> {
    writer: W,
    hasher: Sha256,
    size: u64,
}

impl<W> Hashed<W> {
    fn new(writer: W) -> Self {
        Hashed {
            writer,
            hasher: Sha256::new(),
            size: 0,
        }
    }

    fn exported(self, left_out: Vec<String>) -> Exported {
        Exported {
            size: self.size,
            digest: hex(&self.hasher.finalize()),
            left_out,
        }
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.writer.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// Tells how many bytes of an archive are written.
struct Counted<'a, W, F>(W, &'a F);

impl<W: Write, F: Fn(u64)> Write for Counted<'_, W, F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.0.write(bytes)?;
        self.1(count as u64);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Who owns a workspace at this path: the user whose home it is in, by the custom of `/home`.
fn owner(path: &OsStr) -> Option<String> {
    let rest = path.as_bytes().strip_prefix(b"/home/")?;
    let user = rest.split(|byte| *byte == b'/').next()?;
    String::from_utf8(user.to_vec()).ok()
}

fn create(path: &Path) -> Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .at("create", path)
}

/// Copies a patch or another kind of file to one of its own in `directory`, whole and on the disk.
fn keep_file(patch: &Path, directory: &Path, vm_name: &str, kind: &str) -> Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .at("create", directory)?;
    let mut staged = tempfile::Builder::new()
        .prefix(".banger-")
        .tempfile_in(directory)
        .at("create a file in", directory)?;
    let mut source = std::fs::File::open(patch).at("open", patch)?;
    io::copy(&mut source, &mut staged).at("write into", directory)?;
    staged.as_file().sync_all().at("write into", directory)?;
    let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
    let mut number = 1;
    loop {
        let name = match number {
            1 => format!("{vm_name}-{now}.{kind}"),
            number => format!("{vm_name}-{now}-{number}.{kind}"),
        };
        let file = directory.join(name);
        match staged.persist_noclobber(&file) {
            Ok(_) => {
                let directory_file = std::fs::File::open(directory).at("open", directory)?;
                directory_file.sync_all().at("write", directory)?;
                return Ok(file);
            }
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
                staged = error.file;
                number += 1;
            }
            Err(error) => return Err(Error::io("create", &file, error.error)),
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::internal("the work was given up").because(error)),
    }
}

/// Text of a guest's, fit for a terminal.
fn tame(text: &str) -> String {
    crate::git::shown(text.as_bytes())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_of_a_home_owns_what_is_copied_there() {
        let owner = |path: &str| owner(OsStr::new(path));
        assert_eq!(owner("/home/dev/repo").as_deref(), Some("dev"));
        assert_eq!(owner("/root/repo"), None);
    }

    #[test]
    fn kept_patches_never_take_each_others_place() {
        let place = tempfile::tempdir().unwrap();
        let patch = place.path().join("p");
        std::fs::write(&patch, "x").unwrap();
        let kept = place.path().join("a/saved");
        let one = keep_file(&patch, &kept, "box", "patch").unwrap();
        let two = keep_file(&patch, &kept, "box", "patch").unwrap();
        assert_ne!(one, two);
        for file in [one, two] {
            assert_eq!(std::fs::read(file).unwrap(), b"x");
        }
    }
}
