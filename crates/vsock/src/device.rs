//! Carries packets between the rings and the streams.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use virtio_queue::{QueueOwnedT, Reader, Writer};

use crate::frontend::{FROM_GUEST, Frontend, TO_GUEST};
use crate::mux::Mux;
use crate::packet::{HEADER, MAX_PAYLOAD};

/// How many packets are carried one way before the other way, and other events, get a turn.
const TURN: usize = 64;

/// See the module.
#[derive(Debug)]
pub(crate) struct Device {
    /// One packet's payload on its way.
    payload: Vec<u8>,
    /// Rings that hold what no driver writes; each is said once and served no more.
    broken: [bool; 2],
}

impl Device {
    pub(crate) fn new() -> Device {
        Device {
            payload: vec![0; MAX_PAYLOAD],
            broken: [false; 2],
        }
    }

    /// The guest's driver begins anew, with new rings.
    pub(crate) fn restart(&mut self) {
        self.broken = [false; 2];
    }

    /// Carries what can be carried, for a while. Says whether there may be more: then it wants
    /// to be called again, after other events had their turn.
    pub(crate) fn carry(
        &mut self,
        frontend: &mut Frontend,
        mux: &mut Mux,
        epoll: impl AsFd,
    ) -> bool {
        let mut more = false;
        for (ring, name) in [(FROM_GUEST, "from"), (TO_GUEST, "to")] {
            if self.broken[ring] || !frontend.rings[ring].serves(&frontend.memory) {
                continue;
            }
            let carried = match ring {
                FROM_GUEST => self.take(frontend, mux, &epoll),
                _ => self.give(frontend, mux),
            };
            let told = frontend.rings[ring].tell(&frontend.memory);
            match carried.and_then(|carried| told.map(|()| carried)) {
                Ok(carried) => more |= carried,
                Err(error) => {
                    self.broken[ring] = true;
                    eprintln!("banger-vsock: the ring {name} the guest is broken: {error}");
                }
            }
        }
        // A packet from the guest may have made work for the other ring, which had its turn
        // after it, or filled the resets, which `give` has emptied.
        more
    }

    /// Takes packets from the guest.
    fn take(
        &mut self,
        frontend: &mut Frontend,
        mux: &mut Mux,
        epoll: impl AsFd,
    ) -> io::Result<bool> {
        let memory = &frontend.memory;
        let ring = &mut frontend.rings[FROM_GUEST];
        for _ in 0..TURN {
            if !mux.has_room() {
                // Goes on when the guest has taken its resets; it knocks for that.
                return Ok(false);
            }
            let Some(chain) = ring.pop(memory).map_err(io::Error::other)? else {
                return Ok(false);
            };
            let head = chain.head_index();
            let mut header = [0; HEADER];
            // A buffer that makes no sense is given back unread.
            if let Ok(mut reader) = Reader::new(memory, chain)
                && reader.read_exact(&mut header).is_ok()
            {
                let len = u32::from_le_bytes([header[24], header[25], header[26], header[27]]);
                let len = len as usize;
                if len <= MAX_PAYLOAD && reader.read_exact(&mut self.payload[..len]).is_ok() {
                    mux.on_packet(&epoll, &header, &self.payload[..len]);
                }
            }
            ring.give_back(memory, head, 0).map_err(io::Error::other)?;
        }
        Ok(true)
    }

    /// Gives packets to the guest.
    fn give(&mut self, frontend: &mut Frontend, mux: &mut Mux) -> io::Result<bool> {
        let memory = &frontend.memory;
        let ring = &mut frontend.rings[TO_GUEST];
        let was_full = !mux.has_room();
        for _ in 0..TURN {
            if !mux.has_packet() {
                break;
            }
            let Some(chain) = ring.pop(memory).map_err(io::Error::other)? else {
                // The guest knocks when it has new buffers.
                return Ok(false);
            };
            let head = chain.head_index();
            let mut len = 0;
            if let Ok(mut writer) = Writer::new(memory, chain)
                && let Some(room) = writer.available_bytes().checked_sub(HEADER)
                && room > 0
            {
                let room = room.min(MAX_PAYLOAD);
                match mux.next_packet(&mut self.payload[..room]) {
                    Some(header) => len = write(&mut writer, &header, &self.payload)?,
                    None => {
                        ring.queue.go_to_previous_position();
                        break;
                    }
                }
            }
            ring.give_back(memory, head, len)
                .map_err(io::Error::other)?;
        }
        Ok(mux.has_packet() || (was_full && mux.has_room()))
    }
}

