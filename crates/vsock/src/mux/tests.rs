//! The multiplexer against a guest made of packets and clients made of sockets.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use proptest::prelude::*;
use rustix::event::{Timespec, epoll};

use super::*;
use crate::packet::{HOST_CID, MAX_PAYLOAD, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use crate::stream::CREDIT;

const CID: u64 = 3;
const LISTENER: u64 = 1;
const PORT: u32 = 1024;

/// A multiplexer, its event loop, and what the guest has received.
struct Ground {
    mux: Mux,
    epoll: std::os::fd::OwnedFd,
    scratch: tempfile::TempDir,
    /// What the guest's driver would have counted.
    passed_on: u32,
}

#[derive(Debug, PartialEq)]
struct Packet {
    op: Op,
    ports: Ports,
    flags: u32,
    payload: Vec<u8>,
    fwd_cnt: u32,
}

impl Ground {
    fn new() -> Ground {
        Ground::with_peers(100)
    }

    fn with_peers(max: usize) -> Ground {
        let scratch = tempfile::tempdir().unwrap();
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let mut mux = Mux::new(&scratch.path().join("agent.sock"), CID, LISTENER, max).unwrap();
        mux.accept(&epoll).unwrap();
        Ground {
            mux,
            epoll,
            scratch,
            passed_on: 0,
        }
    }

    fn path(&self) -> PathBuf {
        self.scratch.path().join("agent.sock")
    }

    fn client(&self) -> UnixStream {
        let client = UnixStream::connect(self.path()).unwrap();
        client
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        client
    }

    /// Handles every event there is now. What the tests do to the sockets has happened before,
    /// so nothing has to be waited for.
    fn turn(&mut self) {
        let blank = epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        };
        let mut events = [blank; 64];
        loop {
            let now = Timespec::default();
            let count = epoll::wait(&self.epoll, &mut events[..], Some(&now)).unwrap();
            for event in &events[..count] {
                let (data, flags) = (event.data, event.flags);
                match data.u64() {
                    LISTENER => self.mux.accept(&self.epoll).unwrap(),
                    token => self.mux.on_ready(token, flags),
                }
            }
            self.mux.watch_listener(&self.epoll).unwrap();
            if count < events.len() {
                return;
            }
        }
    }

    /// The next packet the guest gets, with room for `room` bytes.
    fn packet(&mut self, room: usize) -> Option<Packet> {
        self.turn();
        let mut space = vec![0; room];
        let bytes = self.mux.next_packet(&mut space)?;
        // Read as if the guest had written it, which swaps the ports.
        let mut swapped = bytes;
        swapped[0..8].copy_from_slice(&CID.to_le_bytes());
        swapped[8..16].copy_from_slice(&HOST_CID.to_le_bytes());
        let header = Header::from_guest(&swapped, CID).unwrap_or_else(|_| {
            // A reset of something unsupported still has an address.
            panic!("a packet that the guest would refuse: {bytes:?}")
        });
        space.truncate(header.len as usize);
        Some(Packet {
            op: header.op,
            ports: Ports {
                host: header.ports.guest,
                guest: header.ports.host,
            },
            flags: header.flags,
            payload: space,
            fwd_cnt: header.fwd_cnt,
        })
    }

    fn packets(&mut self) -> Vec<Packet> {
        std::iter::from_fn(|| self.packet(4096)).collect()
    }

    /// Sends a packet as the guest's driver does.
    fn send(&mut self, ports: Ports, op: Op, flags: u32, payload: &[u8]) {
        self.send_with_credit(ports, op, flags, payload, CREDIT);
    }

    fn send_with_credit(
        &mut self,
        ports: Ports,
        op: Op,
        flags: u32,
        payload: &[u8],
        buf_alloc: u32,
    ) {
        let header = Header {
            // Swapped: the guest is the source.
            ports: Ports {
                host: ports.guest,
                guest: ports.host,
            },
            op,
            len: payload.len() as u32,
            flags,
            buf_alloc,
            fwd_cnt: self.passed_on,
        };
        let mut bytes = header.to_guest(CID);
        bytes[0..8].copy_from_slice(&CID.to_le_bytes());
        bytes[8..16].copy_from_slice(&HOST_CID.to_le_bytes());
        self.mux.on_packet(&self.epoll, &bytes, payload);
    }

    /// A client's stream, open on both sides.
    fn open(&mut self) -> (UnixStream, Ports) {
        let mut client = self.client();
        client.write_all(b"CONNECT 1024\n").unwrap();
        let request = self.packet(4096).unwrap();
        assert_eq!((request.op, request.ports.guest), (Op::Request, PORT));
        self.send(request.ports, Op::Response, 0, b"");
        let mut line = vec![0; format!("OK {}\n", request.ports.host).len()];
        client.read_exact(&mut line).unwrap();
        assert_eq!(line, format!("OK {}\n", request.ports.host).into_bytes());
        (client, request.ports)
    }

    fn peers(&mut self) -> usize {
        self.turn();
        assert_eq!(
            self.mux.by_ports.len(),
            self.mux
                .peers
                .values()
                .filter(|peer| matches!(peer, Peer::Stream(_)))
                .count()
        );
        self.mux.peers.len()
    }
}

