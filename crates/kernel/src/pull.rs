//! From a package to a published kernel.

use std::fs;
use std::os::unix::fs::DirBuilderExt;

use banger_archive::{Archive, Work};
use banger_content::{ContentStore, Entry, Hasher, digest_file, ensure_space};
use banger_model::{Code, Digest, Error, IoContext, Progress, Result};

use crate::assemble::{Parts, assemble};
use crate::catalog::{CatalogEntry, PackageSource};
use crate::kernels::{ConfigSource, Manifest};
use crate::{bzimage, deb, drive};

/// Part of a kernel's identity: raise it when the same package would be unpacked differently.
const LAYOUT: u32 = 2;

/// Downloads the package of `entry`, unpacks, checks and publishes it.
pub(crate) fn package(
    store: &ContentStore,
    archive: &Archive,
    work: &Work,
    entry: &CatalogEntry,
    source: &PackageSource,
) -> Result<Entry<Manifest>> {
    drive::check_programs()?;
    ensure_space(
        store.dir(),
        source.needs,
        &format!("fetching the kernel `{}`", entry.name),
    )?;
    let stage = store.stage()?;
    // All that is not to be published lies below one directory.
    let scratch = stage.path().join("scratch");
    fs::DirBuilder::new()
        .mode(0o700)
        .create(&scratch)
        .at("create", &scratch)?;
    store.steps().pass("download the package")?;
    let package = archive.download(
        work,
        &source.suite,
        &source.package,
        source.depends.as_deref(),
        &scratch,
    )?;
    let digest = identity(&digest_file(&package, |_| work.check())?);
    let file_name = package
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();

    work.stage("extract", &format!("unpacking {file_name}"));
    store.steps().pass("unpack the package")?;
    let contents = deb::unpack(&package, stage.path(), &mut |done| {
        work.fraction(done);
        work.check()
    })?;
    let release = contents.release;
    let vmlinux = bzimage::unpack(&contents.vmlinuz).map_err(|error| {
        Error::new(
            Code::BuildFailed,
            format!("the kernel {release} cannot be used"),
        )
        .because(error)
    })?;
    let parts = Parts {
        release,
        vmlinux,
        config: Some((contents.config, ConfigSource::Package)),
        initrd: None,
        has_modules: true,
    };
    store.steps().pass("assemble the kernel")?;
    assemble(work, stage.path(), &scratch, &parts)?;
    banger_archive::remove_tree(&scratch)?;

    let manifest = Manifest {
        format: Manifest::FORMAT,
        name: entry.name.clone(),
        release: parts.release,
        source: format!("{file_name} from {} {}", source.distribution, source.suite),
        created_at: now(),
        modules_drive: true,
        initrd: false,
        config_source: Some(ConfigSource::Package),
    };
    work.check()?;
    work.stage("publish", "publishing the kernel");
    store.publish(stage, &digest, entry.name.as_str(), &manifest)
}

/// The identity of what is unpacked from a package.
fn identity(package: &Digest) -> Digest {
    let mut hasher = Hasher::new();
    hasher.update(format!("banger kernel {LAYOUT}\n{package}\n").as_bytes());
    hasher.finish()
}

/// The time now, to the second, in RFC 3339.
pub(crate) fn now() -> String {
    jiff::Timestamp::now()
        .round(jiff::Unit::Second)
        .unwrap_or_else(|_| jiff::Timestamp::now())
        .to_string()
}
