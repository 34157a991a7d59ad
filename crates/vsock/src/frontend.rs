//! What QEMU, the vhost-user frontend, asks of the device: features, memory, rings.
//!
//! The protocol's messages are parsed by the `vhost` crate. Nothing here comes from the guest,
//! except that the guest's driver chose the addresses of the rings, which are checked whenever
//! they are used.

use std::fs::File;
use std::io;

use vhost::VhostUserMemoryRegionBase;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig,
    VhostUserSharedMsg, VhostUserSingleMemoryRegion, VhostUserVirtioFeatures,
    VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Error, GpuBackend, Result, VhostUserBackendReqHandlerMut};
use virtio_queue::QueueT;
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap};

use crate::ring::{MAX_SIZE, Ring};

/// The ring for packets to the guest.
pub(crate) const TO_GUEST: usize = 0;
/// The ring for packets from the guest.
pub(crate) const FROM_GUEST: usize = 1;
/// Rings of a vsock device; QEMU itself serves the third, for events.
const RINGS: usize = 2;

/// `VIRTIO_F_VERSION_1`
const VERSION_1: u64 = 1 << 32;
/// `VIRTIO_F_NOTIFY_ON_EMPTY`
const NOTIFY_ON_EMPTY: u64 = 1 << 24;
/// `VIRTIO_RING_F_EVENT_IDX`
const EVENT_IDX: u64 = 1 << 29;

/// Where QEMU has a piece of the guest's memory, and where the guest has it.
#[derive(Debug)]
struct Mapping {
    in_qemu: u64,
    in_guest: u64,
    size: u64,
}

/// The device as the frontend has set it up.
#[derive(Debug)]
pub(crate) struct Frontend {
    guest_cid: u64,
    pub(crate) memory: GuestMemoryMmap,
    pub(crate) rings: [Ring; RINGS],
    mappings: Vec<Mapping>,
    features: u64,
    owned: bool,
    /// Whether the guest's driver has begun anew since the device looked.
    restarted: bool,
}

fn failed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::ReqHandlerError(io::Error::other(error))
}

fn unsupported<T>(what: &'static str) -> Result<T> {
    Err(Error::InvalidOperation(what))
}

impl Frontend {
    pub(crate) fn new(guest_cid: u64) -> std::result::Result<Frontend, virtio_queue::Error> {
        Ok(Frontend {
            guest_cid,
            memory: GuestMemoryMmap::new(),
            rings: [Ring::new()?, Ring::new()?],
            mappings: Vec::new(),
            features: 0,
            owned: false,
            restarted: false,
        })
    }

    /// Whether the guest's driver has begun anew; true once for each time.
    pub(crate) fn take_restarted(&mut self) -> bool {
        std::mem::take(&mut self.restarted)
    }

    fn ring(&mut self, index: u32) -> Result<&mut Ring> {
        self.rings
            .get_mut(index as usize)
            .ok_or(Error::InvalidParam)
    }

    /// The guest's address of something that QEMU names by its own.
    fn in_guest(&self, in_qemu: u64) -> Result<GuestAddress> {
        self.mappings
            .iter()
            .find_map(|mapping| {
                let offset = in_qemu.checked_sub(mapping.in_qemu)?;
                (offset < mapping.size).then(|| mapping.in_guest.checked_add(offset))?
            })
            .map(GuestAddress)
            .ok_or(Error::InvalidParam)
    }
}