#[test]
fn a_client_reaches_the_guest_and_bytes_go_both_ways() {
    let mut ground = Ground::new();
    let (mut client, ports) = ground.open();
    client.write_all(b"question").unwrap();
    let data = ground.packet(4096).unwrap();
    assert_eq!((data.op, data.payload), (Op::Data, b"question".to_vec()));
    ground.send(ports, Op::Data, 0, b"answer");
    let mut answer = [0; 6];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"answer");
    // The guest closes: the client sees the end and the guest gets its reset at once.
    ground.send(ports, Op::Shutdown, SHUTDOWN_BOTH, b"");
    assert_eq!(client.read(&mut answer).unwrap(), 0);
    assert_eq!(ground.packet(4096).unwrap().op, Op::Reset);
    assert_eq!(ground.peers(), 0);
}

#[test]
fn what_follows_the_line_belongs_to_the_stream() {
    let mut ground = Ground::new();
    let mut client = ground.client();
    // In pieces, with data right behind it.
    client.write_all(b"CONNECT").unwrap();
    assert_eq!(ground.packet(4096), None);
    client.write_all(b" 7\nearly").unwrap();
    let request = ground.packet(4096).unwrap();
    assert_eq!(request.ports.guest, 7);
    assert_eq!(ground.packet(4096), None, "nothing before the guest agrees");
    ground.send(request.ports, Op::Response, 0, b"");
    assert_eq!(ground.packet(4096).unwrap().payload, b"early");
}

#[test]
fn a_client_that_talks_nonsense_is_hung_up_on() {
    for line in [
        "CONNECT\n",
        "CONNECT x\n",
        "CONNECT -1\n",
        "CONNECT 4294967296\n",
        "CONNECT 1 2\n",
        "connect 1\n",
        "\n",
        "GET / HTTP/1.1 and more and more and more",
    ] {
        let mut ground = Ground::new();
        let mut client = ground.client();
        client.write_all(line.as_bytes()).unwrap();
        assert_eq!(ground.packet(4096), None);
        assert_eq!(ground.peers(), 0, "{line:?}");
        // With unread bytes the end is a reset, without it is an end.
        assert!(!matches!(client.read(&mut [0; 1]), Ok(1..)), "{line:?}");
    }
}

#[test]
fn a_refused_client_sees_the_end_and_one_that_leaves_is_forgotten() {
    let mut ground = Ground::new();
    let mut client = ground.client();
    client.write_all(b"CONNECT 9\n").unwrap();
    let request = ground.packet(4096).unwrap();
    ground.send(request.ports, Op::Reset, 0, b"");
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    assert_eq!(ground.peers(), 0);
    assert_eq!(ground.packet(4096), None, "a reset is not answered");

    // Before it said anything; before the guest was asked; before the guest answered.
    drop(ground.client());
    assert_eq!(ground.peers(), 0);
    let mut client = ground.client();
    client.write_all(b"CONNECT 9\n").unwrap();
    drop(client);
    ground.turn();
    let mut client = ground.client();
    client.write_all(b"CONNECT 9\n").unwrap();
    let mut asked = ground.packets();
    let request = asked.pop().unwrap();
    assert_eq!(request.op, Op::Request);
    drop(client);
    let reset = ground.packets();
    assert_eq!((reset.len(), reset[0].op), (1, Op::Reset));
    assert_eq!(ground.peers(), 0);
    // The late answer of the guest is for nobody.
    ground.send(request.ports, Op::Response, 0, b"");
    assert_eq!(ground.packet(4096).unwrap().op, Op::Reset);
}

