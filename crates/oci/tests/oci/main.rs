//! Pulling and loading against registries that behave (Debian's `docker-registry`) and one that
//! does not.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod archive_faults;
mod archives;
mod cache;
mod documents;
mod files;
mod hostile;
mod images;
mod login;
mod proxied;
mod real;
mod server;

use std::path::Path;
use std::time::Duration;

use banger_model::Result;
use banger_oci::{BlobCache, Image, Options, Platform, Puller, Reference, Transfer};
use tokio::sync::watch;

/// A cache in a directory of its own.
struct Host {
    dir: tempfile::TempDir,
    cache: BlobCache,
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cache = BlobCache::open(&dir.path().join("cache")).unwrap();
        Host { dir, cache }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    async fn pull(&self, name: &str) -> Result<Image> {
        self.pull_with(name, options()).await
    }

    async fn pull_with(&self, name: &str, options: Options) -> Result<Image> {
        let puller = Puller::new(self.cache.clone(), options).unwrap();
        let reference: Reference = name.parse().unwrap();
        // As the daemon does it: on a task of its own, which needs a future that is `Send`.
        tokio::spawn(async move {
            let progress = watch::Sender::new(Transfer::default());
            puller
                .pull(&reference, &Platform::default(), &progress)
                .await
        })
        .await
        .unwrap()
    }

    /// What is in one of the cache's directories.
    fn files(&self, dir: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.cache.dir().join(dir)).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// The length of the start of `blob`.
    fn partial_len(&self, digest: &banger_model::Digest) -> u64 {
        let path = self.cache.dir().join("partial").join(digest.hex());
        std::fs::metadata(path).map_or(0, |found| found.len())
    }
}

/// Options with which failing tests end soon.
fn options() -> Options {
    Options {
        connect_timeout: Duration::from_secs(5),
        stall_timeout: Duration::from_millis(300),
        first_pause: Duration::from_millis(10),
        ..Options::default()
    }
}

/// Every layer is what it should be.
fn assert_whole(image: &Image, made: &images::Made) {
    assert_eq!(image.layers.len(), made.layers.len());
    for (layer, expected) in image.layers.iter().zip(&made.layers) {
        let same = std::fs::read(&layer.path).unwrap() == expected.packed;
        assert!(same, "{} has other content", layer.digest);
        assert_eq!(layer.diff_id, images::digest(&expected.tar));
        assert_eq!(layer.digest, images::digest(&expected.packed));
        assert_eq!(layer.size, expected.packed.len() as u64);
    }
}
