//! Making an image from a package archive.

use std::fs;
use std::path::Path;

use banger_archive::{Bootstrap, Script, Variant, Work, mmdebstrap_version};
use banger_content::{digest_file, ensure_space};
use banger_model::{ByteSize, Code, Digest, Error, ImageConfig, IoContext, Progress, Result};

use crate::catalog::{BootstrapSource, CatalogEntry};
use crate::images::{Image, Images, Manifest, ROOTFS};

/// Turns an installed tree into one that boots as a VM; runs as root of the build.
const PREPARE: &str = include_str!("../../../images/prepare.sh");
/// Makes the ext4 file and prints what was learned of the tree.
const MAKE_DISK: &str = include_str!("make-disk.sh");
/// Checks the finished file system without writing.
const VERIFY: &str = "e2fsck -fn \"$BANGER_DISK\"";

/// Bootstraps `entry` and publishes it.
pub(crate) fn bootstrap(
    images: &Images,
    work: &Work,
    entry: &CatalogEntry,
    source: &BootstrapSource,
) -> Result<Image> {
    let (store, archive) = (&images.store, &images.archive);
    let version = mmdebstrap_version()?;
    ensure_space(
        store.dir(),
        source.needs,
        &format!("making the image `{}`", entry.name),
    )?;
    let stage = store.stage()?;
    let tree = stage.path().join("tree");
    let scratch = stage.path().join("tmp");
    let disk = stage.path().join(ROOTFS);
    for dir in [&tree, &scratch] {
        fs::create_dir(dir).at("create", dir)?;
    }

    let mut packages = None;
    archive.bootstrap(
        work,
        &Bootstrap {
            suite: &source.suite,
            variant: Variant::Installed,
            packages: &source.packages,
            tree: &tree,
            tree_size: source.tree,
            scratch: &scratch,
            prepare: PREPARE,
            finish: MAKE_DISK,
            variables: &[("BANGER_DISK", disk.as_os_str())],
        },
        &mut |line| {
            if let Some(count) = line.strip_prefix("packages ") {
                packages = count.parse().ok();
            }
        },
    )?;
    let packages = packages
        .filter(|count| *count > 0)
        .ok_or_else(|| Error::new(Code::BuildFailed, "the new system has no packages"))?;
    let (size, digest) = std::thread::scope(|scope| {
        // Writing the disk back, and removing ten thousand files when the tree is on disk, take
        // as long as checking it.
        let clean_up = scope.spawn(|| {
            sync(&disk)?;
            banger_archive::remove_tree(&tree)?;
            banger_archive::remove_tree(&scratch)
        });
        let checked = check(work, &disk, stage.path());
        let cleaned = clean_up
            .join()
            .unwrap_or_else(|_| Err(Error::internal("the clean-up of a build panicked")));
        cleaned.and(checked)
    })?;

    let manifest = Manifest {
        packages,
        ..Manifest::new(
            entry.name.clone(),
            format!(
                "bootstrapped from {} {} with mmdebstrap {version}",
                source.distribution, source.suite
            ),
            entry.kernel.clone(),
            config(),
            ByteSize::bytes(size),
        )
    };
    work.check()?;
    work.stage("publish", "publishing the image");
    images.publish(stage, &entry.name, digest, manifest)
}

/// Checks the finished file system; returns its size and digest.
fn check(work: &Work, disk: &Path, directory: &Path) -> Result<(u64, Digest)> {
    work.stage("verify", "verifying the disk");
    Script {
        text: VERIFY,
        variables: &[("BANGER_DISK", disk.as_os_str())],
        directory,
    }
    .run(work, &mut |_| {})
    .map_err(|error| at_disk(error, disk))?;
    let size = fs::metadata(disk).at("look at", disk)?.len();
    let digest = digest_file(disk, |done| {
        work.fraction(done as f32 / size.max(1) as f32);
        work.check()
    })?;
    Ok((size, digest))
}

fn sync(path: &Path) -> Result<()> {
    fs::File::open(path)
        .and_then(|file| file.sync_all())
        .at("sync", path)
}

/// Names the file in an error that only says what a program printed.
fn at_disk(error: Error, disk: &Path) -> Error {
    if error.code() != Code::BuildFailed {
        return error;
    }
    Error::new(
        Code::BuildFailed,
        format!("the new file system `{}` is not clean", disk.display()),
    )
    .because(error)
}

/// How commands run in a bootstrapped system: as its login would set them up.
fn config() -> ImageConfig {
    ImageConfig {
        env: [("LANG".to_owned(), "C.UTF-8".to_owned())].into(),
        ..ImageConfig::default()
    }
}
