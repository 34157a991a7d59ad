//! The daemon's life: start, serve, stop.
//!
//! Order matters: the roots are checked before anything in them is used, the lock is taken
//! before anything is changed, and VMs are reconciled before the first request is answered.

use std::time::Duration;

use banger_config::{Config, Faults, Host, Paths, Resolved};
use banger_model::{Error, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::layout::Layout;
use crate::lock::StateLock;
use crate::server::{self, Api, PrivateSocket};
use crate::vm::{self, Vms};
use crate::{failpoint, log, starter};

/// How long work in progress may take to end when the daemon stops. What does not is settled
/// by the next daemon.
const SETTLE_WITHIN: Duration = Duration::from_secs(6);
/// Enough: the work is done by others, and each thread costs memory.
const THREADS: usize = 2;
/// Blocking calls are disk accesses and launches.
const BLOCKING_THREADS: usize = 16;

/// Runs the daemon to its end.
///
/// # Errors
/// Why it could not start; the starter has been told.
pub(crate) fn run(foreground: bool) -> Result<()> {
    // For every file and socket from here on.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_keep_alive(Duration::from_secs(2))
        .enable_all()
        .build()
        .map_err(|error| Error::internal("cannot start threads").because(error))?;
    let result = runtime.block_on(live(foreground));
    // A blocking call may still be busy with what the next daemon will settle.
    runtime.shutdown_timeout(Duration::from_millis(500));
    result
}

async fn live(foreground: bool) -> Result<()> {
    let started = start(foreground).await;
    let (lock, socket, api) = match started {
        Ok(started) => started,
        Err(error) => {
            starter::failed(&error);
            return Err(error);
        }
    };
    let context = api.context().clone();
    // Before anybody knows of this daemon and could send one.
    let signals = stop_on_signals(context.shutdown.clone())?;
    starter::ready()?;
    tracing::info!("ready");

    let path = context.layout.socket.clone();
    let served = server::serve(socket, api).await;
    // Also when serving ended by itself: everybody must let go.
    context.shutdown.cancel();
    context.operations.cancel_all();
    context.tasks.close();
    if tokio::time::timeout(SETTLE_WITHIN, context.tasks.wait())
        .await
        .is_err()
    {
        tracing::warn!("stopping in the middle of some work; the next daemon settles it");
    }
    signals.abort();
    // Only now: a new daemon could not start before the lock is free anyway.
    if let Err(error) = std::fs::remove_file(&path) {
        tracing::warn!(%error, "the socket stays behind");
    }
    tracing::info!("stopped");
    drop(lock);
    served
}

async fn start(foreground: bool) -> Result<(StateLock, PrivateSocket, Api)> {
    let paths = Paths::from_env()?;
    failpoint::arm(Faults::from_env()?);
    let config = Config::load(&paths.config_file)?;
    let level = Resolved::new(&config, Host::measure(), paths.log_level)?.log_level;
    let layout = Layout::new(&paths);
    layout.ensure_roots()?;
    let lock = StateLock::take(&layout.lock())?;
    log::start(&layout.log(), level.value, foreground)?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        pid = std::process::id(),
        "starting"
    );
    let context = Context::open(layout, &paths, &config).inspect_err(log_failure)?;
    let vms = Vms::new(context.clone());
    vm::reconcile(&vms).await.inspect_err(log_failure)?;
    let socket = PrivateSocket::bind(&context.layout.socket).inspect_err(log_failure)?;
    Ok((lock, socket, Api::new(context, vms)))
}

fn log_failure(error: &Error) {
    tracing::error!("cannot start: {}", error.chain());
}

fn stop_on_signals(stop: CancellationToken) -> Result<JoinHandle<()>> {
    let receive = |kind| {
        signal(kind).map_err(|error| Error::internal("cannot receive signals").because(error))
    };
    let mut terminate = receive(SignalKind::terminate())?;
    let mut interrupt = receive(SignalKind::interrupt())?;
    Ok(tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("told to stop by SIGTERM"),
            _ = interrupt.recv() => tracing::info!("told to stop by SIGINT"),
        }
        stop.cancel();
    }))
}
