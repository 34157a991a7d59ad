//! `banger image promote`

use banger_api::PromoteVm;
use banger_config::Paths;
use banger_model::{ImageName, KernelName, Result};
use clap::Args;
use clap_complete::engine::ArgValueCandidates;

use crate::completion::{image_names, kernel_names, vm_names};
use crate::connect::{connect, warn_of_other_release};
use crate::exit::Exit;
use crate::operation::follow_to_exit;
use crate::signals::Signals;
use crate::ui::Ui;
use crate::vm::reference;

/// Make an image of a stopped machine
///
/// The new image has what is on the machine's root disk, with owners, modes and attributes, and
/// runs commands as the machine's image does. Not in it are `/root`, which is a disk of its own,
/// and what makes the machine that machine: host name, machine-id, ssh host keys. The machine
/// stays as it is.
#[derive(Args, Debug)]
pub(crate) struct PromoteArgs {
    /// Name or id of the machine, or a unique beginning of either
    #[arg(value_parser = reference, add = ArgValueCandidates::new(vm_names))]
    vm: String,

    /// Name of the new image
    #[arg(add = ArgValueCandidates::new(image_names))]
    name: ImageName,

    /// Kernel that its machines boot; the one of the machine when absent
    #[arg(long, add = ArgValueCandidates::new(kernel_names))]
    kernel: Option<KernelName>,

    /// Replace the image that has the name; its machines keep what they have
    #[arg(short, long)]
    force: bool,
}

pub(crate) async fn cmd_promote(ui: &Ui, args: PromoteArgs) -> Result<Exit> {
    let request = PromoteVm {
        name: args.name.into(),
        kernel: args.kernel.map(String::from),
        replace: args.force,
    };
    let paths = Paths::from_env()?;
    let mut signals = Signals::listen()?;
    let client = connect(&paths).await?;
    let operation = client.promote_vm(&args.vm, &request).await?;
    warn_of_other_release(ui, &client);
    follow_to_exit(ui, &client, &operation, &mut signals).await
}
