//! `/v1/vms`: VMs.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use banger_api::{CreateVm, ErrorResponse, Operation, Vm};
use banger_model::Error;

use super::answer::{Answer, Body, Segment};
use super::{Api, events};
use crate::vm::Request;

type Accepted = (StatusCode, Json<Operation>);

/// List VMs in order of creation
#[utoipa::path(
    get, path = "/v1/vms", tag = "vms", operation_id = "list_vms",
    responses((status = 200, body = Vec<Vm>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn list(State(api): State<Api>) -> Json<Vec<Vm>> {
    Json(api.vms.list().iter().map(|vm| Vm::clone(vm)).collect())
}

/// Make a VM, and start it unless told otherwise
///
/// Answers once the name is taken; the operation does the rest and carries the VM's id.
#[utoipa::path(
    post, path = "/v1/vms", tag = "vms", operation_id = "create_vm", request_body = CreateVm,
    responses((status = 202, body = Operation), (status = "default", body = ErrorResponse))
)]
pub(super) async fn create(
    State(api): State<Api>,
    Body(request): Body<CreateVm>,
) -> Answer<Accepted> {
    let vms = api.vms.clone();
    // In a task of its own: this handler is dropped when the client hangs up.
    let created = api
        .context
        .tasks
        .spawn(async move { vms.create(request).await });
    let operation = created
        .await
        .map_err(|error| Error::internal("a creation was given up").because(error))??;
    Ok((StatusCode::ACCEPTED, Json(operation)))
}

/// Show a VM
#[utoipa::path(
    get, path = "/v1/vms/{ref}", tag = "vms", operation_id = "get_vm",
    params(("ref" = String, Path, description = "Exact name, id, or unique prefix of either")),
    responses((status = 200, body = Vm), (status = "default", body = ErrorResponse))
)]
pub(super) async fn show(State(api): State<Api>, Segment(reference): Segment) -> Answer<Json<Vm>> {
    Ok(Json(Vm::clone(&*api.vms.find(&reference)?)))
}

/// Delete a VM, in whatever state it is
#[utoipa::path(
    delete, path = "/v1/vms/{ref}", tag = "vms", operation_id = "delete_vm",
    params(("ref" = String, Path, description = "Exact name, id, or unique prefix of either")),
    responses((status = 202, body = Operation), (status = "default", body = ErrorResponse))
)]
pub(super) async fn delete(
    State(api): State<Api>,
    Segment(reference): Segment,
) -> Answer<Accepted> {
    request(&api, &reference, Request::Delete)
}

/// Start a VM; one that runs is a success at once
#[utoipa::path(
    post, path = "/v1/vms/{ref}/start", tag = "vms", operation_id = "start_vm",
    params(("ref" = String, Path, description = "Exact name, id, or unique prefix of either")),
    responses((status = 202, body = Operation), (status = "default", body = ErrorResponse))
)]
pub(super) async fn start(State(api): State<Api>, Segment(reference): Segment) -> Answer<Accepted> {
    request(&api, &reference, Request::Start)
}

/// Stop a VM; one that does not run is a success at once
#[utoipa::path(
    post, path = "/v1/vms/{ref}/stop", tag = "vms", operation_id = "stop_vm",
    params(("ref" = String, Path, description = "Exact name, id, or unique prefix of either")),
    responses((status = 202, body = Operation), (status = "default", body = ErrorResponse))
)]
pub(super) async fn stop(State(api): State<Api>, Segment(reference): Segment) -> Answer<Accepted> {
    request(&api, &reference, Request::Stop)
}

/// Keep an ephemeral VM while the connection is open
///
/// When the last lease ends, the VM is deleted.
#[utoipa::path(
    get, path = "/v1/vms/{ref}/lease", tag = "vms", operation_id = "lease_vm",
    params(("ref" = String, Path, description = "Exact name, id, or unique prefix of either")),
    responses(
        (status = 200, description = "Ends when the VM is gone or the daemon stops",
         content_type = "text/event-stream", body = String),
        (status = "default", body = ErrorResponse),
    )
)]
pub(super) async fn lease(
    State(api): State<Api>,
    Segment(reference): Segment,
) -> Answer<impl IntoResponse> {
    Ok(events::lease(api.vms.lease(&reference)?))
}

fn request(api: &Api, reference: &str, request: Request) -> Answer<Accepted> {
    let operation = api.vms.request(reference, request)?;
    Ok((StatusCode::ACCEPTED, Json(operation)))
}
