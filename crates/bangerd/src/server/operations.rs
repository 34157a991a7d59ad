//! `/v1/operations`: work in progress.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use banger_api::{ErrorResponse, Operation};
use banger_model::{Code, Error};
use futures_util::StreamExt;

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

/// Send an operation the bytes that it waits for
///
/// The answer comes after the last of them. An input that breaks off fails the operation.
#[utoipa::path(
    put, path = "/v1/operations/{id}/input", tag = "operations", operation_id = "send_input",
    params(("id" = String, Path)),
    request_body(content_type = "application/octet-stream"),
    responses((status = 204), (status = "default", body = ErrorResponse))
)]
pub(super) async fn input(
    State(api): State<Api>,
    Segment(id): Segment,
    body: Body,
) -> Answer<StatusCode> {
    let sink = api.context.inputs.take(&id)?;
    let mut body = body.into_data_stream();
    loop {
        let next = tokio::select! {
            next = body.next() => next,
            // Whoever waits for the operation learns why.
            () = sink.over.cancelled() => return Ok(StatusCode::NO_CONTENT),
        };
        match next {
            None => break,
            Some(Ok(data)) => {
                if !sink.send(data).await {
                    return Ok(StatusCode::NO_CONTENT);
                }
            }
            Some(Err(error)) => {
                return Err(Error::new(Code::InvalidArgument, "the input broke off")
                    .because(error)
                    .into());
            }
        }
    }
    sink.end().await;
    Ok(StatusCode::NO_CONTENT)
}
