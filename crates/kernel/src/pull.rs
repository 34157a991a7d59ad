//! From a package to a published kernel.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use banger_archive::{Archive, Work};
use banger_content::{ContentStore, Entry, Hasher, digest_file, ensure_space};
use banger_model::{Code, Digest, Error, IoContext, Progress, Result};

use crate::catalog::{CatalogEntry, PackageSource};
use crate::kernels::{CONFIG, MODULES, Manifest, VMLINUX};
use crate::{bzimage, deb, elf, kconfig, modules};

/// Part of a kernel's identity: raise it when the same package would be unpacked differently.
const LAYOUT: u32 = 1;

/// Downloads the package of `entry`, unpacks, checks and publishes it.
pub(crate) fn package(
    store: &ContentStore,
    archive: &Archive,
    work: &Work,
    entry: &CatalogEntry,
    source: &PackageSource,
) -> Result<Entry<Manifest>> {
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
    let release = unpack(work, &package, stage.path())?;
    banger_archive::remove_tree(&scratch)?;

    let manifest = Manifest {
        format: Manifest::FORMAT,
        name: entry.name.clone(),
        release,
        source: format!("{file_name} from {} {}", source.distribution, source.suite),
        created_at: now(),
    };
    work.check()?;
    work.stage("publish", "publishing the kernel");
    store.publish(stage, &digest, entry.name.as_str(), &manifest)
}

/// Unpacks `package` into `target` and returns the kernel's release.
fn unpack(work: &Work, package: &Path, target: &Path) -> Result<String> {
    let contents = deb::unpack(package, target, &mut |done| {
        work.fraction(done);
        work.check()
    })?;
    work.stage("verify", "checking the kernel");
    let broken = |error: Error| {
        let outer = Error::new(
            Code::BuildFailed,
            format!("the kernel {} cannot be used", contents.release),
        );
        let outer = match error.hint_text() {
            Some(hint) => outer.hint(hint),
            None => outer,
        };
        outer.because(error)
    };
    kconfig::check(&contents.config).map_err(broken)?;
    let vmlinux = bzimage::unpack(&contents.vmlinuz).map_err(broken)?;
    elf::check_pvh(&vmlinux).map_err(broken)?;
    let path = target.join(VMLINUX);
    fs::write(&path, &vmlinux).at("write", &path)?;
    let path = target.join(CONFIG);
    fs::write(&path, &contents.config).at("write", &path)?;
    work.check()?;
    modules::index(&target.join(MODULES).join(&contents.release))?;
    Ok(contents.release)
}

/// The identity of what is unpacked from a package.
fn identity(package: &Digest) -> Digest {
    let mut hasher = Hasher::new();
    hasher.update(format!("banger kernel {LAYOUT}\n{package}\n").as_bytes());
    hasher.finish()
}

/// The time now, to the second, in RFC 3339.
fn now() -> String {
    jiff::Timestamp::now()
        .round(jiff::Unit::Second)
        .unwrap_or_else(|_| jiff::Timestamp::now())
        .to_string()
}
