//! Boots a VM: chooses the VMM, launches it and holds the boot conversation.
//!
//! ```text
//! listen on the boot socket ─▶ launch ─▶ the guest dials ─▶ its configuration ─▶ its report
//!                                 │      ─▶ the user's files
//!                                 └── whatever ends first: the VMM, the time, the request
//! ```
//!
//! The guest's dial is the readiness signal, so nobody polls. After a failure the caller undoes
//! what was done, with [`ending::clear`] or [`ending::remove`].

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use banger_guest_api::client::serve_boot;
use banger_guest_api::{
    BootConfig, BootReport, Info, InitPolicy, Network, PROTOCOL_VERSION, SshIdentity,
};
use banger_image::Image;
use banger_kernel::Kernel;
use banger_model::{Code, DiskStrategy, Error, IoContext, Progress, Result};
use banger_store::VmRow;
use banger_vmm::{
    Choice, Demand, Driver, Ended, Facts, Instance, Machine, Part, Patience, ProbeInputs,
};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use super::view::Shared;
use super::{ending, git_identity, sync};
use crate::console;
use crate::context::{Context, remove_tree};
use crate::disks::{self, Attached};
use crate::failpoint;
use crate::keys;
use crate::layout::VmFiles;

/// How long the VMM may take to end once its guest's conversation broke off, before that is
/// taken as the cause. On a busy machine it does not end at once.
const DEATH_WITHIN: Duration = Duration::from_secs(2);

/// How long a guest may take to write a disk: tens of gigabytes under software emulation.
const BUILD_WITHIN: Duration = Duration::from_secs(3600);

/// What a boot needs to know.
pub(super) struct Boot<'a> {
    /// The daemon.
    pub(super) context: &'a Arc<Context>,
    /// The VM.
    pub(super) row: &'a VmRow,
    /// Where its progress shows.
    pub(super) shared: &'a Shared,
    /// The image it was made from.
    pub(super) image: &'a Image,
    /// The kernel it boots.
    pub(super) kernel: &'a Kernel,
    /// How its root disk was made.
    pub(super) strategy: DiskStrategy,
    /// Where progress is reported.
    pub(super) progress: &'a dyn Progress,
    /// Ends the boot early.
    pub(super) cancel: &'a CancellationToken,
    /// Whether nothing of the user's is started in it.
    pub(super) only_to_save: bool,
    /// An empty ext4 that the guest is to fill with its root file system, after which it ends,
    /// instead of becoming the VM.
    pub(super) build: Option<PathBuf>,
}

/// A guest that is up.
pub(super) struct Up {
    /// Its processes.
    pub(super) instance: Arc<Instance>,
    /// What its agent says.
    pub(super) info: Info,
}

/// Boots a VM whose disks are there.
///
/// # Errors
/// `boot_failed` with the last lines of the console when the guest did not come up;
/// `cancelled`; those of the VMM.
pub(super) async fn boot(boot: Boot<'_>) -> Result<Up> {
    let files = boot.context.layout.vm(&boot.row.id);
    let result = attempt(&boot, &files).await;
    if result.is_err() {
        boot.shared.set_instance(None);
    }
    result
}

async fn attempt(boot: &Boot<'_>, files: &VmFiles) -> Result<Up> {
    boot.progress
        .stage("start-vmm", &format!("starting VM {}", boot.row.name));
    say_what_is_missing(boot)?;
    clear_runtime(boot.context, files).await?;
    failpoint::pass("make the runtime directory").await?;
    fs::DirBuilder::new()
        .mode(0o700)
        .create(&files.runtime)
        .at("create", &files.runtime)?;
    if boot.only_to_save {
        failpoint::pass("mark a boot as one for saving").await?;
        let mark = files.saving_mark();
        fs::write(&mark, "").at("create", &mark)?;
    }
    let (choice, driver, machine, mut config) = prepare(boot, files).await?;
    if boot.only_to_save {
        config.init = InitPolicy::None;
    }
    boot.shared.change(|vm| {
        vm.vmm_running = Some(choice.kind);
        vm.vmm_reason = Some(choice.reason);
    });

    failpoint::pass("listen for the guest").await?;
    let dial = listen(&files.runtime)?;
    check(boot.cancel)?;
    // On a busy machine even a VMM waits for its turn, with its guest's share of patience.
    let (patience, wanted) =
        Patience::while_wanted(boot.context.boot_timeout() / 2).map_err(|error| {
            Error::new(Code::Io, "cannot make a pipe to a VM's launch").because(error)
        })?;
    let launch = boot.context.blocking(move |_| {
        failpoint::hit("launch the VMM")?;
        driver.launch(&machine, &patience)
    });
    let mut launch = pin!(launch);
    // What it started is never dropped: a launch that nobody wants ends by itself.
    let launched = tokio::select! {
        launched = &mut launch => launched,
        () = boot.cancel.cancelled() => {
            drop(wanted);
            launch.await
        }
    };
    let instance = launched.map(Arc::new)?;
    boot.shared.set_instance(Some(&instance));
    boot.progress.stage("boot", "waiting for the guest");
    let limit = match boot.build {
        Some(_) => BUILD_WITHIN,
        None => boot.context.boot_timeout(),
    };
    let mut up = converse(&dial, &instance, &config, limit, boot.cancel).await;
    if up.is_ok()
        && !boot.only_to_save
        && let Err(failure) = bring_files(boot, &instance, files).await
    {
        up = Err(failure);
    }
    match up {
        Ok(info) => Ok(Up { instance, info }),
        Err(failure) => {
            // Before the console is read: what it wrote last is in it then. The caller looks for
            // what is left.
            let killed = match failpoint::pass("end a VMM that did not come up").await {
                Ok(()) => instance.kill().await,
                Err(error) => Err(error),
            };
            if let Err(error) = killed {
                tracing::warn!("the VMM may still run: {}", error.chain());
            }
            Err(failure.into_error(limit, files))
        }
    }
}

