//! Images from archives: `docker save` and OCI layouts, plain or compressed, in one pass.
//!
//! ```text
//! source ─▶ decompress ─▶ tar entries ─▶ staging directory, hashed on the way
//!                                              │ the whole archive was read and is sound
//!                                              ▼
//!                            choose the image ─▶ its blobs into the cache
//! ```
//!
//! Which image is wanted stands at the end of most archives, so everything is staged first, up
//! to a limit. No name from an archive is ever used as a name on this machine.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use banger_model::{ByteSize, Code, Error, Result};
use tokio::sync::watch;

use crate::cache::BlobCache;
use crate::config::ReadConfig;
use crate::download::blocking;
use crate::image::Image;
use crate::manifest::{MAX_CONFIG, Refusal};
use crate::platform::Platform;
use crate::progress::Transfer;
use crate::text::shown;

mod entries;
mod layout;
mod saved;
mod select;
mod source;
mod stage;

use select::Chosen;
use stage::Stage;

/// Which image of an archive is wanted, and how large it may be.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its name, for archives with several images.
    pub name: Option<String>,
    /// For which machine.
    pub platform: Platform,
    /// The most that is unpacked from the archive, all its images together.
    pub max_size: ByteSize,
}

impl Default for Wanted {
    fn default() -> Self {
        Wanted {
            name: None,
            platform: Platform::default(),
            max_size: ByteSize::gib(32),
        }
    }
}

/// Reads an image from `source`, the bytes of an archive, into `cache`. The source is read once
/// and to its end; it may be a pipe. `length` is how many bytes it has, where that is known, and
/// only for `progress`, which counts the bytes read.
///
/// Blocks a thread of the runtime's pool while it reads. Dropping the future ends it at the next
/// read that returns. Whatever goes wrong, nothing of the archive stays.
///
/// # Errors
/// `invalid_argument` for an archive that is damaged, hostile or not an image, naming the entry,
/// and for one with several images and no name; `not_found` for a name it does not have; `io`
/// and `no_space` for the cache.
pub async fn load(
    cache: &BlobCache,
    source: impl Read + Send + 'static,
    length: Option<u64>,
    wanted: &Wanted,
    progress: &watch::Sender<Transfer>,
) -> Result<Image> {
    let stop = Arc::new(AtomicBool::new(false));
    let _stop_when_dropped = StopWhenDropped(stop.clone());
    let (cache, wanted, progress) = (cache.clone(), wanted.clone(), progress.clone());
    blocking(move || {
        progress.send_replace(Transfer {
            done: 0,
            total: length.unwrap_or(0),
        });
        let mut stage = Stage::new(&cache, wanted.max_size)?;
        source::open(source, stop, progress)
            .and_then(|tar| entries::read_all(tar, &mut stage))
            .map_err(|error| {
                // What the disk says is not the archive's fault.
                match error {
                    Fault::Ours(error) => error,
                    Fault::Theirs(why) => refused(&why),
                }
            })?;
        publish(&cache, &stage, &wanted)
    })
    .await
}

/// Whose fault it is that an archive was not read.
#[derive(Debug)]
enum Fault {
    Ours(Error),
    Theirs(Refusal),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Fault::Ours(error)
    }
}

impl From<Refusal> for Fault {
    fn from(why: Refusal) -> Self {
        Fault::Theirs(why)
    }
}

/// Chooses the image among what was staged and moves its blobs to the cache.
fn publish(cache: &BlobCache, stage: &Stage, wanted: &Wanted) -> Result<Image> {
    let Chosen {
        name,
        manifest_digest,
        manifest,
    } = select::choose_image(stage, wanted)?;
    manifest
        .content_size(wanted.max_size)
        .map_err(|why| refused(&format!("its image {why}")))?;
    let config = stage
        .blob(&manifest.config)
        .and_then(|staged| stage.read(staged, MAX_CONFIG));
    let config = config.map_err(fault)?;
    let read = ReadConfig::parse(&config, manifest.layers.len(), &wanted.platform)
        .map_err(|why| refused(&format!("its image {why}")))?;
    let blobs = manifest.layers.iter().chain([&manifest.config]);
    let pins = cache.pin(blobs.clone().map(|blob| blob.digest.clone()));
    // All are looked for before one is published.
    let staged: Vec<_> = blobs
        .map(|blob| stage.blob(blob))
        .collect::<Result<_, Fault>>()
        .map_err(fault)?;
    for file in staged {
        stage.publish(cache, file)?;
    }
    Image::assemble(cache, name, manifest_digest, &manifest, read, pins)
}

fn fault(fault: Fault) -> Error {
    match fault {
        Fault::Ours(error) => error,
        Fault::Theirs(why) => refused(&why),
    }
}

/// An archive that is not read; `why` begins with what in it is wrong.
fn refused(why: &str) -> Error {
    Error::new(
        Code::InvalidArgument,
        format!("the archive is refused: {why}"),
    )
    .hint("make it anew with `docker save`, `podman save` or `skopeo copy … oci-archive:FILE`")
}

/// The names of the images in an archive, to be shown.
fn listed(names: &[String]) -> String {
    let mut names: Vec<String> = names
        .iter()
        .map(|name| format!("`{}`", shown(name)))
        .collect();
    names.sort();
    names.dedup();
    let more = names.len().saturating_sub(20);
    names.truncate(20);
    let mut text = names.join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

struct StopWhenDropped(Arc<AtomicBool>);

impl Drop for StopWhenDropped {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
