//! What every part of the daemon needs, made once at the start.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use banger_config::{Config, Host, Paths, Resolved};
use banger_image::{CredentialFiles, Image, Images, Proxies, RegistryOptions};
use banger_kernel::{Kernel, Kernels};
use banger_model::{Code, Error, IoContext, KernelName, Result};
use banger_store::Store;
use banger_vmm::{Search, Versions};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::disks::{FileSystemTools, Templates};
use crate::failpoint;
use crate::flight::Flights;
use crate::image::{Claims, Holds, Inputs};
use crate::keys::{self, SshKey};
use crate::layout::{self, Layout};
use crate::operations::Operations;

/// How many guests may come up at once only for their work to be saved: pruning takes many.
const SAVE_BOOTS: usize = 4;

/// Shared by all tasks.
pub(crate) struct Context {
    /// Where things are.
    pub(crate) layout: Layout,
    /// Where the user's things are: what a start reads anew.
    pub(crate) paths: Paths,
    /// What a VM gets when the request does not say.
    pub(crate) defaults: Resolved,
    /// Where the VMM's programs are looked for.
    pub(crate) search: Search,
    /// What those programs have said of their versions.
    pub(crate) versions: Versions,
    /// What VMs are.
    pub(crate) store: Store,
    /// Images.
    pub(crate) images: Images,
    /// Images being pulled.
    pub(crate) image_pulls: Flights<Image>,
    /// The names of images that somebody is making or removing.
    pub(crate) image_claims: Claims,
    /// Images that VMs are being made from.
    pub(crate) image_holds: Holds,
    /// Operations that wait for what their clients send.
    pub(crate) inputs: Inputs,
    /// Kernels.
    pub(crate) kernels: Kernels,
    /// Kernels being pulled.
    pub(crate) kernel_pulls: Flights<Kernel>,
    /// Names under which kernels are being imported.
    pub(crate) importing: Mutex<HashSet<KernelName>>,
    kernel_gate: Mutex<()>,
    /// Empty file systems.
    pub(crate) templates: Templates,
    /// The user's ssh client key.
    pub(crate) client_key: SshKey,
    /// The guest agent's program.
    pub(crate) agent: PathBuf,
    /// Operations.
    pub(crate) operations: Operations,
    /// Fires when the daemon stops.
    pub(crate) shutdown: CancellationToken,
    proving_kvm: Mutex<()>,
    /// How many guests may come up at once only for their work to be saved.
    pub(crate) save_boots: Semaphore,
    /// Tasks that the daemon waits for, for a while, when it stops.
    pub(crate) tasks: TaskTracker,
}

impl Context {
    /// Opens everything. The state directory is this daemon's alone by now.
    ///
    /// # Errors
    /// Those of the parts.
    pub(crate) fn open(layout: Layout, paths: &Paths, config: &Config) -> Result<Arc<Context>> {
        layout.ensure_rest()?;
        let executable = std::env::current_exe()
            .map_err(|error| Error::internal("cannot find this program").because(error))?;
        let exe_dir = executable.parent().map(PathBuf::from).unwrap_or_default();
        let tools = FileSystemTools::new(paths.search_path.as_deref());
        let mirror = config.images.mirror.clone();
        Ok(Arc::new(Context {
            defaults: Resolved::new(config, Host::measure(), paths.log_level)?,
            search: Search {
                firecracker_env: paths.firecracker.clone(),
                firecracker_bin: config.firecracker_bin.clone(),
                qemu_bin: config.qemu_bin.clone(),
                path: paths.search_path.clone(),
                exe_dir: Some(exe_dir.clone()),
            },
            versions: Versions::default(),
            store: Store::open(&layout.database())?,
            images: Images::open(&layout.images())?
                .with_mirror(mirror.clone())?
                .with_catalogs(&config.images.catalogs)?
                .with_registries(registries(paths, config)?),
            image_pulls: Flights::default(),
            image_claims: Claims::default(),
            image_holds: Holds::default(),
            inputs: Inputs::default(),
            kernels: Kernels::open(&layout.kernels())?.with_mirror(mirror)?,
            kernel_pulls: Flights::default(),
            importing: Mutex::default(),
            kernel_gate: Mutex::new(()),
            templates: Templates::new(layout.templates(), tools),
            client_key: keys::load_or_make(&layout.client_key(), "banger")?,
            agent: layout::agent(&exe_dir),
            operations: Operations::default(),
            shutdown: CancellationToken::new(),
            proving_kvm: Mutex::new(()),
            save_boots: Semaphore::new(SAVE_BOOTS),
            tasks: TaskTracker::new(),
            paths: paths.clone(),
            layout,
        }))
    }

    /// How long a guest may take to come up.
    pub(crate) fn boot_timeout(&self) -> Duration {
        Duration::from_secs(self.defaults.boot_timeout.value.into())
    }

    /// Held while a kernel is looked up for a VM, and while one is deleted.
    pub(crate) fn kernel_gate(&self) -> MutexGuard<'_, ()> {
        self.kernel_gate
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Held while somebody proves that KVM works.
    pub(crate) fn proving_kvm(&self) -> MutexGuard<'_, ()> {
        self.proving_kvm
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something that blocks, off the event loop.
    ///
    /// # Errors
    /// Those of `work`; `internal` when it panicked.
    pub(crate) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Context) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let context = self.clone();
        let span = tracing::Span::current();
        let work = failpoint::carry(move || span.in_scope(|| work(&context)));
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| Error::internal("a piece of work was given up").because(error))?
    }
}

/// How registries are spoken to.
fn registries(paths: &Paths, config: &Config) -> Result<RegistryOptions> {
    let (at, proxies) = (&paths.credentials, &paths.proxies);
    let insecure = config.images.insecure_registries.iter().map(|registry| {
        registry.parse().map_err(|error: Error| {
            Error::new(
                Code::InvalidConfig,
                "`images.insecure_registries` in the configuration is not valid",
            )
            .because(error)
        })
    });
    Ok(RegistryOptions {
        insecure: insecure.collect::<Result<_>>()?,
        credentials: CredentialFiles::usual(
            at.home.as_deref(),
            at.docker_config.as_deref(),
            at.auth_file.as_deref(),
            at.runtime_dir.as_deref(),
            paths.search_path.clone().unwrap_or_default(),
        ),
        authorities: config.images.certificate_authorities.clone(),
        proxies: Proxies {
            https: proxies.https.clone(),
            http: proxies.http.clone(),
            all: proxies.all.clone(),
            none: proxies.none.clone(),
        },
        ..RegistryOptions::default()
    })
}

/// Removes a directory and everything in it; one that is not there is fine.
///
/// # Errors
/// `io`, naming the directory.
pub(crate) fn remove_tree(path: &std::path::Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.at("remove", path),
    }
}