/// Says that a kernel was pulled before kernels had drives with their modules. One of the
/// user's own may have none for good.
fn say_what_is_missing(boot: &Boot<'_>) -> Result<()> {
    let name = &boot.kernel.name;
    let catalog = boot.context.kernels.catalog()?;
    if boot.kernel.modules_drive.is_none() && catalog.iter().any(|entry| entry.name == *name) {
        boot.progress.stage(
            "note",
            &format!(
                "the kernel `{name}` came without its modules for guests; `banger kernel pull \
                 {name}` gets it anew, for machines made from then on"
            ),
        );
    }
    Ok(())
}

/// The error for a cancelled request.
pub(super) fn check(cancel: &CancellationToken) -> Result<()> {
    if cancel.is_cancelled() {
        return Err(Error::cancelled());
    }
    Ok(())
}

/// Everything that must be known before the VMM is started.
async fn prepare(
    boot: &Boot<'_>,
    files: &VmFiles,
) -> Result<(Choice, Box<dyn Driver>, Machine, BootConfig)> {
    let (row, files) = (boot.row.clone(), files.clone());
    let (image, kernel, strategy) = (
        boot.image.rootfs.clone(),
        boot.kernel.clone(),
        boot.strategy,
    );
    let build = boot.build.clone();
    boot.context
        .blocking(move |context| {
            failpoint::hit("make the initramfs")?;
            let initramfs = context.kernels.initramfs(&kernel, &context.agent)?;
            let inputs = ProbeInputs {
                kernel: &kernel.vmlinux,
                initramfs: &initramfs,
                scratch_dir: &files.runtime,
                cache_file: &context.layout.kvm_cache,
            };
            let (choice, driver) = choose(context, &row, inputs)?;
            tracing::info!(vmm = %choice.kind, reason = choice.reason, "the VMM is chosen");
            // A change of the size may have been cut short after it was written down.
            disks::grow(&files.dir, row.spec.disk_size)?;
            let modules = kernel.modules_drive.as_deref();
            let mut attached = disks::attach(strategy, &files.dir, &image, modules)?;
            let mut config = boot_config(context, &row, &files, &attached)?;
            if let Some(path) = build {
                config.build = Some(banger_vmm::device_path(attached.disks.len())?);
                attached.disks.push(banger_vmm::Disk {
                    path,
                    read_only: false,
                });
            }
            let machine = Machine {
                id: row.id.clone(),
                runtime_dir: files.runtime.clone(),
                console_log: files.console_log(),
                vmm_log: files.vmm_log(),
                kernel: kernel.vmlinux.clone(),
                initramfs,
                vcpus: row.spec.vcpus,
                memory: row.spec.memory,
                disks: attached.disks,
                nat: row.spec.nat,
            };
            Ok((choice, driver, machine, config))
        })
        .await
}

fn choose(
    context: &Context,
    row: &VmRow,
    inputs: ProbeInputs<'_>,
) -> Result<(Choice, Box<dyn Driver>)> {
    let mut facts = Facts::gather(&context.search, &context.versions);
    let demand = demand(&row.spec);
    if row.spec.vmm != banger_model::VmmChoice::QemuTcg {
        // One proof at a time: the second finds the first one's answer.
        let _proving = context.proving_kvm();
        banger_vmm::prove(row.spec.vmm, demand, &mut facts, inputs);
    }
    let choice = banger_vmm::choose(row.spec.vmm, demand, &facts)?;
    let driver = banger_vmm::driver(choice.kind, &facts)?;
    Ok((choice, driver))
}

