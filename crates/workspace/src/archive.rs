//! The one archive that makes a workspace in a guest: its files and its `.git`.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use banger_guest_api::Copied;
use banger_guest_api::archive::{Builder, Meta};
use banger_model::{Code, Error, IoContext, Result};

use crate::git::shown;
use crate::guest::{Guest, Prepared, moved};
use crate::plan::{Entry, Plan};
use crate::stop::Stop;
use crate::tree::{Kind, Seen, Tree, seen};

/// What was copied.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Everything, `.git` included.
    pub copied: Copied,
    /// Files of the working tree.
    pub files: u64,
    /// The commit that the guest's files stand on; absent before the first commit.
    pub base: Option<String>,
    /// The files as they were copied, in the guest's objects.
    pub prepared: Prepared,
}

impl Plan {
    /// Writes one archive with the files and a whole `.git`, which is made in `temporary`: an
    /// existing directory, on a file system with room for the objects. What is made there is
    /// removed again.
    ///
    /// # Errors
    /// [`Code::Conflict`] when something changed since the plan was made, naming it;
    /// [`Code::Cancelled`] when `writer` takes no more, with its error as the cause; [`Code::Io`]
    /// and [`Code::NoSpace`] when git or a file fails. The archive is then incomplete, and no
    /// reader takes it for whole.
    pub fn write_archive(&self, temporary: &Path, writer: impl Write) -> Result<Summary> {
        self.write_archive_until(&Stop::default(), temporary, writer)
    }

    /// The same; [`Code::Cancelled`] as soon as `stop` says so.
    pub(crate) fn write_archive_until(
        &self,
        stop: &Stop,
        temporary: &Path,
        writer: impl Write,
    ) -> Result<Summary> {
        let temporary = tempfile::Builder::new()
            .prefix("banger-workspace-")
            .tempdir_in(temporary)
            .at("create a directory in", temporary)?;
        let guest = Guest::new(self, temporary.path().join("git"), stop)?;
        let mut archive = Archive::new(writer);
        let prepared = match &self.from {
            None => self.working_tree(&guest, &mut archive, stop)?,
            Some(commit) => {
                let tree = temporary.path().join("tree");
                let prepared = guest.check_out(commit, &tree)?;
                archive.begin(&mut Tree::open(&tree)?)?;
                archive.checked_out(self.entries(), &tree)?;
                prepared
            }
        };
        archive.git(guest.directory(), b".git")?;
        Ok(Summary {
            copied: archive
                .builder
                .finish()
                .map_err(|error| unwritten(&error))?,
            files: self.entries().len() as u64,
            base: self.base().map(str::to_owned),
            prepared,
        })
    }

    /// The files, while git collects the objects beside it.
    fn working_tree<W: Write>(
        &self,
        guest: &Guest<'_>,
        archive: &mut Archive<W>,
        stop: &Stop,
    ) -> Result<Prepared> {
        let dirty = guest.copy_index()?;
        let mut tree = Tree::open(self.repository.top())?;
        std::thread::scope(|scope| {
            let filling = scope.spawn(|| guest.fill(&dirty));
            let written = archive
                .begin(&mut tree)
                .and_then(|()| archive.files(self.entries(), &mut tree, &dirty));
            if written.is_err() {
                stop.stop();
            }
            let filled = filling
                .join()
                .unwrap_or_else(|_| Err(Error::internal("the thread that packs ended early")));
            written?;
            let prepared = filled?;
            // What git recorded of a changed file is what was copied of it.
            for entry in self.entries() {
                if dirty.contains(&entry.path) && tree.look(&entry.path)? != Some(entry.seen) {
                    return Err(changed(&entry.path));
                }
            }
            Ok(prepared)
        })
    }
}

struct Archive<W: Write> {
    builder: Builder<W>,
    /// The directory of the last file.
    directory: Vec<u8>,
    /// When it began, in seconds.
    now: i64,
}

impl<W: Write> Archive<W> {
    fn new(writer: W) -> Self {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Archive {
            builder: Builder::new(writer),
            directory: Vec::new(),
            now: i64::try_from(now.as_secs()).unwrap_or_default(),
        }
    }

    fn begin(&mut self, tree: &mut Tree) -> Result<()> {
        self.directory_entry(b"", tree)
    }

    /// Writes files as they are. Those in `dirty` get a new time, so that the guest's git looks
    /// into them as the host's would: it cannot know them by more than time and size.
    fn files(
        &mut self,
        entries: &[Entry],
        tree: &mut Tree,
        dirty: &HashSet<Vec<u8>>,
    ) -> Result<()> {
        for entry in entries {
            self.parents(&entry.path, tree)?;
            let modified = match dirty.contains(&entry.path) {
                true => (self.now, 0),
                false => entry.seen.modified,
            };
            self.entry(&entry.path, entry.seen, modified, tree)?;
        }
        Ok(())
    }

