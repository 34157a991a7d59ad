//! `/v1/images`: what the root disks of VMs are made from.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use banger_api::{
    CatalogImage, ErrorResponse, Image, ImageDetails, LoadImage, Operation, OperationKind,
    PromoteVm, PruneImages, PrunedImages, PullImage, RegisterImage,
};
use banger_image::{LoadOptions, Platform, PullOptions, Registration};
use banger_model::{Code, Error, ImageName, KernelName, Result};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use utoipa::IntoParams;

use super::Api;
use super::answer::{Answer, Body, Options, Segment};
use crate::context::Context;
use crate::operations::{Reporter, Running};
use crate::{failpoint, image, vm};

type Accepted = (StatusCode, Json<Operation>);

/// List images by name
#[utoipa::path(
    get, path = "/v1/images", tag = "images", operation_id = "list_images",
    responses((status = 200, body = Vec<Image>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn list(State(api): State<Api>) -> Answer<Json<Vec<Image>>> {
    let uses = api.vms.uses();
    let found = api
        .context
        .blocking(|context| context.images.list())
        .await?;
    let images = found.into_iter().map(|image| {
        let used_by = uses.get(&image.digest).copied().unwrap_or(0);
        shown(&image, used_by)
    });
    Ok(Json(images.collect()))
}

fn shown(image: &banger_image::Image, used_by: u32) -> Image {
    Image {
        used_by,
        name: image.name.to_string(),
        digest: image.digest.to_string(),
        size: image.size,
        disk_usage: image.disk_usage,
        source: image.source.clone(),
        kernel: image.kernel.to_string(),
        created_at: image.created_at.clone(),
    }
}

/// Show everything about an image
#[utoipa::path(
    get, path = "/v1/images/{name}", tag = "images", operation_id = "get_image",
    params(("name" = String, Path, description = "Name, or reference with `/` as `%2F`")),
    responses((status = 200, body = ImageDetails), (status = "default", body = ErrorResponse))
)]
pub(super) async fn show(
    State(api): State<Api>,
    Segment(name): Segment,
) -> Answer<Json<ImageDetails>> {
    let name = image::canonical(&api.context, name.parse()?).await?;
    let details = api
        .context
        .blocking(move |context| {
            let found = context.images.find(&name)?;
            let image = found.ok_or_else(|| image::not_found(&name))?;
            let vms = image::users(context)?
                .remove(&image.digest)
                .unwrap_or_default();
            Ok(details(image, vms))
        })
        .await?;
    Ok(Json(details))
}

fn details(image: banger_image::Image, mut vms: Vec<String>) -> ImageDetails {
    vms.sort_unstable();
    let platform = match (&image.details.os, &image.details.architecture) {
        (os, architecture) if os.is_empty() && architecture.is_empty() => None,
        (os, architecture) => Some(format!("{os}/{architecture}")),
    };
    let (reference, manifest_digest) = match &image.origin {
        Some(origin) => (
            origin.reference.clone(),
            Some(origin.manifest_digest.to_string()),
        ),
        None => (None, None),
    };
    ImageDetails {
        image: shown(&image, u32::try_from(vms.len()).unwrap_or(u32::MAX)),
        rootfs_digest: image.rootfs_digest.as_ref().map(ToString::to_string),
        config: image.config,
        reference,
        manifest_digest,
        platform,
        built_at: image.details.created,
        labels: image.details.labels,
        exposed_ports: image.details.exposed_ports,
        vms,
    }
}

/// List what can be pulled by name
#[utoipa::path(
    get, path = "/v1/catalog/images", tag = "images", operation_id = "list_image_catalog",
    responses(
        (status = 200, body = Vec<CatalogImage>), (status = "default", body = ErrorResponse),
    )
)]
pub(super) async fn catalog(State(api): State<Api>) -> Answer<Json<Vec<CatalogImage>>> {
    let entries = api
        .context
        .blocking(|context| {
            let here = context.images.list()?;
            let entries = context.images.catalog()?.into_iter();
            let entries = entries.map(|entry| CatalogImage {
                pulled: here.iter().any(|image| image.name == entry.name),
                kind: entry.kind().to_owned(),
                name: entry.name.to_string(),
                description: entry.description,
                kernel: entry.kernel.to_string(),
            });
            Ok(entries.collect())
        })
        .await?;
    Ok(Json(entries))
}

