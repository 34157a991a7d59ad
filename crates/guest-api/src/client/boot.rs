//! The host's side of a boot conversation.

use banger_model::Result;
use tokio::net::UnixStream;

use super::stream::{self, FrameReader};
use super::{broken, tame, tamed, timely};
use crate::frame::Frame;
use crate::{BootConfig, BootReport, Hello};

/// Gives a guest that dialled its configuration and waits for its report.
///
/// The greeting is bounded in time, the report is not: mounting and configuring take as long as
/// they take, and the caller knows the VM's deadline and watches the VMM.
///
/// # Errors
/// [`Code::AgentFailed`](banger_model::Code::AgentFailed) when the guest hangs up or does not
/// keep the protocol. A guest may dial again, so the caller may go on listening.
pub async fn serve_boot(mut stream: UnixStream, config: &BootConfig) -> Result<BootReport> {
    let (mut receive, mut send) = stream.split();
    let mut reader = FrameReader::default();
    timely(async {
        let hello = reader.next(&mut receive).await.map_err(broken)?;
        let hello = hello.ok_or_else(|| broken(std::io::ErrorKind::UnexpectedEof.into()))?;
        // Its version will matter once there are two.
        let Hello { version: _ } = hello.parse().map_err(broken)?;
        let config = Frame::control(config).map_err(broken)?;
        stream::write(&mut send, &config).await.map_err(broken)
    })
    .await?;
    let report = reader.next(&mut receive).await.map_err(broken)?;
    let report = report.ok_or_else(|| broken(std::io::ErrorKind::UnexpectedEof.into()))?;
    Ok(match report.parse().map_err(broken)? {
        BootReport::Failed { step, message } => BootReport::Failed {
            step: tame(&step),
            message: tame(&message),
        },
        BootReport::Ready(info) => BootReport::Ready(tamed(info)),
    })
}
