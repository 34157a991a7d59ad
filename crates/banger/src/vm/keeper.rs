//! Keeping the lease on a machine of `vm run --rm`, also across a restart of the daemon.

use std::time::Duration;

use banger_api::{Client, Lease};
use banger_config::Paths;
use banger_model::Code;

use crate::connect::connect;

/// Keeps the lease until dropped.
pub(super) struct Keeper(tokio::task::JoinHandle<()>);

/// Between two attempts to take the lease again, and how many there are: as long as the
/// daemon waits for us.
const RETRY: (Duration, usize) = (Duration::from_millis(500), 60);

impl Keeper {
    /// Keeps this lease, and those that follow it.
    pub(super) fn new(paths: Paths, client: Client, id: String, lease: Lease) -> Keeper {
        Keeper(tokio::spawn(keep(paths, client, id, lease)))
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn keep(paths: Paths, mut client: Client, id: String, mut lease: Lease) {
    loop {
        // Whether in good order or not: either the machine has gone or the daemon has.
        lease.ended().await.ok();
        let mut attempts = 0..RETRY.1;
        lease = loop {
            match client.lease(&id).await {
                Ok(lease) => break lease,
                Err(error) if matches!(error.code(), Code::NotFound | Code::Conflict) => return,
                Err(_) if attempts.next().is_none() => return,
                Err(_) => tokio::time::sleep(RETRY.0).await,
            }
            if let Ok(found) = connect(&paths).await {
                client = found;
            }
        };
    }
}
