//! Keeping repositories that were made inside a workspace: no patch of its files holds them.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use banger_model::{Code, Error, IoContext, Result};

use super::file::{OutputFile, keep_file};
use super::run::Output;
use super::{Origin, Remote, blocking, tame};
use crate::git::quoted;

/// How long the names of all of them may be together, in bytes: they become arguments.
const MAX_NAMES: usize = 64 << 10;
/// Makes one archive of the directories that are there, of all that are named.
const ARCHIVE: &str = r#"cd -- "$1" && shift || exit
given=$#
for name; do if [ -d "$name" ]; then set -- "$@" "./$name"; fi; done
shift "$given"
[ $# = 0 ] || exec tar -c -f - "$@""#;

/// Repositories that were kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    /// The file, an archive of tar's.
    pub file: PathBuf,
    /// What is in it, fit for a terminal.
    pub names: Vec<String>,
    /// The command that brings them into the working tree, for a shell; it overwrites nothing.
    pub restore: String,
}

impl Remote {
    /// Keeps the repositories inside the workspace that git does not ignore, whole, as a file in
    /// the directory `kept`; `None` when there are none. Where the guest has no git, they are the
    /// `known` ones.
    ///
    /// # Errors
    /// [`Code::AgentFailed`] when the guest hangs or goes away; [`Code::Io`] and
    /// [`Code::NoSpace`] when the archive cannot be made or kept. Nothing is kept then.
    pub(super) async fn save_nested(
        &self,
        known: Vec<Vec<u8>>,
        origin: &Origin,
        vm_name: &str,
        kept: &Path,
        temporary: &Path,
    ) -> Result<Option<Archive>> {
        let mut listed = Names::default();
        let list = [
            "-c",
            "core.excludesFile=/dev/null",
            "ls-files",
            "-v",
            "-z",
            "--stage",
            "--others",
            "--exclude-standard",
        ];
        let ended = self.run(self.git(&list), &mut listed).await?;
        let names = match ended.status {
            0 => listed.found,
            _ => known,
        };
        if names.is_empty() {
            return Ok(None);
        }
        if names.iter().map(Vec::len).sum::<usize>() > MAX_NAMES {
            return Err(too_many());
        }
        let directory = tempfile::Builder::new()
            .prefix("banger-nested-")
            .tempdir_in(temporary)
            .at("create a directory in", temporary)?;
        let file = directory.path().join("tar");
        let shown: Vec<_> = names
            .iter()
            .map(|name| tame(&String::from_utf8_lossy(name)))
            .collect();
        let mut argv: Vec<OsString> = ["sh", "-c", ARCHIVE, "banger-save"]
            .map(OsString::from)
            .into();
        argv.push(self.path.clone());
        argv.extend(names.into_iter().map(OsString::from_vec));
        let mut archive = OutputFile::create(&file, "repositories inside the workspace")?;
        let ended = self.run(argv, &mut archive).await?;
        if ended.status != 0 {
            let message = format!(
                "the repositories inside the workspace cannot be read: {}",
                shown.join(", ")
            );
            return Err(Error::new(Code::Io, message)
                .hint("copy them out with `banger vm cp`, and delete them in the guest")
                .because(tame(&String::from_utf8_lossy(&ended.said))));
        }
        let (size, _) = archive.finish().await?;
        if size == 0 {
            return Ok(None);
        }
        let (kept, name) = (kept.to_owned(), vm_name.to_owned());
        let file = blocking(move || keep_file(&file, &kept, &name, "tar")).await?;
        let word = |path: &Path| quoted(&path.to_string_lossy());
        let restore = format!(
            "tar -x -k -C {} -f {}",
            word(&origin.repository),
            word(&file)
        );
        drop(directory);
        Ok(Some(Archive {
            file,
            names: shown,
            restore,
        }))
    }
}

fn too_many() -> Error {
    let message = "the names of the repositories inside the workspace are too many";
    Error::new(Code::NoSpace, message)
        .hint("copy them out with `banger vm cp`, and delete them in the guest")
}

