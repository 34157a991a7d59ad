//! Empty file systems, made once per size and copied after that: a copy takes a few
//! milliseconds, for almost all of it is holes.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use banger_model::{ByteSize, IoContext, Result};

use super::{FileSystemTools, sparse};
use crate::failpoint;

/// The block size of every file system made here.
pub(super) const BLOCK: u64 = 4096;

/// The templates of one state directory.
#[derive(Debug)]
pub(crate) struct Templates {
    dir: PathBuf,
    tools: FileSystemTools,
    /// Held while one is made, so that it is made once.
    making: Mutex<()>,
}

impl Templates {
    /// Keeps templates in `dir`, which exists.
    pub(crate) fn new(dir: PathBuf, tools: FileSystemTools) -> Templates {
        Templates {
            dir,
            tools,
            making: Mutex::new(()),
        }
    }

    pub(super) fn tools(&self) -> &FileSystemTools {
        &self.tools
    }

    /// Makes an empty ext4 of this size at `target`, replacing what is there.
    ///
    /// # Errors
    /// `no_space`; `missing_program` when the file system tools are not installed.
    pub(super) fn instantiate(&self, size: ByteSize, target: &Path) -> Result<()> {
        let bytes = size.as_bytes() / BLOCK * BLOCK;
        // The number is the form: templates of an older one are not used.
        let template = self.dir.join(format!("ext4-1-{bytes}"));
        if !template.exists() {
            let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
            if !template.exists() {
                self.make(bytes, &template)?;
            }
        }
        sparse::copy(&template, target)
    }

    /// Makes an empty ext4 that becomes an image: without a journal, with room for many small
    /// files. What is not written is a hole.
    ///
    /// # Errors
    /// `no_space`; `missing_program` when the file system tools are not installed.
    pub(crate) fn format_image(&self, target: &Path, size: ByteSize) -> Result<()> {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(target)
            .at("create", target)?;
        file.set_len(size.as_bytes()).at("extend", target)?;
        let args = [
            "-q",
            "-F",
            "-t",
            "ext4",
            "-b",
            "4096",
            "-I",
            "256",
            "-i",
            "8192",
            "-m",
            "0",
            "-L",
            "banger-root",
            "-O",
            "^has_journal",
            "-E",
            "root_owner=0:0,nodiscard,lazy_itable_init=1",
        ];
        self.tools.run("mke2fs", &args, target)
    }

    /// Removes what a daemon that ended in the middle left.
    ///
    /// # Errors
    /// `io`, naming the file.
    pub(crate) fn sweep(&self) -> Result<()> {
        let staged = self.staged();
        match fs::remove_file(&staged) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.at("remove", &staged),
        }
    }

    fn staged(&self) -> PathBuf {
        self.dir.join("staged")
    }

    fn make(&self, bytes: u64, template: &Path) -> Result<()> {
        let staged = self.staged();
        failpoint::hit("format a template")?;
        let made = self.format(bytes, &staged).and_then(|()| {
            let file = fs::File::open(&staged).at("open", &staged)?;
            file.sync_all().at("write", &staged)?;
            failpoint::hit("publish a template")?;
            fs::rename(&staged, template).at("create", template)
        });
        if made.is_err()
            && let Err(error) = fs::remove_file(&staged)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %staged.display(), %error, "a file stays behind");
        }
        made
    }

    fn format(&self, bytes: u64, path: &Path) -> Result<()> {
        let blank = || -> Result<()> {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(path)
                .at("create", path)?;
            file.set_len(bytes).at("extend", path)
        };
        let journal = format!("size={}", journal_mib(ByteSize::bytes(bytes)));
        let mke2fs = |extended: &str| {
            // Without room set aside for growing while mounted, a template is 200 KiB of data
            // instead of megabytes; disks grow while they are not.
            let args = [
                "-q",
                "-F",
                "-t",
                "ext4",
                "-b",
                "4096",
                "-m",
                "0",
                "-O",
                "^resize_inode",
                "-J",
                &journal,
                "-E",
                extended,
            ];
            self.tools.run("mke2fs", &args, path)
        };
        // Nobody else's ids; no discards, for there is nothing to discard; tables initialised
        // lazily, or, where mke2fs can be told that the file is all zeroes, not at all.
        let options = "root_owner=0:0,nodiscard,lazy_itable_init=1,lazy_journal_init=1";
        blank()?;
        if mke2fs(&format!("{options},assume_storage_prezeroed=1")).is_err() {
            // Before e2fsprogs 1.47; any other failure comes again.
            blank()?;
            mke2fs(options)?;
        }
        // The disk becomes somebody's home; e2fsck makes the directory again when it needs it.
        if let Err(error) = self
            .tools
            .run("debugfs", &["-w", "-R", "rmdir lost+found"], path)
        {
            tracing::debug!(%error, "`lost+found` stays");
        }
        Ok(())
    }
}

/// The size of the journal in MiB: small, for it is dead weight in a copy once written, and
/// small enough for the smallest disk.
pub(super) fn journal_mib(size: ByteSize) -> u64 {
    (size.as_mib() / 16).clamp(4, 32)
}
