//! The network interfaces, by the old ioctls: a few calls, and no netlink library.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use banger_guest_api::Network;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::failure::{Result, Step};

const LOOPBACK: &str = "lo";
const ETHERNET: &str = "eth0";

/// Brings up the loopback interface and, when there is a network, the Ethernet interface.
pub(super) fn configure(network: Option<&Network>) -> Result<()> {
    let socket = rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .step("open a socket for the network configuration")?;
    bring_up(&socket, LOOPBACK).step("bring up the loopback interface")?;
    let Some(network) = network else {
        return Ok(());
    };
    let mask = Ipv4Addr::from_bits(
        u32::MAX
            .checked_shl(32 - u32::from(network.prefix.min(32)))
            .unwrap_or(0),
    );
    set_address(&socket, libc::SIOCSIFADDR, network.address).step("set the network address")?;
    set_address(&socket, libc::SIOCSIFNETMASK, mask).step("set the network mask")?;
    bring_up(&socket, ETHERNET).step("bring up the network interface")?;
    add_default_route(&socket, network.gateway).step("set the default route")
}

fn request(interface: &str) -> libc::ifreq {
    // SAFETY: all-zero is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *slot = byte as libc::c_char;
    }
    request
}

fn bring_up(socket: &OwnedFd, interface: &str) -> io::Result<()> {
    let mut request = request(interface);
    // SAFETY: both calls take a pointer to an `ifreq`; the kernel fills and reads its flags.
    unsafe {
        check(libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCGIFFLAGS as _,
            &mut request,
        ))?;
        request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short;
        check(libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS as _,
            &request,
        ))
    }
}

fn set_address(socket: &OwnedFd, operation: libc::c_ulong, address: Ipv4Addr) -> io::Result<()> {
    let mut request = request(ETHERNET);
    request.ifr_ifru.ifru_addr = socket_address(address);
    // SAFETY: the call reads an `ifreq` holding an address.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), operation as _, &request) })
}

fn add_default_route(socket: &OwnedFd, gateway: Ipv4Addr) -> io::Result<()> {
    // SAFETY: all-zero is a valid `rtentry`; the destination and mask 0.0.0.0 mean "default".
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    route.rt_dst = socket_address(Ipv4Addr::UNSPECIFIED);
    route.rt_genmask = socket_address(Ipv4Addr::UNSPECIFIED);
    route.rt_gateway = socket_address(gateway);
    route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
    // SAFETY: the call reads an `rtentry`.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCADDRT as _, &route) })
}

fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    let [a, b, c, d] = address.octets().map(|byte| byte as libc::c_char);
    let mut data = [0; 14];
    // A `sockaddr_in` is the port, two bytes, and then the address.
    data[2..6].copy_from_slice(&[a, b, c, d]);
    libc::sockaddr {
        sa_family: libc::AF_INET as libc::sa_family_t,
        sa_data: data,
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
