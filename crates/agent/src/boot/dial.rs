//! The boot conversation with the host, up to the configuration.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use banger_guest_api::{BOOT_PORT, BootConfig, Hello, frame};
use vsock::{VMADDR_CID_HOST, VsockStream};

use crate::failure::{Failure, Result};
use crate::server::PROTOCOL;
use crate::socket::Socket;

/// How long the host may be away: its daemon may just be restarting.
const PATIENCE: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long one conversation may be silent.
const SILENCE: Duration = Duration::from_secs(20);

/// Dials until a host answers with the VM's configuration.
pub(super) fn host() -> Result<(Socket, BootConfig)> {
    let deadline = Instant::now() + PATIENCE;
    let mut pause = FIRST_PAUSE;
    loop {
        match converse() {
            Ok(answer) => return Ok(answer),
            // What it says will not change.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(Failure::new("read the boot configuration", error));
            }
            Err(error) if Instant::now() >= deadline => {
                return Err(Failure::new("dial the host", error));
            }
            Err(_) => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

fn converse() -> io::Result<(Socket, BootConfig)> {
    let stream = VsockStream::connect_with_cid_port(VMADDR_CID_HOST, BOOT_PORT)?;
    let mut socket = Socket::new(OwnedFd::from(stream));
    socket.set_timeout(Some(SILENCE))?;
    socket.send(&Hello { version: PROTOCOL })?;
    let frame = frame::read(&mut socket)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let config = frame.parse()?;
    Ok((socket, config))
}
