//! `/v1/images`: what VMs are made from.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use banger_api::{ErrorResponse, Image, Operation, OperationKind, Pull};
use banger_model::{ImageName, Result};
use tracing::Instrument;

use super::Api;
use super::answer::{Answer, Body};
use crate::vm::obtain_image;

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

fn finish(running: crate::operations::Running, result: Result<()>) {
    // Whoever waits for it reads the outcome there.
    running.end(result).ok();
}
