//! One command in a guest, from its first byte to its exit code.
//!
//! The session carries our standard streams to the command and back, byte for byte, keeps the
//! guest's terminal the size of ours, and forwards signals:
//!
//! | sent to us | while the command runs |
//! |---|---|
//! | SIGINT, SIGQUIT, SIGUSR1, SIGUSR2 | forwarded; a third SIGINT within two seconds ends the session |
//! | SIGTERM, SIGHUP | forwarded; five seconds later the session ends whatever the command does |
//! | SIGWINCH | the guest's terminal gets the new size |
//! | SIGTSTP, with a terminal | the terminal is put back, we stop; when continued it is raw again |
//!
//! Ending the session closes the connection; the agent then hangs the command up. Everything
//! that comes from the guest is written where the command meant it to go, and nowhere else.

mod policy;
mod streams;
mod terminal;

use std::io;
use std::path::Path;

use banger_guest_api::client::{self, ExecOutput, ExecReceiver, ExecSender};
use banger_guest_api::{Exec, TtySize};
use banger_model::{Code, Error, Result};
use tokio::signal::unix::{Signal as Listener, SignalKind};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::exit::Exit;
use crate::signals::{Signal, Signals, listener};
use policy::{Action, Policy};
use streams::{Output, Stream};
use terminal::RawMode;

pub(crate) use streams::{Input, read_stdin, stdin_is_null};
pub(crate) use terminal::{forget_typed, terminal_size};

/// How a session ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The command ended.
    Exited(Exit),
    /// We were told to end while the command still ran.
    HungUp(Signal),
    /// Nobody reads our output any more.
    OutputClosed,
}

impl Ended {
    /// The exit code this means for us.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Ended::Exited(exit) => *exit,
            Ended::HungUp(signal) => Exit::signal(signal.number()),
            Ended::OutputClosed => Exit::output_closed(),
        }
    }
}

/// Runs a command in the guest behind `socket`.
///
/// # Errors
/// `agent_failed` when the agent cannot be reached, hangs up or talks nonsense;
/// `command_not_found`, `command_not_executable` or `invalid_argument` when it refuses to start
/// the command; `io` when our own streams fail.
pub(crate) async fn run(socket: &Path, exec: Exec, signals: &mut Signals) -> Result<Ended> {
    let tty = exec.tty.is_some();
    let with_stdin = exec.stdin;
    let program = exec.argv.first().cloned();
    let connected = tokio::select! {
        connected = client::exec(socket, exec) => connected?,
        signal = signals.next_to_end() => return Ok(Ended::HungUp(signal)),
    };
    let (sender, receiver) = connected;
    let terminal = match tty {
        true => Some(Terminal::take()?),
        false => None,
    };
    let last = carry(sender, receiver, with_stdin, terminal, signals).await?;
    match last {
        Last::Exited(code) => Ok(Ended::Exited(Exit::guest(code))),
        Last::Signalled(number) => Ok(Ended::Exited(Exit::signal(number))),
        Last::Refused { code, message } => Err(refused(code, &message, program.as_ref())),
        Last::HungUp(signal) => Ok(Ended::HungUp(signal)),
        Last::OutputClosed => Ok(Ended::OutputClosed),
    }
}

/// The last thing that happens.
enum Last {
    Exited(i32),
    Signalled(i32),
    Refused { code: i32, message: String },
    HungUp(Signal),
    OutputClosed,
}

/// Our terminal while the guest has it.
struct Terminal {
    raw: Option<RawMode>,
    resized: Listener,
    stopped: Listener,
}

impl Terminal {
    fn take() -> Result<Terminal> {
        Ok(Terminal {
            resized: listener(SignalKind::window_change())?,
            stopped: listener(SignalKind::from_raw(SIGTSTP))?,
            raw: Some(RawMode::enter()?),
        })
    }

    /// The next new size; also after we were stopped, because it may have changed meanwhile.
    async fn next_size(&mut self) -> Result<Option<TtySize>> {
        tokio::select! {
            _ = self.resized.recv() => {}
            _ = self.stopped.recv() => self.stop()?,
        }
        Ok(terminal_size())
    }

    /// Stops this process as the default action would have, with the terminal put back.
    fn stop(&mut self) -> Result<()> {
        self.raw = None;
        let stopped =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP);
        stopped.map_err(|error| Error::internal("cannot stop").because(io::Error::from(error)))?;
        self.raw = Some(RawMode::enter()?);
        Ok(())
    }
}

const SIGTSTP: i32 = 20;

