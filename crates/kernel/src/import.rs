//! From somebody's own files to a published kernel.

use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use banger_archive::Work;
use banger_content::{ContentStore, Entry, Hasher, digest_file, ensure_space};
use banger_model::{ByteSize, Code, Digest, Error, IoContext, KernelName, Progress, Result};
use rustix::fs::OFlags;

use crate::assemble::{Parts, assemble};
use crate::bzimage::{self, ELF_MAGIC, MAX_KERNEL};
use crate::compression::Compression;
use crate::kernels::{ConfigSource, MODULES, Manifest};
use crate::{drive, elf, initrd, pull, tree, vmlinux};

/// Part of a kernel's identity: raise it when the same files would be imported differently.
const LAYOUT: u32 = 1;
/// Where the headers of an ELF kernel end at the latest.
const MAX_HEAD: u64 = 1 << 20;
/// No initial RAM disk is larger, as it comes.
const MAX_INITRD: u64 = 512 << 20;
/// Distributions whose packages keep everything with the modules have the configuration there.
const CONFIG_IN_TREE: &str = "config";

/// A kernel of one's own. Paths are absolute.
#[derive(Clone, Debug)]
pub struct Import {
    /// What it will be called.
    pub name: KernelName,
    /// An ELF `vmlinux` or a bzImage.
    pub kernel: PathBuf,
    /// A directory that is, or holds, `lib/modules/<release>`.
    pub modules: Option<PathBuf>,
    /// An initial RAM disk, unpacked before ours.
    pub initrd: Option<PathBuf>,
    /// Its configuration, as text or compressed with gzip; else it is looked for in the kernel
    /// and with the modules.
    pub config: Option<PathBuf>,
}

/// Checks the files of `request` and publishes them as a kernel.
pub(crate) fn import(
    store: &ContentStore,
    work: &Work,
    request: &Import,
) -> Result<Entry<Manifest>> {
    if request.modules.is_some() {
        drive::check_programs()?;
    }
    work.stage("read", &format!("reading {}", request.kernel.display()));
    let kernel = read_kernel(&request.kernel)?;
    let vmlinux = bzimage::unpack(&kernel).map_err(|error| at(&request.kernel, error))?;
    drop(kernel);
    let release = vmlinux::release(&vmlinux).ok_or_else(|| {
        let why = Error::new(Code::BuildFailed, "it does not say which release it is");
        at(&request.kernel, why)
    })?;
    let from = match &request.modules {
        Some(given) => Some(tree::find(given, &release)?),
        None => None,
    };
    let config = config(request, from.as_deref(), &vmlinux)?;
    let initrd = match &request.initrd {
        Some(path) => {
            let bytes = read_file(path, MAX_INITRD)?;
            Some(initrd::plain(&bytes).map_err(|error| at(path, error))?)
        }
        None => None,
    };
    work.check()?;

    let stage = store.stage()?;
    let scratch = stage.path().join("scratch");
    fs::DirBuilder::new()
        .mode(0o700)
        .create(&scratch)
        .at("create", &scratch)?;
    if let Some(from) = &from {
        work.stage("copy", "copying the modules");
        // The copy and the drive.
        let needed = banger_content::disk_usage(from)?
            .as_bytes()
            .saturating_mul(2);
        let what = format!("importing the kernel `{}`", request.name);
        ensure_space(store.dir(), ByteSize::bytes(needed), &what)?;
        store.steps().pass("copy the modules")?;
        let target = stage.path().join(MODULES).join(&release);
        tree::copy(from, &target, &mut || work.check())?;
    }
    let parts = Parts {
        release,
        vmlinux,
        config,
        initrd,
        has_modules: from.is_some(),
    };
    let digest = identity(work, &parts, stage.path())?;
    store.steps().pass("assemble the kernel")?;
    assemble(work, stage.path(), &scratch, &parts).map_err(|error| match error.code() {
        Code::BuildFailed => at(&request.kernel, error),
        _ => error,
    })?;
    banger_archive::remove_tree(&scratch)?;
    let manifest = Manifest {
        format: Manifest::FORMAT,
        name: request.name.clone(),
        source: format!("imported from {}", request.kernel.display()),
        created_at: pull::now(),
        modules_drive: parts.has_modules,
        initrd: parts.initrd.is_some(),
        config_source: parts.config.as_ref().map(|(_, source)| *source),
        release: parts.release,
    };
    work.check()?;
    work.stage("publish", "publishing the kernel");
    store.publish(stage, &digest, request.name.as_str(), &manifest)
}

/// The configuration, from where it can be had.
fn config(
    request: &Import,
    tree: Option<&Path>,
    vmlinux: &[u8],
) -> Result<Option<(Vec<u8>, ConfigSource)>> {
    if let Some(path) = &request.config {
        let config = read_config(path)?;
        return Ok(Some((config, ConfigSource::File)));
    }
    if let Some(config) = vmlinux::config(vmlinux) {
        return Ok(Some((config, ConfigSource::Kernel)));
    }
    match tree.map(|tree| tree.join(CONFIG_IN_TREE)) {
        Some(path) if path.is_file() => {
            let config = read_config(&path)?;
            Ok(Some((config, ConfigSource::Modules)))
        }
        _ => Ok(None),
    }
}

