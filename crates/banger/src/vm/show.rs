//! `banger vm show`

use banger_api::{Vm, Workspace};
use banger_config::Paths;
use banger_model::Result;
use clap::Args;
use clap_complete::engine::ArgValueCandidates;

use super::reference;
use crate::completion::vm_names;
use crate::connect::{connect_and_ask, warn_of_other_release};
use crate::exit::Exit;
use crate::ui::{Format, Ui, human_size, key_values};

/// Show everything about a machine
#[derive(Args, Debug)]
pub(crate) struct ShowArgs {
    /// Name, id, or a unique beginning of either
    #[arg(value_parser = reference, add = ArgValueCandidates::new(vm_names))]
    name: String,
}

pub(crate) async fn cmd_show(ui: &Ui, args: ShowArgs) -> Result<Exit> {
    let (client, vm) = connect_and_ask(&Paths::from_env()?, async |client| {
        client.vm(&args.name).await
    })
    .await?;
    warn_of_other_release(ui, &client);
    match ui.format() {
        Format::Table => ui.data(&as_table(vm))?,
        Format::Json => ui.json(&vm)?,
    }
    Ok(Exit::SUCCESS)
}

fn as_table(vm: Vm) -> String {
    let vmm = match vm.vmm_running {
        Some(kind) => match &vm.vmm_reason {
            Some(reason) => format!("{kind} (asked for: {}; {})", vm.vmm, reason),
            None => format!("{kind} (asked for: {})", vm.vmm),
        },
        None => vm.vmm.to_string(),
    };
    let rows = [
        ("name", Some(vm.name)),
        ("id", Some(vm.id)),
        ("state", Some(vm.state.to_string())),
        ("reason", vm.reason),
        ("image", Some(format!("{} ({})", vm.image, vm.image_digest))),
        ("kernel", Some(vm.kernel)),
        ("vcpus", Some(vm.vcpus.to_string())),
        ("memory", Some(human_size(vm.memory))),
        ("disk", Some(human_size(vm.disk_size))),
        (
            "network",
            Some(if vm.nat { "nat" } else { "none" }.to_owned()),
        ),
        ("vmm", Some(vmm)),
        ("pid", vm.pid.map(|pid| pid.to_string())),
        ("created", Some(vm.created_at)),
        ("started", vm.started_at),
        ("boot id", vm.boot_id),
        ("agent", vm.agent_socket),
        ("console", Some(vm.console_log)),
        ("workspace", vm.workspace.map(workspace)),
        (
            "deleted after",
            vm.ephemeral
                .then(|| "the `vm run --rm` that made it".to_owned()),
        ),
    ];
    key_values(
        rows.into_iter()
            .filter_map(|(key, value)| Some((key, value?)))
            .collect(),
    )
}

/// One line about what was copied in, and whether it is all there.
fn workspace(workspace: Workspace) -> String {
    let state = match workspace.complete {
        true => format!("copied {}", workspace.copied_at),
        false => "not copied to its end".to_owned(),
    };
    let (from, to) = (workspace.repository, workspace.guest_path);
    format!("{from} in {to} ({state})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::example;

    #[test]
    fn what_is_not_known_has_no_line() {
        insta::assert_snapshot!(as_table(example()), @r"
        name:      box
        id:        0123456789ab
        state:     running
        image:     debian-bookworm (sha256:00)
        kernel:    debian-6.1
        vcpus:     1
        memory:    2G
        disk:      8G
        network:   none
        vmm:       qemu-tcg (asked for: auto)
        created:   2026-01-01T00:00:00Z
        console:   /x/console.log
        ");
    }
}
