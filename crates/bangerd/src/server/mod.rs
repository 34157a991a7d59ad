//! The HTTP API: routes, and serving them on the private socket.
//!
//! Handlers answer from memory or hand work to tasks that live without them, so a client that
//! hangs up stops nothing half-way. Every answer that is not a success is an
//! [`ErrorResponse`](banger_api::ErrorResponse).

mod answer;
mod daemon;
mod events;
mod images;
mod kernels;
mod operations;
mod socket;
mod vms;

use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderValue, header};
use banger_model::{Error, Result};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::context::Context;
use crate::vm::Vms;
pub(crate) use socket::PrivateSocket;

/// How long open requests may take to end when the daemon stops.
const DRAIN_WITHIN: Duration = Duration::from_secs(2);

/// What handlers work with.
#[derive(Clone)]
pub(crate) struct Api {
    context: Arc<Context>,
    vms: Arc<Vms>,
    started_at: String,
}

impl Api {
    /// An API over these VMs.
    pub(crate) fn new(context: Arc<Context>, vms: Arc<Vms>) -> Api {
        Api {
            context,
            vms,
            started_at: format!("{:.3}", jiff::Timestamp::now()),
        }
    }

    /// What the daemon shares.
    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.context
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "banger",
        description = "Makes and runs throw-away Linux machines. Served as HTTP/1 over a unix \
                       socket that only its owner can open. Work that takes time is an operation: \
                       the answer is 202 with the operation, whose events are a stream.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    tags(
        (name = "daemon", description = "The daemon itself"),
        (name = "vms", description = "VMs"),
        (name = "images", description = "Images"),
        (name = "kernels", description = "Kernels"),
        (name = "operations", description = "Work in progress"),
    )
)]
struct Document;

fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(daemon::show))
        .routes(routes!(daemon::stop))
        .routes(routes!(vms::list, vms::create))
        .routes(routes!(vms::show, vms::set, vms::delete))
        .routes(routes!(vms::start))
        .routes(routes!(vms::stop))
        .routes(routes!(vms::restart))
        .routes(routes!(vms::kill))
        .routes(routes!(vms::lease))
        .routes(routes!(vms::set_workspace))
        .routes(routes!(vms::workspace_turn))
        .routes(routes!(vms::stats))
        .routes(routes!(images::list, images::pull))
        .routes(routes!(images::show, images::delete))
        .routes(routes!(images::catalog))
        .routes(routes!(images::register))
        .routes(routes!(images::load))
        .routes(routes!(images::prune))
        .routes(routes!(images::promote))
        .routes(routes!(kernels::list, kernels::pull_kernel))
        .routes(routes!(kernels::show, kernels::import, kernels::delete))
        .routes(routes!(kernels::catalog))
        .routes(routes!(operations::show))
        .routes(routes!(operations::cancel))
        .routes(routes!(operations::events))
        .routes(routes!(operations::input))
}

fn router(api: Api) -> Router {
    let (router, _) = routes().split_for_parts();
    router
        .fallback(answer::unknown_route)
        .method_not_allowed_fallback(answer::unknown_method)
        .layer(axum::middleware::map_response(name_the_server))
        .with_state(api)
}

async fn name_the_server(mut response: axum::response::Response) -> axum::response::Response {
    const SERVER: HeaderValue =
        HeaderValue::from_static(concat!("bangerd/", env!("CARGO_PKG_VERSION")));
    response.headers_mut().insert(header::SERVER, SERVER);
    response
}

/// Answers requests until the daemon stops; then ends streams and gives the rest a moment.
///
/// # Errors
/// `internal` when serving ended by itself.
pub(crate) async fn serve(socket: PrivateSocket, api: Api) -> Result<()> {
    let shutdown = api.context.shutdown.clone();
    let stop = shutdown.clone().cancelled_owned();
    let serving = axum::serve(socket, router(api))
        .with_graceful_shutdown(stop)
        .into_future();
    let bound = async {
        shutdown.cancelled().await;
        tokio::time::sleep(DRAIN_WITHIN).await;
    };
    tokio::select! {
        served = serving => {
            served.map_err(|error| Error::internal("serving ended").because(error))
        }
        () = bound => {
            tracing::warn!("requests were still open when the daemon stopped");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;
