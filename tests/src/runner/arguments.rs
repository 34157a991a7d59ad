//! What the suite is asked to run.

use std::path::PathBuf;

use clap::Parser;

use crate::scenario::Scenario;

/// Runs banger's scenarios: black-box tests with real guests.
///
/// Exit codes: 0 when all passed, 1 when some failed, 2 for a mistake on this line, 77 when
/// everything was skipped.
#[derive(Clone, Debug, Parser)]
#[command(name = "scenarios")]
pub(super) struct Arguments {
    /// Runs the scenarios whose names contain any of these; all when there are none.
    #[arg(value_name = "TEXT")]
    pub(super) filters: Vec<String>,
    /// Runs the scenarios with these names.
    #[arg(long, value_delimiter = ',', value_name = "NAME,...")]
    pub(super) scenario: Vec<String>,
    /// Lists those scenarios instead of running them.
    #[arg(long)]
    pub(super) list: bool,
    /// Only pulls what every scenario's world starts with, and runs nothing.
    #[arg(long)]
    pub(super) pull: bool,
    /// How many run side by side.
    #[arg(long, alias = "test-threads", default_value_t = 2, value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(super) jobs: u16,
    /// The VMM of every VM; without it banger chooses.
    #[arg(long, value_parser = ["qemu", "qemu-kvm", "qemu-tcg", "firecracker"])]
    pub(super) vmm: Option<String>,
    /// Nothing beyond this machine can be reached.
    #[arg(long)]
    pub(super) offline: bool,
    /// But a package archive can.
    #[arg(long, requires = "offline")]
    pub(super) archive: bool,
    /// Where worlds are made, inside a build directory.
    #[arg(long, value_name = "DIR")]
    pub(super) ground: Option<PathBuf>,
    /// Runs this one scenario in this process.
    #[arg(long, hide = true)]
    pub(super) here: Option<String>,
}

impl Arguments {
    /// The scenarios that are asked for, in the suite's order.
    ///
    /// # Errors
    /// What is wrong, in words, when a name is unknown or nothing is left.
    pub(super) fn select(&self, suite: &[Scenario]) -> Result<Vec<Scenario>, String> {
        for name in &self.scenario {
            if !suite.iter().any(|scenario| scenario.is_called(name)) {
                return Err(format!(
                    "there is no scenario `{}`; `--list` shows all",
                    name.escape_debug()
                ));
            }
        }
        let all = self.scenario.is_empty() && self.filters.is_empty();
        let wanted = |scenario: &Scenario| {
            all || self.scenario.iter().any(|name| scenario.is_called(name))
                || self.filters.iter().any(|part| scenario.name.contains(part))
        };
        let chosen: Vec<Scenario> = suite
            .iter()
            .filter(|scenario| wanted(scenario))
            .copied()
            .collect();
        if chosen.is_empty() {
            return Err(format!(
                "no scenario's name contains `{}`; `--list` shows all",
                self.filters.join("` or `").escape_debug()
            ));
        }
        Ok(chosen)
    }
}
