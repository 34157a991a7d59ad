//! `banger vm create`

use banger_api::{CreateVm, DeleteOptions};
use banger_config::Paths;
use banger_model::Result;
use clap::Args;

use super::machine_args::MachineArgs;
use super::run::delete;
use super::say_spec;
use crate::connect::{connect, warn_of_other_release};
use crate::exit::Exit;
use crate::operation::{Followed, NOTHING_LEFT, OnSignal, follow};
use crate::signals::Signals;
use crate::ui::{Format, Progress, Ui};

/// Make a machine without running a command in it
///
/// Prints its name.
#[derive(Args, Debug)]
pub(crate) struct CreateArgs {
    /// Make it, but do not start it
    #[arg(long)]
    no_start: bool,

    #[command(flatten)]
    machine: MachineArgs,
}

pub(crate) async fn cmd_create(ui: &Ui, args: CreateArgs) -> Result<Exit> {
    let request = CreateVm {
        start: !args.no_start,
        ..args.machine.request()
    };
    let paths = Paths::from_env()?;
    let mut signals = Signals::listen()?;
    let client = tokio::select! {
        client = connect(&paths) => client?,
        signal = signals.next_to_end() => return Ok(Exit::signal(signal.number())),
    };
    let operation = match signals.hold(client.create_vm(&request)).await {
        Ok(operation) => operation?,
        Err(signal) => {
            ui.say("the daemon does not answer; `banger vm list` shows what became of the machine");
            return Ok(Exit::signal(signal.number()));
        }
    };
    warn_of_other_release(ui, &client);
    let reference = operation.vm_id.as_deref().unwrap_or(&operation.subject);
    if let Ok(vm) = client.vm(reference).await {
        say_spec(ui, &paths, &vm);
    }
    let progress = Progress::new(ui);
    match follow(
        ui,
        &client,
        &operation,
        &mut signals,
        progress,
        OnSignal::Cancel,
    )
    .await?
    {
        Followed::Done => {}
        Followed::TooLate(signal) => {
            delete(
                ui,
                &client,
                reference,
                DeleteOptions::default(),
                &mut signals,
            )
            .await?;
            ui.say(NOTHING_LEFT);
            return Ok(Exit::signal(signal.number()));
        }
        Followed::Cancelled(signal) | Followed::Left(signal) => {
            return Ok(Exit::signal(signal.number()));
        }
    }
    match ui.format() {
        Format::Table => ui.data(&operation.subject)?,
        Format::Json => ui.json(&client.vm(reference).await?)?,
    }
    Ok(Exit::SUCCESS)
}
