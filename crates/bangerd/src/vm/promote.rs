//! The disk of a stopped VM becomes an image.
//!
//! The VM's disks are copied, a builder guest writes what is on the copies to a new disk, and
//! that is published. The VM itself is only read. The builder is in no row of the database, so
//! whatever a crash leaves of it, processes and files, is removed by the next daemon.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use banger_image::{Image, Promotion};
use banger_model::{
    ByteSize, Code, Error, ImageName, IoContext, KernelName, MIN_DISK, Progress, Result, VmState,
};
use banger_store::VmRow;
use tokio_util::sync::CancellationToken;

use super::boot::{self, Boot};
use super::view::Shared;
use super::{Vms, create, ending};
use crate::context::{Context, remove_tree};
use crate::disks;
use crate::failpoint;
use crate::image;
use crate::keys;
use crate::random;

/// Memory of a builder: enough to copy with, whatever the VM has.
const MEMORY: ByteSize = ByteSize::mib(512);
/// How long a builder may take to end once its work is done.
const DOWN_WITHIN: Duration = Duration::from_secs(30);

/// What is to become of a VM's disk.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// The new image.
    pub(crate) name: ImageName,
    /// The kernel its VMs boot by default; the one of the VM when absent.
    pub(crate) kernel: Option<KernelName>,
    /// Takes the name from the image that has it.
    pub(crate) replace: bool,
}

/// Makes an image of a stopped VM.
///
/// # Errors
/// `not_found`, `ambiguous`; `conflict` when the VM is not stopped or is started meanwhile;
/// `already_exists`; those of a boot; `cancelled`.
pub(crate) async fn promote(
    vms: &Arc<Vms>,
    reference: &str,
    wanted: &Wanted,
    progress: &dyn Progress,
    cancel: &CancellationToken,
) -> Result<Image> {
    let context = &vms.context;
    let _claim = context.image_claims.take(&wanted.name)?;
    if !wanted.replace {
        image::refuse_existing(context, wanted.name.clone()).await?;
    }
    let shared = vms.handle(reference)?.shared;
    refuse_unless_stopped(&shared)?;
    let name = shared.name().clone();
    let row = context
        .blocking(move |c| c.store.by_name(&name))
        .await?
        .ok_or_else(|| super::not_found(reference))?;
    let (of, _, _) = create::parts(context, &row).await?;
    let _hold = image::hold(context, &of).await?;

    let mut builder = row.clone();
    builder.id = random::vm_id()?;
    builder.spec.memory = MEMORY;
    builder.spec.vcpus = 1;
    builder.spec.nat = false;
    builder.spec.disk_size = MIN_DISK;
    let built = build(
        context,
        &shared,
        &row,
        &builder,
        &of,
        wanted,
        (progress, cancel),
    )
    .await;
    let removed = clean_up(context, &builder).await;
    let promotion = built?;
    removed?;
    context
        .images
        .with_steps(failpoint::steps())
        .promote(promotion, progress, cancel)
        .await
}

async fn build(
    context: &Arc<Context>,
    shared: &Shared,
    row: &VmRow,
    builder: &VmRow,
    of: &Image,
    wanted: &Wanted,
    (progress, cancel): (&dyn Progress, &CancellationToken),
) -> Result<Promotion> {
    progress.stage("copy", &format!("copying the disk of {}", row.name));
    let promotion = prepare(context, row, builder, of, wanted).await?;
    // Whoever started it meanwhile may have written to what was copied.
    refuse_unless_stopped(shared)?;
    boot::check(cancel)?;

    let (image, kernel, strategy) = create::parts(context, row).await?;
    let own = Shared::new(builder, &context.layout, VmState::Starting);
    progress.stage("build", "writing the new disk in a builder guest");
    let up = boot::boot(Boot {
        context,
        row: builder,
        shared: &own,
        image: &image,
        kernel: &kernel,
        strategy,
        progress,
        cancel,
        only_to_save: true,
        build: Some(promotion.disk().to_owned()),
    })
    .await
    .map_err(|error| match error.code() {
        Code::BootFailed => Error::new(
            Code::BuildFailed,
            format!("VM `{}` cannot be made an image", row.name),
        )
        .hint(format!(
            "start it with `banger vm start {0}`, stop it, and try again",
            row.name
        ))
        .because(error),
        _ => error,
    })?;
    let ended = tokio::time::timeout(DOWN_WITHIN, up.instance.exited()).await;
    if ended.is_err() {
        tracing::warn!("a builder guest did not end by itself");
    }
    ending::end(context, &builder.id, &up.instance).await?;
    Ok(promotion)
}

fn refuse_unless_stopped(shared: &Shared) -> Result<()> {
    let vm = shared.vm();
    if vm.state == VmState::Stopped {
        return Ok(());
    }
    Err(Error::new(
        Code::Conflict,
        format!("VM `{}` is {}, not stopped", vm.name, vm.state),
    )
    .hint(format!("run `banger vm stop {}` first", vm.name)))
}

/// Makes the builder's directory with copies of the VM's disks, and the empty new disk.
async fn prepare(
    context: &Arc<Context>,
    row: &VmRow,
    builder: &VmRow,
    of: &Image,
    wanted: &Wanted,
) -> Result<Promotion> {
    let (files, own) = (context.layout.vm(&row.id), context.layout.vm(&builder.id));
    let (strategy, vm) = (row.strategy, row.name.clone());
    let (of, wanted, kernel) = (of.clone(), wanted.clone(), row.spec.kernel.clone());
    context
        .blocking(move |context| {
            let strategy =
                strategy.ok_or_else(|| Error::internal("a VM that is stopped has no disk"))?;
            failpoint::hit("make the builder's directory")?;
            fs::DirBuilder::new()
                .mode(0o700)
                .create(&own.dir)
                .at("create", &own.dir)?;
            let host_key = keys::generate("builder")?;
            keys::write_private(&own.host_key(), host_key.private.as_bytes())?;
            let before = seen(&disks::root_disk(strategy, &files.dir))?;
            disks::copy(&context.templates, strategy, &files.dir, &own.dir)?;
            let disk = disks::root_disk(strategy, &files.dir);
            if seen(&disk)? != before {
                return Err(Error::new(
                    Code::Conflict,
                    format!("VM `{vm}` was started while its disk was copied"),
                )
                .hint(format!("run `banger vm stop {vm}` first")));
            }
            let used = fs::metadata(&disk).at("look at", &disk)?.blocks() * 512;
            failpoint::hit("make the new disk")?;
            let images = context.images.with_steps(failpoint::steps());
            let promotion = images.begin_promotion(
                &of,
                wanted.name,
                wanted.kernel.unwrap_or(kernel),
                &format!("promoted from VM {vm}"),
                ByteSize::bytes(used),
            )?;
            context
                .templates
                .format_image(promotion.disk(), promotion.size())?;
            Ok(promotion)
        })
        .await
}

/// What tells whether a file was written to.
fn seen(path: &Path) -> Result<(i64, i64, u64)> {
    let found = fs::metadata(path).at("look at", path)?;
    Ok((found.mtime(), found.mtime_nsec(), found.blocks()))
}

/// Removes the builder, which runs no more.
async fn clean_up(context: &Arc<Context>, builder: &VmRow) -> Result<()> {
    let files = context.layout.vm(&builder.id);
    boot::clear_runtime(context, &files).await?;
    context
        .blocking(move |_| {
            failpoint::hit("remove the builder's directory")?;
            remove_tree(&files.dir)
        })
        .await
}
