//! Own root file systems: an ext4 file becomes an image.
//!
//! The file itself is only read. What is checked and hashed is the copy, so it does not matter
//! what happens to the file meanwhile.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use banger_archive::{Work, run_program};
use banger_content::{ContentStore, clone_or_copy, digest_file, ensure_space};
use banger_model::{
    ByteSize, Code, Digest, Error, ImageConfig, ImageName, IoContext, KernelName, Progress, Result,
};

use banger_oci::Details;

use crate::images::{Image, Images, Manifest, ROOTFS};
use crate::superblock::Superblock;

/// The largest file system: larger ones have no place on a developer's machine, and hashing one
/// would take the better part of an hour.
const MAX_SIZE: ByteSize = ByteSize::gib(1024);

/// An ext4 file that is to become an image.
#[derive(Clone, Debug)]
pub struct Registration {
    /// The image's name.
    pub name: ImageName,
    /// The file, absolute.
    pub rootfs: PathBuf,
    /// The kernel its VMs boot by default.
    pub kernel: KernelName,
    /// How commands run in it.
    pub config: ImageConfig,
    /// What else is said about it.
    pub details: Details,
}

impl Registration {
    /// Opens the file and refuses what cannot be an image, before anything is changed.
    ///
    /// # Errors
    /// `invalid_argument`, saying what the file is instead; `not_found`, `io`.
    pub fn check(&self) -> Result<()> {
        open(&self.rootfs).map(drop)
    }
}

fn open(path: &Path) -> Result<File> {
    if !path.is_absolute() {
        return Err(Error::new(
            Code::InvalidArgument,
            format!("`{}` is not an absolute path", path.display()),
        )
        .hint("write the path from the root"));
    }
    // Whatever it is, opening it waits for nobody: it might be a pipe.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::new(
                Code::NotFound,
                format!("there is no file `{}`", path.display()),
            )
            .hint("give the path of an ext4 file"),
            _ => Error::io("open", path, error),
        })?;
    let found = file.metadata().at("look at", path)?;
    if !found.is_file() {
        return Err(Error::new(
            Code::InvalidArgument,
            format!("`{}` is not a regular file", path.display()),
        )
        .hint("copy a disk or partition into a file first, such as with `dd`"));
    }
    if found.len() > MAX_SIZE.as_bytes() {
        return Err(Error::new(
            Code::InvalidArgument,
            format!("`{}` is larger than {MAX_SIZE}", path.display()),
        )
        .hint(format!(
            "shrink it: `resize2fs -M {0}`, then `truncate` it to the size that prints",
            path.display()
        )));
    }
    Superblock::read(&file, path)?.check(&file, path)?;
    Ok(file)
}

/// Copies, checks and publishes.
pub(crate) fn register(images: &Images, work: &Work, registration: &Registration) -> Result<Image> {
    let path = &registration.rootfs;
    let from = open(path)?;
    let stage = images.store.stage()?;
    let disk = stage.path().join(ROOTFS);
    copy(&images.store, work, (&from, path), &disk)?;
    let (size, digest) = verify(work, &disk, path)?;
    let manifest = Manifest {
        details: registration.details.clone(),
        ..Manifest::new(
            registration.name.clone(),
            format!("registered from {}", path.display()),
            registration.kernel.clone(),
            registration.config.clone(),
            ByteSize::bytes(size),
        )
    };
    work.check()?;
    work.stage("publish", "publishing the image");
    images.publish(stage, &registration.name, digest, manifest)
}

fn copy(store: &ContentStore, work: &Work, from: (&File, &Path), disk: &Path) -> Result<()> {
    work.stage("copy", "copying the file system");
    let data = from.0.metadata().at("look at", from.1)?.blocks() * 512;
    store.steps().pass("make the disk")?;
    let to = File::create_new(disk).at("create", disk)?;
    if rustix::fs::ioctl_ficlone(&to, from.0).is_err() {
        let what = format!("registering `{}`", from.1.display());
        ensure_space(store.dir(), ByteSize::bytes(data), &what)?;
        store.steps().pass("fill the disk")?;
        clone_or_copy(from, (&to, disk), |done| {
            work.fraction(done as f32 / data.max(1) as f32);
            work.check()
        })?;
    }
    to.sync_all().at("write", disk)
}

/// Checks the copy from end to end; gives its size and digest. `origin` is for people.
pub(crate) fn verify(work: &Work, disk: &Path, origin: &Path) -> Result<(u64, Digest)> {
    work.stage("verify", "verifying the file system");
    // The file may have changed since its superblock was looked at.
    let copy = File::open(disk).at("open", disk)?;
    Superblock::read(&copy, disk)?.check(&copy, disk)?;
    let mut said = Vec::new();
    let args = [OsStr::new("-fn"), disk.as_os_str()];
    let status = run_program("e2fsck", &args, work, &mut |line| {
        if said.len() < 8 && !line.starts_with("Pass ") && !line.starts_with("e2fsck ") {
            said.push(line.to_owned());
        }
    })?;
    if !status.success() {
        return Err(Error::new(
            Code::InvalidArgument,
            format!("`{}` is a damaged ext4 file system", origin.display()),
        )
        .hint(format!("repair it first: `e2fsck -f {}`", origin.display()))
        .because(said.join("; ").escape_debug().to_string()));
    }
    let size = fs::metadata(disk).at("look at", disk)?.len();
    let digest = digest_file(disk, |done| {
        work.fraction(done as f32 / size.max(1) as f32);
        work.check()
    })?;
    Ok((size, digest))
}

#[cfg(test)]
mod tests;
