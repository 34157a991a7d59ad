//! Single files, known by their digest, through the same cache and the same downloads as blobs.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use banger_content::ensure_space;
use banger_model::{ByteSize, Code, Digest, Error, IoContext, Result};
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderMap};
use hyper::{StatusCode, Uri};
use tokio::sync::watch;

use crate::address::{Address, Place};
use crate::cache::{Partial, Pins};
use crate::download::{Source, blocking, fetch};
use crate::failure::Failure;
use crate::http::{Http, host_of};
use crate::manifest::Descriptor;
use crate::options::Options;
use crate::progress::{Meter, Transfer};
use crate::pull::Puller;
use crate::reference::{Registry, is_loopback};
use crate::request::{Answer, Asked, Range, follow};
use crate::retry::Retry;
use crate::session::retry_after;

/// How much of a file on this machine is copied between two reports.
const PIECE: usize = 4 << 20;

/// A verified file in the cache, where it stays for as long as this value lives.
#[derive(Debug)]
pub struct Blob {
    /// The file. Its digest was verified.
    pub path: PathBuf,
    /// Its length in bytes.
    pub size: u64,
    _pins: Pins,
}

impl Puller {
    /// Sees to it that the file at `address` is in the cache, if its SHA-256 is `digest`. One that
    /// is there already is not asked for again. `progress` is told how many bytes are there.
    ///
    /// Dropping the future ends it; what was received from a server is taken up by the next one.
    /// Any number may run side by side: one of them downloads, the others wait.
    ///
    /// # Errors
    /// `not_found`, `no_space`, `io`, and `fetch_failed` for everything that a server does wrong
    /// and for a file that is another one.
    pub async fn file(
        &self,
        address: &Address,
        digest: &Digest,
        progress: &watch::Sender<Transfer>,
    ) -> Result<Blob> {
        let pins = self.cache().pin([digest.clone()]);
        let size = match self.there(digest).await? {
            Some(size) => {
                Meter::new(progress, size).set(digest, size);
                size
            }
            None => match address.place() {
                Place::Web(uri) => self.download(uri, digest, progress).await?,
                Place::File(path) => self.copy(path, digest, progress).await?,
            },
        };
        Ok(Blob {
            path: self.cache().blob(digest),
            size,
            _pins: pins,
        })
    }

    /// The size of the blob when it is there and as it should be.
    async fn there(&self, digest: &Digest) -> Result<Option<u64>> {
        let (cache, digest) = (self.cache().clone(), digest.clone());
        blocking(move || {
            let Ok(found) = fs::symlink_metadata(cache.blob(&digest)) else {
                return Ok(None);
            };
            Ok(cache.verify(&digest, found.len())?.then_some(found.len()))
        })
        .await
    }

    async fn download(
        &self,
        uri: &Uri,
        digest: &Digest,
        progress: &watch::Sender<Transfer>,
    ) -> Result<u64> {
        let (http, options) = self.parts();
        let web = Web { http, options, uri };
        web.refuse_plain()?;
        let size = web.size().await.map_err(|failure| failure.error)?;
        if size > options.max_size.as_bytes() {
            return Err(too_large(uri, options.max_size));
        }
        let (cache, found) = (self.cache().clone(), digest.clone());
        let what = format!("downloading `{}`", host_of(uri));
        blocking(move || {
            let there = fs::metadata(cache.partial(&found)).map_or(0, |found| found.len());
            let missing = ByteSize::bytes(size.saturating_sub(there));
            ensure_space(cache.dir(), missing, &what)
        })
        .await?;
        let blob = Descriptor {
            media_type: String::new(),
            digest: digest.clone(),
            size,
            platform: None,
            annotations: BTreeMap::new(),
        };
        let meter = Meter::new(progress, size);
        fetch(&Source::Web(&web), self.cache(), &blob, options, &meter).await?;
        Ok(size)
    }

    async fn copy(
        &self,
        path: &Path,
        digest: &Digest,
        progress: &watch::Sender<Transfer>,
    ) -> Result<u64> {
        let cache = self.cache();
        let slot = cache.slot(digest);
        let turn = slot.turn.clone().lock_owned().await;
        if let Some(size) = self.there(digest).await? {
            return Ok(size);
        }
        let (opened, from, wanted) = (cache.clone(), path.to_owned(), digest.clone());
        let (mut file, mut partial, size) = blocking(move || {
            let (file, size) = open(&from)?;
            ensure_space(opened.dir(), ByteSize::bytes(size), "copying the bundle")?;
            let mut partial = Partial::open(&opened, &wanted, size, slot, turn)?;
            // It may be the start of another file.
            partial.restart()?;
            Ok((file, partial, size))
        })
        .await?;
        let meter = Meter::new(progress, size);
        while !partial.is_full() {
            let from = path.to_owned();
            (file, partial) = blocking(move || {
                copy_piece(&mut file, &from, size, &mut partial)?;
                Ok((file, partial))
            })
            .await?;
            meter.set(digest, partial.len());
        }
        let (published, wanted) = (cache.clone(), digest.clone());
        match blocking(move || partial.publish(&published, &wanted)).await? {
            None => Ok(size),
            Some(found) => Err(Error::new(
                Code::FetchFailed,
                format!("`{}` is `{found}`, not `{digest}`", path.display()),
            )
            .hint("get the file again, or correct the digest that it should have")),
        }
    }
}

