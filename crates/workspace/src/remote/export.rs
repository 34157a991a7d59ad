//! What was changed in a guest, by its own git or by the host's.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::path::Path;

use banger_guest_api::archive::{Owner, Unpack, unpack};
use banger_guest_api::{CopyOut, client};
use banger_model::{Code, Error, IoContext, Result};

use super::file::{HashedFile, OutputFile};
use super::{Origin, Remote, blocking, tame};
use crate::export::{Base, Export, TreeBase, export_failure, export_from_tree, export_script};
use crate::repository::Repository;

/// How much of a guest's files is copied out to be compared here, in bytes with their headers.
const MAX_TREE: u64 = 8 << 30;
/// What an error says of more; with [`MAX_TREE`] in it.
const TOO_LARGE: &str = "take more than 8 GiB";

/// What an export wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Bytes; none when there is nothing to export.
    pub size: u64,
    /// SHA-256 of them, in hexadecimal digits.
    pub digest: String,
    /// What the guest left out and why, a line each, fit for a terminal.
    pub left_out: Vec<String>,
    /// Names of repositories in it that were left out, as far as the host found them.
    pub(super) nested: Vec<Vec<u8>>,
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

impl Remote {
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
    pub(super) async fn look(
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
        let mut file = OutputFile::create(patch, "the changes")?;
        let ended = self.run(argv, &mut file).await?;
        let failure = || export_failure(ended.status, &ended.said);
        match ended.status {
            0 => {
                let said = String::from_utf8_lossy(&ended.said);
                let left_out = said.lines().map(tame).collect();
                let (size, digest) = file.finish().await?;
                Ok(InGuest::Made(Exported {
                    size,
                    digest,
                    left_out,
                    nested: Vec::new(),
                }))
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
            unpack(Limited(archive, MAX_TREE), &to)
        });
        match copied.await {
            // The guest's word: nothing of the host's is looked for by then.
            Err(error) if error.code() == Code::NotFound => return Ok(None),
            Err(error) if error.chain().contains(TOO_LARGE) => {
                let message = format!("the files of the workspace {TOO_LARGE}");
                return Err(Error::new(Code::NoSpace, message).hint(
                    "install git in the guest, which need not copy them then, or copy large \
                     files out with `banger vm cp` and delete them there",
                ));
            }
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
            let mut writer = HashedFile::create(&patch)?;
            let tree = directory.path().join("tree");
            let left_out = export_from_tree(&plan, base, &tree, &temporary, &mut writer)?;
            writer.flush().at("write", &patch)?;
            let name = |name: &Vec<u8>| tame(&String::from_utf8_lossy(name));
            let lines = left_out
                .iter()
                .map(|path| format!("left out, it is a repository of its own: {}", name(path)));
            let left_out_lines = lines.collect();
            let (size, digest) = writer.told();
            Ok(Some(Exported {
                size,
                digest,
                left_out: left_out_lines,
                nested: left_out,
            }))
        })
        .await
    }
}

/// Reads so many bytes and fails then: the guest says how long an archive is.
struct Limited<R>(R, u64);

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(buffer)?;
        self.1 = self
            .1
            .checked_sub(count as u64)
            .ok_or_else(|| io::Error::new(io::ErrorKind::FileTooLarge, TOO_LARGE))?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_without_end_is_cut_off() {
        let mut taken = Vec::new();
        Limited(b"1234".as_slice(), 4)
            .read_to_end(&mut taken)
            .unwrap();
        assert_eq!(taken, b"1234");
        let error = Limited(io::repeat(0), 1 << 20)
            .read_to_end(&mut taken)
            .unwrap_err();
        assert!(taken.len() <= 4 + (1 << 20));
        assert_eq!(
            error.to_string(),
            format!("take more than {} GiB", MAX_TREE >> 30)
        );
    }
}
