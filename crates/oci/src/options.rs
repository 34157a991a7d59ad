//! What a caller may choose about pulls.

use std::path::PathBuf;
use std::time::Duration;

use banger_model::ByteSize;

use crate::credentials::CredentialFiles;
use crate::proxy::Proxies;
use crate::reference::Registry;

/// How images are pulled. The default suits a person at a terminal.
#[derive(Clone, Debug)]
pub struct Options {
    /// Registries that may be spoken to without TLS. Those on this machine need not be named.
    pub insecure: Vec<Registry>,
    /// Where user names and passwords are looked for.
    pub credentials: CredentialFiles,
    /// PEM files with certificate authorities that are trusted beside those of the system.
    pub authorities: Vec<PathBuf>,
    /// The proxies on the way.
    pub proxies: Proxies,
    /// The largest image, in bytes as transferred.
    pub max_size: ByteSize,
    /// How long a registry may take to accept a connection.
    pub connect_timeout: Duration,
    /// How long a registry may send nothing in the middle of an answer.
    pub stall_timeout: Duration,
    /// How often a request is made before it is given up. A download that gets further each
    /// time is not given up.
    pub attempts: u32,
    /// The pause after the first failure; each further one is twice as long.
    pub first_pause: Duration,
    /// The longest pause, also when a registry asks for a longer one.
    pub longest_pause: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            insecure: Vec::new(),
            credentials: CredentialFiles::default(),
            authorities: Vec::new(),
            proxies: Proxies::default(),
            max_size: ByteSize::gib(32),
            connect_timeout: Duration::from_secs(15),
            stall_timeout: Duration::from_secs(30),
            attempts: 4,
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(30),
        }
    }
}
