//! A network of its own for one VMM, made without privilege.
//!
//! ```text
//!   user and network namespace of the VMM
//!   guest ── tap `guest` ── bridge ── tap `pasta` ── pasta, outside
//! ```
//!
//! The child makes it between fork and exec: a user namespace in which it may, a network
//! namespace, the bridge and both taps. Nothing is made in the host's own namespaces, nothing
//! has an IPv4 address, and all of it is gone with the process. After exec an ordinary user's VMM
//! has no capabilities left, not even in there.

use std::ffi::CString;
use std::io;

use banger_model::{Code, Error};

/// The tap that Firecracker opens.
pub(super) const GUEST_TAP: &str = "guest";
/// The tap that pasta opens.
pub(super) const PASTA_TAP: &str = "pasta";
const BRIDGE: &str = "bridge";

/// Everything that is needed between fork and exec, where nothing may be allocated.
#[derive(Clone, Debug)]
pub(crate) struct Namespace {
    uid: libc::c_ulong,
    uid_map: CString,
    gid_map: CString,
}

/// The steps, for the words of an error: their number travels beside the error's own.
const STEPS: [&str; 6] = [
    "make a user and a network namespace",
    "map its user",
    "open a socket in it",
    "make a bridge in it",
    "make a tap in it",
    "connect a tap to the bridge in it",
];

impl Namespace {
    /// For this process's user.
    pub(crate) fn new() -> Namespace {
        let (uid, gid) = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        let map = |id: u32| CString::new(format!("{id} {id} 1")).unwrap_or_default();
        Namespace {
            uid: uid.into(),
            uid_map: map(uid),
            gid_map: map(gid),
        }
    }

    /// Enters a new one. Runs in the child: makes system calls only, allocates nothing and
    /// takes no lock.
    pub(crate) fn enter(&self) -> io::Result<()> {
        // SAFETY: takes a number.
        step(0, unsafe {
            libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET)
        })?;
        step(1, write(c"/proc/self/setgroups", c"deny"))?;
        step(1, write(c"/proc/self/uid_map", &self.uid_map))?;
        step(1, write(c"/proc/self/gid_map", &self.gid_map))?;
        // SAFETY: takes numbers.
        let socket = step(2, unsafe {
            libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0)
        })?;
        let name = Interface::named(BRIDGE);
        // SAFETY: the request reads a name of this size.
        step(3, unsafe {
            libc::ioctl(socket, SIOCBRADDBR, name.ifr_name.as_ptr())
        })?;
        up(3, socket, BRIDGE)?;
        for tap in [GUEST_TAP, PASTA_TAP] {
            self.tap(socket, tap)?;
        }
        // SAFETY: the descriptor is open and used nowhere else.
        unsafe { libc::close(socket) };
        Ok(())
    }

    /// A tap that stays when nobody has it open, and that this user may open.
    fn tap(&self, socket: libc::c_int, name: &str) -> io::Result<()> {
        let flags = libc::O_RDWR | libc::O_CLOEXEC;
        // SAFETY: the path is a C string.
        let tun = step(4, unsafe { libc::open(c"/dev/net/tun".as_ptr(), flags) })?;
        let mut request = Interface::named(name);
        // The same as Firecracker asks for.
        request.ifr_ifru.ifru_flags =
            (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
        // SAFETY: each request takes what it is given: a request structure, which outlives the
        // call, or a number.
        unsafe {
            step(4, libc::ioctl(tun, libc::TUNSETIFF, &raw mut request))?;
            step(4, libc::ioctl(tun, libc::TUNSETOWNER, self.uid))?;
            step(4, libc::ioctl(tun, libc::TUNSETPERSIST, 1 as libc::c_ulong))?;
            libc::close(tun);
        }
        let mut port = Interface::named(name);
        // SAFETY: the request fills in the number of the interface that is named.
        let index = unsafe {
            step(5, libc::ioctl(socket, libc::SIOCGIFINDEX, &raw mut port))?;
            port.ifr_ifru.ifru_ifindex
        };
        let mut bridge = Interface::named(BRIDGE);
        bridge.ifr_ifru.ifru_ifindex = index;
        // SAFETY: as above.
        step(5, unsafe {
            libc::ioctl(socket, SIOCBRADDIF, &raw mut bridge)
        })?;
        up(5, socket, name)
    }
}

const SIOCBRADDBR: libc::Ioctl = 0x89a0;
const SIOCBRADDIF: libc::Ioctl = 0x89a2;

struct Interface;

impl Interface {
    /// A request about the interface of that name, which is shorter than a name may be.
    fn named(name: &str) -> libc::ifreq {
        // SAFETY: the structure is numbers and arrays of numbers, for which zero is a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        request
    }
}

fn up(number: usize, socket: libc::c_int, name: &str) -> io::Result<()> {
    let mut request = Interface::named(name);
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: the request reads the structure, which outlives the call.
    step(number, unsafe {
        libc::ioctl(socket, libc::SIOCSIFFLAGS, &raw const request)
    })?;
    Ok(())
}

fn write(path: &std::ffi::CStr, text: &std::ffi::CStr) -> libc::c_int {
    // SAFETY: both are C strings; the descriptor is this function's own.
    unsafe {
        let file = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if file < 0 {
            return -1;
        }
        let length = text.count_bytes();
        let written = libc::write(file, text.as_ptr().cast(), length);
        let errno = *libc::__errno_location();
        libc::close(file);
        *libc::__errno_location() = errno;
        if written < 0 { -1 } else { 0 }
    }
}

/// The result of a system call, with the step it belongs to in the error's number.
fn step(number: usize, result: libc::c_int) -> io::Result<libc::c_int> {
    if result >= 0 {
        return Ok(result);
    }
    let errno = io::Error::last_os_error().raw_os_error().unwrap_or(0);
    let mark = i32::try_from(number + 1).unwrap_or(0) << STEP_SHIFT;
    Err(io::Error::from_raw_os_error(mark | errno))
}

/// No error number of Linux is as big as this many bits.
const STEP_SHIFT: u32 = 16;

/// What failed in [`Namespace::enter`], when it was that.
pub(crate) fn explain(error: &io::Error) -> Option<Error> {
    let number = error.raw_os_error()?;
    let index = usize::try_from(number >> STEP_SHIFT).ok()?.checked_sub(1)?;
    let step = STEPS.get(index)?;
    let cause = io::Error::from_raw_os_error(number & ((1 << STEP_SHIFT) - 1));
    let hint = match index {
        0 | 1 => {
            "`--nat` needs user namespaces: allow them with `sudo sysctl -w \
             kernel.unprivileged_userns_clone=1` or, where AppArmor forbids them, `sudo sysctl -w \
             kernel.apparmor_restrict_unprivileged_userns=0`; or use `--vmm qemu`"
        }
        3 => "load the module: `sudo modprobe bridge`; or use `--vmm qemu`",
        4 => {
            "load the module with `sudo modprobe tun`, and see that you may write to \
             `/dev/net/tun`; or use `--vmm qemu`"
        }
        _ => "use `--vmm qemu`, whose network needs none of this",
    };
    Some(
        Error::new(
            Code::VmmUnavailable,
            format!("cannot give the VM a network: cannot {step}"),
        )
        .because(cause)
        .hint(hint),
    )
}

#[cfg(test)]
mod tests;
