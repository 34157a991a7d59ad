//! `banger vm list`

use banger_api::Vm;
use banger_config::Paths;
use banger_model::Result;
use clap::Args;
use jiff::Timestamp;

use crate::connect::{connect_and_ask, warn_of_other_release};
use crate::exit::Exit;
use crate::ui::{Format, Ui, age, human_size, table};

/// List all machines
#[derive(Args, Debug)]
pub(crate) struct ListArgs {}

pub(crate) async fn cmd_list(ui: &Ui, _args: ListArgs) -> Result<Exit> {
    let (client, mut vms) =
        connect_and_ask(&Paths::from_env()?, async |client| client.vms().await).await?;
    warn_of_other_release(ui, &client);
    vms.sort_by(|a, b| a.name.cmp(&b.name));
    match ui.format() {
        Format::Table if ui.is_quiet() => ui.names(vms.iter().map(|vm| vm.name.as_str()))?,
        Format::Table => ui.data(&as_table(&vms, Timestamp::now()))?,
        Format::Json => ui.json(&vms)?,
    }
    Ok(Exit::SUCCESS)
}

pub(super) fn as_table(vms: &[Vm], now: Timestamp) -> String {
    let rows = vms
        .iter()
        .map(|vm| {
            vec![
                vm.name.clone(),
                vm.state.to_string(),
                vm.image.clone(),
                vm.vcpus.to_string(),
                human_size(vm.memory),
                human_size(vm.disk_size),
                age(&vm.created_at, now),
            ]
        })
        .collect();
    table(
        &["NAME", "STATE", "IMAGE", "VCPU", "MEMORY", "DISK", "AGE"],
        rows,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::example;

    #[test]
    fn the_table_has_the_documented_columns() {
        let now = "2026-01-01T00:05:00Z".parse().unwrap();
        insta::assert_snapshot!(as_table(&[example()], now), @r"
        NAME   STATE     IMAGE             VCPU   MEMORY   DISK   AGE
        box    running   debian-bookworm   1      2G       8G     5m
        ");
    }
}
