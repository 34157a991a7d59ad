//! One virtqueue: the ring in the guest's memory and the descriptors that ring its bell.

use std::fs::File;
use std::io::{self, Read, Write};

use virtio_queue::{DescriptorChain, Queue, QueueT};
use vm_memory::GuestMemoryMmap;

/// The most entries a ring may have.
pub(crate) const MAX_SIZE: u16 = 1024;

/// See the module. Serves only between the frontend's `SET_VRING_KICK` and `GET_VRING_BASE`,
/// while it is enabled.
#[derive(Debug)]
pub(crate) struct Ring {
    pub(crate) queue: Queue,
    pub(crate) enabled: bool,
    kick: Option<File>,
    call: Option<File>,
    /// Whether `kick` has changed since the event loop looked.
    kick_is_new: bool,
    /// Kick descriptors the event loop watches and must not any more. QEMU has the same open
    /// files, so closing ours would not end the watch.
    old_kicks: Vec<File>,
    /// Whether something was put on it since the guest was told.
    used: bool,
}

impl Ring {
    pub(crate) fn new() -> Result<Ring, virtio_queue::Error> {
        Ok(Ring {
            queue: Queue::new(MAX_SIZE)?,
            enabled: false,
            kick: None,
            call: None,
            kick_is_new: false,
            old_kicks: Vec::new(),
            used: false,
        })
    }

    pub(crate) fn start(&mut self, kick: Option<File>) {
        self.retire_kick();
        self.kick = kick;
        self.kick_is_new = true;
        self.queue.set_ready(true);
    }

    fn retire_kick(&mut self) {
        let watched = !std::mem::take(&mut self.kick_is_new);
        let old = self.kick.take();
        self.old_kicks.extend(old.filter(|_| watched));
    }

    /// Kick descriptors that are to be watched no more.
    pub(crate) fn take_old_kicks(&mut self) -> Vec<File> {
        std::mem::take(&mut self.old_kicks)
    }

    /// Stops it; says where it was.
    pub(crate) fn stop(&mut self) -> u16 {
        let next = self.queue.next_avail();
        self.queue.set_ready(false);
        self.retire_kick();
        self.call = None;
        self.used = false;
        next
    }

    pub(crate) fn set_call(&mut self, call: Option<File>) {
        self.call = call;
    }

    /// The kick descriptor, once after it was set.
    pub(crate) fn new_kick(&mut self) -> Option<&File> {
        std::mem::take(&mut self.kick_is_new)
            .then_some(self.kick.as_ref())
            .flatten()
    }

    /// Takes the guest's knock off the descriptor.
    pub(crate) fn answer_kick(&self) -> io::Result<()> {
        let Some(mut kick) = self.kick.as_ref() else {
            return Ok(());
        };
        // An eventfd: always eight bytes, ready because the event loop said so.
        let mut count = [0; 8];
        match kick.read_exact(&mut count) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            other => other,
        }
    }

    /// Whether it serves.
    pub(crate) fn serves(&self, memory: &GuestMemoryMmap) -> bool {
        self.enabled && self.queue.ready() && self.queue.is_valid(memory)
    }

    /// The next buffer of the guest's. When there is none, the guest will knock.
    pub(crate) fn pop<'m>(
        &mut self,
        memory: &'m GuestMemoryMmap,
    ) -> Result<Option<DescriptorChain<&'m GuestMemoryMmap>>, virtio_queue::Error> {
        if let Some(chain) = self.queue.pop_descriptor_chain(memory) {
            return Ok(Some(chain));
        }
        // True when one came in the meantime.
        if !self.queue.enable_notification(memory)? {
            return Ok(None);
        }
        match self.queue.pop_descriptor_chain(memory) {
            Some(chain) => Ok(Some(chain)),
            // The index in the guest's memory is one that no driver writes.
            None => Err(virtio_queue::Error::InvalidAvailRingIndex),
        }
    }

    /// Gives a buffer back with `len` bytes in it.
    pub(crate) fn give_back(
        &mut self,
        memory: &GuestMemoryMmap,
        head: u16,
        len: usize,
    ) -> Result<(), virtio_queue::Error> {
        self.queue.add_used(memory, head, len as u32)?;
        self.used = true;
        Ok(())
    }

    /// Tells the guest what was given back, if it wants to know.
    pub(crate) fn tell(&mut self, memory: &GuestMemoryMmap) -> io::Result<()> {
        if !std::mem::take(&mut self.used) {
            return Ok(());
        }
        let wanted = self
            .queue
            .needs_notification(memory)
            .map_err(io::Error::other)?;
        match self.call.as_ref() {
            Some(mut call) if wanted => call.write_all(&1u64.to_ne_bytes()),
            _ => Ok(()),
        }
    }
}
