//! Single HTTP requests: TLS, proxies, time limits, bounded bodies. Knows nothing of registries.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use banger_model::{Code, Error, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{HeaderValue, PROXY_AUTHORIZATION, USER_AGENT};
use hyper::{Request, Response, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::{ClientConfig, RootCertStore};

use crate::failure::Failure;
use crate::options::Options;
use crate::proxy::{Connector, Routes, Via};
use crate::text::shown;

const AGENT: &str = concat!("banger/", env!("CARGO_PKG_VERSION"));
/// Small documents must be whole after this many times the stall limit: a server that sends
/// a byte now and then is stalling too.
const DOCUMENT_STALLS: u32 = 4;

/// Makes requests. Connections are kept for the next one to the same server.
#[derive(Debug)]
pub(crate) struct Http {
    client: Client<HttpsConnector<Connector>, Full<Bytes>>,
    routes: Routes,
    connect_timeout: Duration,
    stall_timeout: Duration,
}

impl Http {
    pub(crate) fn new(options: &Options) -> Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::internal("cannot set up TLS").because(error))?
            .with_root_certificates(roots(&options.authorities)?)
            .with_no_client_auth();
        let routes = Routes::new(&options.proxies);
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(options.connect_timeout));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(config)
            .https_or_http()
            .enable_http1()
            .wrap_connector(Connector {
                tcp,
                routes: routes.clone(),
            });
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(20))
            .pool_max_idle_per_host(4)
            .build(connector);
        Ok(Http {
            client,
            routes,
            connect_timeout: options.connect_timeout,
            stall_timeout: options.stall_timeout,
        })
    }

    /// Sends one request and waits for the head of the answer. No redirect is followed.
    pub(crate) async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, Failure> {
        let host = host_of(request.uri());
        request
            .headers_mut()
            .insert(USER_AGENT, HeaderValue::from_static(AGENT));
        let via = self.routes.via(request.uri())?;
        if let Some(login) = via.as_ref().and_then(Via::login)
            && request.uri().scheme_str() == Some("http")
        {
            request
                .headers_mut()
                .insert(PROXY_AUTHORIZATION, login.clone());
        }
        let failed = |failure: Failure| match &via {
            Some(via) => failure.through(&host, &via.name()),
            None => failure,
        };
        let limit = self.connect_timeout + self.stall_timeout;
        match tokio::time::timeout(limit, self.client.request(request)).await {
            Ok(answer) => answer.map_err(|error| failed(Failure::of_connection(&host, error))),
            Err(_) => Err(failed(Failure::stalled(&host, "has not answered", limit))),
        }
    }

    /// The next piece of a body, or `None` at its end.
    pub(crate) async fn chunk(
        &self,
        host: &str,
        body: &mut Incoming,
    ) -> Result<Option<Bytes>, Failure> {
        loop {
            match tokio::time::timeout(self.stall_timeout, body.frame()).await {
                Err(_) => {
                    return Err(Failure::stalled(
                        host,
                        "has sent nothing",
                        self.stall_timeout,
                    ));
                }
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) => return Err(Failure::of_connection(host, error)),
                Ok(Some(Ok(frame))) => {
                    // Anything else are trailers, which say nothing of use.
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// A whole body of at most `limit` bytes; `what` is what it should be.
    pub(crate) async fn document(
        &self,
        host: &str,
        what: &str,
        mut body: Incoming,
        limit: u64,
    ) -> Result<Vec<u8>, Failure> {
        let read = async {
            let mut bytes = Vec::new();
            while let Some(chunk) = self.chunk(host, &mut body).await? {
                if (bytes.len() + chunk.len()) as u64 > limit {
                    return Err(Failure::lasting(
                        Error::new(
                            Code::FetchFailed,
                            format!("`{host}` sends more than {limit} bytes for {what}"),
                        )
                        .hint("check that this is a container registry"),
                    ));
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok(bytes)
        };
        let time = self.stall_timeout * DOCUMENT_STALLS;
        match tokio::time::timeout(time, read).await {
            Ok(result) => result,
            Err(_) => Err(Failure::stalled(
                host,
                &format!("has been sending {what}"),
                time,
            )),
        }
    }
}

/// The host and port of `uri`, to be shown.
pub(crate) fn host_of(uri: &Uri) -> String {
    uri.authority()
        .map(|authority| shown(authority.as_str()))
        .unwrap_or_default()
}

/// The system's certificate authorities and those in `files`.
fn roots(files: &[PathBuf]) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::warn!(%error, "some of the system's certificate authorities cannot be read");
    }
    // One odd certificate among a hundred is no reason to trust none of them.
    let (added, ignored) = roots.add_parsable_certificates(system.certs);
    tracing::debug!(added, ignored, "certificate authorities of the system");
    for path in files {
        let read = rustls_native_certs::load_certs_from_paths(Some(path), None);
        let refuse = || {
            Error::new(
                Code::InvalidConfig,
                format!("`{}` has no certificate that can be read", path.display()),
            )
            .hint("name a PEM file with certificate authorities")
        };
        if let Some(error) = read.errors.into_iter().next() {
            return Err(refuse().because(error));
        }
        if read.certs.is_empty() {
            return Err(refuse());
        }
        for certificate in read.certs {
            roots
                .add(certificate)
                .map_err(|error| refuse().because(error))?;
        }
    }
    Ok(roots)
}
