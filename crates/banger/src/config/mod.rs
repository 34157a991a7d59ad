//! `banger config …`, and the defaults that `--help` shows.

mod show;

use banger_config::{Config, Host, Paths, Resolved, Source};
use banger_model::Result;
use clap::Subcommand;

use crate::exit::Exit;
use crate::ui::Ui;

/// The commands about the configuration.
#[derive(Subcommand, Debug)]
pub(crate) enum ConfigCommand {
    Show(show::ShowArgs),
}

pub(crate) fn dispatch(ui: &Ui, command: ConfigCommand) -> Result<Exit> {
    match command {
        ConfigCommand::Show(args) => show::cmd_show(ui, args),
    }
}

/// Every default, with where it came from.
pub(crate) fn resolve(paths: &Paths) -> Result<Resolved> {
    let config = Config::load(&paths.config_file)?;
    Resolved::new(&config, Host::measure(), paths.log_level)
}

/// Adds the resolved defaults to the help of the commands that make machines.
///
/// Help must work when the configuration does not, so then there are none.
pub(crate) fn show_defaults_in_help(command: clap::Command) -> clap::Command {
    let Ok(defaults) = Paths::from_env().and_then(|paths| resolve(&paths)) else {
        return command;
    };
    let shown = [
        ("vcpu", text(&defaults.vcpus.value, defaults.vcpus.source)),
        (
            "memory",
            text(&defaults.memory.value, defaults.memory.source),
        ),
        (
            "disk_size",
            text(&defaults.disk_size.value, defaults.disk_size.source),
        ),
        (
            "image",
            text(&defaults.default_image.value, defaults.default_image.source),
        ),
        ("nat", text(&defaults.nat.value, defaults.nat.source)),
        ("vmm", text(&defaults.vmm.value, defaults.vmm.source)),
    ];
    command.mut_subcommand("vm", |mut vm| {
        for name in ["run", "create"] {
            vm = vm.mut_subcommand(name, |mut making| {
                for (argument, default) in &shown {
                    making = making.mut_arg(argument, |argument| {
                        let help = argument
                            .get_help()
                            .map(ToString::to_string)
                            .unwrap_or_default();
                        argument.help(format!("{help} [default: {default}]"))
                    });
                }
                making
            });
        }
        vm
    })
}

fn text(value: &impl std::fmt::Display, source: Source) -> String {
    match source {
        Source::BuiltIn => value.to_string(),
        Source::Host => format!("{value}, from this host"),
        Source::Config => format!("{value}, from the configuration"),
        Source::Environment => format!("{value}, from the environment"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_say_where_they_come_from() {
        assert_eq!(text(&2, Source::Host), "2, from this host");
        assert_eq!(text(&"8G", Source::BuiltIn), "8G");
    }
}
