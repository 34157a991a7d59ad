//! The kernels of one state directory.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use banger_archive::Archive;
use banger_content::{ContentStore, Entry, Steps};
use banger_model::{ByteSize, Code, Digest, Error, KernelName, Progress, Result};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::catalog::{self, CatalogEntry, Source};
use crate::import::{self, Import};
use crate::initramfs::{self, AgentDigests};
use crate::pull;

/// The kernel in a kernel's directory.
pub(crate) const VMLINUX: &str = "vmlinux";
/// Its configuration.
pub(crate) const CONFIG: &str = "config";
/// Where its modules are; one directory named by the release is below.
pub(crate) const MODULES: &str = "lib/modules";

/// The drive with its modules.
pub(crate) const DRIVE: &str = "modules.ext4";
/// Its own initial RAM disk, plain.
pub(crate) const INITRD: &str = "initrd.cpio";

/// Where a kernel's configuration is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConfigSource {
    /// The package that the kernel was in.
    Package,
    /// The kernel itself, which was built with `CONFIG_IKCONFIG`.
    Kernel,
    /// A file that was named at its import.
    File,
    /// The directory of its modules.
    Modules,
}

impl ConfigSource {
    /// One stable word.
    pub fn as_str(self) -> &'static str {
        match self {
            ConfigSource::Package => "package",
            ConfigSource::Kernel => "kernel",
            ConfigSource::File => "file",
            ConfigSource::Modules => "modules",
        }
    }

    /// For a sentence.
    pub(crate) fn words(self) -> &'static str {
        match self {
            ConfigSource::Package => "its package",
            ConfigSource::Kernel => "the kernel itself",
            ConfigSource::File => "the given file",
            ConfigSource::Modules => "its modules directory",
        }
    }
}

/// A published kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The name it was found by; its original name when it was found by digest.
    pub name: KernelName,
    /// Its identity: the digest of the package it was unpacked from, or of all its files.
    pub digest: Digest,
    /// The uncompressed ELF file, with a PVH entry.
    pub vmlinux: PathBuf,
    /// The modules that the initramfs is made of, and their index.
    pub modules: PathBuf,
    /// The ext4 with all its modules, for the guest's `/lib/modules/<release>`; absent when it
    /// has none, or was pulled before there were such drives.
    pub modules_drive: Option<PathBuf>,
    /// Its own initial RAM disk: cpio archives, uncompressed.
    pub initrd: Option<PathBuf>,
    /// Where its configuration is from, when that is known.
    pub config_source: Option<ConfigSource>,
    /// Its release, as `uname -r` prints it.
    pub release: String,
    /// The space it takes on disk.
    pub disk_usage: ByteSize,
    /// Where it came from, for people.
    pub source: String,
    /// When it was made, in RFC 3339.
    pub created_at: String,
}

/// What is stored about a kernel.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) format: u32,
    pub(crate) name: KernelName,
    pub(crate) release: String,
    pub(crate) source: String,
    pub(crate) created_at: String,
    #[serde(default)]
    pub(crate) modules_drive: bool,
    #[serde(default)]
    pub(crate) initrd: bool,
    #[serde(default)]
    pub(crate) config_source: Option<ConfigSource>,
}

impl Manifest {
    /// The layout of the manifest.
    pub(crate) const FORMAT: u32 = 1;
}

/// The kernels of one directory.
#[derive(Clone, Debug)]
pub struct Kernels {
    store: ContentStore,
    archive: Archive,
    agents: Arc<AgentDigests>,
}

impl Kernels {
    /// Opens the kernels in `dir`, which is made if it is missing.
    ///
    /// # Errors
    /// `io` when the directory cannot be made.
    pub fn open(dir: &Path) -> Result<Self> {
        let store = ContentStore::open(dir)?.remove_with(banger_archive::remove_tree);
        Ok(Kernels {
            store,
            archive: Archive::default(),
            agents: Arc::default(),
        })
    }

    /// The same kernels, pulled through the mirror at this address.
    ///
    /// # Errors
    /// `invalid_config` when it is no address.
    pub fn with_mirror(mut self, mirror: Option<String>) -> Result<Self> {
        self.archive = Archive::new(mirror)?;
        Ok(self)
    }

    /// The same kernels, with somebody who is told of each change.
    #[must_use]
    pub fn with_steps(&self, steps: Steps) -> Self {
        let mut kernels = self.clone();
        kernels.store = kernels.store.with_steps(steps);
        kernels
    }

