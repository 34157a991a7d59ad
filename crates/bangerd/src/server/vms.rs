//! `/v1/vms`: VMs.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use banger_api::{CreateVm, ErrorResponse, KillVm, Operation, SetVm, Vm, VmStats, Workspace};
use banger_model::Error;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::answer::{Answer, Body, Options, Segment};
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

/// Which VMs a deletion is for.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DeleteOptions {
    /// `stopped`: only if it does not run when its turn comes.
    #[serde(default)]
    #[param(inline)]
    only: Option<Only>,
    /// Whether work that is in no export is lost, instead of saved first.
    #[serde(default)]
    discard: bool,
}

/// A state that a VM must be in.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Only {
    /// It does not run.
    Stopped,
}

/// Delete a VM, in whatever state it is
#[utoipa::path(
    delete, path = "/v1/vms/{ref}", tag = "vms", operation_id = "delete_vm",
    params(
        ("ref" = String, Path, description = "Exact name, id, or unique prefix of either"),
        DeleteOptions,
    ),
    responses((status = 202, body = Operation), (status = "default", body = ErrorResponse))
)]
pub(super) async fn delete(
    State(api): State<Api>,
    Segment(reference): Segment,
    Options(options): Options<DeleteOptions>,
) -> Answer<Accepted> {
    let wanted = match options.only {
        Some(Only::Stopped) => Request::DeleteStopped(options.discard),
        None => Request::Delete(options.discard),
    };
    request(&api, &reference, wanted)
}

/// Change what a VM is; the next start uses it
///
/// A VM that runs takes only what it is already; disks only grow.
#[utoipa::path(
    patch, path = "/v1/vms/{ref}", tag = "vms", operation_id = "set_vm", request_body = SetVm,
    params(("ref" = String, Path, description = "Exact name, id, or unique prefix of either")),
    responses((status = 202, body = Operation), (status = "default", body = ErrorResponse))
)]
pub(super) async fn set(
    State(api): State<Api>,
    Segment(reference): Segment,
    Body(change): Body<SetVm>,
) -> Answer<Accepted> {
    request(&api, &reference, Request::Set(change))
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

/// Restart a VM: a stop and a start as one; one that does not run is only started
#[utoipa::path(
    post, path = "/v1/vms/{ref}/restart", tag = "vms", operation_id = "restart_vm",
    params(("ref" = String, Path, description = "Exact name, id, or unique prefix of either")),
    responses((status = 202, body = Operation), (status = "default", body = ErrorResponse))
)]
pub(super) async fn restart(
    State(api): State<Api>,
    Segment(reference): Segment,
) -> Answer<Accepted> {
    request(&api, &reference, Request::Restart)
}

/// End a VM's VMM without asking the guest; one that does not run is a success at once
///
/// What the signal does not end within 10 seconds is ended by SIGKILL. A VM that is starting or
/// stopping is killed too; one that is starting gets SIGKILL whatever the signal.
#[utoipa::path(
    post, path = "/v1/vms/{ref}/kill", tag = "vms", operation_id = "kill_vm",
    request_body = KillVm,
    params(("ref" = String, Path, description = "Exact name, id, or unique prefix of either")),
    responses((status = 202, body = Operation), (status = "default", body = ErrorResponse))
)]
pub(super) async fn kill(
    State(api): State<Api>,
    Segment(reference): Segment,
    Body(kill): Body<KillVm>,
) -> Answer<Accepted> {
    request(&api, &reference, Request::Kill(kill.signal))
}

/// Measure what every VM costs its host, in order of creation
#[utoipa::path(
    get, path = "/v1/stats", tag = "vms", operation_id = "list_stats",
    responses((status = 200, body = Vec<VmStats>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn stats(State(api): State<Api>) -> Answer<Json<Vec<VmStats>>> {
    Ok(Json(api.vms.stats().await?))
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

/// Record the repository that was copied into a VM
#[utoipa::path(
    put, path = "/v1/vms/{ref}/workspace", tag = "vms", operation_id = "set_workspace",
    request_body = Workspace,
    params(("ref" = String, Path, description = "Exact name, id, or unique prefix of either")),
    responses((status = 200, body = Vm), (status = "default", body = ErrorResponse))
)]
pub(super) async fn set_workspace(
    State(api): State<Api>,
    Segment(reference): Segment,
    Body(workspace): Body<Workspace>,
) -> Answer<Json<Vm>> {
    let vms = api.vms.clone();
    // In a task of its own: this handler is dropped when the client hangs up.
    let set = api
        .context
        .tasks
        .spawn(async move { vms.set_workspace(&reference, workspace).await });
    let vm = set
        .await
        .map_err(|error| Error::internal("a record was given up").because(error))??;
    Ok(Json(Vm::clone(&vm)))
}

/// Take the turn at a VM's workspace, and keep it while the connection is open
///
/// Whoever copies a repository in or exports work holds it. The event comes when nobody who asked
/// earlier does.
#[utoipa::path(
    get, path = "/v1/vms/{ref}/workspace/turn", tag = "vms", operation_id = "take_workspace_turn",
    params(("ref" = String, Path, description = "Exact name, id, or unique prefix of either")),
    responses(
        (status = 200, description = "Ends when the VM is being deleted or the daemon stops",
         content_type = "text/event-stream", body = String),
        (status = "default", body = ErrorResponse),
    )
)]
pub(super) async fn workspace_turn(
    State(api): State<Api>,
    Segment(reference): Segment,
) -> Answer<impl IntoResponse> {
    Ok(events::turn(api.vms.workspace_turn(&reference)?))
}

fn request(api: &Api, reference: &str, request: Request) -> Answer<Accepted> {
    let operation = api.vms.request(reference, request)?;
    Ok((StatusCode::ACCEPTED, Json(operation)))
}