/// Pull an image from a catalog or a registry
///
/// What is in a catalog and here already is a success at once; a registry is asked for something
/// newer.
#[utoipa::path(
    post, path = "/v1/images", tag = "images", operation_id = "pull_image",
    request_body = PullImage,
    responses((status = 202, body = Operation), (status = "default", body = ErrorResponse))
)]
pub(super) async fn pull(
    State(api): State<Api>,
    Body(request): Body<PullImage>,
) -> Answer<Accepted> {
    let name = image::canonical(&api.context, request.name.parse()?).await?;
    let options = PullOptions {
        kernel: known_kernel(&api, request.kernel.as_deref()).await?,
        platform: platform(request.platform.as_deref())?,
    };
    let running = api
        .context
        .operations
        .begin(OperationKind::PullImage, name.as_str(), None)?;
    run(&api, running, async move |context, progress, cancel| {
        image::pull(&context, &name, options, &progress, &cancel)
            .await
            .map(|image| image.name)
    })
}

async fn known_kernel(api: &Api, kernel: Option<&str>) -> Result<Option<KernelName>> {
    let Some(kernel) = kernel else {
        return Ok(None);
    };
    let kernel: KernelName = kernel.parse()?;
    vm::know_kernel(&api.context, kernel.clone()).await?;
    Ok(Some(kernel))
}

/// What this machine can run of what there may be.
fn platform(wanted: Option<&str>) -> Result<Platform> {
    let platform: Platform = match wanted {
        Some(wanted) => wanted.parse()?,
        None => Platform::default(),
    };
    let runs = platform.to_string();
    if runs.starts_with("linux/amd64") || runs == "linux/386" {
        return Ok(platform);
    }
    Err(Error::new(
        Code::InvalidArgument,
        format!("images for `{platform}` do not run on this machine"),
    )
    .hint("choose `linux/amd64`"))
}

/// Make an image of an archive
///
/// The operation waits for the bytes of the archive, made by `docker save` or in the OCI layout,
/// as its input.
#[utoipa::path(
    post, path = "/v1/images:load", tag = "images", operation_id = "load_image",
    request_body = LoadImage,
    responses((status = 202, body = Operation), (status = "default", body = ErrorResponse))
)]
pub(super) async fn load(
    State(api): State<Api>,
    Body(request): Body<LoadImage>,
) -> Answer<Accepted> {
    let name: Option<ImageName> = request.name.as_deref().map(str::parse).transpose()?;
    let options = LoadOptions {
        kernel: known_kernel(&api, request.kernel.as_deref()).await?,
        platform: platform(request.platform.as_deref())?,
        select: request.select,
        name,
    };
    let subject = options.name.as_ref().map_or("archive", ImageName::as_str);
    let running = api
        .context
        .operations
        .begin(OperationKind::LoadImage, subject, None)?;
    let input = api
        .context
        .inputs
        .expect(running.id(), running.cancel_token());
    run(&api, running, async move |context, progress, cancel| {
        let _claim = match &options.name {
            Some(name) => Some(context.image_claims.take(name)?),
            None => None,
        };
        context
            .images
            .with_steps(failpoint::steps())
            .load(input, request.length, &options, &progress, &cancel)
            .await
            .map(|image| image.name)
    })
}

/// Make an image of a stopped VM
#[utoipa::path(
    post, path = "/v1/vms/{ref}/promote", tag = "images", operation_id = "promote_vm",
    request_body = PromoteVm,
    params(("ref" = String, Path, description = "Exact name, id, or unique prefix of either")),
    responses((status = 202, body = Operation), (status = "default", body = ErrorResponse))
)]
pub(super) async fn promote(
    State(api): State<Api>,
    Segment(reference): Segment,
    Body(request): Body<PromoteVm>,
) -> Answer<Accepted> {
    let wanted = vm::Wanted {
        name: request.name.parse()?,
        kernel: known_kernel(&api, request.kernel.as_deref()).await?,
        replace: request.replace,
    };
    let found = api.vms.find(&reference)?;
    let running =
        api.context
            .operations
            .begin(OperationKind::PromoteVm, wanted.name.as_str(), None)?;
    let vms = api.vms.clone();
    run(&api, running, async move |_, progress, cancel| {
        vm::promote(&vms, &found.id, &wanted, &progress, &cancel)
            .await
            .map(|image| image.name)
    })
}

