//! `banger vm …`

pub(crate) mod bootstrap;
mod copy;
mod create;
mod delete;
mod exec;
mod forward;
mod keeper;
mod kill;
mod list;
mod logs;
mod machine_args;
mod place;
mod ports;
mod prune;
mod restart;
mod run;
mod set;
mod show;
mod ssh;
mod start;
mod stats;
mod stop;
mod workspace;

use banger_api::Vm;
use banger_config::Paths;
use banger_model::{Code, Error, Result, VmmChoice};
use banger_vmm::{Demand, Facts, choose};
use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCandidates;

pub(crate) use exec::agent_socket;
use exec::lost;

use crate::block_on;
use crate::completion::vm_names;
use crate::doctor::host_facts;
use crate::exit::{Exit, Owner};
use crate::lazy::Lazy;
use crate::ui::{Ui, human_size};

/// The commands about machines.
#[derive(Subcommand, Debug)]
pub(crate) enum VmCommand {
    Run(Lazy<run::RunArgs>),
    Create(Lazy<create::CreateArgs>),
    #[command(visible_alias = "ls")]
    List(Lazy<list::ListArgs>),
    Show(Lazy<show::ShowArgs>),
    Exec(Lazy<exec::ExecArgs>),
    Start(Lazy<start::StartArgs>),
    Stop(Lazy<stop::StopArgs>),
    Restart(Lazy<restart::RestartArgs>),
    Kill(Lazy<kill::KillArgs>),
    #[command(visible_alias = "rm")]
    Delete(Lazy<delete::DeleteArgs>),
    Prune(Lazy<prune::PruneArgs>),
    Set(Lazy<set::SetArgs>),
    Stats(Lazy<stats::StatsArgs>),
    Logs(Lazy<logs::LogsArgs>),
    Ports(Lazy<ports::PortsArgs>),
    Forward(Lazy<forward::ForwardArgs>),
    #[command(name = "cp")]
    Copy(Lazy<copy::CopyArgs>),
    Ssh(Lazy<ssh::SshArgs>),
    #[command(subcommand)]
    Workspace(Lazy<workspace::WorkspaceCommand>),
}

impl VmCommand {
    /// Whom standard output belongs to.
    pub(crate) fn owner_of_stdout(&self) -> Owner {
        match self {
            VmCommand::Run(_) | VmCommand::Exec(_) => Owner::Guest,
            VmCommand::Ssh(_) => Owner::Ssh,
            VmCommand::Logs(_) => Owner::Text,
            VmCommand::Workspace(command) => command.owner_of_stdout(),
            _ => Owner::Banger,
        }
    }

    /// What the parser alone cannot refuse.
    pub(crate) fn check(&self) -> Result<()> {
        match self {
            VmCommand::Run(args) => args.check(),
            VmCommand::Prune(args) => args.check(),
            VmCommand::Copy(args) => args.check(),
            VmCommand::Workspace(command) => command.check(),
            _ => Ok(()),
        }
    }
}

pub(crate) fn dispatch(ui: &Ui, command: VmCommand) -> Result<Exit> {
    match command {
        VmCommand::Run(Lazy(args)) => block_on(run::cmd_run(ui, *args)),
        VmCommand::Create(Lazy(args)) => block_on(create::cmd_create(ui, *args)),
        VmCommand::List(Lazy(args)) => block_on(list::cmd_list(ui, *args)),
        VmCommand::Show(Lazy(args)) => block_on(show::cmd_show(ui, *args)),
        VmCommand::Exec(Lazy(args)) => block_on(exec::cmd_exec(ui, *args)),
        VmCommand::Start(Lazy(args)) => block_on(start::cmd_start(ui, *args)),
        VmCommand::Stop(Lazy(args)) => block_on(stop::cmd_stop(ui, *args)),
        VmCommand::Restart(Lazy(args)) => block_on(restart::cmd_restart(ui, *args)),
        VmCommand::Kill(Lazy(args)) => block_on(kill::cmd_kill(ui, *args)),
        VmCommand::Delete(Lazy(args)) => block_on(delete::cmd_delete(ui, *args)),
        VmCommand::Prune(Lazy(args)) => block_on(prune::cmd_prune(ui, *args)),
        VmCommand::Set(Lazy(args)) => block_on(set::cmd_set(ui, *args)),
        VmCommand::Stats(Lazy(args)) => block_on(stats::cmd_stats(ui, *args)),
        VmCommand::Logs(Lazy(args)) => block_on(logs::cmd_logs(ui, *args)),
        VmCommand::Ports(Lazy(args)) => block_on(ports::cmd_ports(ui, *args)),
        VmCommand::Forward(Lazy(args)) => block_on(forward::cmd_forward(ui, *args)),
        VmCommand::Copy(Lazy(args)) => block_on(copy::cmd_copy(ui, *args)),
        VmCommand::Ssh(Lazy(args)) => block_on(ssh::cmd_ssh(ui, *args)),
        VmCommand::Workspace(Lazy(command)) => workspace::dispatch(ui, *command),
    }
}

/// Several machines.
#[derive(Args, Debug)]
pub(crate) struct Names {
    /// Names, ids, or unique beginnings of either
    #[arg(
        required = true, value_name = "NAME", value_parser = reference,
        add = ArgValueCandidates::new(vm_names)
    )]
    pub(crate) names: Vec<String>,
}

