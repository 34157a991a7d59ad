//! What listens in the guest, from `/proc/net` and the descriptors of its processes.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::ffi::OsStrExt;

use banger_guest_api::{Listener, MAX_LISTENERS, Transport};

const TCP_LISTEN: &str = "0A";
/// What the kernel calls a UDP socket without a peer.
const UDP_UNCONNECTED: &str = "07";

/// A socket that waits for peers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Bound {
    transport: Transport,
    port: u16,
    address: IpAddr,
    inode: u64,
}

/// What the guest listens on: by transport, port and address, each once.
pub(crate) fn list() -> Vec<Listener> {
    let mut bound = Vec::new();
    for (table, transport) in [
        ("/proc/net/tcp", Transport::Tcp),
        ("/proc/net/tcp6", Transport::Tcp),
        ("/proc/net/udp", Transport::Udp),
        ("/proc/net/udp6", Transport::Udp),
    ] {
        // A kernel without IPv6 has no such table.
        if let Ok(text) = std::fs::read_to_string(table) {
            bound.extend(
                text.lines()
                    .skip(1)
                    .filter_map(|line| parse(line, transport)),
            );
        }
    }
    bound.sort();
    // Several processes may share one port; the first stands for them.
    bound.dedup_by_key(|socket| (socket.transport, socket.port, socket.address));
    bound.truncate(MAX_LISTENERS);
    let holders = if bound.is_empty() {
        HashMap::new()
    } else {
        holders(&bound)
    };
    bound
        .into_iter()
        .map(|socket| {
            let pid = holders.get(&socket.inode).copied();
            Listener {
                transport: socket.transport,
                address: socket.address.to_string(),
                port: socket.port,
                process: pid.and_then(name),
                pid,
            }
        })
        .collect()
}

/// One line of a table, when it is a socket that waits for peers.
fn parse(line: &str, transport: Transport) -> Option<Bound> {
    let mut fields = line.split_ascii_whitespace();
    let (local, remote) = (fields.nth(1)?, fields.next()?);
    let waits = match transport {
        Transport::Tcp => TCP_LISTEN,
        Transport::Udp => UDP_UNCONNECTED,
    };
    if fields.next()? != waits || !remote.bytes().all(|byte| matches!(byte, b'0' | b':')) {
        return None;
    }
    let inode = fields.nth(5)?.parse().ok()?;
    let (address, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16)
        .ok()
        .filter(|port| *port != 0)?;
    Some(Bound {
        transport,
        port,
        address: parse_address(address)?,
        inode,
    })
}

/// The kernel prints addresses as 32-bit words in the machine's order.
fn parse_address(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let digits = hex.get(8 * at..8 * at + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for at in 0..4 {
                bytes[4 * at..4 * at + 4].copy_from_slice(&word(at)?);
            }
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

/// The process with the lowest id that holds each socket.
fn holders(bound: &[Bound]) -> HashMap<u64, u32> {
    let mut missing: std::collections::HashSet<u64> =
        bound.iter().map(|socket| socket.inode).collect();
    let mut holders = HashMap::new();
    for pid in processes() {
        if missing.is_empty() {
            break;
        }
        // A process may end at any time, and then holds nothing.
        let Ok(descriptors) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
            continue;
        };
        for descriptor in descriptors.flatten() {
            let Ok(target) = std::fs::read_link(descriptor.path()) else {
                continue;
            };
            if let Some(inode) = socket_inode(target.as_os_str())
                && missing.remove(&inode)
            {
                holders.insert(inode, pid);
            }
        }
    }
    holders
}

fn processes() -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let mut pids: Vec<u32> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    pids
}

fn socket_inode(target: &OsStr) -> Option<u64> {
    let inode = target.as_bytes().strip_prefix(b"socket:[")?;
    std::str::from_utf8(inode.strip_suffix(b"]")?)
        .ok()?
        .parse()
        .ok()
}

fn name(pid: u32) -> Option<String> {
    let name = std::fs::read(format!("/proc/{pid}/comm")).ok()?;
    Some(String::from_utf8_lossy(name.trim_ascii_end()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    #[test]
    fn tables_are_read() {
        let listening = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 \
            00000000  1000        0 31337 1 0000000000000000 100 0 0 10 0";
        assert_eq!(
            parse(listening, Transport::Tcp),
            Some(Bound {
                transport: Transport::Tcp,
                port: 8080,
                address: Ipv4Addr::LOCALHOST.into(),
                inode: 31337,
            })
        );
        assert_eq!(parse(listening, Transport::Udp), None, "another state");
        let v6 = "   1: 00000000000000000000000001000000:0016 \
            00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000 \
            0 0 99 1 0 100 0 0 10 0";
        let socket = parse(v6, Transport::Tcp).unwrap();
        assert_eq!(
            (socket.address, socket.port),
            (Ipv6Addr::LOCALHOST.into(), 22)
        );
        for line in [
            "",
            "garbage",
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt",
            "0: 0100007F:0000 00000000:0000 0A 0 0 0 0 0 1",
            "0: 0100007F:0016 0100007F:9999 01 0 0 0 0 0 1",
            "0: 0100:0016 00000000:0000 0A 0 0 0 0 0 1",
            "0: \u{e9}100007:0016 00000000:0000 0A 0 0 0 0 0 1",
        ] {
            assert_eq!(parse(line, Transport::Tcp), None, "{line}");
        }
    }

    #[test]
    fn our_own_sockets_are_found() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let connected = UdpSocket::bind("127.0.0.1:0").unwrap();
        connected.connect(udp.local_addr().unwrap()).unwrap();
        let client = TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
        let found = list();
        let find = |transport, port| {
            found
                .iter()
                .find(|listener| (listener.transport, listener.port) == (transport, port))
        };
        for (transport, port) in [
            (Transport::Tcp, tcp.local_addr().unwrap().port()),
            (Transport::Udp, udp.local_addr().unwrap().port()),
        ] {
            let listener = find(transport, port).unwrap();
            assert_eq!(listener.address, "127.0.0.1");
            assert_eq!(listener.pid, Some(std::process::id()));
            assert!(listener.process.is_some());
        }
        assert!(find(Transport::Tcp, client.local_addr().unwrap().port()).is_none());
        assert!(find(Transport::Udp, connected.local_addr().unwrap().port()).is_none());
        let keys: Vec<_> = found
            .iter()
            .map(|listener| (listener.transport, listener.port))
            .collect();
        assert!(keys.is_sorted());
    }
}