fn read_config(path: &Path) -> Result<Vec<u8>> {
    let bytes = read_file(path, vmlinux::MAX_CONFIG as u64)?;
    let text = match Compression::of(&bytes) {
        Some(compression) => {
            compression
                .unpack(&bytes, vmlinux::MAX_CONFIG)
                .map_err(|error| {
                    let why = Error::new(Code::BuildFailed, "it cannot be unpacked");
                    at(path, why.because(error))
                })?
                .content
        }
        None => bytes,
    };
    // A file with none at all is no configuration; every kernel has hundreds.
    if !text.windows(7).any(|at| at == b"CONFIG_") {
        let why = Error::new(Code::BuildFailed, "it is no kernel configuration");
        return Err(at(path, why));
    }
    Ok(text)
}

/// The kernel in a file; of an ELF file only what a boot needs, for what debuggers read can be
/// ten times as much.
fn read_kernel(path: &Path) -> Result<Vec<u8>> {
    let mut file = open(path)?;
    let mut head = Vec::new();
    file.by_ref()
        .take(MAX_HEAD)
        .read_to_end(&mut head)
        .at("read", path)?;
    if !head.starts_with(ELF_MAGIC) {
        return read_rest(file, head, MAX_KERNEL as u64, path);
    }
    let refuse = |why: &str| at(path, Error::new(Code::BuildFailed, why));
    let end = elf::end_of_segments(&head)
        .ok_or_else(|| refuse("it is not a whole ELF kernel for 64-bit x86"))?;
    if end > MAX_KERNEL as u64 {
        return Err(refuse("it is larger than any kernel"));
    }
    let mut kernel = head;
    file.take(end.saturating_sub(kernel.len() as u64))
        .read_to_end(&mut kernel)
        .at("read", path)?;
    if (kernel.len() as u64) < end {
        return Err(refuse("it is cut off"));
    }
    kernel.truncate(end as usize);
    elf::forget_sections(&mut kernel);
    Ok(kernel)
}

fn read_file(path: &Path, limit: u64) -> Result<Vec<u8>> {
    read_rest(open(path)?, Vec::new(), limit, path)
}

fn read_rest(file: fs::File, mut bytes: Vec<u8>, limit: u64, path: &Path) -> Result<Vec<u8>> {
    file.take((limit + 1).saturating_sub(bytes.len() as u64))
        .read_to_end(&mut bytes)
        .at("read", path)?;
    if bytes.len() as u64 > limit {
        let why = format!("it is larger than {} MiB", limit >> 20);
        return Err(at(path, Error::new(Code::BuildFailed, why)));
    }
    Ok(bytes)
}

/// Opens a regular file; a pipe or device would keep us for ever.
fn open(path: &Path) -> Result<fs::File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits() as i32)
        .open(path)
        .at("open", path)?;
    if !file.metadata().at("look at", path)?.is_file() {
        return Err(at(
            path,
            Error::new(Code::BuildFailed, "it is no regular file"),
        ));
    }
    Ok(file)
}

/// The error, with the file that it is about.
fn at(path: &Path, error: Error) -> Error {
    let outer = Error::new(
        error.code(),
        format!("cannot import `{}`", path.to_string_lossy().escape_debug()),
    );
    let outer = match error.hint_text() {
        Some(hint) => outer.hint(hint),
        None => outer,
    };
    outer.because(error)
}

/// The identity of what is imported: that of all its parts.
fn identity(work: &Work, parts: &Parts, stage: &Path) -> Result<Digest> {
    let digest = |bytes: &[u8]| {
        let mut hasher = Hasher::new();
        hasher.update(bytes);
        hasher.finish()
    };
    let mut all = format!(
        "banger kernel import {LAYOUT}\n{}\n",
        digest(&parts.vmlinux)
    );
    let config = parts.config.as_ref().map(|(text, _)| text.as_slice());
    for (word, part) in [("config", config), ("initrd", parts.initrd.as_deref())] {
        if let Some(part) = part {
            all.push_str(&format!("{word} {}\n", digest(part)));
        }
    }
    let tree = stage.join(MODULES);
    let mut files = Vec::new();
    let mut todo = match parts.has_modules {
        true => vec![tree.clone()],
        false => Vec::new(),
    };
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).at("list", &dir)? {
            let path = entry.at("list", &dir)?.path();
            match path.is_dir() {
                true => todo.push(path),
                false => files.push(path),
            }
        }
    }
    files.sort();
    for path in files {
        let below = path.strip_prefix(&tree).unwrap_or(&path).to_string_lossy();
        let content = digest_file(&path, |_| work.check())?;
        all.push_str(&format!("{content} {}\n", below.escape_debug()));
    }
    Ok(digest(all.as_bytes()))
}

#[cfg(test)]
mod tests;
