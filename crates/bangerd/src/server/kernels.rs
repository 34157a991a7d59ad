//! `/v1/kernels`: what VMs boot.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use banger_api::{
    CatalogKernel, ErrorResponse, ImportKernel, Kernel, Operation, OperationKind, Pull,
};
use banger_model::{KernelName, Result};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::Api;
use super::answer::{Answer, Body, Segment};
use crate::failpoint;
use crate::kernels;
use crate::operations::Reporter;
use crate::vm::pull_kernel as pull;

type Accepted = (StatusCode, Json<Operation>);

/// List kernels by name
#[utoipa::path(
    get, path = "/v1/kernels", tag = "kernels", operation_id = "list_kernels",
    responses((status = 200, body = Vec<Kernel>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn list(State(api): State<Api>) -> Answer<Json<Vec<Kernel>>> {
    let found = api
        .context
        .blocking(|context| context.kernels.list())
        .await?;
    Ok(Json(
        found
            .into_iter()
            .map(|kernel| shown(&api, kernel))
            .collect(),
    ))
}

/// Show a kernel
#[utoipa::path(
    get, path = "/v1/kernels/{name}", tag = "kernels", operation_id = "get_kernel",
    params(("name" = String, Path, description = "Exact name")),
    responses((status = 200, body = Kernel), (status = "default", body = ErrorResponse))
)]
pub(super) async fn show(State(api): State<Api>, Segment(name): Segment) -> Answer<Json<Kernel>> {
    let name: KernelName = name.parse()?;
    let kernel = api
        .context
        .blocking(move |context| kernels::find(context, &name))
        .await?;
    Ok(Json(shown(&api, kernel)))
}

/// List the kernels that can be pulled by name
#[utoipa::path(
    get, path = "/v1/catalog/kernels", tag = "kernels", operation_id = "list_catalog_kernels",
    responses((status = 200, body = Vec<CatalogKernel>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn catalog(State(api): State<Api>) -> Answer<Json<Vec<CatalogKernel>>> {
    let entries = api
        .context
        .blocking(|context| {
            let entries = context.kernels.catalog()?.iter().map(|entry| {
                Ok(CatalogKernel {
                    name: entry.name.to_string(),
                    description: entry.description.clone(),
                    pulled: context.kernels.find(&entry.name)?.is_some(),
                })
            });
            entries.collect::<Result<Vec<_>>>()
        })
        .await?;
    Ok(Json(entries))
}

/// Pull a kernel from the catalog; one that is here already is a success
///
/// One that was pulled before kernels brought their modules for guests is pulled anew; VMs made
/// from it keep it as it was.
#[utoipa::path(
    post, path = "/v1/kernels", tag = "kernels", operation_id = "pull_kernel",
    request_body = Pull,
    responses((status = 202, body = Operation), (status = "default", body = ErrorResponse))
)]
pub(super) async fn pull_kernel(
    State(api): State<Api>,
    Body(request): Body<Pull>,
) -> Answer<Accepted> {
    let name: KernelName = request.name.parse()?;
    let (context, wanted) = (api.context.clone(), name.clone());
    let work = |reporter, cancel| async move {
        pull(&context, &wanted, &reporter, &cancel).await.map(drop)
    };
    begin(&api, OperationKind::PullKernel, &name, work)
}

/// Import a kernel of one's own
///
/// A kernel that lacks what banger needs is refused, with what is missing and how that is known.
#[utoipa::path(
    put, path = "/v1/kernels/{name}", tag = "kernels", operation_id = "import_kernel",
    request_body = ImportKernel,
    params(("name" = String, Path, description = "Name it will have; not one of the catalog")),
    responses((status = 202, body = Operation), (status = "default", body = ErrorResponse))
)]
pub(super) async fn import(
    State(api): State<Api>,
    Segment(name): Segment,
    Body(request): Body<ImportKernel>,
) -> Answer<Accepted> {
    let name: KernelName = name.parse()?;
    let request = kernels::checked(&name, &request)?;
    let claim = kernels::claim(&api.context, &name)?;
    let context = api.context.clone();
    let work = |reporter, cancel| async move {
        let kernels = context.kernels.with_steps(failpoint::steps());
        let imported = kernels.import(&request, &reporter, &cancel).await;
        drop(claim);
        imported.map(drop)
    };
    begin(&api, OperationKind::ImportKernel, &name, work)
}

/// Delete a kernel that no VM and no image uses
#[utoipa::path(
    delete, path = "/v1/kernels/{name}", tag = "kernels", operation_id = "delete_kernel",
    params(("name" = String, Path, description = "Exact name")),
    responses((status = 202, body = Operation), (status = "default", body = ErrorResponse))
)]
pub(super) async fn delete(State(api): State<Api>, Segment(name): Segment) -> Answer<Accepted> {
    let name: KernelName = name.parse()?;
    let wanted = name.clone();
    // Before there is an operation: most refusals are simple.
    api.context
        .blocking(move |context| kernels::find(context, &wanted).map(drop))
        .await?;
    let (context, vms, gone) = (api.context.clone(), api.vms.clone(), name.clone());
    let work = |_: Reporter, _| async move { kernels::delete(&context, &vms, &gone).await };
    begin(&api, OperationKind::DeleteKernel, &name, work)
}

/// Does the work in a task of its own and answers with its operation.
fn begin<F, Fut>(api: &Api, kind: OperationKind, name: &KernelName, work: F) -> Answer<Accepted>
where
    F: FnOnce(Reporter, CancellationToken) -> Fut,
    Fut: Future<Output = Result<()>> + Send + 'static,
{
    let running = api.context.operations.begin(kind, name.as_str(), None)?;
    let snapshot = running.snapshot();
    let span = running.span().clone();
    let work = work(running.reporter(), running.cancel_token().clone());
    let work = failpoint::within(running.scope().clone(), work);
    let task = async move {
        // Whoever waits for it reads the outcome there.
        running.end(work.await).ok();
    };
    api.context.tasks.spawn(task.instrument(span));
    Ok((StatusCode::ACCEPTED, Json(snapshot)))
}

fn shown(api: &Api, kernel: banger_kernel::Kernel) -> Kernel {
    Kernel {
        used_by: api.vms.uses().get(&kernel.digest).copied().unwrap_or(0),
        name: kernel.name.to_string(),
        digest: kernel.digest.to_string(),
        release: kernel.release,
        disk_usage: kernel.disk_usage,
        source: kernel.source,
        created_at: kernel.created_at,
        modules: kernel.modules_drive.is_some(),
        initrd: kernel.initrd.is_some(),
        config: kernel
            .config_source
            .map(|source| source.as_str().to_owned()),
    }
}