#[test]
fn each_half_ends_by_itself() {
    let mut ground = Ground::new();
    let (mut client, ports) = ground.open();
    client.write_all(b"last words").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(ground.packet(4096).unwrap().payload, b"last words");
    let shutdown = ground.packet(4096).unwrap();
    assert_eq!((shutdown.op, shutdown.flags), (Op::Shutdown, SHUTDOWN_SEND));
    assert_eq!(ground.packet(4096), None, "said once");
    // The other half still works.
    ground.send(ports, Op::Data, 0, b"reply");
    ground.send(ports, Op::Shutdown, SHUTDOWN_SEND, b"");
    let mut reply = Vec::new();
    client.read_to_end(&mut reply).unwrap();
    assert_eq!(reply, b"reply");
    assert_eq!(ground.peers(), 1, "until the guest forgets it");
    ground.send(ports, Op::Reset, 0, b"");
    assert_eq!(ground.peers(), 0);
}

#[test]
fn the_guest_may_end_its_half_first() {
    let mut ground = Ground::new();
    let (mut client, ports) = ground.open();
    ground.send(ports, Op::Data, 0, b"all of it");
    ground.send(ports, Op::Shutdown, SHUTDOWN_SEND, b"");
    let mut all = Vec::new();
    client.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"all of it");
    client.write_all(b"still here").unwrap();
    assert_eq!(ground.packet(4096).unwrap().payload, b"still here");
    // Data after that is against the rules.
    ground.send(ports, Op::Data, 0, b"more");
    assert_eq!(ground.packet(4096).unwrap().op, Op::Reset);
    assert_eq!(ground.peers(), 0);
}

#[test]
fn a_client_that_hangs_up_is_told_to_the_guest_after_its_last_words() {
    let mut ground = Ground::new();
    let (mut client, ports) = ground.open();
    client.write_all(b"bye").unwrap();
    drop(client);
    assert_eq!(ground.packet(4096).unwrap().payload, b"bye");
    let shutdown = ground.packet(4096).unwrap();
    assert_eq!((shutdown.op, shutdown.flags), (Op::Shutdown, SHUTDOWN_BOTH));
    // What the guest sends in the meantime goes nowhere, but it is never stopped by it.
    for _ in 0..20 {
        ground.send(ports, Op::Data, 0, &[0; MAX_PAYLOAD]);
        let told = ground.packets();
        assert!(told.iter().all(|packet| packet.op == Op::CreditUpdate));
    }
    ground.send(ports, Op::Reset, 0, b"");
    assert_eq!(ground.peers(), 0);
    assert_eq!(ground.packet(4096), None);
}

#[test]
fn what_the_guest_sent_before_it_closed_reaches_a_slow_client() {
    let mut ground = Ground::new();
    let (mut client, ports) = ground.open();
    let mut sent = Vec::new();
    // More than the socket holds, within the credit.
    for piece in 0..4u8 {
        let payload = [piece; MAX_PAYLOAD];
        ground.send(ports, Op::Data, 0, &payload);
        sent.extend(payload);
    }
    ground.send(ports, Op::Shutdown, SHUTDOWN_BOTH, b"");
    // The guest's close gives up waiting.
    ground.send(ports, Op::Reset, 0, b"");
    let mut got = Vec::new();
    let mut piece = vec![0; MAX_PAYLOAD];
    loop {
        match client.read(&mut piece).unwrap() {
            0 => break,
            count => got.extend_from_slice(&piece[..count]),
        }
        ground.turn();
    }
    assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
    assert_eq!(ground.peers(), 0);
}

#[test]
fn a_client_that_does_not_read_stops_the_guest_and_only_that_stream() {
    let mut ground = Ground::new();
    let (mut slow, ports) = ground.open();
    let (mut other, other_ports) = ground.open();
    // The socket takes some; the rest is what the guest may send and no more.
    let mut taken = 0u64;
    loop {
        ground.send(ports, Op::Data, 0, &[7; 4096]);
        taken += 4096;
        let told = ground.packets();
        if told.iter().any(|packet| packet.op == Op::Reset) {
            break;
        }
        assert!(taken < 64 << 20, "a stop must come");
    }
    // The guest went beyond its credit: the stream is over. The client gets what was credited.
    ground.send(other_ports, Op::Data, 0, b"unmoved");
    let mut text = [0; 7];
    other.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"unmoved");
    let mut rest = Vec::new();
    slow.read_to_end(&mut rest).unwrap();
    assert!(rest.len() as u64 <= taken);
}

