//! Makes VMs: from a request to a row, and from a row to a machine that runs.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;

use banger_api::{CreateVm, Operation, OperationKind};
use banger_image::Image;
use banger_kernel::Kernel;
use banger_model::{
    ByteSize, Code, DiskStrategy, Error, ImageName, IoContext, KernelName, Progress, Result,
    VmName, VmSpec,
};
use banger_store::{Intent, VmRow};
use tokio_util::sync::CancellationToken;

use super::boot::{self, Boot, Up};
use super::owner::{self, First};
use super::view::Shared;
use super::{Vms, names};
use crate::context::Context;
use crate::disks::{self, Source};
use crate::failpoint;
use crate::image;
use crate::keys;
use crate::random;

/// How often another generated name is tried when somebody else was faster.
const NAME_ATTEMPTS: u32 = 8;

/// A guest whose disks cannot take what it writes stands still, so a VM is not even begun with
/// less free space than this.
const ROOM: ByteSize = ByteSize::mib(32);

/// Checks a request, takes the name and hands the rest to a new owner.
pub(super) async fn admit(vms: &Arc<Vms>, request: CreateVm) -> Result<Operation> {
    let name: Option<VmName> = request.name.as_deref().map(str::parse).transpose()?;
    let image: ImageName = match &request.image {
        Some(image) => image.parse()?,
        None => vms.context.defaults.default_image.value.clone(),
    };
    let kernel = request.kernel.as_deref().map(str::parse).transpose()?;
    // Limits first: nothing is looked up for a request that cannot be.
    let spec = resolve(&vms.context, &request, image, kernel.clone())?;
    spec.validate()?;

    let id = random::vm_id()?;
    let chosen = match &name {
        Some(name) => name.clone(),
        None => free_name(vms)?,
    };
    let operation = vms.context.operations.begin(
        OperationKind::CreateVm,
        chosen.as_str(),
        Some(id.as_str()),
    )?;
    let mut row = VmRow {
        id,
        name: chosen,
        spec,
        image_digest: None,
        kernel_digest: None,
        strategy: None,
        machine_id: random::hex(16)?,
        ephemeral: request.ephemeral,
        intent: Intent::Creating,
        broken_reason: None,
        stop_reason: None,
        workspace: None,
        created_at: format!("{:.3}", jiff::Timestamp::now()),
    };
    let admitted = async {
        row.spec.image = image::canonical(&vms.context, row.spec.image.clone()).await?;
        if kernel.is_none() {
            row.spec.kernel = image::default_kernel(&vms.context, row.spec.image.clone()).await?;
        } else {
            know_kernel(&vms.context, row.spec.kernel.clone()).await?;
        }
        insert(vms, row, name.is_none()).await
    };
    let scope = operation.scope().clone();
    let row = match failpoint::within(scope, admitted).await {
        Ok(row) => row,
        Err(error) => {
            let Err(error) = operation.end(Err(error)) else {
                return Err(Error::internal("a failure that is none"));
            };
            return Err(error);
        }
    };
    operation.set_subject(row.name.as_str());
    let snapshot = operation.snapshot();
    let start = request.start;
    owner::spawn(vms, row, First::Create { operation, start });
    Ok(snapshot)
}

/// The definite values for a request.
fn resolve(
    context: &Context,
    request: &CreateVm,
    image: ImageName,
    kernel: Option<KernelName>,
) -> Result<VmSpec> {
    let defaults = &context.defaults;
    Ok(VmSpec {
        // Replaced by the image's own once that is known.
        kernel: match kernel {
            Some(kernel) => kernel,
            None => banger_image::default_kernel()?,
        },
        image,
        vcpus: request.vcpus.unwrap_or(defaults.vcpus.value),
        memory: request.memory.unwrap_or(defaults.memory.value),
        disk_size: request.disk_size.unwrap_or(defaults.disk_size.value),
        overlay_size: defaults.overlay_size.value,
        nat: request.nat.unwrap_or(defaults.nat.value),
        vmm: request.vmm.unwrap_or(defaults.vmm.value),
    })
}

fn free_name(vms: &Vms) -> Result<VmName> {
    names::generate(|name| {
        vms.table()
            .values()
            .any(|vm| vm.shared.name().as_str() == name)
    })
}

/// Writes the row, which takes the name. A generated name gives way to whoever was faster.
async fn insert(vms: &Arc<Vms>, mut row: VmRow, generated: bool) -> Result<VmRow> {
    for _ in 0..NAME_ATTEMPTS {
        let attempt = row.clone();
        let inserted = vms
            .context
            .blocking(move |c| {
                failpoint::hit("write the row")?;
                c.store.insert(&attempt)
            })
            .await;
        match inserted {
            Ok(()) => return Ok(row),
            Err(error) if generated && error.code() == Code::AlreadyExists => {
                row.name = free_name(vms)?;
            }
            Err(error) => return Err(error),
        }
    }
    Err(Error::internal("no free name was found"))
}

