//! `banger vm set`

use banger_api::SetVm;
use banger_config::Paths;
use banger_model::{ByteSize, Result};
use clap::{ArgGroup, Args};

use super::Names;
use super::machine_args::{disk_size, memory, vcpus};
use crate::connect::connect;
use crate::exit::Exit;
use crate::operation::{OnSignal, for_each};
use crate::ui::Ui;

/// Change machines
///
/// The next start uses the new values. A disk only grows. At least one change is needed; several
/// machines get the same. Prints the name of each machine that is changed.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("change").required(true).multiple(true))]
pub(crate) struct SetArgs {
    #[command(flatten)]
    names: Names,

    /// Virtual processors
    #[arg(long, value_name = "N", value_parser = vcpus, group = "change")]
    vcpu: Option<u32>,

    /// Memory, such as `512M` or `2G`
    #[arg(long, value_name = "SIZE", value_parser = memory, group = "change")]
    memory: Option<ByteSize>,

    /// Size of the disk on `/root`
    #[arg(long, value_name = "SIZE", value_parser = disk_size, group = "change")]
    disk_size: Option<ByteSize>,

    /// Let the guest reach outside networks
    #[arg(
        long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true",
        require_equals = true, group = "change"
    )]
    nat: Option<bool>,

    /// Do not let the guest reach outside networks
    #[arg(long, group = "change", conflicts_with = "nat")]
    no_nat: bool,
}

impl SetArgs {
    fn change(&self) -> SetVm {
        SetVm {
            vcpus: self.vcpu,
            memory: self.memory,
            disk_size: self.disk_size,
            nat: if self.no_nat { Some(false) } else { self.nat },
        }
    }
}

pub(crate) async fn cmd_set(ui: &Ui, args: SetArgs) -> Result<Exit> {
    let change = args.change();
    let client = connect(&Paths::from_env()?).await?;
    let set = async |client: &banger_api::Client, name: &str| client.set_vm(name, &change).await;
    for_each(
        ui,
        &client,
        args.names.names,
        ("changing", "machines"),
        OnSignal::Insist,
        set,
    )
    .await
}
