//! `banger vm logs`

use std::path::Path;

use banger_config::Paths;
use banger_model::{Result, VmState};
use clap::Args;
use clap_complete::engine::ArgValueCandidates;

use super::reference;
use crate::completion::vm_names;
use crate::connect::{connect_and_ask, warn_of_other_release};
use crate::exit::Exit;
use crate::logs::{Follower, Sink, follow};
use crate::ui::Ui;

/// Print what a machine wrote to its serial console
///
/// Since its last start, running or not. On a terminal, control sequences are left out; into
/// files and pipes the bytes go as they are.
#[derive(Args, Debug)]
pub(crate) struct LogsArgs {
    /// Name, id, or a unique beginning of either
    #[arg(value_parser = reference, add = ArgValueCandidates::new(vm_names))]
    name: String,

    /// Go on with what comes, also across restarts, until the machine is deleted
    #[arg(short, long)]
    follow: bool,

    /// Begin with the last N lines
    #[arg(short = 'n', long, value_name = "N")]
    lines: Option<u64>,
}

pub(crate) async fn cmd_logs(ui: &Ui, args: LogsArgs) -> Result<Exit> {
    let (client, vm) = connect_and_ask(&Paths::from_env()?, async |client| {
        client.vm(&args.name).await
    })
    .await?;
    warn_of_other_release(ui, &client);
    let path = Path::new(&vm.console_log);
    // From here on nothing else happens on this thread, so it may block; Ctrl-C ends us.
    let mut follower = Follower::new(path)?;
    if let Some(lines) = args.lines {
        follower.skip_to_last(lines)?;
    }
    let mut sink = Sink::new(ui);
    if args.follow {
        follow(ui, follower, |bytes| sink.push(bytes))?;
    } else {
        let mut is_empty = true;
        follower.read(&mut |bytes| {
            is_empty = false;
            sink.push(bytes)
        })?;
        if is_empty && vm.state == VmState::Stopped {
            ui.note(&format!("`{}` has written nothing to its console", vm.name));
        }
    }
    sink.finish()?;
    Ok(Exit::SUCCESS)
}
