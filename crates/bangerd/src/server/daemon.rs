//! `/v1/daemon`: the daemon itself.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use banger_api::{DaemonInfo, ErrorResponse};

use super::Api;

/// What the daemon is
#[utoipa::path(
    get, path = "/v1/daemon", tag = "daemon", operation_id = "get_daemon",
    responses((status = 200, body = DaemonInfo), (status = "default", body = ErrorResponse))
)]
pub(super) async fn show(State(api): State<Api>) -> Json<DaemonInfo> {
    let running = api.vms.list().iter().filter(|vm| vm.pid.is_some()).count();
    Json(DaemonInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        started_at: api.started_at.clone(),
        state_dir: api.context.layout.state_dir.display().to_string(),
        running_vms: u32::try_from(running).unwrap_or(u32::MAX),
    })
}

/// Stop the daemon; VMs live on
#[utoipa::path(
    post, path = "/v1/daemon/stop", tag = "daemon", operation_id = "stop_daemon",
    responses(
        (status = 202, description = "It stops once this is answered"),
        (status = "default", body = ErrorResponse),
    )
)]
pub(super) async fn stop(State(api): State<Api>) -> StatusCode {
    tracing::info!("asked to stop");
    api.context.shutdown.cancel();
    StatusCode::ACCEPTED
}
