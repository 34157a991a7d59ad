//! Following work that the daemon does, and what Ctrl-C means meanwhile.
//!
//! Operations outlive us: whatever happens here, the daemon finishes or undoes them.

use std::cell::RefCell;

use banger_api::{Client, Operation, OperationKind};
use banger_model::{Code, Error, Result};
use futures_util::future::join_all;

use crate::exit::Exit;
use crate::saved::say_saved;
use crate::signals::{Signal, Signals};
use crate::ui::{ErrorReport, Format, Progress, Ui};

/// What the first signal does to an operation we wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnSignal {
    /// Cancels it; we wait until it is undone, a second signal stops the waiting.
    Cancel,
    /// Is remarked upon; a second signal stops the waiting.
    Insist,
}

/// How waiting for an operation ended.
#[derive(Debug)]
pub(crate) enum Followed {
    /// It succeeded.
    Done,
    /// It was cancelled and is undone.
    Cancelled(Signal),
    /// It was to be cancelled, but succeeded before it could be.
    TooLate(Signal),
    /// It goes on without us.
    Left(Signal),
}

/// What is said when something was cancelled and undone.
pub(crate) const NOTHING_LEFT: &str = "cancelled; nothing is left behind";

/// Waits for an operation. Says what a signal did to it.
///
/// # Errors
/// The operation's own.
pub(crate) async fn follow(
    ui: &Ui,
    client: &Client,
    operation: &Operation,
    signals: &mut Signals,
    progress: Progress,
    on_signal: OnSignal,
) -> Result<Followed> {
    let progress = RefCell::new(progress);
    let wait = client.wait(&operation.id, |stage| progress.borrow_mut().stage(stage));
    tokio::pin!(wait);
    let first = tokio::select! {
        biased;
        done = &mut wait => {
            let operation = done?;
            progress.borrow_mut().clear();
            warn(ui, &operation);
            say_saved(ui, &operation);
            return Ok(Followed::Done);
        }
        signal = signals.next_to_end() => signal,
    };
    match on_signal {
        OnSignal::Cancel => {
            progress.borrow_mut().say("cancelling");
            cancel(client, &operation.id).await?;
        }
        OnSignal::Insist => {
            progress.borrow_mut().clear();
            ui.say(&format!(
                "{}; interrupt again to stop waiting",
                in_progress(operation)
            ));
        }
    }
    let result = tokio::select! {
        biased;
        done = &mut wait => done,
        _ = signals.next_to_end() => {
            progress.borrow_mut().clear();
            ui.say(&left_alone(operation, on_signal));
            return Ok(Followed::Left(first));
        }
    };
    progress.borrow_mut().clear();
    match result {
        Err(error) if error.code() == Code::Cancelled => {
            ui.say(NOTHING_LEFT);
            Ok(Followed::Cancelled(first))
        }
        Err(error) => Err(error),
        Ok(operation) => {
            say_saved(ui, &operation);
            Ok(match on_signal {
                OnSignal::Cancel => Followed::TooLate(first),
                OnSignal::Insist => {
                    warn(ui, &operation);
                    Followed::Done
                }
            })
        }
    }
}

/// Says what is not as asked although the operation succeeded.
fn warn(ui: &Ui, operation: &Operation) {
    for warning in &operation.warnings {
        ui.warn_only(warning);
    }
}

/// Asks for an operation's end. One that has ended, or cannot be cancelled, is left alone: its
/// own outcome tells.
async fn cancel(client: &Client, id: &str) -> Result<()> {
    match client.cancel(id).await {
        Err(error) if !matches!(error.code(), Code::NotFound | Code::Conflict) => Err(error),
        _ => Ok(()),
    }
}

/// Follows a pull, or another operation whose outcome is all there is to say.
pub(crate) async fn follow_to_exit(
    ui: &Ui,
    client: &Client,
    operation: &Operation,
    signals: &mut Signals,
) -> Result<Exit> {
    let progress = Progress::new(ui);
    match follow(ui, client, operation, signals, progress, OnSignal::Cancel).await? {
        Followed::Done => Ok(Exit::SUCCESS),
        Followed::Cancelled(signal) | Followed::TooLate(signal) | Followed::Left(signal) => {
            Ok(Exit::signal(signal.number()))
        }
    }
}

/// What is being done to what, such as `("deleting", "machines")`.
pub(crate) type Doing<'a> = (&'a str, &'a str);

/// Does the same to several things at once. All are attempted; what went well is printed as
/// data, a name a line, what did not as errors.
pub(crate) async fn for_each(
    ui: &Ui,
    client: &Client,
    mut names: Vec<String>,
    doing: Doing<'_>,
    on_signal: OnSignal,
    begin: impl AsyncFn(&Client, &str) -> Result<Operation>,
) -> Result<Exit> {
    names.sort_unstable();
    names.dedup();
    match run_all(ui, client, names.clone(), doing, on_signal, begin).await? {
        Ok((results, interrupted)) => {
            let exit = exit_of(&results, interrupted);
            report(ui, &names, results)?;
            Ok(exit)
        }
        Err(exit) => Ok(exit),
    }
}