impl VhostUserBackendReqHandlerMut for Frontend {
    fn set_owner(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.owned, true) {
            return unsupported("already owned");
        }
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        self.owned = false;
        self.reset_device()
    }

    fn reset_device(&mut self) -> Result<()> {
        for ring in &mut self.rings {
            ring.stop();
            ring.enabled = false;
        }
        self.features = 0;
        self.restarted = true;
        Ok(())
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(VERSION_1
            | NOTIFY_ON_EMPTY
            | EVENT_IDX
            | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits())
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        if features & !self.get_features()? != 0 {
            return Err(Error::InvalidParam);
        }
        self.features = features;
        for ring in &mut self.rings {
            ring.queue.set_event_idx(features & EVENT_IDX != 0);
            // Without the feature there is no message that would enable it.
            if features & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() == 0 {
                ring.enabled = true;
            }
        }
        Ok(())
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        postcopy_listening: Option<bool>,
    ) -> Result<Option<Vec<VhostUserMemoryRegionBase>>> {
        if postcopy_listening.is_some() {
            return unsupported("postcopy");
        }
        let mapped = regions
            .iter()
            .zip(files)
            .map(|(region, file)| {
                let start = GuestAddress(region.guest_phys_addr);
                GuestRegionMmap::new(region.mmap_region(file)?, start).ok_or(Error::InvalidParam)
            })
            .collect::<Result<Vec<_>>>()?;
        self.memory = GuestMemoryMmap::from_regions(mapped).map_err(failed)?;
        self.mappings = regions
            .iter()
            .map(|region| Mapping {
                in_qemu: region.user_addr,
                in_guest: region.guest_phys_addr,
                size: region.memory_size,
            })
            .collect();
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        let size = u16::try_from(num)
            .ok()
            .filter(|size| (1..=MAX_SIZE).contains(size))
            .ok_or(Error::InvalidParam)?;
        self.ring(index)?
            .queue
            .try_set_size(size)
            .map_err(|_| Error::InvalidParam)
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        let [descriptor, used, available] = [
            self.in_guest(descriptor)?,
            self.in_guest(used)?,
            self.in_guest(available)?,
        ];
        let memory = self.memory.clone();
        let queue = &mut self.ring(index)?.queue;
        queue
            .try_set_desc_table_address(descriptor)
            .and_then(|()| queue.try_set_avail_ring_address(available))
            .and_then(|()| queue.try_set_used_ring_address(used))
            .map_err(|_| Error::InvalidParam)?;
        // The frontend says where the guest is (`SET_VRING_BASE`) but not where the device was;
        // the ring itself does.
        let used = queue
            .used_idx(&memory, std::sync::atomic::Ordering::Acquire)
            .map_err(failed)?;
        queue.set_next_used(used.0);
        Ok(())
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        let base = u16::try_from(base).map_err(|_| Error::InvalidParam)?;
        self.ring(index)?.queue.set_next_avail(base);
        Ok(())
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        // The frontend stops the rings when the guest's driver resets the device.
        self.restarted = true;
        let base = self.ring(index)?.stop();
        Ok(VhostUserVringState::new(index, base.into()))
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        self.ring(index.into())?.start(fd);
        Ok(())
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        self.ring(index.into())?.set_call(fd);
        Ok(())
    }

    fn set_vring_err(&mut self, _index: u8, _fd: Option<File>) -> Result<()> {
        Ok(())
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::REPLY_ACK)
    }

    fn set_protocol_features(&mut self, _features: u64) -> Result<()> {
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(RINGS as u64)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        self.ring(index)?.enabled = enable;
        Ok(())
    }

    fn get_config(
        &mut self,
        offset: u32,
        size: u32,
        _flags: VhostUserConfigFlags,
    ) -> Result<Vec<u8>> {
        let config = self.guest_cid.to_le_bytes();
        let end = offset.checked_add(size).ok_or(Error::InvalidParam)?;
        config
            .get(offset as usize..end as usize)
            .map(<[u8]>::to_vec)
            .ok_or(Error::InvalidParam)
    }

    fn set_config(&mut self, _: u32, _: &[u8], _: VhostUserConfigFlags) -> Result<()> {
        unsupported("the configuration is read-only")
    }

    fn set_gpu_socket(&mut self, _: GpuBackend) -> Result<()> {
        unsupported("graphics")
    }

    fn get_shared_object(&mut self, _: VhostUserSharedMsg) -> Result<File> {
        unsupported("shared objects")
    }

    fn get_inflight_fd(&mut self, _: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        unsupported("in-flight tracking")
    }

    fn set_inflight_fd(&mut self, _: &VhostUserInflight, _: File) -> Result<()> {
        unsupported("in-flight tracking")
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        unsupported("memory slots")
    }

    fn add_mem_region(
        &mut self,
        _: &VhostUserSingleMemoryRegion,
        _: File,
        _: Option<bool>,
    ) -> Result<Option<VhostUserMemoryRegionBase>> {
        unsupported("memory slots")
    }

    fn remove_mem_region(&mut self, _: &VhostUserSingleMemoryRegion) -> Result<()> {
        unsupported("memory slots")
    }

    fn set_device_state_fd(
        &mut self,
        _: VhostTransferStateDirection,
        _: VhostTransferStatePhase,
        _: File,
    ) -> Result<Option<File>> {
        unsupported("migration")
    }

    fn check_device_state(&mut self) -> Result<()> {
        unsupported("migration")
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        unsupported("shared memory")
    }

    fn set_log_base(&mut self, _: &VhostUserLog, _: File) -> Result<()> {
        unsupported("migration")
    }
}