/// What of a VM matters for the choice of its VMM.
fn demand(spec: &banger_model::VmSpec) -> Demand {
    Demand {
        vcpus: spec.vcpus,
        nat: spec.nat,
    }
}

/// Refuses what no VMM here could run, as far as that is known without trying.
///
/// # Errors
/// Those of [`banger_vmm::choose`].
pub(super) fn check_vmm(context: &Context, spec: &banger_model::VmSpec) -> Result<()> {
    let facts = Facts::gather(&context.search, &context.versions);
    banger_vmm::choose(spec.vmm, demand(spec), &facts).map(drop)
}

/// What the guest is told.
fn boot_config(
    context: &Context,
    row: &VmRow,
    files: &VmFiles,
    attached: &Attached,
) -> Result<BootConfig> {
    let host_key = keys::load(&files.host_key())?.ok_or_else(|| {
        Error::new(
            Code::Io,
            format!("`{}` is missing", files.host_key().display()),
        )
        .hint(format!(
            "the VM's directory is damaged: `banger vm delete {}`",
            row.name
        ))
    })?;
    let network = row.spec.nat.then(|| {
        let guest = banger_vmm::guest_network();
        Network {
            address: guest.address,
            prefix: guest.prefix,
            gateway: guest.gateway,
            dns: guest.dns,
        }
    });
    Ok(BootConfig {
        version: PROTOCOL_VERSION,
        hostname: row.name.to_string(),
        machine_id: row.machine_id.clone(),
        clock_unix_ns: clock(),
        root: attached.root.clone(),
        work_disk: Some(attached.work.clone()),
        modules: attached.modules.clone(),
        network,
        ssh: Some(SshIdentity {
            host_key: host_key.private,
            host_key_public: host_key.public,
            authorized_keys: vec![context.client_key.public.clone()],
        }),
        init: InitPolicy::Auto,
        git: None,
        build: None,
    })
}

fn clock() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
    })
}

/// Listens for the guest's dial, before anybody can dial.
fn listen(runtime: &Path) -> Result<UnixListener> {
    let path = banger_vmm::boot_socket(runtime);
    let dial = UnixListener::bind(&path).at("listen on", &path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).at("close", &path)?;
    Ok(dial)
}

/// Why a guest did not come up.
enum Failure {
    /// The VMM or its helper ended.
    Ended(Ended),
    /// The guest said something that is not the protocol, or broke off.
    Conversation(Error),
    /// The guest said what failed.
    Reported { step: String, message: String },
    /// It took too long.
    TimedOut,
    /// The request was cancelled.
    Cancelled,
    /// The host failed.
    Host(Error),
}

async fn converse(
    dial: &UnixListener,
    instance: &Instance,
    config: &BootConfig,
    limit: Duration,
    cancel: &CancellationToken,
) -> Result<Info, Failure> {
    let conversation = async {
        // Git takes less than the guest until it dials.
        let (dialled, git) = tokio::join!(dial.accept(), git_identity::of_host());
        let (stream, _) = dialled.map_err(|error| {
            Failure::Host(Error::io("accept on", Path::new("boot socket"), error))
        })?;
        // The clock may have gone on since the configuration was written.
        let config = BootConfig {
            clock_unix_ns: clock(),
            git,
            ..config.clone()
        };
        match serve_boot(stream, &config).await {
            Ok(BootReport::Ready(info)) => Ok(info),
            Ok(BootReport::Failed { step, message }) => Err(Failure::Reported { step, message }),
            Err(error) => match tokio::time::timeout(DEATH_WITHIN, instance.exited()).await {
                Ok(Ok(ended)) => Err(Failure::Ended(ended)),
                Ok(Err(_)) | Err(_) => Err(Failure::Conversation(error)),
            },
        }
    };
    tokio::select! {
        result = conversation => result,
        ended = instance.exited() => Err(match ended {
            Ok(ended) => Failure::Ended(ended),
            Err(error) => Failure::Host(error),
        }),
        () = tokio::time::sleep(limit) => Err(Failure::TimedOut),
        () = cancel.cancelled() => Err(Failure::Cancelled),
    }
}

