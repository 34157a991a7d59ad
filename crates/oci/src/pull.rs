//! Pulling: from a name to an image whose layers are in the cache.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use banger_content::ensure_space;
use banger_model::{ByteSize, Code, Digest, Error, IoContext, Result};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::watch;

use crate::cache::BlobCache;
use crate::config::ReadConfig;
use crate::download::{Source, blocking, fetch};
use crate::http::Http;
use crate::image::Image;
use crate::manifest::{Descriptor, Document, MAX_CONFIG, MAX_DEPTH, Manifest, Refusal, choose};
use crate::options::Options;
use crate::platform::Platform;
use crate::progress::{Meter, Transfer};
use crate::reference::Reference;
use crate::session::Session;

/// Layers of one image that are downloaded at once.
const PARALLEL: usize = 3;

/// Pulls images into one cache. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Puller {
    http: Arc<Http>,
    options: Arc<Options>,
    cache: BlobCache,
}

impl Puller {
    /// A puller for `cache`. Reads the system's certificate authorities.
    ///
    /// # Errors
    /// `invalid_config` for a file of certificate authorities that cannot be read.
    pub fn new(cache: BlobCache, options: Options) -> Result<Self> {
        Ok(Puller {
            http: Arc::new(Http::new(&options)?),
            options: Arc::new(options),
            cache,
        })
    }

    /// The cache that images are pulled into.
    pub fn cache(&self) -> &BlobCache {
        &self.cache
    }

    /// What it makes requests with, and how.
    pub(crate) fn parts(&self) -> (&Http, &Options) {
        (&self.http, &self.options)
    }

    /// Pulls `reference` for `platform`. `progress` is told how many bytes are there.
    ///
    /// Dropping the future ends the pull; what was received is taken up by the next one. Any
    /// number of pulls may run side by side: each blob is downloaded once, by one of them.
    ///
    /// # Errors
    /// `not_found` when the registry has no such image, `no_space`, `io` for the cache,
    /// `invalid_config` and `missing_program` for credentials that cannot be read, and
    /// `fetch_failed` for everything that a registry or the network does wrong.
    pub async fn pull(
        &self,
        reference: &Reference,
        platform: &Platform,
        progress: &watch::Sender<Transfer>,
    ) -> Result<Image> {
        let (http, options) = (self.http.clone(), self.options.clone());
        let session = Session::open(http, options, reference)
            .await
            .map_err(|failure| failure.error)?;
        let invalid = |why: Refusal| refused(reference, &why);

        let (digest, manifest) = self.resolve(&session, reference, platform).await?;
        let total = manifest
            .content_size(self.options.max_size)
            .map_err(invalid)?;
        let blobs = distinct(&manifest);
        let pins = self.cache.pin(blobs.iter().map(|blob| blob.digest.clone()));
        let meter = Meter::new(progress, total);
        let source = Source::Registry(&session);
        let fetch_one = |blob| fetch(&source, &self.cache, blob, &self.options, &meter);

        // The config first: an image for another machine is refused before its layers come.
        fetch_one(&manifest.config).await?;
        let layers = manifest.layers.len();
        let read = self
            .read_config(
                &manifest.config,
                move |bytes, platform| ReadConfig::parse(bytes, layers, platform),
                platform,
            )
            .await?
            .map_err(invalid)?;
        self.check_space(reference, &blobs).await?;
        // Made before they are awaited: the compiler cannot see that the closures in a stream
        // are `Send`.
        let downloads: Vec<_> = blobs
            .iter()
            .filter(|blob| blob.digest != manifest.config.digest)
            .map(fetch_one)
            .collect();
        stream::iter(downloads)
            .buffer_unordered(PARALLEL)
            .try_collect::<()>()
            .await?;

        let (cache, name) = (self.cache.clone(), reference.to_string());
        blocking(move || Image::assemble(&cache, Some(name), digest, &manifest, read, pins)).await
    }

    /// Goes from the name through indexes to the manifest for the platform.
    async fn resolve(
        &self,
        session: &Session,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<(Digest, Manifest)> {
        let mut wanted = reference.wanted().to_owned();
        let mut size = None;
        for _ in 0..MAX_DEPTH {
            let raw = session
                .manifest(&wanted)
                .await
                .map_err(|failure| failure.error)?;
            if size.is_some_and(|size| size != raw.bytes.len() as u64) {
                let why = format!("has an index with a wrong size for `{}`", raw.digest);
                return Err(refused(reference, &why));
            }
            let document = Document::parse(&raw.bytes, raw.content_type.as_deref());
            match document.map_err(|why| refused(reference, &why))? {
                Document::Manifest(manifest) => return Ok((raw.digest, manifest)),
                Document::Index(entries) => {
                    let chosen =
                        choose(&entries, platform).map_err(|why| refused(reference, &why))?;
                    wanted = chosen.digest.to_string();
                    size = Some(chosen.size);
                }
            }
        }
        let why = format!("has more than {MAX_DEPTH} indexes within each other");
        Err(refused(reference, &why))
    }

    async fn read_config<T: Send + 'static>(
        &self,
        blob: &Descriptor,
        parse: impl FnOnce(&[u8], &Platform) -> T + Send + 'static,
        platform: &Platform,
    ) -> Result<T> {
        let (path, platform) = (self.cache.blob(&blob.digest), platform.clone());
        blocking(move || Ok(parse(&read_small(&path, MAX_CONFIG)?, &platform))).await
    }

    /// Refuses before anything large is downloaded what would fill the disk.
    async fn check_space(&self, reference: &Reference, blobs: &[Descriptor]) -> Result<()> {
        let (cache, blobs) = (self.cache.clone(), blobs.to_vec());
        let what = format!("pulling `{}`", reference.familiar());
        blocking(move || {
            let there = |path: &Path| std::fs::metadata(path).map_or(0, |found| found.len());
            let missing = blobs.iter().map(|blob| {
                let found =
                    there(&cache.blob(&blob.digest)).max(there(&cache.partial(&blob.digest)));
                blob.size.saturating_sub(found)
            });
            ensure_space(cache.dir(), ByteSize::bytes(missing.sum()), &what)
        })
        .await
    }
}

/// The config and the layers, each content once.
fn distinct(manifest: &Manifest) -> Vec<Descriptor> {
    let mut seen = HashSet::new();
    let all = manifest.layers.iter().chain([&manifest.config]);
    all.filter(|blob| seen.insert(blob.digest.clone()))
        .cloned()
        .collect()
}

/// Reads a file of at most `limit` bytes.
pub(crate) fn read_small(path: &Path, limit: u64) -> Result<Vec<u8>> {
    use std::io::Read;
    let file = std::fs::File::open(path).at("open", path)?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes).at("read", path)?;
    Ok(bytes)
}

fn refused(reference: &Reference, why: &str) -> Error {
    let error = Error::new(
        Code::FetchFailed,
        format!("the image `{}` {why}", reference.familiar()),
    );
    if why.contains("has no image for") || why.starts_with("is for ") {
        error.hint("choose one that it has with `--platform`, or another image")
    } else {
        error.hint("pull another version of the image, or ask whoever publishes it")
    }
}