    /// What can be pulled by name.
    ///
    /// # Errors
    /// `internal`, when the built-in catalog is wrong.
    pub fn catalog(&self) -> Result<&'static [CatalogEntry]> {
        catalog::catalog()
    }

    /// Every kernel here, by name.
    ///
    /// # Errors
    /// `io`, naming the file, when one is damaged.
    pub fn list(&self) -> Result<Vec<Kernel>> {
        self.store.list()?.into_iter().map(kernel).collect()
    }

    /// The kernel called `name`, if it is here.
    ///
    /// # Errors
    /// `io`, naming the file, when it is damaged.
    pub fn find(&self, name: &KernelName) -> Result<Option<Kernel>> {
        self.store.get(name.as_str())?.map(kernel).transpose()
    }

    /// The kernel with this digest, named or not.
    ///
    /// # Errors
    /// `io`, naming the file, when it is damaged.
    pub fn by_digest(&self, digest: &Digest) -> Result<Option<Kernel>> {
        self.store.by_digest(digest)?.map(kernel).transpose()
    }

    /// Fetches the kernel called `name` and publishes it.
    ///
    /// # Errors
    /// `not_found` for a name not in the catalog; `no_space`, `fetch_failed`, `missing_program`,
    /// `build_failed` when it lacks what banger needs; `cancelled` when `cancel` fired. Nothing
    /// is left behind.
    pub async fn pull(
        &self,
        name: &KernelName,
        progress: &dyn Progress,
        cancel: &CancellationToken,
    ) -> Result<Kernel> {
        let entry = catalog::find(name)?;
        tracing::info!(%name, "pulling kernel");
        let kernels = self.clone();
        banger_archive::run("kernel pull", progress, cancel, move |work| {
            match &entry.source {
                Source::Package(source) => {
                    pull::package(&kernels.store, &kernels.archive, work, entry, source)
                }
            }
            .and_then(kernel)
        })
        .await
        .map_err(|error| {
            if error.code() == Code::Cancelled {
                return error;
            }
            let error = banger_archive::name_full_disk(error, self.store.dir());
            wrap(&format!("cannot pull the kernel `{name}`"), error)
        })
    }

    /// Publishes somebody's own kernel.
    ///
    /// # Errors
    /// `invalid_argument` for a name of the catalog; `already_exists` when there is a kernel of
    /// that name; `not_found` when the modules are not those of the kernel; `build_failed`,
    /// naming what the kernel lacks or what is wrong with a file; `no_space`,
    /// `missing_program`, `io`; `cancelled` when `cancel` fired. Nothing is left behind.
    pub async fn import(
        &self,
        request: &Import,
        progress: &dyn Progress,
        cancel: &CancellationToken,
    ) -> Result<Kernel> {
        let name = &request.name;
        if catalog::catalog()?.iter().any(|entry| entry.name == *name) {
            return Err(Error::new(
                Code::InvalidArgument,
                format!("`{name}` is the name of a kernel in the catalog"),
            )
            .hint("choose another name"));
        }
        if self.store.get::<Manifest>(name.as_str())?.is_some() {
            return Err(Error::new(
                Code::AlreadyExists,
                format!("there is a kernel `{name}` already"),
            )
            .hint(format!(
                "choose another name, or `banger kernel delete {name}` first"
            )));
        }
        let (kernels, request) = (self.clone(), request.clone());
        banger_archive::run("kernel import", progress, cancel, move |work| {
            import::import(&kernels.store, work, &request).and_then(kernel)
        })
        .await
        .map_err(|error| banger_archive::name_full_disk(error, self.store.dir()))
    }

    /// Takes the name from a kernel; its files stay until a sweep. Says whether there was one.
    ///
    /// # Errors
    /// `io`.
    pub fn unlink(&self, name: &KernelName) -> Result<bool> {
        self.store.unlink(name.as_str())
    }

    /// The initramfs with `agent` as its init and the modules of `kernel` that it needs.
    ///
    /// Made once for each pair and kept; any number of callers may ask at once. Blocking.
    ///
    /// # Errors
    /// `build_failed` when the agent is no static program or a module is missing; `io`.
    pub fn initramfs(&self, kernel: &Kernel, agent: &Path) -> Result<PathBuf> {
        initramfs::make(&self.store, &self.agents, kernel, agent)
    }

    /// Removes kernels that have no name and are not in `keep`, old initramfs files, and what
    /// crashes left behind.
    ///
    /// # Errors
    /// `io` when something cannot be removed.
    pub fn sweep(&self, keep: &HashSet<Digest>) -> Result<()> {
        let swept = self.store.sweep(keep);
        initramfs::sweep(&self.store)?;
        swept
    }
}

/// The same error one layer further out.
fn wrap(message: &str, error: Error) -> Error {
    let outer = Error::new(error.code(), message);
    let outer = match error.hint_text() {
        Some(hint) => outer.hint(hint),
        None => outer,
    };
    outer.because(error)
}

fn kernel(entry: Entry<Manifest>) -> Result<Kernel> {
    let disk_usage = entry.disk_usage()?;
    let Manifest {
        name,
        release,
        source,
        created_at,
        modules_drive,
        initrd,
        config_source,
        ..
    } = entry.manifest;
    Ok(Kernel {
        name: match &entry.name {
            Some(name) => name.parse()?,
            None => name,
        },
        digest: entry.digest,
        vmlinux: entry.path.join(VMLINUX),
        modules: entry.path.join(MODULES).join(&release),
        modules_drive: modules_drive.then(|| entry.path.join(DRIVE)),
        initrd: initrd.then(|| entry.path.join(INITRD)),
        config_source,
        release,
        disk_usage,
        source,
        created_at,
    })
}
