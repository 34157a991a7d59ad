//! `/v1/operations`: work in progress.

use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use banger_api::{ErrorResponse, Operation};

use super::answer::{Answer, Segment};
use super::{Api, events as sse};

/// Show an operation
#[utoipa::path(
    get, path = "/v1/operations/{id}", tag = "operations", operation_id = "get_operation",
    params(("id" = String, Path)),
    responses((status = 200, body = Operation), (status = "default", body = ErrorResponse))
)]
pub(super) async fn show(State(api): State<Api>, Segment(id): Segment) -> Answer<Json<Operation>> {
    Ok(Json(api.context.operations.get(&id)?))
}

/// Ask for an operation's end
///
/// It then fails with `cancelled` once everything it did is undone.
#[utoipa::path(
    post, path = "/v1/operations/{id}/cancel", tag = "operations",
    operation_id = "cancel_operation", params(("id" = String, Path)),
    responses((status = 200, body = Operation), (status = "default", body = ErrorResponse))
)]
pub(super) async fn cancel(
    State(api): State<Api>,
    Segment(id): Segment,
) -> Answer<Json<Operation>> {
    Ok(Json(api.vms.cancel(&id)?))
}

/// Follow an operation
///
/// The data of each event is the operation: as it is now first, then each change. The stream
/// ends after the final one.
#[utoipa::path(
    get, path = "/v1/operations/{id}/events", tag = "operations",
    operation_id = "follow_operation", params(("id" = String, Path)),
    responses(
        (status = 200, content_type = "text/event-stream", body = Operation),
        (status = "default", body = ErrorResponse),
    )
)]
pub(super) async fn events(
    State(api): State<Api>,
    Segment(id): Segment,
) -> Answer<impl IntoResponse> {
    let watcher = api.context.operations.watch(&id)?;
    Ok(sse::operation(watcher, api.context.shutdown.clone()))
}