/// Finds the repositories in what `git ls-files -v -z --stage --others` says.
#[derive(Default)]
struct Names {
    begun: Vec<u8>,
    found: Vec<Vec<u8>>,
    size: usize,
}

impl Output for Names {
    async fn take(&mut self, bytes: &[u8]) -> Result<()> {
        for piece in bytes.split_inclusive(|byte| *byte == 0) {
            self.begun.extend_from_slice(piece);
            if self.begun.len() > MAX_NAMES {
                return Err(too_many());
            }
            if self.begun.pop_if(|last| *last == 0).is_none() {
                continue;
            }
            let line = std::mem::take(&mut self.begun);
            if let Some(name) = nested(&line) {
                self.size += name.len();
                if self.size > MAX_NAMES {
                    return Err(too_many());
                }
                self.found.push(name.to_vec());
            }
        }
        Ok(())
    }
}

/// The name in a line that tells of a repository: one that git does not know, or one that it was
/// told to know as a submodule.
fn nested(line: &[u8]) -> Option<&[u8]> {
    let (state, rest) = line.split_at_checked(2)?;
    if state == b"? " {
        return rest.strip_suffix(b"/");
    }
    let rest = rest.strip_prefix(b"160000 ")?;
    let at = rest.iter().position(|byte| *byte == b'\t')?;
    Some(&rest[at + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Options;
    use crate::testing::{Pair, git, put};

    #[tokio::test]
    async fn repositories_inside_are_found_whatever_their_names_are() {
        let pair = Pair::filled();
        pair.prepare(&Options::default());
        let guest = pair.guest();
        for name in ["-new line", "vendor/x", "known", "x.o"] {
            std::fs::create_dir_all(guest.join(name)).unwrap();
            git(&guest.join(name), "init -q");
            put(&guest.join(name).join("file"), b"work\n");
        }
        put(&guest.join("plain/file"), b"no repository\n");
        git(&guest.join("known"), "add file");
        git(&guest.join("known"), "commit -qm one");
        git(&guest, "add known");
        std::fs::rename(guest.join("-new line"), guest.join("-new\nline")).unwrap();
        let said = git(&guest, "ls-files -v -z --stage --others --exclude-standard");
        for size in [1, 7, said.len()] {
            let mut names = Names::default();
            for piece in said.chunks(size) {
                names.take(piece).await.unwrap();
            }
            let expected: [&[u8]; 3] = [b"-new\nline", b"vendor/x", b"known"];
            assert_eq!(names.found, expected);
        }
        // What is named and gone is no failure.
        let names = ["-new\nline", "vendor/x", "known", "gone"];
        let archive = pair.at("tar");
        let done = std::process::Command::new("sh")
            .args(["-c", ARCHIVE, "sh"])
            .arg(&guest)
            .args(names)
            .stdout(std::fs::File::create(&archive).unwrap())
            .status();
        assert!(done.unwrap().success());
        let out = pair.at("out");
        std::fs::create_dir(&out).unwrap();
        let done = std::process::Command::new("tar")
            .arg("-xf")
            .arg(&archive)
            .arg("-C")
            .arg(&out)
            .status();
        assert!(done.unwrap().success());
        for name in &names[..3] {
            let file = std::fs::read(out.join(name).join("file")).unwrap();
            assert_eq!(file, b"work\n");
            assert!(out.join(name).join(".git/HEAD").exists());
        }
    }

    #[tokio::test]
    async fn a_guest_that_names_without_end_is_cut_off() {
        let mut names = Names::default();
        assert!(names.take(&vec![b'a'; MAX_NAMES + 1]).await.is_err());
        let mut names = Names::default();
        let line = b"? directory/\0";
        assert!(names.take(&line.repeat(MAX_NAMES / 9 + 1)).await.is_err());
        assert!(
            Names::default()
                .take(&b"? file\0".repeat(MAX_NAMES))
                .await
                .is_ok()
        );
    }
}