#[test]
fn credit_is_given_back_as_the_client_reads() {
    let mut ground = Ground::new();
    let (mut client, ports) = ground.open();
    let mut told = 0u32;
    let mut sent = 0u32;
    for _ in 0..200 {
        // As a driver does: never beyond the credit it knows of.
        assert!(
            sent.wrapping_sub(told) + 16384 <= CREDIT,
            "stuck without credit"
        );
        ground.send(ports, Op::Data, 0, &[1; 16384]);
        sent = sent.wrapping_add(16384);
        let mut piece = [0; 16384];
        client.read_exact(&mut piece).unwrap();
        for packet in ground.packets() {
            assert_eq!(packet.op, Op::CreditUpdate);
            told = packet.fwd_cnt;
        }
    }
    ground.send(ports, Op::CreditRequest, 0, b"");
    let update = ground.packet(4096).unwrap();
    assert_eq!((update.op, update.fwd_cnt), (Op::CreditUpdate, sent));
}

#[test]
fn the_guest_gets_no_more_than_it_has_room_for() {
    let mut ground = Ground::new();
    let (mut client, ports) = ground.open();
    ground.send_with_credit(ports, Op::CreditUpdate, 0, b"", 10);
    client.write_all(b"0123456789abcdef").unwrap();
    assert_eq!(ground.packet(4).unwrap().payload, b"0123", "the buffer's");
    assert_eq!(
        ground.packet(4096).unwrap().payload,
        b"456789",
        "the guest's"
    );
    assert_eq!(ground.packet(4096).unwrap().op, Op::CreditRequest);
    assert_eq!(ground.packet(4096), None, "asked once");
    ground.passed_on = 8;
    ground.send_with_credit(ports, Op::CreditUpdate, 0, b"", 10);
    assert_eq!(ground.packet(4096).unwrap().payload, b"abcdef");
    // One that claims to have taken more than it was sent gets nothing.
    ground.passed_on = 1000;
    ground.send_with_credit(ports, Op::CreditUpdate, 0, b"", 10);
    client.write_all(b"x").unwrap();
    assert_eq!(ground.packet(4096).unwrap().op, Op::CreditRequest);
    assert_eq!(ground.packet(4096), None);
    // One that reads no more is not sent more, but its end is still told.
    ground.send(ports, Op::Shutdown, SHUTDOWN_RECEIVE, b"");
    drop(client);
    assert_eq!(ground.packet(4096).unwrap().op, Op::Shutdown);
}

#[test]
fn the_guest_reaches_a_listener_by_port_and_nothing_else() {
    let mut ground = Ground::new();
    let mut path = ground.path().into_os_string();
    path.push("_1023");
    let listener = UnixListener::bind(path).unwrap();
    let ports = Ports {
        host: 1023,
        guest: 77,
    };
    ground.send(ports, Op::Request, 0, b"");
    assert_eq!(ground.packet(4096).unwrap().op, Op::Response);
    let (mut accepted, _) = listener.accept().unwrap();
    ground.send(ports, Op::Data, 0, b"hello");
    let mut text = [0; 5];
    accepted.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"hello");
    // A second request for the same stream breaks it; nobody listens elsewhere.
    ground.send(ports, Op::Request, 0, b"");
    assert_eq!(ground.packet(4096).unwrap().op, Op::Reset);
    let elsewhere = Ports { host: 5, guest: 77 };
    ground.send(elsewhere, Op::Request, 0, b"");
    assert_eq!(
        ground.packet(4096).map(|packet| (packet.op, packet.ports)),
        Some((Op::Reset, elsewhere))
    );
    assert_eq!(ground.peers(), 0);
}

#[test]
fn there_is_room_for_so_many_and_then_for_others_again() {
    let mut ground = Ground::with_peers(2);
    let (first, first_ports) = ground.open();
    let (_second, _) = ground.open();
    let mut third = ground.client();
    third.write_all(b"CONNECT 1024\n").unwrap();
    assert_eq!(ground.packet(4096), None, "it waits");
    // The guest cannot have more either.
    let ports = Ports {
        host: 1023,
        guest: 1,
    };
    ground.send(ports, Op::Request, 0, b"");
    assert_eq!(ground.packet(4096).unwrap().op, Op::Reset);
    drop(first);
    assert_eq!(ground.packet(4096).unwrap().op, Op::Shutdown);
    ground.send(first_ports, Op::Reset, 0, b"");
    // Once to see that there is room, once to use it.
    ground.turn();
    assert_eq!(ground.packet(4096).unwrap().op, Op::Request);
}

#[test]
fn resets_that_the_guest_does_not_read_are_bounded() {
    let mut ground = Ground::new();
    let mut count = 0;
    while ground.mux.has_room() {
        let ports = Ports {
            host: 5,
            guest: count,
        };
        ground.send(ports, Op::Data, 0, b"x");
        count += 1;
        assert!(count <= 1000);
    }
    assert_eq!(ground.packets().len(), count as usize);
    assert!(ground.mux.has_room());
}

