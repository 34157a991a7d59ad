//! Requests to one repository of one registry: scheme, login, redirects, statuses.
//!
//! Credentials go to the registry and to the token server it names, never to where it redirects.

use std::sync::Arc;
use std::time::Duration;

use banger_content::Hasher;
use banger_model::{Code, Digest, Error};
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{StatusCode, Uri};

use crate::authorization::Applicant;
use crate::challenge::{self, Challenge};
use crate::credentials::Found;
use crate::failure::Failure;
use crate::http::Http;
use crate::manifest::MAX_MANIFEST;
use crate::media::ACCEPT_MANIFEST;
use crate::options::Options;
use crate::reference::Reference;
use crate::request::{Answer, Asked, Range, follow, request};
use crate::retry::Retry;

/// How much of an error's text is read.
const MAX_EXPLANATION: u64 = 64 << 10;

/// A conversation with a registry about one repository.
#[derive(Debug)]
pub(crate) struct Session {
    http: Arc<Http>,
    options: Arc<Options>,
    reference: Reference,
    /// Whether the registry speaks plain HTTP.
    plain: bool,
    login: tokio::sync::Mutex<Login>,
}

#[derive(Debug, Default)]
struct Login {
    header: Option<HeaderValue>,
    /// Counts the logins, so that several requests refused at once log in once.
    number: u64,
    found: Option<Option<Found>>,
}

/// A manifest or index as it came, and the digest of these bytes.
pub(crate) struct RawManifest {
    pub(crate) bytes: Vec<u8>,
    pub(crate) content_type: Option<String>,
    pub(crate) digest: Digest,
}

impl Session {
    /// Finds out how the registry is spoken to.
    pub(crate) async fn open(
        http: Arc<Http>,
        options: Arc<Options>,
        reference: &Reference,
    ) -> Result<Self, Failure> {
        let registry = reference.registry();
        let mut session = Session {
            http,
            options,
            reference: reference.clone(),
            plain: false,
            login: tokio::sync::Mutex::default(),
        };
        if registry.is_loopback() || session.options.insecure.contains(registry) {
            session.plain = session.speaks_plain().await?;
        }
        Ok(session)
    }

    /// Tries TLS first also where plain HTTP would do. A certificate that is wrong is an error
    /// and no reason to do without one.
    async fn speaks_plain(&self) -> Result<bool, Failure> {
        let mut retry = Retry::new(&self.options);
        loop {
            let request = request(&self.uri("")?, Asked::default())?;
            match self.http.send(request).await {
                Ok(_) => return Ok(false),
                Err(failure) if failure.no_tls => return Ok(true),
                Err(failure) => retry.wait(failure).await?,
            }
        }
    }

    /// The manifest or index `wanted` (a tag or a digest), tried until `Options` say stop.
    pub(crate) async fn manifest(&self, wanted: &str) -> Result<RawManifest, Failure> {
        let mut retry = Retry::new(&self.options);
        loop {
            match self.manifest_once(wanted).await {
                Ok(manifest) => return Ok(manifest),
                Err(failure) => retry.wait(failure).await?,
            }
        }
    }

    async fn manifest_once(&self, wanted: &str) -> Result<RawManifest, Failure> {
        let path = format!("{}/manifests/{wanted}", self.reference.repository());
        let what = format!("image `{}`", self.reference.familiar());
        let Answer { host, response } = self.get(&path, &what, Some(ACCEPT_MANIFEST), 0).await?;
        let said = |name: &str| {
            let value = response.headers().get(name)?;
            value.to_str().ok().map(str::to_owned)
        };
        let content_type = said(CONTENT_TYPE.as_str());
        let claimed = said("docker-content-digest");
        let bytes = self
            .http
            .document(&host, "a manifest", response.into_body(), MAX_MANIFEST)
            .await?;
        let mut hasher = Hasher::new();
        hasher.update(&bytes);
        let digest = hasher.finish();
        let expected = wanted
            .parse::<Digest>()
            .ok()
            .map(|digest| digest.to_string());
        // What it should be may be known from the request or only from the answer.
        for expected in expected.iter().chain(&claimed) {
            if expected.starts_with("sha256:") && *expected != digest.as_str() {
                return Err(Failure::lasting(
                    Error::new(
                        Code::FetchFailed,
                        format!(
                            "`{host}` sent a manifest that is `{digest}`, not `{}`",
                            crate::text::shown(expected)
                        ),
                    )
                    .hint("something between here and the registry changes what is sent"),
                ));
            }
        }
        Ok(RawManifest {
            bytes,
            content_type,
            digest,
        })
    }