/// Refuses a kernel that is neither here nor can be pulled.
///
/// # Errors
/// `not_found`, listing those there are.
pub(crate) async fn know_kernel(context: &Arc<Context>, kernel: KernelName) -> Result<()> {
    context
        .blocking(move |context| {
            let catalog = context.kernels.catalog()?;
            let known = catalog.iter().any(|entry| entry.name == kernel);
            if known || context.kernels.find(&kernel)?.is_some() {
                return Ok(());
            }
            let mut known: Vec<String> = catalog.iter().map(|e| e.name.to_string()).collect();
            known.extend(
                context
                    .kernels
                    .list()?
                    .into_iter()
                    .map(|k| k.name.to_string()),
            );
            Err(unknown("kernel", kernel.as_str(), known))
        })
        .await
}

/// There is no such thing, but there are others.
pub(crate) fn unknown(noun: &str, name: &str, mut known: Vec<String>) -> Error {
    known.sort();
    known.dedup();
    let known: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
    Error::new(Code::NotFound, format!("there is no {noun} `{name}`"))
        .hint(format!("choose one of {}", known.join(", ")))
}

/// The kernel called `name`, pulled when it is not here.
///
/// # Errors
/// Those of the pull; `cancelled`.
pub(crate) async fn obtain_kernel(
    context: &Arc<Context>,
    name: &KernelName,
    progress: &dyn Progress,
    cancel: &CancellationToken,
) -> Result<Kernel> {
    get_kernel(context, name, |_, _| Ok(true), progress, cancel).await
}

/// The kernel called `name`, pulled when it is not here, or when it was pulled before kernels
/// brought their modules for guests.
///
/// # Errors
/// Those of the pull; `cancelled`.
pub(crate) async fn pull_kernel(
    context: &Arc<Context>,
    name: &KernelName,
    progress: &dyn Progress,
    cancel: &CancellationToken,
) -> Result<Kernel> {
    let is_whole: Enough = |context, kernel| {
        // One of the user's own may have none, and cannot be pulled.
        let catalog = context.kernels.catalog()?;
        let is_known = catalog.iter().any(|entry| entry.name == kernel.name);
        Ok(kernel.modules_drive.is_some() || !is_known)
    };
    get_kernel(context, name, is_whole, progress, cancel).await
}

/// Whether a kernel that is here will do.
type Enough = fn(&Context, &Kernel) -> Result<bool>;

async fn get_kernel(
    context: &Arc<Context>,
    name: &KernelName,
    enough: Enough,
    progress: &dyn Progress,
    cancel: &CancellationToken,
) -> Result<Kernel> {
    let look = move |context: &Context, name: &KernelName| {
        let _open = context.kernel_gate();
        match context.kernels.find(name)? {
            Some(kernel) if enough(context, &kernel)? => Ok(Some(kernel)),
            _ => Ok(None),
        }
    };
    let wanted = name.clone();
    if let Some(kernel) = context.blocking(move |c| look(c, &wanted)).await? {
        return Ok(kernel);
    }
    let (own, wanted) = (context.clone(), name.clone());
    let steps = failpoint::steps();
    let pull = move |progress: Arc<dyn Progress>, cancel: CancellationToken| async move {
        let name = wanted.clone();
        // Somebody may have finished it between the look and now.
        if let Some(kernel) = own.blocking(move |c| look(c, &name)).await? {
            return Ok(kernel);
        }
        progress.stage("pull-kernel", &format!("pulling kernel {wanted}"));
        let kernels = own.kernels.with_steps(steps);
        kernels.pull(&wanted, &*progress, &cancel).await
    };
    context
        .kernel_pulls
        .run(name.as_str(), progress, cancel, pull)
        .await
}