    /// Writes files that were just checked out.
    fn checked_out(&mut self, entries: &[Entry], top: &Path) -> Result<()> {
        let mut tree = Tree::open(top)?;
        for entry in entries {
            if let Some(seen) = tree.look(&entry.path)? {
                self.parents(&entry.path, &mut tree)?;
                self.entry(&entry.path, seen, seen.modified, &mut tree)?;
            }
        }
        Ok(())
    }

    fn entry(
        &mut self,
        path: &[u8],
        planned: Seen,
        modified: (i64, u32),
        tree: &mut Tree,
    ) -> Result<()> {
        let meta = Meta {
            mode: planned.mode,
            modified,
        };
        if planned.kind == Kind::Symlink {
            if tree.look(path)? != Some(planned) {
                return Err(changed(path));
            }
            let target = tree.link(path)?;
            return self
                .builder
                .symlink(path, &target, meta)
                .map_err(|error| unwritten(&error));
        }
        let (file, now) = match tree.read(path) {
            Ok(opened) => opened,
            Err(error) if tree.look(path)? != Some(planned) => {
                return Err(changed(path).because(error));
            }
            Err(error) => return Err(error),
        };
        if now != Some(planned) {
            return Err(changed(path));
        }
        let mut content = Content { file, failed: None };
        let written = self.builder.file(path, &mut content, planned.size, meta);
        let full = tree.full(path);
        match (written, content.failed) {
            (Ok(()), _) => {}
            (Err(_), Some(error)) => return Err(Error::io("read", &full, error)),
            (Err(error), None) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(changed(path));
            }
            (Err(error), None) => return Err(unwritten(&error)),
        }
        let stat = rustix::fs::fstat(&content.file)
            .map_err(io::Error::from)
            .at("look at", &full)?;
        match seen(&stat) == Some(planned) {
            true => Ok(()),
            false => Err(changed(path)),
        }
    }

    /// The directories that `path` is in, as far as they have not been written.
    fn parents(&mut self, path: &[u8], tree: &mut Tree) -> Result<()> {
        let slash = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        let directory = &path[..slash];
        let slashes = directory
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'/');
        let ends = slashes
            .map(|(at, _)| at)
            .chain((slash > 0).then_some(slash));
        for end in ends {
            let parent = &directory[..end];
            let known = self.directory.strip_prefix(parent);
            if known.is_none_or(|rest| !rest.is_empty() && rest[0] != b'/') {
                self.directory_entry(parent, tree)?;
            }
        }
        self.directory = directory.to_vec();
        Ok(())
    }

    fn directory_entry(&mut self, path: &[u8], tree: &mut Tree) -> Result<()> {
        let (mode, modified) = tree.directory(path)?.ok_or_else(|| changed(path))?;
        let meta = Meta {
            // Whoever gets it must be able to work in it.
            mode: mode | 0o700,
            modified,
        };
        self.builder
            .directory(path, meta)
            .map_err(|error| unwritten(&error))
    }

    /// The directory we made ourselves, under `name`.
    fn git(&mut self, from: &Path, name: &[u8]) -> Result<()> {
        let meta = Meta {
            mode: 0o755,
            modified: (self.now, 0),
        };
        self.builder
            .directory(name, meta)
            .map_err(|error| unwritten(&error))?;
        let mut below: Vec<PathBuf> = Vec::new();
        for entry in std::fs::read_dir(from).at("read", from)? {
            below.push(entry.at("read", from)?.path());
        }
        below.sort_unstable();
        for path in below {
            let base = path.file_name().unwrap_or_default().as_bytes();
            let name = [name, b"/", base].concat();
            let mut tree = Tree::open(from)?;
            match tree.look(base)? {
                None => self.git(&path, &name)?,
                Some(stat) => {
                    let (file, _) = tree.read(base)?;
                    let meta = Meta {
                        mode: 0o644,
                        modified: stat.modified,
                    };
                    let written = self.builder.file(&name, file, stat.size, meta);
                    written.map_err(|error| unwritten(&error))?;
                }
            }
        }
        Ok(())
    }
}

/// A file, and why it could not be read.
struct Content {
    file: File,
    failed: Option<io::Error>,
}

impl Read for &mut Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer).inspect_err(|error| {
            if error.kind() != io::ErrorKind::Interrupted {
                self.failed = Some(io::Error::new(error.kind(), error.to_string()));
            }
        })
    }
}

fn changed(path: &[u8]) -> Error {
    moved(&format!("`{}`", shown(path)))
}

fn unwritten(error: &io::Error) -> Error {
    let cause = io::Error::new(error.kind(), error.to_string());
    let code = match error.kind() {
        io::ErrorKind::InvalidInput => Code::InvalidArgument,
        _ => Code::Cancelled,
    };
    Error::new(code, "the archive cannot be written").because(cause)
}