/// Whether an image that VMs use may go.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DeleteOptions {
    /// Also when VMs use it: they keep it until the last of them is gone.
    #[serde(default)]
    force: bool,
}

/// Delete an image
#[utoipa::path(
    delete, path = "/v1/images/{name}", tag = "images", operation_id = "delete_image",
    params(
        ("name" = String, Path, description = "Name, or reference with `/` as `%2F`"),
        DeleteOptions,
    ),
    responses((status = 202, body = Operation), (status = "default", body = ErrorResponse))
)]
pub(super) async fn delete(
    State(api): State<Api>,
    Segment(name): Segment,
    Options(options): Options<DeleteOptions>,
) -> Answer<Accepted> {
    let name = image::canonical(&api.context, name.parse()?).await?;
    let running = api
        .context
        .operations
        .begin(OperationKind::DeleteImage, name.as_str(), None)?;
    run(&api, running, async move |context, _, _| {
        image::delete(&context, name.clone(), options.force)
            .await
            .map(|()| name)
    })
}

/// Remove what nobody needs
///
/// Images without a name that no VM uses, and the cached layers of pulled images.
#[utoipa::path(
    post, path = "/v1/images:prune", tag = "images", operation_id = "prune_images",
    request_body = PruneImages,
    responses((status = 200, body = PrunedImages), (status = "default", body = ErrorResponse))
)]
pub(super) async fn prune(
    State(api): State<Api>,
    Body(request): Body<PruneImages>,
) -> Answer<Json<PrunedImages>> {
    let context = api.context.clone();
    // In a task of its own: this handler is dropped when the client hangs up.
    let pruned = api
        .context
        .tasks
        .spawn(async move { image::prune(&context, request.all, request.dry_run).await });
    let pruned = pruned
        .await
        .map_err(|error| Error::internal("a prune was given up").because(error))??;
    Ok(Json(pruned))
}

/// Make an image of an ext4 file
#[utoipa::path(
    post, path = "/v1/images:register", tag = "images", operation_id = "register_image",
    request_body = RegisterImage,
    responses((status = 202, body = Operation), (status = "default", body = ErrorResponse))
)]
pub(super) async fn register(
    State(api): State<Api>,
    Body(request): Body<RegisterImage>,
) -> Answer<Accepted> {
    let kernel = match known_kernel(&api, request.kernel.as_deref()).await? {
        Some(kernel) => kernel,
        None => banger_image::default_kernel()?,
    };
    let (config, details) = match &request.config {
        Some(document) => banger_image::parse_config(document)?,
        None => Default::default(),
    };
    let registration = Registration {
        name: request.name.parse()?,
        rootfs: request.rootfs.into(),
        kernel,
        config,
        details,
    };
    let checked = registration.clone();
    api.context.blocking(move |_| checked.check()).await?;
    let name = registration.name.as_str();
    let running = api
        .context
        .operations
        .begin(OperationKind::RegisterImage, name, None)?;
    run(&api, running, async move |context, progress, cancel| {
        image::register(&context, registration, request.replace, &progress, &cancel)
            .await
            .map(|image| image.name)
    })
}

/// Does the work of an operation, which goes on without the client. The work gives the name of
/// the image that it was about.
fn run<F>(
    api: &Api,
    running: Running,
    work: impl FnOnce(Arc<Context>, Reporter, CancellationToken) -> F,
) -> Answer<Accepted>
where
    F: Future<Output = Result<ImageName>> + Send + 'static,
{
    let snapshot = running.snapshot();
    let span = running.span().clone();
    let (context, own) = (api.context.clone(), api.context.clone());
    let work = work(context, running.reporter(), running.cancel_token().clone());
    let work = async move {
        let result = failpoint::within(running.scope().clone(), work).await;
        if let Ok(name) = &result {
            running.set_subject(name.as_str());
        }
        let changed = result.is_ok();
        // Whoever waits for it reads the outcome there.
        running.end(result.map(drop)).ok();
        if changed {
            // An image whose name was taken may be needed by nobody.
            image::sweep_soon(&own).await;
        }
    };
    api.context.tasks.spawn(work.instrument(span));
    Ok((StatusCode::ACCEPTED, Json(snapshot)))
}
