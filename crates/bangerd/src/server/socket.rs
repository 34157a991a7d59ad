//! The daemon's socket: private from the moment it exists.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use banger_model::{Code, Error, IoContext, Result};
use tokio::net::unix::SocketAddr;
use tokio::net::{UnixListener, UnixStream};

/// How long to wait when there are no file descriptors left.
const BREATH: Duration = Duration::from_millis(100);

/// Accepts connections of this user only.
pub(crate) struct PrivateSocket {
    listener: UnixListener,
    owner: u32,
}

impl PrivateSocket {
    /// Listens at `path`. A socket of this user that is in the way is stale, because the caller
    /// holds the state directory's lock, and is removed.
    ///
    /// # Errors
    /// `unsafe_permissions` when something else is in the way; `io`.
    pub(crate) fn bind(path: &Path) -> Result<PrivateSocket> {
        let owner = rustix::process::geteuid().as_raw();
        match fs::symlink_metadata(path) {
            Ok(meta) if meta.file_type().is_socket() && meta.uid() == owner => {
                fs::remove_file(path).at("remove", path)?;
            }
            Ok(_) => {
                return Err(Error::new(
                    Code::Unsafe,
                    format!("`{}` is not a socket of yours", path.display()),
                )
                .hint("find out who put it there, and remove it"));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("look at", path, error)),
        }
        // The umask keeps others out until the mode is set; so does the directory.
        let listener = UnixListener::bind(path).at("listen on", path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).at("close", path)?;
        Ok(PrivateSocket { listener, owner })
    }

    fn is_ours(&self, stream: &UnixStream) -> bool {
        match stream.peer_cred() {
            // Root could do everything anyway.
            Ok(peer) if peer.uid() == self.owner || peer.uid() == 0 => true,
            Ok(peer) => {
                tracing::warn!(uid = peer.uid(), "refused a connection of another user");
                false
            }
            Err(error) => {
                tracing::warn!(%error, "refused a connection of nobody known");
                false
            }
        }
    }
}

impl axum::serve::Listener for PrivateSocket {
    type Io = UnixStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (UnixStream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) if self.is_ours(&stream) => return (stream, address),
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(BREATH).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}
