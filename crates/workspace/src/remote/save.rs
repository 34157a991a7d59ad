//! Keeping what was done in a guest before it is gone.

use std::path::{Path, PathBuf};

use banger_model::{Code, IoContext, Result};

use super::file::keep_file;
use super::{Archive, Bundle, Origin, Remote, blocking};
use crate::export::{Base, Export};
use crate::git::quoted;
use crate::repository::Repository;
use crate::{SavedRef, save_ref};

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
    /// Repositories inside the workspace, which no patch of its files holds; absent when there
    /// are none.
    pub nested: Option<Archive>,
}

/// Whether there may be repositories inside the workspace.
enum Nested {
    None,
    /// There may, among them these.
    Known(Vec<Vec<u8>>),
}

impl Remote {
    /// Keeps the work that was done in the guest, for whoever removes or replaces it: files that
    /// are in no export whose digest is `exported` go into the host's repository, else into a
    /// file in the directory `kept`, which is made; commits on other references into another, and
    /// repositories inside the workspace into a third.
    /// `temporary` is an existing directory.
    ///
    /// # Errors
    /// As [`export`](Self::export), and [`Code::Io`] when commits or a repository in the
    /// workspace cannot be read; what was kept
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
        let (work, nested) = work.await?;
        let commits = self.save_commits(origin, vm_name, kept, temporary).await?;
        let nested = match nested {
            Nested::None => None,
            Nested::Known(known) => {
                let nested = self.save_nested(known, origin, vm_name, kept, temporary);
                nested.await?
            }
        };
        Ok(Saved {
            work,
            commits,
            nested,
        })
    }

    async fn save_files(
        &self,
        origin: &Origin,
        vm_name: &str,
        exported: Option<&str>,
        kept: &Path,
        temporary: &Path,
    ) -> Result<(Option<Kept>, Nested)> {
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
        let prepared = look(Base::Prepared);
        match self.look(&prepared, origin, &done, temporary).await {
            Ok(None) => return Ok((None, Nested::None)),
            Ok(Some(done)) if done.size == 0 => {
                let nested = match done.left_out.is_empty() {
                    true => Nested::None,
                    false => Nested::Known(done.nested),
                };
                return Ok((None, nested));
            }
            // The guest lost its record, or the host moved on: whether there is work cannot be
            // told from here, so the whole difference is kept.
            Ok(Some(_)) => {}
            Err(error) if matches!(error.code(), Code::InvalidArgument | Code::Conflict) => {}
            Err(error) => return Err(error),
        }
        let patch = directory.path().join("patch");
        let all = self
            .export(&look(Base::Recorded), origin, &patch, temporary)
            .await?;
        let nested = Nested::Known(all.nested);
        if exported == Some(all.digest.as_str()) || all.size == 0 {
            return Ok((None, nested));
        }
        let base = self.base().await?.or_else(|| origin.base.clone());
        let (repository, name) = (origin.repository.clone(), vm_name.to_owned());
        let (kept, scratch) = (kept.to_owned(), temporary.to_owned());
        let work = blocking(move || {
            let saved = Repository::find(&repository).and_then(|repository| {
                save_ref(&repository, &name, base.as_deref(), &patch, &scratch)
            });
            match saved {
                Ok(saved) => Ok(Kept::Reference(saved)),
                Err(error) => {
                    let file = keep_file(&patch, &kept, &name, "patch")?;
                    let because = error.chain();
                    let word = |path: &Path| quoted(&path.to_string_lossy());
                    let restore = format!("git -C {} apply {}", word(&repository), word(&file));
                    Ok(Kept::Patch {
                        file,
                        because,
                        restore,
                    })
                }
            }
        });
        Ok((Some(work.await?), nested))
    }
}
