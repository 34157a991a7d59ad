//! The real server behind a socket, for tests with the real client.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use banger_guest_api::PROTOCOL_VERSION;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;

use crate::server::Server;
use crate::socket::Socket;

/// An agent behind a socket that greets like a hybrid vsock device.
pub(crate) struct Agent {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) server: Arc<Server>,
}

impl Agent {
    pub(crate) fn start() -> Agent {
        Agent::speaking(PROTOCOL_VERSION)
    }

    /// One that knows nothing newer than this protocol.
    pub(crate) fn speaking(protocol: u32) -> Agent {
        let directory = tempfile::tempdir().unwrap();
        let server = Arc::new(Server::speaking(protocol, None));
        let listener = UnixListener::bind(directory.path().join("agent.sock")).unwrap();
        let agent = Arc::clone(&server);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut line = String::new();
                BufReader::with_capacity(64, &mut stream)
                    .read_line(&mut line)
                    .await
                    .unwrap();
                assert_eq!(line, "CONNECT 1024\n");
                stream.write_all(b"OK 1073741824\n").await.unwrap();
                let stream = stream.into_std().unwrap();
                stream.set_nonblocking(false).unwrap();
                // Small, so that the agent often has to wait for the host, as over vsock.
                rustix::net::sockopt::set_socket_send_buffer_size(&stream, 16 << 10).unwrap();
                agent.admit(Socket::new(stream)).unwrap();
            }
        });
        Agent { directory, server }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("agent.sock")
    }
}

/// Every test is bounded: a hang is a failure that names itself.
pub(crate) async fn bounded<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), work)
        .await
        .expect("it hangs")
}

/// Waits for something the kernel brings about; bounded by the test.
pub(crate) async fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
    }
}
