//! The few file operations that must be exact: atomic writes, syncing, sizes.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use banger_model::{ByteSize, Code, Error, IoContext, Result};

/// Above this many files one `syncfs` is cheaper than an `fsync` for each.
const FSYNC_EACH: usize = 32;

/// A name that no other call in this process has returned, and other processes do not use
/// while this one lives. Callers still create exclusively.
pub(crate) fn unique_name(prefix: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let clock = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos());
    format!("{prefix}{}-{clock:x}-{number}", std::process::id())
}

/// Writes `bytes` to `path` so that readers and crashes see the old content or the new one,
/// nothing between. The file gets mode 0444.
///
/// # Errors
/// `io` or `no_space`, naming the path.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::internal(format!(
            "`{}` names no file",
            path.display()
        )));
    };
    let temporary = parent.join(unique_name(&format!(".{}.", name.to_string_lossy())));
    let written = write_new(&temporary, bytes)
        .and_then(|()| fs::rename(&temporary, path).at("rename a file to", path));
    if written.is_err()
        && let Err(error) = fs::remove_file(&temporary)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(path = %temporary.display(), %error, "a temporary file stays behind");
    }
    written?;
    sync_dir(parent)
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o444)
        .open(path)
        .at("create", path)?;
    file.write_all(bytes).at("write", path)?;
    file.sync_all().at("sync", path)
}

/// Makes the entries of `dir` durable.
///
/// # Errors
/// `io`, naming the directory.
pub fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .at("sync", dir)
}

/// Makes everything below `dir` read-only for the owner and nobody else's (directories 0700,
/// files 0444) and durable.
///
/// # Errors
/// `internal` when there is anything but directories and regular files.
pub(crate) fn seal(dir: &Path) -> Result<()> {
    let mut files = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    let mut next = 0;
    while next < dirs.len() {
        let current = dirs[next].clone();
        next += 1;
        for entry in fs::read_dir(&current).at("list", &current)? {
            let entry = entry.at("list", &current)?;
            let path = entry.path();
            let kind = entry.file_type().at("look at", &path)?;
            if kind.is_dir() {
                dirs.push(path);
            } else if kind.is_file() {
                files.push(path);
            } else {
                return Err(Error::internal(format!(
                    "`{}` is neither a file nor a directory and cannot be published",
                    path.display()
                )));
            }
        }
    }
    let set_mode = |path: &PathBuf, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).at("set the mode of", path)
    };
    for path in &files {
        set_mode(path, 0o444)?;
    }
    for path in &dirs {
        set_mode(path, 0o700)?;
    }
    if files.len() + dirs.len() > FSYNC_EACH {
        let file = File::open(dir).at("open", dir)?;
        return rustix::fs::syncfs(&file)
            .map_err(std::io::Error::from)
            .at("sync the file system of", dir);
    }
    for path in files.iter().chain(dirs.iter()) {
        File::open(path)
            .and_then(|file| file.sync_all())
            .at("sync", path)?;
    }
    Ok(())
}

/// The space that `path` and everything below it takes on disk.
///
/// # Errors
/// `io`, naming the path that cannot be read.
pub fn disk_usage(path: &Path) -> Result<ByteSize> {
    let mut total = 0u64;
    let mut todo = vec![path.to_owned()];
    while let Some(current) = todo.pop() {
        let metadata = fs::symlink_metadata(&current).at("look at", &current)?;
        total = total.saturating_add(metadata.blocks().saturating_mul(512));
        if metadata.is_dir() {
            for entry in fs::read_dir(&current).at("list", &current)? {
                todo.push(entry.at("list", &current)?.path());
            }
        }
    }
    Ok(ByteSize::bytes(total))
}

/// What an ordinary user may still write to the file system of `path`.
///
/// # Errors
/// `io` when the file system does not say.
pub fn available_space(path: &Path) -> Result<ByteSize> {
    let facts = rustix::fs::statvfs(path)
        .map_err(std::io::Error::from)
        .at("ask for the free space of", path)?;
    Ok(ByteSize::bytes(
        facts.f_bavail.saturating_mul(facts.f_frsize),
    ))
}

/// Refuses work for which `path` has too little free space, before it begins.
///
/// # Errors
/// `no_space`, naming the directory, what is needed and what is free.
pub fn ensure_space(path: &Path, needed: ByteSize, what: &str) -> Result<()> {
    let free = available_space(path)?;
    if free >= needed {
        return Ok(());
    }
    Err(Error::new(
        Code::NoSpace,
        format!(
            "{what} needs {} MiB in `{}`, {} MiB are free",
            needed.as_mib(),
            path.display(),
            free.as_mib()
        ),
    )
    .hint(format!(
        "free at least {} MiB on the file system of `{}` and try again",
        ByteSize::bytes(needed.as_bytes() - free.as_bytes()).as_mib() + 1,
        path.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn atomic_writes_replace_and_leave_no_temporary() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        write_atomically(&path, b"one").unwrap();
        write_atomically(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o444);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_atomic_write_leaves_the_old_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d");
        fs::create_dir_all(path.join("full")).unwrap();
        assert!(write_atomically(&path, b"x").is_err());
        assert!(path.join("full").is_dir());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn too_little_space_is_refused_with_figures() {
        let dir = tempfile::tempdir().unwrap();
        assert!(ensure_space(dir.path(), ByteSize::bytes(1), "a test").is_ok());
        let error = ensure_space(dir.path(), ByteSize::gib(1 << 20), "a test").unwrap_err();
        assert_eq!(error.code(), Code::NoSpace);
        assert!(error.message().contains(&dir.path().display().to_string()));
        assert!(error.hint_text().unwrap().contains("free at least"));
    }

    #[test]
    fn disk_usage_counts_blocks_not_lengths() {
        let dir = tempfile::tempdir().unwrap();
        let sparse = File::create(dir.path().join("sparse")).unwrap();
        sparse.set_len(1 << 30).unwrap();
        assert!(disk_usage(dir.path()).unwrap() < ByteSize::mib(1));
    }
}
