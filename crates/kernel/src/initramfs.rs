//! The initramfs: the guest agent as init, and the modules it loads, behind the kernel's own
//! initrd where it has one.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use banger_content::{ContentStore, Hasher, write_atomically};
use banger_model::{Digest, FileIdentity, IoContext, Result};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, utimensat};

use crate::cpio::Cpio;
use crate::elf;
use crate::kernels::Kernel;
use crate::modules::Modules;

/// Part of the key: raise it when the same kernel and agent would make other bytes.
const FORMAT: u32 = 2;
/// How many are kept by a sweep; each is a few MiB.
const KEPT: usize = 8;

/// A temporary file this old is nobody's any more.
const ABANDONED: Duration = Duration::from_secs(600);

/// What the guest needs before it has its root file system.
const BOOT: [&str; 5] = [
    "virtio_mmio",
    "virtio_blk",
    "vmw_vsock_virtio_transport",
    "overlay",
    "ext4",
];
/// What it needs only when it has a network.
const NET: [&str; 1] = ["virtio_net"];

/// Remembers the digest of the agent last used: reading it is dearer than the whole look-up.
#[derive(Debug, Default)]
pub(crate) struct AgentDigests(Mutex<Option<(FileIdentity, Digest)>>);

impl AgentDigests {
    fn get(&self, identity: &FileIdentity) -> Option<Digest> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, digest) = known.as_ref()?;
        (last == identity).then(|| digest.clone())
    }

    fn set(&self, identity: FileIdentity, digest: &Digest) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((identity, digest.clone()));
    }
}

/// The initramfs for `kernel` and `agent`, made if it is not there.
pub(crate) fn make(
    store: &ContentStore,
    agents: &AgentDigests,
    kernel: &Kernel,
    agent: &Path,
) -> Result<PathBuf> {
    let found = fs::metadata(agent).at("read the guest agent", agent)?;
    let identity = FileIdentity::from(&found);
    if let Some(digest) = agents.get(&identity) {
        let path = path_for(store, kernel, &digest);
        if touch(&path) {
            return Ok(path);
        }
    }
    let program = fs::read(agent).at("read the guest agent", agent)?;
    elf::check_static(agent, &program)?;
    let mut hasher = Hasher::new();
    hasher.update(&program);
    let digest = hasher.finish();
    let path = path_for(store, kernel, &digest);
    if !touch(&path) {
        let before = match &kernel.initrd {
            Some(path) => fs::read(path).at("read", path)?,
            None => Vec::new(),
        };
        let bytes = build(before, &program, &Modules::open(&kernel.modules)?)?;
        if let Some(dir) = path.parent() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)
                .at("create", dir)?;
        }
        // Callers who race make the same bytes, and the rename is atomic.
        write_atomically(&path, &bytes)?;
    }
    agents.set(identity, &digest);
    Ok(path)
}

/// Removes all but the files used last, and what crashes left behind.
pub(crate) fn sweep(store: &ContentStore) -> Result<()> {
    let dir = dir(store);
    let entries = match fs::read_dir(&dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.at("list", &dir)?,
    };
    let mut whole: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in entries {
        let path = entry.at("list", &dir)?.path();
        let metadata = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            other => other.at("look at", &path)?,
        };
        let temporary = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !temporary {
            let used = metadata.accessed().at("look at", &path)?;
            whole.push((used, path));
            continue;
        }
        let written = metadata.modified().at("look at", &path)?;
        if written.elapsed().is_ok_and(|age| age > ABANDONED) {
            fs::remove_file(&path).at("remove", &path)?;
        }
    }
    whole.sort();
    let surplus = whole.len().saturating_sub(KEPT);
    for (_, path) in &whole[..surplus] {
        match fs::remove_file(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            other => other.at("remove", path)?,
        }
    }
    Ok(())
}

fn dir(store: &ContentStore) -> PathBuf {
    store.dir().join("initramfs")
}

fn path_for(store: &ContentStore, kernel: &Kernel, agent: &Digest) -> PathBuf {
    let mut hasher = Hasher::new();
    hasher.update(format!("banger initramfs {FORMAT}\n{}\n{agent}\n", kernel.digest).as_bytes());
    dir(store).join(format!("{}.cpio", hasher.finish().hex()))
}

/// Marks a file as used now, so that a sweep keeps it. False when it is not there. The time of its
/// modification stays: by that the proof of KVM knows the file.
fn touch(path: &Path) -> bool {
    let time = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
    let times = Timestamps {
        last_access: time(UTIME_NOW),
        last_modification: time(UTIME_OMIT),
    };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

/// Every module that the initramfs of a kernel with these modules holds, in load order.
///
/// # Errors
/// `build_failed`, naming a module that is missing.
pub(crate) fn modules_for(modules: &Modules) -> Result<Vec<String>> {
    let all: Vec<&str> = BOOT.into_iter().chain(NET).collect();
    modules.in_load_order(&all)
}

/// The bytes of the initramfs. `before` is whole archives; where both have a file, ours, which
/// comes last, is the one that counts.
fn build(before: Vec<u8>, agent: &[u8], modules: &Modules) -> Result<Vec<u8>> {
    let boot = modules.in_load_order(&BOOT)?;
    let early: HashSet<&String> = boot.iter().collect();
    let net: Vec<String> = modules
        .in_load_order(&NET)?
        .into_iter()
        .filter(|name| !early.contains(name))
        .collect();

    let mut cpio = Cpio::after(before);
    // Not below `lib`, which in an initrd may be a link that ours would replace.
    for dir in [
        "dev",
        "proc",
        "sys",
        "run",
        "mnt",
        "banger",
        "banger/modules",
    ] {
        cpio.directory(dir);
    }
    cpio.character_device("dev/console", 0o600, (5, 1));
    cpio.file("init", 0o755, agent);
    for name in boot.iter().chain(&net) {
        let path = format!("banger/modules/{name}.ko");
        cpio.file(&path, 0o644, &modules.content(name)?);
    }
    for (list, names) in [("boot", &boot), ("net", &net)] {
        let lines: String = names.iter().map(|name| format!("{name}.ko\n")).collect();
        cpio.file(&format!("banger/{list}.list"), 0o644, lines.as_bytes());
    }
    Ok(cpio.finish())
}

#[cfg(test)]
pub(crate) mod tests;
