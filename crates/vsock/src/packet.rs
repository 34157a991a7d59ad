//! The header of a vsock packet (virtio 1.2, section 5.10.6).

/// Its size on the ring, in bytes.
pub(crate) const HEADER: usize = 44;
/// The largest payload a packet may carry; what the Linux driver uses.
pub(crate) const MAX_PAYLOAD: usize = 64 << 10;
/// The context id of the host.
pub(crate) const HOST_CID: u64 = 2;
/// `VIRTIO_VSOCK_TYPE_STREAM`
const STREAM: u16 = 1;

/// `VIRTIO_VSOCK_SHUTDOWN_RCV`: the sender will receive no more.
pub(crate) const SHUTDOWN_RECEIVE: u32 = 1;
/// `VIRTIO_VSOCK_SHUTDOWN_SEND`: the sender will send no more.
pub(crate) const SHUTDOWN_SEND: u32 = 2;
/// Both.
pub(crate) const SHUTDOWN_BOTH: u32 = 3;

/// What a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Op {
    Request = 1,
    Response = 2,
    Reset = 3,
    Shutdown = 4,
    Data = 5,
    CreditUpdate = 6,
    CreditRequest = 7,
}

impl Op {
    fn parse(number: u16) -> Option<Op> {
        Some(match number {
            1 => Op::Request,
            2 => Op::Response,
            3 => Op::Reset,
            4 => Op::Shutdown,
            5 => Op::Data,
            6 => Op::CreditUpdate,
            7 => Op::CreditRequest,
            _ => return None,
        })
    }
}

/// One stream, by its two ports; there is one guest and one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ports {
    pub(crate) host: u32,
    pub(crate) guest: u32,
}

/// A header, without the addresses that are always the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) ports: Ports,
    pub(crate) op: Op,
    /// Bytes of payload.
    pub(crate) len: u32,
    /// Of a shutdown: which halves.
    pub(crate) flags: u32,
    /// How much the sender's buffer holds.
    pub(crate) buf_alloc: u32,
    /// How much has left the sender's buffer, ever, modulo 2³².
    pub(crate) fwd_cnt: u32,
}

/// Why a packet from the guest is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// Not for this host, not a stream, or of no known kind; the stream it names is reset.
    Unsupported(Ports),
    /// Not even that much sense.
    Garbage,
}

impl Header {
    /// A header without payload or flags; the credit is filled in by the stream.
    pub(crate) fn new(ports: Ports, op: Op) -> Header {
        Header {
            ports,
            op,
            len: 0,
            flags: 0,
            buf_alloc: 0,
            fwd_cnt: 0,
        }
    }

    /// From the guest.
    pub(crate) fn from_guest(bytes: &[u8; HEADER], guest_cid: u64) -> Result<Header, Malformed> {
        let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let u16_at = |at: usize| u16::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        if u64_at(0) != guest_cid {
            return Err(Malformed::Garbage);
        }
        let ports = Ports {
            guest: u32_at(16),
            host: u32_at(20),
        };
        match Op::parse(u16_at(30)) {
            Some(op) if u64_at(8) == HOST_CID && u16_at(28) == STREAM => Ok(Header {
                ports,
                op,
                len: u32_at(24),
                flags: u32_at(32),
                buf_alloc: u32_at(36),
                fwd_cnt: u32_at(40),
            }),
            // A reset is never answered with a reset.
            Some(Op::Reset) => Err(Malformed::Garbage),
            _ => Err(Malformed::Unsupported(ports)),
        }
    }

    /// To the guest.
    pub(crate) fn to_guest(self, guest_cid: u64) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &HOST_CID.to_le_bytes());
        put(8, &guest_cid.to_le_bytes());
        put(16, &self.ports.host.to_le_bytes());
        put(20, &self.ports.guest.to_le_bytes());
        put(24, &self.len.to_le_bytes());
        put(28, &STREAM.to_le_bytes());
        put(30, &(self.op as u16).to_le_bytes());
        put(32, &self.flags.to_le_bytes());
        put(36, &self.buf_alloc.to_le_bytes());
        put(40, &self.fwd_cnt.to_le_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CID: u64 = 3;

    /// As the guest's driver would write it: the addresses are swapped.
    pub(crate) fn as_the_guest_writes(header: Header) -> [u8; HEADER] {
        let mut bytes = header.to_guest(CID);
        bytes[0..8].copy_from_slice(&CID.to_le_bytes());
        bytes[8..16].copy_from_slice(&HOST_CID.to_le_bytes());
        bytes[16..20].copy_from_slice(&header.ports.guest.to_le_bytes());
        bytes[20..24].copy_from_slice(&header.ports.host.to_le_bytes());
        bytes
    }

    #[test]
    fn fields_are_where_the_standard_puts_them() {
        let header = Header {
            ports: Ports {
                host: 0x0102_0304,
                guest: 0x0506_0708,
            },
            op: Op::Data,
            len: 9,
            flags: 3,
            buf_alloc: 0x0a0b_0c0d,
            fwd_cnt: 0x0e0f_1011,
        };
        let bytes = header.to_guest(0x1122);
        assert_eq!(bytes[0..8], [2, 0, 0, 0, 0, 0, 0, 0], "src_cid");
        assert_eq!(bytes[8..16], [0x22, 0x11, 0, 0, 0, 0, 0, 0], "dst_cid");
        assert_eq!(bytes[16..20], [4, 3, 2, 1], "src_port");
        assert_eq!(bytes[20..24], [8, 7, 6, 5], "dst_port");
        assert_eq!(bytes[24..28], [9, 0, 0, 0], "len");
        assert_eq!(bytes[28..32], [1, 0, 5, 0], "type, op");
        assert_eq!(bytes[32..36], [3, 0, 0, 0], "flags");
        assert_eq!(bytes[36..40], [0x0d, 0x0c, 0x0b, 0x0a], "buf_alloc");
        assert_eq!(bytes[40..44], [0x11, 0x10, 0x0f, 0x0e], "fwd_cnt");
    }

    #[test]
    fn what_is_not_a_stream_to_this_host_is_refused() {
        let good = Header::new(Ports { host: 1, guest: 2 }, Op::Request);
        let bytes = as_the_guest_writes(good);
        assert_eq!(Header::from_guest(&bytes, CID), Ok(good));
        let with = |at: usize, value: u8| {
            let mut changed = bytes;
            changed[at] = value;
            Header::from_guest(&changed, CID)
        };
        assert_eq!(with(0, 4), Err(Malformed::Garbage), "another source");
        for (at, value) in [(8, 1), (28, 2), (30, 0), (30, 8)] {
            assert_eq!(with(at, value), Err(Malformed::Unsupported(good.ports)));
        }
        let mut reset = bytes;
        reset[30] = Op::Reset as u8;
        reset[28] = 2;
        assert_eq!(Header::from_guest(&reset, CID), Err(Malformed::Garbage));
    }

    proptest! {
        #[test]
        fn headers_survive_the_way_back(
            host: u32, guest: u32, op in 1u16..=7, len: u32, flags: u32, buf_alloc: u32, fwd_cnt: u32
        ) {
            let op = Op::parse(op).unwrap();
            let header = Header { ports: Ports { host, guest }, op, len, flags, buf_alloc, fwd_cnt };
            prop_assert_eq!(Header::from_guest(&as_the_guest_writes(header), CID), Ok(header));
        }

        #[test]
        fn garbage_never_panics(bytes: [u8; HEADER]) {
            prop_assert!(Header::from_guest(&bytes, CID).is_err() || bytes[0] == 3);
        }
    }
}