/// Copies the user's files into a guest that is up; only its end, or that of the request, is a
/// failure.
async fn bring_files(boot: &Boot<'_>, instance: &Instance, files: &VmFiles) -> Result<(), Failure> {
    let agent = banger_vmm::agent_socket(&files.runtime);
    tokio::select! {
        biased;
        () = boot.cancel.cancelled() => Err(Failure::Cancelled),
        ended = instance.exited() => Err(match ended {
            Ok(ended) => Failure::Ended(ended),
            Err(error) => Failure::Host(error),
        }),
        () = sync::apply(boot.context, &agent, boot.progress) => Ok(()),
    }
}

impl Failure {
    /// The error, with the last lines of the console, which may soon be gone.
    fn into_error(self, limit: Duration, files: &VmFiles) -> Error {
        let what = match self {
            Failure::Cancelled => return Error::cancelled(),
            Failure::Host(error) => return error,
            Failure::Ended(ended) => {
                let why = match console::panic_reason(&files.console_log()) {
                    Some(reason) => format!("its kernel panicked: {reason}"),
                    None => ending::describe(&ended),
                };
                format!("the guest did not come up: {why}")
            }
            Failure::TimedOut => {
                format!("the guest did not come up within {} s", limit.as_secs())
            }
            // The cause comes before the console's lines, so it is part of the message.
            Failure::Conversation(error) => {
                format!("the guest did not come up: {}", error.chain())
            }
            // Both are bounded and harmless by now: the conversation saw to that.
            Failure::Reported { step, message } => {
                format!("the guest could not {step}: {message}")
            }
        };
        let tail = console::tail(&files.console_log());
        let message = if tail.is_empty() {
            format!("{what}; it wrote nothing to its console")
        } else {
            format!("{what}; the last lines of its console:{tail}")
        };
        Error::new(Code::BootFailed, message)
    }
}

/// Removes the runtime directory of a VM that does not run.
pub(super) async fn clear_runtime(context: &Arc<Context>, files: &VmFiles) -> Result<()> {
    let runtime = files.runtime.clone();
    context
        .blocking(move |_| {
            failpoint::hit("remove the runtime directory")?;
            remove_tree(&runtime)
        })
        .await
}

/// Watches an instance that an earlier daemon launched and whose agent has not answered yet:
/// until the guest dials, its agent answers, or the time is over.
///
/// # Errors
/// As [`boot`]; the processes still run then, except when they ended by themselves.
pub(super) async fn resume(boot: Boot<'_>, instance: Arc<Instance>) -> Result<Up> {
    let files = boot.context.layout.vm(&boot.row.id);
    let socket = banger_vmm::boot_socket(&files.runtime);
    // The one of the earlier daemon; nobody listens on it.
    match fs::remove_file(&socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::io("remove", &socket, error));
        }
        _ => {}
    }
    let dial = listen(&files.runtime)?;
    let strategy = boot.strategy;
    let (row, image, vm_files) = (boot.row.clone(), boot.image.rootfs.clone(), files.clone());
    let modules = boot.kernel.modules_drive.clone();
    let config = boot
        .context
        .blocking(move |context| {
            let attached = disks::attach(strategy, &vm_files.dir, &image, modules.as_deref())?;
            boot_config(context, &row, &vm_files, &attached)
        })
        .await?;
    let limit = boot.context.boot_timeout();
    let agent = banger_vmm::agent_socket(&files.runtime);
    let result = tokio::select! {
        result = converse(&dial, &instance, &config, limit, boot.cancel) => result,
        info = answering(&agent) => Ok(info),
    };
    let result = match result {
        // The earlier daemon may have come to that, or not.
        Ok(info) => bring_files(&boot, &instance, &files).await.map(|()| info),
        failed => failed,
    };
    match result {
        Ok(info) => Ok(Up { instance, info }),
        // It may have been up long ago, and on its way down when this daemon came.
        Err(Failure::Ended(ended)) => Err(Error::new(
            Code::BootFailed,
            match console::panic_reason(&files.console_log()) {
                Some(reason) => format!("its kernel panicked: {reason}"),
                None => ending::reason(&ended),
            },
        )),
        Err(failure) => Err(failure.into_error(limit, &files)),
    }
}

/// Asks the agent until it answers: the dial of a guest that came up while no daemon was there
/// is lost.
async fn answering(agent: &Path) -> Info {
    loop {
        // Bounded by itself.
        if let Ok(info) = banger_guest_api::client::info(agent).await {
            return info;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Which part of a machine ended matters only for words; used by [`ending`].
pub(super) fn part_name(part: Part) -> &'static str {
    match part {
        Part::Vmm => "the VMM",
        Part::Vsock => "the vsock program",
        Part::Console => "the program that keeps its console",
        Part::Network => "pasta, which carries its network,",
    }
}
