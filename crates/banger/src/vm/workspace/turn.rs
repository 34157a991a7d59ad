//! Working on a machine's workspace one after the other.

use std::time::Duration;

use banger_api::{Client, Lease};
use banger_model::Result;

use crate::ui::{Progress, Ui};

/// What takes no longer needs no word.
const SOON: Duration = Duration::from_millis(500);

/// Waits until nobody else works on the workspace of the machine.
pub(super) async fn take(ui: &Ui, client: &Client, vm_id: &str) -> Result<Lease> {
    let say = async {
        tokio::time::sleep(SOON).await;
        let mut progress = Progress::new(ui);
        progress.say("waiting for another copy or export");
        std::future::pending::<std::convert::Infallible>().await
    };
    tokio::select! {
        biased;
        turn = client.workspace_turn(vm_id) => turn,
        never = say => match never {},
    }
}
