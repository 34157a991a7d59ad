//! The outer machine: built once, kept under a key of all it is made of.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use banger_archive::{Archive, Bootstrap, Variant, Work};
use banger_model::{ByteSize, IoContext, Progress, Result};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use crate::emulator::{self, Emulator};

/// The Debian release.
const SUITE: &str = "bookworm";
const PACKAGES: &str = include_str!("../outer.packages");
const PREPARE: &str = include_str!("../prepare.sh");
const MAKE_DISK: &str = include_str!("../make-disk.sh");
/// The most its tree takes while it is made.
const TREE: ByteSize = ByteSize::bytes(2500 << 20);
/// How the finished directories are called, before the key.
const PREFIX: &str = "outer-";

/// The files of the outer machine. They are not changed by running it.
pub(crate) struct Outer {
    pub(crate) emulator: Emulator,
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: PathBuf,
    pub(crate) disk: PathBuf,
    /// Keeps it from being removed by a run that wants another.
    _in_use: File,
}

/// The one that is kept, or a new one.
///
/// # Errors
/// As [`Archive::bootstrap`].
pub(crate) async fn ensure(cache: &Path, cancel: &CancellationToken) -> Result<Outer> {
    fs::create_dir_all(cache).at("create", cache)?;
    // Who builds holds this; the kernel lets go of it however the build ends.
    let lock = open(&cache.join("lock"))?;
    if lock.try_lock().is_err() {
        eprintln!("lab: another run builds the outer machine; waiting for it");
        lock.lock().at("lock", cache)?;
    }
    let dir = cache.join(format!("{PREFIX}{}", key()));
    if !dir.exists() {
        build(cache, &dir, cancel).await?;
        remove_others(cache, &dir)?;
    }
    let in_use = File::open(&dir).at("open", &dir)?;
    in_use.lock_shared().at("lock", &dir)?;
    Ok(Outer {
        emulator: Emulator::in_directory(&dir.join(emulator::DIRECTORY)),
        kernel: dir.join("vmlinuz"),
        initrd: dir.join("initrd"),
        disk: dir.join("disk.ext4"),
        _in_use: in_use,
    })
}

fn open(path: &Path) -> Result<File> {
    File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .at("open", path)
}

/// A hash of all it is made of.
fn key() -> String {
    let mut hash = Sha256::new();
    let own = [SUITE, PACKAGES, PREPARE, MAKE_DISK];
    for part in own.iter().chain(&emulator::RECIPE) {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize()[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Builds beside `dir` and gives it that name when it is whole and on the disk.
async fn build(cache: &Path, dir: &Path, cancel: &CancellationToken) -> Result<()> {
    eprintln!("lab: building the outer machine, once: about two minutes");
    let staging = cache.join("staging");
    // Left by a build that was killed: nobody else builds now.
    banger_archive::remove_tree(&staging)?;
    for part in ["emulator", "tree", "tmp", "out"] {
        let part = staging.join(part);
        fs::create_dir_all(&part).at("create", &part)?;
    }
    let stage = staging.clone();
    let built = banger_archive::run("lab-build", &Words, cancel, move |work| {
        bootstrap(work, &stage)
    })
    .await;
    let published = built.and_then(|()| publish(&staging.join("out"), dir));
    published.and(banger_archive::remove_tree(&staging))
}

fn bootstrap(work: &Work, staging: &Path) -> Result<()> {
    emulator::build(work, staging)?;
    let packages: Vec<String> = PACKAGES
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(str::to_owned)
        .collect();
    let out = staging.join("out");
    Archive::default().bootstrap(
        work,
        &Bootstrap {
            suite: SUITE,
            variant: Variant::Installed,
            packages: &packages,
            tree: &staging.join("tree"),
            tree_size: TREE,
            scratch: &staging.join("tmp"),
            prepare: PREPARE,
            finish: MAKE_DISK,
            variables: &[("LAB_OUT", out.as_os_str())],
        },
        &mut |_| {},
    )
}

fn publish(out: &Path, dir: &Path) -> Result<()> {
    // Its files are many.
    let files = File::open(out).at("open", out)?;
    rustix::fs::syncfs(&files)
        .map_err(std::io::Error::from)
        .at("sync", out)?;
    fs::rename(out, dir).at("publish", dir)
}

/// Removes outer machines with other keys that nobody runs.
fn remove_others(cache: &Path, keep: &Path) -> Result<()> {
    for entry in fs::read_dir(cache).at("list", cache)? {
        let path = entry.at("list", cache)?.path();
        let ours = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
        if !ours || path == keep {
            continue;
        }
        let handle = File::open(&path).at("open", &path)?;
        if handle.try_lock().is_ok() {
            fs::remove_dir_all(&path).at("remove", &path)?;
        }
    }
    Ok(())
}

/// The stages of a build, one a line.
pub(crate) struct Words;

impl Progress for Words {
    fn stage(&self, _name: &str, message: &str) {
        eprintln!("lab: {message}");
    }

    fn fraction(&self, _done: f32) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_removed_unless_they_are_in_use() {
        let cache = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let dir = cache.path().join(name);
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join("disk.ext4"), "x").unwrap();
            dir
        };
        let (keep, old, used, other) = (
            make("outer-1"),
            make("outer-2"),
            make("outer-3"),
            make("mine"),
        );
        let running = File::open(&used).unwrap();
        running.lock_shared().unwrap();
        remove_others(cache.path(), &keep).unwrap();
        assert!(keep.exists() && used.exists() && other.exists());
        assert!(!old.exists());
    }

    #[tokio::test]
    async fn a_half_built_one_is_not_taken_for_a_whole_one() {
        let cache = tempfile::tempdir().unwrap();
        let half = cache.path().join("staging/out");
        fs::create_dir_all(&half).unwrap();
        fs::write(half.join("disk.ext4"), "half").unwrap();
        let cancel = CancellationToken::new();
        cancel.cancel();
        assert!(ensure(cache.path(), &cancel).await.is_err());
        assert!(!half.join("disk.ext4").exists());
        assert!(!cache.path().join(format!("{PREFIX}{}", key())).exists());
    }
}
