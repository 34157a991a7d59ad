//! How far a transfer is, in bytes that are really there.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use banger_model::Digest;
use tokio::sync::watch;

/// Bytes of an image that are on this machine, and how many there will be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transfer {
    /// Bytes that are there: found in the cache, taken up from an earlier pull, or received.
    pub done: u64,
    /// Bytes of all layers and the config; 0 until the manifest was read. For an archive, its
    /// length where that is known.
    pub total: u64,
}

/// Adds up what is there of each blob.
pub(crate) struct Meter<'a> {
    sender: &'a watch::Sender<Transfer>,
    done: Mutex<HashMap<Digest, u64>>,
}

impl<'a> Meter<'a> {
    pub(crate) fn new(sender: &'a watch::Sender<Transfer>, total: u64) -> Self {
        sender.send_replace(Transfer { done: 0, total });
        Meter {
            sender,
            done: Mutex::default(),
        }
    }

    /// Says that `done` bytes of `blob` are there.
    pub(crate) fn set(&self, blob: &Digest, done: u64) {
        let mut table = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        table.insert(blob.clone(), done);
        let sum = table.values().sum();
        self.sender.send_if_modified(|transfer| {
            let changed = transfer.done != sum;
            transfer.done = sum;
            changed
        });
    }
}