/// Checks what is typed for a machine: a name, an id, or the beginning of one.
pub(crate) fn reference(text: &str) -> Result<String> {
    let could_be_one = (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    if could_be_one {
        return Ok(text.to_owned());
    }
    Err(Error::new(
        Code::InvalidArgument,
        format!("`{}` cannot be the name of a machine", text.escape_debug()),
    )
    .hint("`banger vm list` shows the machines there are"))
}

/// Says in one line what machine is being made.
pub(crate) fn say_spec(ui: &Ui, paths: &Paths, vm: &Vm) {
    if ui.is_quiet() {
        return;
    }
    let vmm = match vm.vmm_running {
        Some(kind) => kind.to_string(),
        None => {
            let demand = Demand {
                vcpus: vm.vcpus,
                nat: vm.nat,
            };
            likely_vmm(vm.vmm, demand, || host_facts(paths))
        }
    };
    ui.say(&spec_line(vm, &vmm));
}

/// The VMM that the daemon, which has not chosen yet, will choose, as far as that is certain.
fn likely_vmm(asked: VmmChoice, demand: Demand, facts: impl FnOnce() -> Facts) -> String {
    if !matches!(asked, VmmChoice::Auto | VmmChoice::Qemu) {
        return asked.to_string();
    }
    match choose(asked, demand, &facts()) {
        Ok(choice) if choice.is_certain => choice.kind.to_string(),
        _ => asked.to_string(),
    }
}

fn spec_line(vm: &Vm, vmm: &str) -> String {
    format!(
        "spec: {} | {} vcpu | {} memory | {} disk | {vmm} | {}",
        vm.image,
        vm.vcpus,
        human_size(vm.memory),
        human_size(vm.disk_size),
        if vm.nat { "nat" } else { "no network" },
    )
}

#[cfg(test)]
pub(crate) fn example() -> Vm {
    serde_json::from_str(
        r#"{
            "id": "0123456789ab", "name": "box", "state": "running", "image": "debian-bookworm",
            "image_digest": "sha256:00", "kernel": "debian-6.1", "vcpus": 1,
            "memory": 2147483648, "disk_size": 8589934592, "nat": false, "vmm": "auto",
            "vmm_running": "qemu-tcg", "ephemeral": false, "created_at": "2026-01-01T00:00:00Z",
            "console_log": "/x/console.log", "ssh_identity": "/x/ssh/id_ed25519", "image_config": {}
        }"#,
    )
    .unwrap()
}

#[cfg(test)]
mod tests {
    use banger_vmm::{DeviceAccess, FirecrackerFacts, KvmFacts, LiveBoot, ProgramFacts};

    use super::*;

    #[test]
    fn the_spec_line_says_what_is_made() {
        let mut vm = example();
        assert_eq!(
            spec_line(&vm, "qemu-tcg"),
            "spec: debian-bookworm | 1 vcpu | 2G memory | 8G disk | qemu-tcg | no network"
        );
        vm.nat = true;
        assert!(spec_line(&vm, "auto").ends_with("| auto | nat"));
    }

    #[test]
    fn only_a_certain_vmm_is_named() {
        let facts = |device, cpu_flag: Option<&str>, live: LiveBoot| Facts {
            arch: "x86_64".into(),
            kvm: KvmFacts {
                device,
                cpu_flag: cpu_flag.map(str::to_owned),
                live: live.clone(),
            },
            firecracker: FirecrackerFacts {
                program: ProgramFacts::Found("/firecracker".into()),
                version: Ok("Firecracker v1.14.1".into()),
                live: live.clone(),
                pasta: ProgramFacts::Missing {
                    message: "gone".into(),
                    hint: "get it".into(),
                },
            },
            qemu: ProgramFacts::Found("/qemu".into()),
            vsock: ProgramFacts::Found("/vsock".into()),
        };
        const OPENS: DeviceAccess = DeviceAccess::Opens { api_version: 12 };
        let absent = || facts(DeviceAccess::Absent, Some("vmx"), LiveBoot::NotTried);
        let unproven = || facts(OPENS, Some("vmx"), LiveBoot::NotTried);
        let works = || facts(OPENS, Some("vmx"), LiveBoot::Works);
        let plain = Demand::default();
        let nat = Demand { nat: true, ..plain };
        assert_eq!(likely_vmm(VmmChoice::Auto, plain, absent), "qemu-tcg");
        assert_eq!(likely_vmm(VmmChoice::Auto, plain, unproven), "auto");
        assert_eq!(likely_vmm(VmmChoice::Auto, plain, works), "firecracker");
        assert_eq!(likely_vmm(VmmChoice::Auto, nat, works), "qemu-kvm");
        assert_eq!(likely_vmm(VmmChoice::QemuKvm, plain, absent), "qemu-kvm");
    }

    #[test]
    fn references_cannot_be_anything_else() {
        for good in ["box", "b", "box-", "0123456789ab"] {
            assert!(reference(good).is_ok(), "{good}");
        }
        for bad in ["", "Box", "a/b", "..", "a b", "-\n", &"a".repeat(64)] {
            assert!(reference(bad).is_err(), "{bad:?}");
        }
    }
}
