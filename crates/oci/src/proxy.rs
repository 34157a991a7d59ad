//! The way to a server: straight, or through the proxy that the environment names.
//!
//! For `https` the proxy is asked for a tunnel (`CONNECT`) and learns only which server is meant.
//! For plain `http` it gets the whole request, as everywhere. This machine is never asked through
//! a proxy, whatever the variables say: the proxy's loopback is not ours.

use std::error::Error as StdError;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use banger_model::{Code, Error};
use hyper::Uri;
use hyper::header::HeaderValue;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_service::Service;

use crate::failure::Failure;
use crate::http::host_of;
use crate::reference::is_loopback;

/// The proxies that the environment names, as `curl` and docker read the variables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    /// `HTTPS_PROXY`: for servers that are spoken to with TLS.
    pub https: Option<String>,
    /// `HTTP_PROXY`: for servers that are spoken to without.
    pub http: Option<String>,
    /// `ALL_PROXY`: for what the other two do not name.
    pub all: Option<String>,
    /// `NO_PROXY`: names, domains, addresses and networks that are asked directly.
    pub none: Option<String>,
}

/// Finds the way to a server.
#[derive(Clone, Debug)]
pub(crate) struct Routes(Arc<Matcher>);

/// A proxy on the way.
pub(crate) struct Via {
    intercept: Intercept,
}

impl Routes {
    pub(crate) fn new(proxies: &Proxies) -> Self {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        Routes(Arc::new(
            Matcher::builder()
                .all(text(&proxies.all))
                .http(text(&proxies.http))
                .https(text(&proxies.https))
                .no(text(&proxies.none))
                .build(),
        ))
    }

    /// The proxy on the way to `uri`, if there is one.
    ///
    /// # Errors
    /// `invalid_config` for one that is not spoken to by HTTP.
    pub(crate) fn via(&self, uri: &Uri) -> Result<Option<Via>, Failure> {
        let Some(intercept) = self.find(uri) else {
            return Ok(None);
        };
        let scheme = intercept.uri().scheme_str().unwrap_or("http");
        if scheme == "http" {
            return Ok(Some(Via { intercept }));
        }
        Err(Failure::lasting(
            Error::new(
                Code::InvalidConfig,
                format!(
                    "the proxy `{}` is spoken to by `{scheme}`, which banger does not do",
                    host_of(intercept.uri())
                ),
            )
            .hint(
                "set HTTPS_PROXY to an `http://` proxy, or name the server in NO_PROXY; then \
                 `banger daemon stop`",
            ),
        ))
    }

    fn find(&self, uri: &Uri) -> Option<Intercept> {
        if uri.host().is_none_or(is_loopback) {
            return None;
        }
        self.0.intercept(uri)
    }
}

impl Via {
    /// The host and port of the proxy, to be shown: without its password.
    pub(crate) fn name(&self) -> String {
        let uri = self.intercept.uri();
        match uri.port_u16() {
            Some(port) => format!(
                "{}:{port}",
                crate::text::shown(uri.host().unwrap_or_default())
            ),
            None => crate::text::shown(uri.host().unwrap_or_default()),
        }
    }

    /// What proves to the proxy who asks, in requests that it reads itself.
    pub(crate) fn login(&self) -> Option<&HeaderValue> {
        self.intercept.basic_auth()
    }
}

/// Makes the connections.
#[derive(Clone, Debug)]
pub(crate) struct Connector {
    pub(crate) tcp: HttpConnector,
    pub(crate) routes: Routes,
}

type BoxError = Box<dyn StdError + Send + Sync>;

impl Service<Uri> for Connector {
    type Response = Wire;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Wire, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let mut tcp = self.tcp.clone();
        let found = self.routes.find(&uri);
        Box::pin(async move {
            let (stream, proxied) = match found {
                None => (tcp.call(uri).await?, false),
                Some(proxy) if uri.scheme_str() == Some("https") => {
                    let mut tunnel = Tunnel::new(proxy.uri().clone(), tcp);
                    if let Some(login) = proxy.basic_auth() {
                        tunnel = tunnel.with_auth(login.clone());
                    }
                    (tunnel.call(uri).await?, false)
                }
                Some(proxy) => (tcp.call(proxy.uri().clone()).await?, true),
            };
            Ok(Wire { stream, proxied })
        })
    }
}

/// A connection that knows whether requests on it are read by a proxy.
pub(crate) struct Wire {
    stream: TokioIo<TcpStream>,
    proxied: bool,
}

impl Connection for Wire {
    fn connected(&self) -> Connected {
        self.stream.connected().proxy(self.proxied)
    }
}

impl Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl Write for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_says_which_way_and_this_machine_is_near() {
        let routes = Routes::new(&Proxies {
            https: Some("http://user:secret@proxy.example:3128".to_owned()),
            http: Some("plain.example:8080".to_owned()),
            none: Some("near.example,198.51.100.0/24".to_owned()),
            ..Proxies::default()
        });
        let via = |uri: &str| {
            let via = routes.via(&uri.parse().unwrap()).unwrap();
            via.map(|via| via.name())
        };
        assert_eq!(
            via("https://r.io/v2/").as_deref(),
            Some("proxy.example:3128")
        );
        assert_eq!(
            via("http://r.io/v2/").as_deref(),
            Some("plain.example:8080")
        );
        for direct in [
            "https://near.example/",
            "https://www.near.example/",
            "https://198.51.100.7/",
            "https://127.0.0.1:5000/",
            "http://localhost:5000/",
            "http://[::1]:5000/",
        ] {
            assert_eq!(via(direct), None, "{direct}");
        }
        let none = Routes::new(&Proxies::default());
        assert!(
            none.via(&"https://r.io/".parse().unwrap())
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn a_proxy_of_another_kind_is_refused_and_not_passed_by() {
        let routes = Routes::new(&Proxies {
            all: Some("socks5://proxy.example:1080".to_owned()),
            ..Proxies::default()
        });
        let refused = routes.via(&"https://r.io/".parse().unwrap());
        let error = refused.err().unwrap().error;
        assert_eq!(error.code(), Code::InvalidConfig);
        assert!(error.message().contains("`socks5`"), "{error}");
    }
}
