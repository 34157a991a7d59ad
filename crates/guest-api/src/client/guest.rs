//! What a guest listens on and uses, and connections to its ports.

use std::path::Path;
use std::time::Duration;

use super::Connection;
use super::stream::read_one;
use super::{ask, broken, older, open, tame, timely, timely_within, unexpected};
use crate::{Dial, DiskUse, Listener, MAX_LISTENERS, Reply, Request, Stats};
use banger_model::{Code, Error, Result};

/// More file systems than banger makes are not believed.
const MAX_DISKS: usize = 16;
/// More seconds, or load, than this are not believed either.
const MAX_NUMBER: f64 = 1e12;

/// Connects to a TCP port on the guest's loopback, waiting up to `wait` for something to listen
/// there.
///
/// # Errors
/// [`Code::NotFound`] when nothing listens; [`Code::Conflict`] when the guest's agent is too old;
/// [`Code::AgentFailed`] when it does not answer properly in time.
pub async fn dial(socket: &Path, port: u16, wait: Duration) -> Result<Connection> {
    let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
    let request = Request::Connect(Dial { port, wait_ms });
    let answer = async {
        let mut stream = open(socket, request.clone()).await?;
        // Not one byte more than the frame: the rest is the connection's.
        let frame = read_one(&mut stream).await.map_err(broken)?;
        Ok((stream, frame.parse().map_err(broken)?))
    };
    let wait = Duration::from_millis(wait_ms.into());
    match timely_within(wait, answer).await? {
        (stream, Reply::Done) => Ok(Connection::new(stream)),
        (_, Reply::NothingListens) => Err(Error::new(
            Code::NotFound,
            format!("nothing listens on port {port} in the guest"),
        )
        .hint("start the server in the guest, on 127.0.0.1 or on every address")),
        (_, other) => Err(older(socket, &request, unexpected(&other)).await),
    }
}

/// What the guest listens on, at most [`MAX_LISTENERS`].
///
/// # Errors
/// [`Code::Conflict`] when the guest's agent is too old; [`Code::AgentFailed`] when it does not
/// answer properly in time.
pub async fn listeners(socket: &Path) -> Result<Vec<Listener>> {
    match timely(ask(socket, Request::Listeners)).await? {
        Reply::Listeners { listeners } => Ok(listeners
            .into_iter()
            .take(MAX_LISTENERS)
            .map(|listener| Listener {
                address: tame(&listener.address),
                process: listener.process.as_deref().map(tame),
                ..listener
            })
            .collect()),
        other => Err(older(socket, &Request::Listeners, unexpected(&other)).await),
    }
}

/// What the guest uses.
///
/// # Errors
/// As [`listeners`].
pub async fn stats(socket: &Path) -> Result<Stats> {
    match timely(ask(socket, Request::Stats)).await? {
        Reply::Stats(stats) => Ok(believable(stats)),
        other => Err(older(socket, &Request::Stats, unexpected(&other)).await),
    }
}

/// Numbers one can calculate with: none is negative, and no part exceeds its whole.
fn believable(stats: Stats) -> Stats {
    Stats {
        uptime_seconds: stats.uptime_seconds.clamp(0.0, MAX_NUMBER),
        load_1: stats.load_1.clamp(0.0, MAX_NUMBER),
        memory_available: stats.memory_available.min(stats.memory_total),
        disks: stats
            .disks
            .into_iter()
            .take(MAX_DISKS)
            .map(|disk| DiskUse {
                path: tame(&disk.path),
                total: disk.total,
                used: disk.used.min(disk.total),
            })
            .collect(),
        ..stats
    }
}