/// Carries bytes, signals and sizes until something ends the session.
async fn carry(
    sender: ExecSender,
    receiver: ExecReceiver,
    with_stdin: bool,
    mut terminal: Option<Terminal>,
    signals: &mut Signals,
) -> Result<Last> {
    // Signals and sizes have a task of their own: they wait neither for input that the command
    // does not read nor for output that nobody takes.
    let (control, controls) = mpsc::unbounded_channel();
    let controller = tokio::spawn(send_controls(sender.clone(), controls));
    let feeder = with_stdin.then(|| tokio::spawn(feed(sender)));

    let output = receive(receiver);
    tokio::pin!(output);
    let mut policy = Policy::default();
    let mut hang_up: Option<(Signal, Instant)> = None;
    let last = loop {
        let deadline = hang_up.map_or_else(Instant::now, |(_, at)| at);
        tokio::select! {
            last = &mut output => break last,
            signal = signals.next() => match policy.on(signal, std::time::Instant::now()) {
                Action::Forward => post(&control, Control::Signal(signal.number())),
                Action::ForwardAndHangUpAfter(grace) => {
                    post(&control, Control::Signal(signal.number()));
                    hang_up.get_or_insert((signal, Instant::now() + grace));
                }
                Action::HangUp => break Ok(Last::HungUp(signal)),
            },
            size = next_size(&mut terminal) => match size {
                Ok(Some(size)) => post(&control, Control::Resize(size)),
                Ok(None) => {}
                Err(error) => break Err(error),
            },
            () = sleep_until(deadline), if hang_up.is_some() => {
                let signal = hang_up.map_or(Signal::Terminate, |(signal, _)| signal);
                break Ok(Last::HungUp(signal));
            }
        }
    };
    controller.abort();
    if let Some(feeder) = feeder {
        feeder.abort();
        // Gone when it has let go of standard input.
        feeder.await.ok();
    }
    last
}

async fn next_size(terminal: &mut Option<Terminal>) -> Result<Option<TtySize>> {
    match terminal {
        Some(terminal) => terminal.next_size().await,
        None => std::future::pending().await,
    }
}

enum Control {
    Signal(i32),
    Resize(TtySize),
}

fn post(controls: &mpsc::UnboundedSender<Control>, control: Control) {
    // Fails only when the connection has gone, which the receiving side reports.
    controls.send(control).ok();
}

async fn send_controls(sender: ExecSender, mut controls: mpsc::UnboundedReceiver<Control>) {
    while let Some(control) = controls.recv().await {
        let sent = match control {
            Control::Signal(number) => sender.signal(number).await,
            Control::Resize(size) => sender.resize(size).await,
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Feeds standard input to the command until it ends. That the command has gone is for the
/// receiving side to report.
async fn feed(sender: ExecSender) {
    // Input that cannot be read, of a terminal that has closed or of a directory, is at its end
    // for the command.
    if let Ok(mut input) = streams::read_stdin() {
        while let Some(Ok(bytes)) = input.next().await {
            if sender.send_stdin(&bytes).await.is_err() {
                return;
            }
        }
    }
    sender.close_stdin().await.ok();
}

/// Receives until the command's end and writes what it wrote.
async fn receive(mut receiver: ExecReceiver) -> Result<Last> {
    let mut output: Option<Output> = None;
    let last = loop {
        let (stream, bytes) = match receiver.next().await? {
            ExecOutput::Started { .. } => continue,
            ExecOutput::Stdout(bytes) => (Stream::Out, bytes),
            ExecOutput::Stderr(bytes) => (Stream::Err, bytes),
            ExecOutput::Exited(code) => break Last::Exited(code),
            ExecOutput::Signalled(number) => break Last::Signalled(number),
            ExecOutput::Refused { code, message } => break Last::Refused { code, message },
        };
        let output = output.get_or_insert_with(Output::start);
        if let Err(error) = output.write(stream, bytes).await {
            return cannot_write(error);
        }
    };
    match output {
        Some(mut output) => match output.finish().await {
            Ok(()) => Ok(last),
            Err(error) => cannot_write(error),
        },
        None => Ok(last),
    }
}

fn cannot_write(error: io::Error) -> Result<Last> {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Ok(Last::OutputClosed),
        _ => Err(Error::new(Code::Io, "cannot write the command's output").because(error)),
    }
}

/// The error for a command that the agent did not start. The numbers are the protocol's.
fn refused(code: i32, message: &str, program: Option<&banger_guest_api::ByteString>) -> Error {
    let program = program.map_or_else(
        || "the login shell".to_owned(),
        |program| format!("`{}`", program.as_os_str().to_string_lossy()),
    );
    let code = match code {
        127 => Code::CommandNotFound,
        126 => Code::CommandNotExecutable,
        _ => Code::InvalidArgument,
    };
    Error::new(code, format!("the guest cannot run {program}"))
        .because(io::Error::other(message.to_owned()))
}
