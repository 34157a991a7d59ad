//! `banger image pull`

use banger_api::PullImage;
use banger_config::Paths;
use banger_model::{ImageName, KernelName, Result};
use clap::Args;
use clap_complete::engine::ArgValueCandidates;

use crate::completion::{catalog_images, kernel_names};
use crate::connect::{connect, warn_of_other_release};
use crate::exit::Exit;
use crate::operation::follow_to_exit;
use crate::signals::Signals;
use crate::ui::Ui;

/// Get an image from a catalog or a registry
///
/// A name that `banger image catalog` does not list is a reference to a registry, in docker's
/// short forms: `alpine:3.20`, `ghcr.io/owner/name`, `localhost:5000/name@sha256:…`. Credentials
/// are those of docker and podman. A pull that breaks off is gone on with by the next one.
///
/// What is in a catalog and here already is left as it is; a registry is asked for something
/// newer.
#[derive(Args, Debug)]
pub(crate) struct PullArgs {
    /// Name in a catalog, or reference
    #[arg(value_name = "NAME", add = ArgValueCandidates::new(catalog_images))]
    name: ImageName,

    /// Kernel that its machines boot; the catalog's default when absent
    #[arg(long, add = ArgValueCandidates::new(kernel_names))]
    kernel: Option<KernelName>,

    /// For which machine, where a registry has several: `linux/amd64` when absent
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,
}

pub(crate) async fn cmd_pull(ui: &Ui, args: PullArgs) -> Result<Exit> {
    let request = PullImage {
        name: args.name.into(),
        kernel: args.kernel.map(String::from),
        platform: args.platform,
    };
    let paths = Paths::from_env()?;
    let mut signals = Signals::listen()?;
    let client = connect(&paths).await?;
    let operation = client.pull_image(&request).await?;
    warn_of_other_release(ui, &client);
    follow_to_exit(ui, &client, &operation, &mut signals).await
}
