//! Leases: an ephemeral VM lives as long as somebody holds one.

use banger_model::Result;
use tokio_util::sync::CancellationToken;

use super::Handle;
use super::owner::Message;

/// Keeps an ephemeral VM. Dropping the last one has the VM deleted, except when it ends
/// because the daemon stops: then the client takes a new one from the next daemon.
pub(crate) struct Lease {
    handle: Handle,
    shutdown: CancellationToken,
}

impl Lease {
    pub(super) fn take(handle: Handle, shutdown: CancellationToken) -> Result<Lease> {
        handle.send(Message::LeaseTaken)?;
        Ok(Lease { handle, shutdown })
    }

    /// Waits until the VM is gone or the daemon stops.
    pub(crate) async fn ended(&self) {
        tokio::select! {
            () = self.handle.shared.gone().cancelled() => {}
            () = self.shutdown.cancelled() => {}
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.shutdown.is_cancelled() {
            return;
        }
        if let Err(error) = self.handle.send(Message::LeaseEnded) {
            tracing::debug!(%error, "a lease outlived its VM");
        }
    }
}