    /// Asks once for the blob `digest` from byte `from` on. The answer may also be the whole
    /// blob (200) or that there is nothing there (416).
    pub(crate) async fn blob(&self, digest: &Digest, from: u64) -> Result<Answer, Failure> {
        let path = format!("{}/blobs/{digest}", self.reference.repository());
        let what = format!("blob `{digest}` of `{}`", self.reference.familiar());
        self.get(&path, &what, None, from).await
    }

    /// The next piece of a blob.
    pub(crate) async fn chunk(
        &self,
        host: &str,
        body: &mut Incoming,
    ) -> Result<Option<Bytes>, Failure> {
        self.http.chunk(host, body).await
    }

    /// One request, with a login where the registry wants one.
    async fn get(
        &self,
        path: &str,
        what: &str,
        accept: Option<&'static str>,
        from: u64,
    ) -> Result<Answer, Failure> {
        let mut logged_in = false;
        loop {
            let (header, number) = {
                let login = self.login.lock().await;
                (login.header.clone(), login.number)
            };
            let asked = Asked {
                login: header.as_ref(),
                accept,
                range: Range::From(from),
            };
            let answer = follow(&self.http, &self.options, &self.uri(path)?, asked).await?;
            let status = answer.response.status();
            let own = answer.host == self.reference.registry().server();
            if status == StatusCode::UNAUTHORIZED && own && !logged_in {
                let challenges = challenges(answer.response.headers());
                self.log_in(number, &challenges).await?;
                logged_in = true;
                continue;
            }
            if matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT)
                || (status == StatusCode::RANGE_NOT_SATISFIABLE && from > 0)
            {
                return Ok(answer);
            }
            return Err(self.refusal(answer, what, header.as_ref()).await);
        }
    }

    /// Logs in, unless another request did since login number `seen`.
    async fn log_in(&self, seen: u64, challenges: &[Challenge]) -> Result<(), Failure> {
        let mut login = self.login.lock().await;
        if login.number != seen {
            return Ok(());
        }
        if login.found.is_none() {
            let files = &self.options.credentials;
            let (registry, repository) = (self.reference.registry(), self.reference.repository());
            let found = files.find(registry, repository).await;
            login.found = Some(found.map_err(Failure::lasting)?);
        }
        let applicant = Applicant {
            http: &self.http,
            registry: self.reference.registry().as_str(),
            repository: self.reference.repository(),
            plain: self.plain,
            found: login.found.as_ref().and_then(Option::as_ref),
        };
        let header = applicant.answer(challenges).await?;
        login.header = Some(header);
        login.number += 1;
        Ok(())
    }

    /// The error for an answer that says no.
    async fn refusal(&self, answer: Answer, what: &str, login: Option<&HeaderValue>) -> Failure {
        let Answer { host, response } = answer;
        let status = response.status();
        let after = retry_after(response.headers());
        let own = host == self.reference.registry().server();
        let name = if own {
            self.reference.registry().to_string()
        } else {
            host.clone()
        };
        let by_password = login.is_some_and(|header| header.as_bytes().starts_with(b"Basic "));
        if status == StatusCode::UNAUTHORIZED && own && by_password {
            let login = self.login.lock().await;
            if let Some(Some(found)) = &login.found {
                return Failure::lasting(
                    Error::new(
                        Code::FetchFailed,
                        format!(
                            "`{name}` does not accept the credentials found through `{}`",
                            found.from.display()
                        ),
                    )
                    .hint(format!(
                        "`docker login {name}` (or `podman login`) and try again"
                    )),
                );
            }
        }
        // Without its text the status still says enough.
        let body = self
            .http
            .document(&host, "an error", response.into_body(), MAX_EXPLANATION)
            .await
            .unwrap_or_default();
        Failure {
            after,
            ..Failure::of_status(&name, what, status, &body)
        }
    }

    fn uri(&self, path: &str) -> Result<Uri, Failure> {
        let scheme = if self.plain { "http" } else { "https" };
        let server = self.reference.registry().server();
        format!("{scheme}://{server}/v2/{path}").parse().map_err(
            |error: hyper::http::uri::InvalidUri| {
                Failure::lasting(
                    Error::internal(format!("`{server}` makes no address")).because(error),
                )
            },
        )
    }
}

fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    headers
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(challenge::parse)
        .collect()
}

/// The pause a server asks for, in seconds or until a moment.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let moment = jiff::fmt::rfc2822::parse(text).ok()?;
    let pause = moment.timestamp().duration_since(jiff::Timestamp::now());
    Some(Duration::try_from(pause).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_read_in_both_forms() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_str(text).unwrap());
            retry_after(&headers)
        };
        assert_eq!(read(" 7 "), Some(Duration::from_secs(7)));
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        let distant = read("Fri, 06 Nov 2093 08:49:37 GMT").unwrap();
        assert!(distant > Duration::from_secs(365 * 24 * 3600));
        assert_eq!(read("soon"), None);
        assert_eq!(read("-1"), None);
    }
}
