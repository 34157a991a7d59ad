//! `/v1/images` and `/v1/kernels`: what VMs are made from.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use banger_api::{ErrorResponse, Image, Kernel, Operation, OperationKind, Pull};
use banger_model::{ImageName, KernelName, Result};
use tracing::Instrument;

use super::Api;
use super::answer::{Answer, Body};
use crate::vm::{obtain_image, obtain_kernel};

/// List images by name
#[utoipa::path(
    get, path = "/v1/images", tag = "images", operation_id = "list_images",
    responses((status = 200, body = Vec<Image>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn images(State(api): State<Api>) -> Answer<Json<Vec<Image>>> {
    let uses = api.vms.uses();
    let found = api
        .context
        .blocking(|context| context.images.list())
        .await?;
    let images = found.into_iter().map(|image| Image {
        used_by: uses.get(&image.digest).copied().unwrap_or(0),
        name: image.name.to_string(),
        digest: image.digest.to_string(),
        size: image.size,
        disk_usage: image.disk_usage,
        source: image.source,
        kernel: image.kernel.to_string(),
        created_at: image.created_at,
    });
    Ok(Json(images.collect()))
}

/// Pull an image from the catalog; one that is here already is a success
#[utoipa::path(
    post, path = "/v1/images", tag = "images", operation_id = "pull_image", request_body = Pull,
    responses((status = 202, body = Operation), (status = "default", body = ErrorResponse))
)]
pub(super) async fn pull_image(
    State(api): State<Api>,
    Body(pull): Body<Pull>,
) -> Answer<(StatusCode, Json<Operation>)> {
    let name: ImageName = pull.name.parse()?;
    let context = api.context.clone();
    let running = context
        .operations
        .begin(OperationKind::PullImage, name.as_str(), None)?;
    let snapshot = running.snapshot();
    let span = running.span().clone();
    let work = async move {
        let (reporter, cancel) = (running.reporter(), running.cancel_token().clone());
        let pulled = obtain_image(&context, &name, &reporter, &cancel).await;
        finish(running, pulled.map(drop));
    };
    api.context.tasks.spawn(work.instrument(span));
    Ok((StatusCode::ACCEPTED, Json(snapshot)))
}

/// List kernels by name
#[utoipa::path(
    get, path = "/v1/kernels", tag = "kernels", operation_id = "list_kernels",
    responses((status = 200, body = Vec<Kernel>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn kernels(State(api): State<Api>) -> Answer<Json<Vec<Kernel>>> {
    let uses = api.vms.uses();
    let found = api
        .context
        .blocking(|context| context.kernels.list())
        .await?;
    let kernels = found.into_iter().map(|kernel| Kernel {
        used_by: uses.get(&kernel.digest).copied().unwrap_or(0),
        name: kernel.name.to_string(),
        digest: kernel.digest.to_string(),
        release: kernel.release,
        disk_usage: kernel.disk_usage,
        source: kernel.source,
        created_at: kernel.created_at,
    });
    Ok(Json(kernels.collect()))
}

/// Pull a kernel from the catalog; one that is here already is a success
#[utoipa::path(
    post, path = "/v1/kernels", tag = "kernels", operation_id = "pull_kernel",
    request_body = Pull,
    responses((status = 202, body = Operation), (status = "default", body = ErrorResponse))
)]
pub(super) async fn pull_kernel(
    State(api): State<Api>,
    Body(pull): Body<Pull>,
) -> Answer<(StatusCode, Json<Operation>)> {
    let name: KernelName = pull.name.parse()?;
    let context = api.context.clone();
    let running = context
        .operations
        .begin(OperationKind::PullKernel, name.as_str(), None)?;
    let snapshot = running.snapshot();
    let span = running.span().clone();
    let work = async move {
        let (reporter, cancel) = (running.reporter(), running.cancel_token().clone());
        let pulled = obtain_kernel(&context, &name, &reporter, &cancel).await;
        finish(running, pulled.map(drop));
    };
    api.context.tasks.spawn(work.instrument(span));
    Ok((StatusCode::ACCEPTED, Json(snapshot)))
}

fn finish(running: crate::operations::Running, result: Result<()>) {
    // Whoever waits for it reads the outcome there.
    running.end(result).ok();
}