/// Writes a packet; says how long it is.
fn write(writer: &mut Writer<'_>, header: &[u8; HEADER], payload: &[u8]) -> io::Result<usize> {
    let len = u32::from_le_bytes([header[24], header[25], header[26], header[27]]) as usize;
    writer.write_all(header)?;
    writer.write_all(&payload[..len])?;
    Ok(HEADER + len)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustix::event::epoll;
    use virtio_queue::QueueT;
    use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

    use super::*;

    const MEMORY: usize = 64 << 10;
    const RING_SIZE: u16 = 16;

    /// A device over this guest memory, with both rings at its start.
    fn ground(
        memory: &[u8],
    ) -> (
        Device,
        Frontend,
        Mux,
        std::os::fd::OwnedFd,
        tempfile::TempDir,
    ) {
        let scratch = tempfile::tempdir().unwrap();
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let mux = Mux::new(&scratch.path().join("agent.sock"), 3, 1, 8).unwrap();
        let mut frontend = Frontend::new(3).unwrap();
        frontend.memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap();
        frontend
            .memory
            .write_slice(memory, GuestAddress(0))
            .unwrap();
        for (index, ring) in frontend.rings.iter_mut().enumerate() {
            let start = index as u32 * 0x1000;
            ring.queue.set_size(RING_SIZE);
            ring.queue.set_desc_table_address(Some(start), Some(0));
            ring.queue
                .set_avail_ring_address(Some(start + 0x400), Some(0));
            ring.queue
                .set_used_ring_address(Some(start + 0x800), Some(0));
            ring.queue.set_event_idx(true);
            ring.enabled = true;
            ring.start(None);
        }
        (Device::new(), frontend, mux, epoll, scratch)
    }

    #[test]
    fn an_index_that_no_driver_writes_ends_the_ring_and_not_the_program() {
        let mut memory = vec![0; MEMORY];
        // The available index of the ring from the guest, far ahead of its size.
        memory[0x1402..0x1404].copy_from_slice(&9999u16.to_le_bytes());
        let (mut device, mut frontend, mut mux, epoll, _scratch) = ground(&memory);
        assert!(!device.carry(&mut frontend, &mut mux, &epoll));
        assert_eq!(device.broken, [false, true]);
        assert!(!device.carry(&mut frontend, &mut mux, &epoll));
        device.restart();
        assert_eq!(device.broken, [false, false]);
    }

    #[test]
    fn a_request_comes_in_and_its_reset_goes_out() {
        let mut memory = vec![0; MEMORY];
        let descriptor = |at: u64, len: u32, flags: u16| {
            let mut bytes = Vec::new();
            bytes.extend(at.to_le_bytes());
            bytes.extend(len.to_le_bytes());
            bytes.extend(flags.to_le_bytes());
            bytes.extend([0, 0]);
            bytes
        };
        // One buffer for the guest to receive in (writable), one that it sends.
        memory[0..16].copy_from_slice(&descriptor(0x8000, 1000, 2));
        memory[0x402] = 1;
        memory[0x1000..0x1010].copy_from_slice(&descriptor(0x9000, 44, 0));
        memory[0x1402] = 1;
        // cid 3 port 7 asks for port 5 of cid 2.
        let request = [
            &3u64.to_le_bytes()[..],
            &2u64.to_le_bytes(),
            &7u32.to_le_bytes(),
            &5u32.to_le_bytes(),
            &0u32.to_le_bytes(),
            &1u16.to_le_bytes(),
            &1u16.to_le_bytes(),
            &[0; 12],
        ]
        .concat();
        memory[0x9000..0x902c].copy_from_slice(&request);
        let (mut device, mut frontend, mut mux, epoll, _scratch) = ground(&memory);
        device.carry(&mut frontend, &mut mux, &epoll);
        let mut answer = [0; HEADER];
        frontend
            .memory
            .read_slice(&mut answer, GuestAddress(0x8000))
            .unwrap();
        assert_eq!(answer[30..32], 3u16.to_le_bytes(), "a reset");
        assert_eq!(answer[20..24], 7u32.to_le_bytes(), "for who asked");
        // Both buffers were given back, the received one with its length.
        let used = |at: u64| frontend.memory.read_obj::<u16>(GuestAddress(at)).unwrap();
        assert_eq!((used(0x802), used(0x1802)), (1, 1));
        let len: u32 = frontend.memory.read_obj(GuestAddress(0x808)).unwrap();
        assert_eq!(len, 44);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// Whatever is in the guest's memory: no panic, no endless turn.
        #[test]
        fn no_memory_can_break_it(
            rings in proptest::collection::vec(any::<u8>(), 0x2000),
            index: [u8; 2],
            rest in any::<u8>(),
        ) {
            let mut memory = vec![rest; MEMORY];
            memory[..rings.len()].copy_from_slice(&rings);
            // Indexes that a driver could write, so that it gets as far as the descriptors.
            memory[0x402..0x404].copy_from_slice(&[index[0] % 17, 0]);
            memory[0x1402..0x1404].copy_from_slice(&[index[1] % 17, 0]);
            let (mut device, mut frontend, mut mux, epoll, _scratch) = ground(&memory);
            let mut turns = 0;
            while device.carry(&mut frontend, &mut mux, &epoll) {
                turns += 1;
                prop_assert!(turns < 100, "it never ends");
            }
        }
    }
}