/// Carries out a creation whose row is written. Whatever it returns, every step can be undone
/// by [`super::ending::remove`].
///
/// # Errors
/// Those of the steps; `cancelled`.
pub(super) async fn create(
    context: &Arc<Context>,
    row: &mut VmRow,
    shared: &Shared,
    operation: (&dyn Progress, &CancellationToken),
    start: bool,
) -> Result<Option<Up>> {
    let (progress, cancel) = operation;
    if start {
        // Before anything is pulled: without a VMM it would be in vain.
        let spec = row.spec.clone();
        context.blocking(move |c| boot::check_vmm(c, &spec)).await?;
    }
    let image = image::obtain(context, &row.spec.image, progress, cancel).await?;
    // Until the database says that this VM uses it.
    let _hold = image::hold(context, &image).await?;
    let kernel = obtain_kernel(context, &row.spec.kernel, progress, cancel).await?;
    boot::check(cancel)?;

    progress.stage("create-disks", "making disks");
    let (strategy, host_key) = make_files(context, row, &image).await?;
    shared.set_host_key(&host_key);
    let (id, image_digest, kernel_digest) =
        (row.id.clone(), image.digest.clone(), kernel.digest.clone());
    row.image_digest = Some(image_digest.clone());
    row.kernel_digest = Some(kernel_digest.clone());
    row.strategy = Some(strategy);
    context
        .blocking(move |c| {
            failpoint::hit("write what it is made from")?;
            c.store
                .set_parts(&id, &image_digest, &kernel_digest, strategy)
        })
        .await?;
    shared.set_parts(row, Some(image.config.clone()));
    boot::check(cancel)?;

    let up = if start {
        let boot = Boot {
            context,
            row,
            shared,
            image: &image,
            kernel: &kernel,
            strategy,
            progress,
            cancel,
            only_to_save: false,
            build: None,
        };
        let up = boot::boot(boot).await.map_err(|error| match error.code() {
            Code::BootFailed => error.hint(
                "to keep its console log, make it with `banger vm create --no-start` and start it \
                 with `banger vm start`",
            ),
            _ => error,
        });
        Some(up?)
    } else {
        None
    };
    let id = row.id.clone();
    // When this fails, whoever undoes the creation finds the VMM that runs.
    context
        .blocking(move |c| {
            failpoint::hit("write that it is to be kept")?;
            c.store.set_intent(&id, Intent::Present)
        })
        .await?;
    row.intent = Intent::Present;
    Ok(up)
}

/// Refuses to begin what a disk this full could not take.
///
/// # Errors
/// `no_space`, naming the directory.
pub(super) fn check_room(context: &Context) -> Result<()> {
    let vms = context.layout.vms();
    if banger_content::available_space(&vms)? < ROOM {
        let full = io::ErrorKind::StorageFull.into();
        return Err(Error::io("make room for a VM in", &vms, full));
    }
    Ok(())
}

/// Makes the VM's directory with its disks and keys. Also gives the public host key.
async fn make_files(
    context: &Arc<Context>,
    row: &VmRow,
    image: &Image,
) -> Result<(DiskStrategy, String)> {
    let files = context.layout.vm(&row.id);
    let rootfs = image.rootfs.clone();
    let (spec, name) = (row.spec.clone(), row.name.clone());
    context
        .blocking(move |context| {
            check_room(context)?;
            failpoint::hit("make the directory")?;
            match fs::DirBuilder::new().mode(0o700).create(&files.dir) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(Error::io("create", &files.dir, error));
                }
                _ => {}
            }
            let host_key = keys::generate(name.as_str())?;
            keys::write_private(&files.host_key(), host_key.private.as_bytes())?;
            let strategy = disks::choose(&context.templates, &files.dir, &rootfs)?;
            let source = Source {
                image: &rootfs,
                writable: spec.overlay_size,
            };
            disks::create(
                &context.templates,
                strategy,
                &files.dir,
                &source,
                spec.disk_size,
            )?;
            // The directory's entries, and its own in the one above.
            for dir in [files.dir.as_path(), &context.layout.vms()] {
                failpoint::hit("make a directory's entries durable")?;
                fs::File::open(dir)
                    .and_then(|dir| dir.sync_all())
                    .at("write", dir)?;
            }
            Ok((strategy, host_key.public))
        })
        .await
}

/// The parts of a VM that exists, for another boot.
///
/// # Errors
/// `not_found` when one is gone.
pub(super) async fn parts(
    context: &Arc<Context>,
    row: &VmRow,
) -> Result<(Image, Kernel, DiskStrategy)> {
    let row = row.clone();
    context
        .blocking(move |context| {
            let missing = |what: &str| {
                Error::new(
                    Code::NotFound,
                    format!("the {what} that VM `{}` was made from is gone", row.name),
                )
                .hint(format!(
                    "`banger vm delete {}` removes what is left",
                    row.name
                ))
            };
            let image = match &row.image_digest {
                Some(digest) => context.images.by_digest(digest)?,
                None => None,
            };
            let kernel = match &row.kernel_digest {
                Some(digest) => context.kernels.by_digest(digest)?,
                None => None,
            };
            Ok((
                image.ok_or_else(|| missing("image"))?,
                kernel.ok_or_else(|| missing("kernel"))?,
                row.strategy.ok_or_else(|| missing("disk"))?,
            ))
        })
        .await
}