/// What became of each, and the signal that came meanwhile.
type Outcomes = (Vec<Result<Operation>>, Option<Signal>);

/// Begins the operations, side by side, and waits for all. The results are in the order of the
/// sorted names. The inner error is the exit code when the user does not want to wait.
pub(crate) async fn run_all(
    ui: &Ui,
    client: &Client,
    mut names: Vec<String>,
    doing: Doing<'_>,
    on_signal: OnSignal,
    begin: impl AsyncFn(&Client, &str) -> Result<Operation>,
) -> Result<Result<Outcomes, Exit>> {
    names.sort_unstable();
    let mut signals = Signals::listen()?;
    let progress = RefCell::new(Progress::new(ui));
    if names.len() > 1 {
        progress
            .borrow_mut()
            .say(&format!("{} {} {}", doing.0, names.len(), doing.1));
    }
    let begun = RefCell::new(Vec::new());
    let alone = names.len() == 1;
    let all = join_all(names.iter().map(|name| async {
        let operation = begin(client, name).await?;
        begun.borrow_mut().push(operation.id.clone());
        let show = |stage: &_| {
            if alone {
                progress.borrow_mut().stage(stage);
            }
        };
        client.wait(&operation.id, show).await
    }));
    tokio::pin!(all);

    let mut interrupted = None;
    let results: Vec<Result<Operation>> = loop {
        tokio::select! {
            biased;
            results = &mut all => break results,
            signal = signals.next_to_end() => {
                if let Some(first) = interrupted.replace(signal) {
                    progress.borrow_mut().clear();
                    ui.say("not waiting any longer; the daemon goes on");
                    return Ok(Err(Exit::signal(Signal::number(first))));
                }
                if on_signal == OnSignal::Cancel {
                    progress.borrow_mut().say("cancelling");
                    let ids = begun.borrow().clone();
                    for id in ids {
                        cancel(client, &id).await?;
                    }
                } else {
                    progress.borrow_mut().clear();
                    ui.say("not finished; interrupt again to stop waiting");
                }
            }
        }
    };
    progress.borrow_mut().clear();
    Ok(Ok((results, interrupted)))
}

/// The exit code of several operations.
pub(crate) fn exit_of(results: &[Result<Operation>], interrupted: Option<Signal>) -> Exit {
    let failed = results.iter().any(Result::is_err);
    match interrupted {
        Some(signal) if failed => Exit::signal(signal.number()),
        _ if failed => Exit::FAILURE,
        _ => Exit::SUCCESS,
    }
}

/// Prints what went well as data and what did not as errors, or both as one JSON list.
pub(crate) fn report(ui: &Ui, names: &[String], results: Vec<Result<Operation>>) -> Result<()> {
    for operation in results.iter().flatten() {
        match results.len() {
            1 => warn(ui, operation),
            _ => operation
                .warnings
                .iter()
                .for_each(|warning| ui.warn_only(&format!("{}: {warning}", operation.subject))),
        }
    }
    if ui.format() == Format::Json {
        let reports: Vec<_> = names
            .iter()
            .zip(&results)
            .map(|(name, result)| ErrorReport {
                name: full_name(name, result),
                saved: result.as_ref().ok().and_then(|done| done.saved.clone()),
                error: result.as_ref().err().map(Into::into),
                warnings: result
                    .as_ref()
                    .map(|operation| operation.warnings.clone())
                    .unwrap_or_default(),
            })
            .collect();
        return ui.json(&reports);
    }
    for (name, result) in names.iter().zip(&results) {
        match result {
            Ok(operation) => {
                ui.data(&full_name(name, result))?;
                say_saved(ui, operation);
            }
            Err(error) => ui.error(error),
        }
    }
    Ok(())
}

/// The machine's name, where only a prefix was typed.
fn full_name(typed: &str, result: &Result<Operation, Error>) -> String {
    result
        .as_ref()
        .map_or_else(|_| typed.to_owned(), |operation| operation.subject.clone())
}

fn in_progress(operation: &Operation) -> String {
    let what = match operation.kind {
        OperationKind::CreateVm => "making",
        OperationKind::StartVm => "starting",
        OperationKind::StopVm => "stopping",
        OperationKind::RestartVm => "restarting",
        OperationKind::KillVm => "killing",
        OperationKind::SetVm => "changing",
        OperationKind::DeleteVm => "deleting",
        OperationKind::PullImage => "pulling image",
        OperationKind::RegisterImage => "registering image",
        OperationKind::LoadImage => "loading image",
        OperationKind::PromoteVm => "making an image,",
        OperationKind::DeleteImage => "deleting image",
        OperationKind::PullKernel => "pulling kernel",
        OperationKind::ImportKernel => "importing kernel",
        OperationKind::DeleteKernel => "deleting kernel",
    };
    format!("{what} `{}`", operation.subject)
}

fn left_alone(operation: &Operation, on_signal: OnSignal) -> String {
    let how = match on_signal {
        OnSignal::Cancel => "not waiting any longer; the daemon goes on undoing: ",
        OnSignal::Insist => "not waiting any longer; the daemon goes on: ",
    };
    format!("{how}{}", in_progress(operation))
}