/// A file on a server.
pub(crate) struct Web<'a> {
    http: &'a Http,
    options: &'a Options,
    uri: &'a Uri,
}

impl Web<'_> {
    /// Asks once for the file from byte `from` on.
    pub(crate) async fn ask(&self, from: u64) -> Result<Answer, Failure> {
        let answer = self.get(Range::From(from)).await?;
        let status = answer.response.status();
        if matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT)
            || (status == StatusCode::RANGE_NOT_SATISFIABLE && from > 0)
        {
            return Ok(answer);
        }
        Err(self.refusal(&answer))
    }

    /// What the file's server, or the one it redirects to, may send next.
    pub(crate) fn http(&self) -> &Http {
        self.http
    }

    /// How long the file is. Asked with a request for its first byte, which servers answer that
    /// refuse `HEAD`; one that sends everything is not listened to.
    async fn size(&self) -> Result<u64, Failure> {
        let mut retry = Retry::new(self.options);
        loop {
            match self.size_once().await {
                Ok(size) => return Ok(size),
                Err(failure) => retry.wait(failure).await?,
            }
        }
    }

    async fn size_once(&self) -> Result<u64, Failure> {
        let answer = self.get(Range::First).await?;
        let headers = answer.response.headers();
        let size = match answer.response.status() {
            StatusCode::OK => number(headers, CONTENT_LENGTH.as_str(), |text| Some(text)),
            StatusCode::PARTIAL_CONTENT => number(headers, CONTENT_RANGE.as_str(), |text| {
                text.split_once('/').map(|(_, total)| total)
            }),
            StatusCode::RANGE_NOT_SATISFIABLE => Some(0),
            _ => return Err(self.refusal(&answer)),
        };
        match size {
            Some(size) if size > 0 => Ok(size),
            Some(_) => Err(self.unusable(&answer, "an empty file")),
            None => Err(self.unusable(&answer, "a file of a length that it does not say")),
        }
    }

    async fn get(&self, range: Range) -> Result<Answer, Failure> {
        let asked = Asked {
            range,
            ..Asked::default()
        };
        follow(self.http, self.options, self.uri, asked).await
    }

    /// Plain HTTP is for this machine and for servers that are named as insecure.
    fn refuse_plain(&self) -> Result<()> {
        let named = || {
            let authority = self.uri.authority()?.as_str();
            let registry: Registry = authority.parse().ok()?;
            Some(self.options.insecure.contains(&registry))
        };
        if self.uri.scheme_str() == Some("https")
            || self.uri.host().is_some_and(is_loopback)
            || named() == Some(true)
        {
            return Ok(());
        }
        let host = host_of(self.uri);
        Err(Error::new(
            Code::InvalidArgument,
            format!("`{host}` is not asked over plain HTTP"),
        )
        .hint(format!(
            "write `https://`, or add `{host}` to `insecure_registries` in `[images]`"
        )))
    }

    fn unusable(&self, answer: &Answer, what: &str) -> Failure {
        let message = format!("`{}` sends {what}", answer.host);
        Failure::lasting(
            Error::new(Code::FetchFailed, message).hint("check the address in the catalog"),
        )
    }

    fn refusal(&self, answer: &Answer) -> Failure {
        let status = answer.response.status();
        let (path, host) = (crate::text::shown(self.uri.path()), &answer.host);
        let (code, message) = match status {
            StatusCode::NOT_FOUND | StatusCode::GONE => {
                (Code::NotFound, format!("`{host}` does not have `{path}`"))
            }
            _ => (
                Code::FetchFailed,
                format!(
                    "`{host}` answered with the status {} for `{path}`",
                    status.as_u16()
                ),
            ),
        };
        Failure {
            again: Failure::may_pass(status),
            after: retry_after(answer.response.headers()),
            ..Failure::lasting(Error::new(code, message).hint("check the address in the catalog"))
        }
    }
}

fn number(headers: &HeaderMap, name: &str, part: impl Fn(&str) -> Option<&str>) -> Option<u64> {
    let text = headers.get(name)?.to_str().ok()?;
    part(text)?.trim().parse().ok()
}

fn too_large(uri: &Uri, limit: ByteSize) -> Error {
    Error::new(
        Code::FetchFailed,
        format!("the file at `{}` is larger than {limit}", host_of(uri)),
    )
    .hint("check the address in the catalog")
}

/// The file and its length. What is no file is not opened: a pipe would wait for somebody.
fn open(path: &Path) -> Result<(File, u64)> {
    let found = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::new(
                Code::NotFound,
                format!("there is no file `{}`", path.display()),
            )
            .hint("check the path in the catalog"));
        }
        other => other.at("look at", path)?,
    };
    if !found.is_file() || found.len() == 0 {
        return Err(Error::new(
            Code::InvalidArgument,
            format!("`{}` is not a file with something in it", path.display()),
        )
        .hint("check the path in the catalog"));
    }
    let file = File::open(path).at("open", path)?;
    Ok((file, found.len()))
}

fn copy_piece(file: &mut File, path: &Path, size: u64, partial: &mut Partial) -> Result<()> {
    let mut piece = Vec::new();
    let left = (size - partial.len()).min(PIECE as u64);
    file.take(left).read_to_end(&mut piece).at("read", path)?;
    if piece.is_empty() {
        return Err(Error::new(
            Code::FetchFailed,
            format!("`{}` became shorter while it was read", path.display()),
        )
        .hint("try again when nobody writes to it"));
    }
    partial.write(&piece)
}
