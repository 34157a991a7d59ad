//! A guest agent that misbehaves, for tests of what the host does about it.
//!
//! It takes the place of `/init` in the initramfs. How it misbehaves is said by the last line
//! of its own file, `mode=…`, which the tests append to the program: either it never comes up
//! ([`main`], [`lie`]), or it does and misbehaves towards every request ([`serve`]).

mod serve;

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

/// The host's address on vsock, and the port it serves the boot configuration on.
const HOST: u32 = 2;
const BOOT_PORT: u32 = 1023;
/// The port the agent is expected on.
const AGENT_PORT: u32 = 1024;
const ANYBODY: u32 = u32::MAX;

fn main() {
    // Whether KVM works is another question, and it is answered honestly.
    if is_probe() {
        println!("banger-probe-ok");
        pause();
    }
    match mode().as_str() {
        // PID 1 must not end: the kernel panics.
        "panic" => {}
        "hang" => pause(),
        "flood" => {
            println!("\x1b]0;owned\x07\x1b[31mevil\x1b[2J last words");
            pause()
        }
        mode => {
            let told = load_modules()
                .and_then(|()| dial())
                .and_then(|host| lie(mode, host));
            println!("bad-agent: {told:?}");
            pause();
        }
    }
}

/// Whether this boot only asks whether KVM works.
fn is_probe() -> bool {
    let (name, at) = (c"proc", c"/proc");
    // SAFETY: all are strings that end, or nothing.
    let mounted = unsafe {
        libc::mount(
            name.as_ptr(),
            at.as_ptr(),
            name.as_ptr(),
            0,
            std::ptr::null(),
        )
    };
    assert_eq!(mounted, 0, "mount /proc: {}", io::Error::last_os_error());
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    line.split_whitespace().any(|word| word == "banger.probe")
}

fn mode() -> String {
    let program = fs::read("/init").unwrap_or_default();
    let last = program
        .rsplit(|byte| *byte == b'\n')
        .next()
        .unwrap_or_default();
    String::from_utf8_lossy(last.strip_prefix(b"mode=").unwrap_or_default()).into_owned()
}

/// Has the boot conversation, up to the point where this mode stops being honest.
fn lie(mode: &str, mut host: File) -> io::Result<()> {
    match mode {
        // A control frame of 4 GiB.
        "huge" => host.write_all(&[0xff, 0xff, 0xff, 0xff, 0])?,
        "garbage" => host.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")?,
        "close" => return Ok(()),
        "silent" => {
            hello(&mut host)?;
            pause();
        }
        "refuse" => {
            hello(&mut host)?;
            let report =
                br#"{"type":"failed","step":"mount \u001b[31mthe root disk","message":"no"}"#;
            write_frame(&mut host, report)?;
        }
        mode if mode.starts_with("serve-") => {
            hello(&mut host)?;
            serve::serve(mode, &mut host)?;
        }
        other => println!("bad-agent: unknown mode {other:?}"),
    }
    pause();
    Ok(())
}

fn hello(host: &mut File) -> io::Result<()> {
    write_frame(host, br#"{"version":1}"#)?;
    let mut header = [0; 5];
    host.read_exact(&mut header)?;
    // What it is told does not matter, but what is unread would make the host's end look broken.
    let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
    io::copy(&mut host.take(length.into()), &mut io::sink()).map(drop)
}

fn write_frame(host: &mut File, json: &[u8]) -> io::Result<()> {
    host.write_all(&(json.len() as u32).to_be_bytes())?;
    host.write_all(&[0])?;
    host.write_all(json)
}

fn load_modules() -> io::Result<()> {
    let dir = Path::new("/banger");
    for name in fs::read_to_string(dir.join("boot.list"))?.lines() {
        let file = File::open(dir.join("modules").join(name))?;
        let none = CString::default();
        // SAFETY: the descriptor is open and the string is NUL-terminated.
        let loaded =
            unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), none.as_ptr(), 0) };
        if loaded != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn dial() -> io::Result<File> {
    let socket = socket()?;
    let (address, length) = address(HOST, BOOT_PORT);
    // SAFETY: the pointer and the length describe `address`, which outlives the call.
    let connected =
        unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), length) };
    checked(connected)?;
    Ok(File::from(socket))
}

fn listen(port: u32) -> io::Result<OwnedFd> {
    let socket = socket()?;
    let (address, length) = address(ANYBODY, port);
    // SAFETY: the pointer and the length describe `address`, which outlives the call.
    checked(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) })?;
    // SAFETY: a plain system call.
    checked(unsafe { libc::listen(socket.as_raw_fd(), 128) })?;
    Ok(socket)
}

/// A connection and the address it comes from.
fn accept(listener: &OwnedFd) -> io::Result<(File, u32)> {
    let (mut peer, mut length) = address(0, 0);
    // SAFETY: the pointers describe `peer`, which outlives the call.
    let fd = unsafe {
        libc::accept4(
            listener.as_raw_fd(),
            (&raw mut peer).cast(),
            &raw mut length,
            libc::SOCK_CLOEXEC,
        )
    };
    checked(fd)?;
    // SAFETY: the descriptor was just made and belongs to nobody else.
    Ok((unsafe { File::from_raw_fd(fd) }, peer.svm_cid))
}

fn socket() -> io::Result<OwnedFd> {
    // SAFETY: the arguments are constants.
    let fd = unsafe { libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    checked(fd)?;
    // SAFETY: the descriptor was just made and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn address(cid: u32, port: u32) -> (libc::sockaddr_vm, libc::socklen_t) {
    // SAFETY: all zeros is a valid address; the fields that matter are set below.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
    address.svm_cid = cid;
    address.svm_port = port;
    (address, size_of::<libc::sockaddr_vm>() as libc::socklen_t)
}

fn checked(result: libc::c_int) -> io::Result<()> {
    match result {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Does nothing for ever.
fn pause() {
    loop {
        // SAFETY: no arguments; returns only when a signal was handled.
        unsafe { libc::pause() };
    }
}