#[test]
fn a_guest_that_starts_anew_finds_nothing_left() {
    let mut ground = Ground::new();
    let (mut client, _) = ground.open();
    client.write_all(b"x").unwrap();
    ground.turn();
    ground.mux.reset();
    assert_eq!(ground.packet(4096), None);
    assert_eq!(ground.peers(), 0);
    // Unread bytes make the end a reset.
    assert!(!matches!(client.read(&mut [0; 1]), Ok(1..)));
}

/// What a guest may do at any time.
#[derive(Clone, Debug)]
enum Act {
    Packet {
        op: u16,
        stream: usize,
        flags: u32,
        len: usize,
        buf_alloc: u32,
        fwd_cnt: u32,
    },
    Connect,
    Write(usize, usize),
    Read(usize),
    Close(usize),
    Give(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let packet = (
        0u16..9,
        0usize..6,
        0u32..8,
        0usize..70_000,
        prop_oneof![Just(0u32), Just(CREDIT), any::<u32>()],
        prop_oneof![Just(0u32), any::<u32>()],
    )
        .prop_map(|(op, stream, flags, len, buf_alloc, fwd_cnt)| Act::Packet {
            op,
            stream,
            flags,
            len: len.min(MAX_PAYLOAD),
            buf_alloc,
            fwd_cnt,
        });
    let act = prop_oneof![
        4 => packet,
        2 => Just(Act::Connect),
        2 => (0usize..4, 0usize..9000).prop_map(|(client, len)| Act::Write(client, len)),
        1 => (0usize..4).prop_map(Act::Read),
        1 => (0usize..4).prop_map(Act::Close),
        4 => (1usize..5000).prop_map(Act::Give),
    ];
    proptest::collection::vec(act, 0..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever guest and clients do: no panic, nothing without bound, and when all clients are
    /// gone and the guest has forgotten everything, nothing is left.
    #[test]
    fn no_guest_and_no_client_can_break_it(acts in acts()) {
        let mut ground = Ground::with_peers(8);
        let mut clients: Vec<UnixStream> = Vec::new();
        let mut known: Vec<Ports> = vec![Ports { host: 1023, guest: 1 }];
        for act in acts {
            match act {
                Act::Packet { op, stream, flags, len, buf_alloc, fwd_cnt } => {
                    if !ground.mux.has_room() {
                        continue;
                    }
                    let ports = known[stream % known.len()];
                    let header = Header {
                        ports: Ports { host: ports.guest, guest: ports.host },
                        op: Op::Data,
                        len: len as u32,
                        flags,
                        buf_alloc,
                        fwd_cnt,
                    };
                    let mut bytes = header.to_guest(CID);
                    bytes[0..8].copy_from_slice(&CID.to_le_bytes());
                    bytes[8..16].copy_from_slice(&HOST_CID.to_le_bytes());
                    bytes[30..32].copy_from_slice(&op.to_le_bytes());
                    ground.mux.on_packet(&ground.epoll, &bytes, &vec![0; len]);
                }
                Act::Connect => {
                    let mut client = ground.client();
                    client.write_all(b"CONNECT 1024\n").unwrap();
                    client.set_nonblocking(true).unwrap();
                    clients.push(client);
                }
                Act::Write(client, len) if !clients.is_empty() => {
                    let client = client % clients.len();
                    // Full or hung up on: both are part of the game.
                    drop(clients[client].write(&vec![1; len]));
                }
                Act::Read(client) if !clients.is_empty() => {
                    let client = client % clients.len();
                    drop(clients[client].read(&mut [0; 8192]));
                }
                Act::Close(client) if !clients.is_empty() => {
                    let client = client % clients.len();
                    drop(clients.swap_remove(client));
                }
                Act::Give(room) => {
                    if let Some(packet) = ground.packet(room) {
                        prop_assert!(packet.payload.len() <= room);
                        if packet.op == Op::Request {
                            known.push(packet.ports);
                        }
                    }
                }
                _ => {}
            }
            ground.turn();
            prop_assert!(ground.mux.peers.len() <= 8);
        }
        clients.clear();
        // Those that waited for room come in now and are gone already.
        for _ in 0..100 {
            ground.turn();
            for ports in ground.mux.by_ports.keys().copied().collect::<Vec<_>>() {
                ground.send(ports, Op::Reset, 0, b"");
            }
            ground.packets();
        }
        prop_assert_eq!(ground.peers(), 0);
    }
}
