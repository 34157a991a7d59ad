//! `banger vm kill`

use banger_api::KillSignal;
use banger_config::Paths;
use banger_model::{Code, Error, Result};
use clap::Args;
use clap_complete::CompletionCandidate;
use clap_complete::engine::ArgValueCandidates;

use super::Names;
use crate::connect::connect;
use crate::exit::Exit;
use crate::operation::{OnSignal, for_each};
use crate::ui::Ui;

/// End machines at once, without asking their guests
///
/// What a guest has not written to its disks yet is lost. The machine is `stopped` afterwards and
/// can be started again. Prints the name of each machine that is stopped.
#[derive(Args, Debug)]
pub(crate) struct KillArgs {
    #[command(flatten)]
    names: Names,

    /// Signal that the program running the machine gets: KILL, TERM, INT, HUP or QUIT
    #[arg(
        short, long, value_parser = signal, default_value = "KILL",
        add = ArgValueCandidates::new(signals)
    )]
    signal: KillSignal,
}

pub(crate) async fn cmd_kill(ui: &Ui, args: KillArgs) -> Result<Exit> {
    let client = connect(&Paths::from_env()?).await?;
    let signal = args.signal;
    let kill = async |client: &banger_api::Client, name: &str| client.kill_vm(name, signal).await;
    for_each(
        ui,
        &client,
        args.names.names,
        ("killing", "machines"),
        OnSignal::Insist,
        kill,
    )
    .await
}

/// The signals by name and number on Linux.
const SIGNALS: [(&str, &str, KillSignal); 5] = [
    ("KILL", "9", KillSignal::Kill),
    ("TERM", "15", KillSignal::Term),
    ("INT", "2", KillSignal::Int),
    ("HUP", "1", KillSignal::Hup),
    ("QUIT", "3", KillSignal::Quit),
];

/// A signal as `kill` takes it: with or without `SIG`, in any case, or its number.
fn signal(text: &str) -> Result<KillSignal> {
    let upper = text.to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    SIGNALS
        .into_iter()
        .find(|(name, number, _)| *name == bare || *number == text)
        .map(|(_, _, signal)| signal)
        .ok_or_else(|| {
            Error::new(
                Code::InvalidArgument,
                format!(
                    "`{}` is not a signal that ends a machine",
                    text.escape_debug()
                ),
            )
            .hint("choose one of KILL, TERM, INT, HUP, QUIT")
        })
}

fn signals() -> Vec<CompletionCandidate> {
    SIGNALS
        .iter()
        .map(|(name, _, _)| CompletionCandidate::new(*name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_written_as_for_kill() {
        for (text, expected) in [
            ("KILL", KillSignal::Kill),
            ("SIGTERM", KillSignal::Term),
            ("sigint", KillSignal::Int),
            ("hup", KillSignal::Hup),
            ("3", KillSignal::Quit),
            ("9", KillSignal::Kill),
        ] {
            assert_eq!(signal(text).unwrap(), expected, "{text}");
        }
        for bad in [
            "", "SIG", "STOP", "SIGSTOP", "19", "0", "-9", "SIG9", "USR1",
        ] {
            let error = signal(bad).unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument, "{bad}");
            assert!(error.hint_text().is_some(), "{bad}");
        }
    }
}
