//! Where a registry may send a request instead.

use banger_model::{Code, Error};
use hyper::header::HeaderValue;
use hyper::{StatusCode, Uri};

use crate::failure::Failure;
use crate::http::host_of;
use crate::reference::{Registry, is_loopback};
use crate::text::shown_bytes;

pub(crate) fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Whether two addresses are on the same server, so that a login for one is for the other.
pub(crate) fn same_server(one: &Uri, other: &Uri) -> bool {
    let port = |uri: &Uri| {
        uri.port_u16().unwrap_or(match uri.scheme_str() {
            Some("http") => 80,
            _ => 443,
        })
    };
    one.scheme() == other.scheme()
        && port(one) == port(other)
        && match (one.host(), other.host()) {
            (Some(one), Some(other)) => one.eq_ignore_ascii_case(other),
            _ => false,
        }
}

/// The address that `location`, which `from` answered with, means.
///
/// It is never less private than where it came from: plain HTTP is followed only from plain
/// HTTP, and only to this machine or to a registry that is named as insecure.
pub(crate) fn target(
    from: &Uri,
    location: Option<&HeaderValue>,
    insecure: &[Registry],
) -> Result<Uri, Failure> {
    let bad = |why: String| {
        Failure::lasting(
            Error::new(Code::FetchFailed, format!("`{}` {why}", host_of(from)))
                .hint("ask whoever runs the registry"),
        )
    };
    let Some(location) = location else {
        return Err(bad("redirects without saying where".to_owned()));
    };
    let shown = shown_bytes(location.as_bytes());
    let uri = location
        .to_str()
        .ok()
        .and_then(|text| resolve(from, text))
        .filter(|uri| uri.authority().is_some_and(|a| !a.as_str().contains('@')));
    let Some(uri) = uri else {
        return Err(bad(format!("redirects to `{shown}`, which is no address")));
    };
    match uri.scheme_str() {
        Some("https") => Ok(uri),
        Some("http") if from.scheme_str() == Some("http") => {
            let known = |registry: &Registry| {
                uri.authority()
                    .is_some_and(|a| a.as_str().eq_ignore_ascii_case(registry.as_str()))
            };
            if uri.host().is_some_and(is_loopback) || insecure.iter().any(known) {
                Ok(uri)
            } else {
                Err(bad(format!(
                    "redirects to `{shown}`, which is neither private nor named as insecure"
                )))
            }
        }
        _ => Err(bad(format!("redirects from TLS to `{shown}`"))),
    }
}

/// RFC 3986, section 5, as far as servers use it.
fn resolve(from: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next().unwrap_or_default();
    let (scheme, authority) = (from.scheme_str()?, from.authority()?);
    let absolute = if location.contains("://") && !location.starts_with('/') {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        let directory = &from.path()[..=from.path().rfind('/')?];
        format!("{scheme}://{authority}{directory}{location}")
    };
    absolute.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn go(from: &str, location: &str) -> Result<String, String> {
        let location = HeaderValue::from_bytes(location.as_bytes()).unwrap();
        let insecure = ["mirror.example:5000".parse().unwrap()];
        target(&from.parse().unwrap(), Some(&location), &insecure)
            .map(|uri| uri.to_string())
            .map_err(|failure| failure.error.to_string())
    }

    #[test]
    fn addresses_are_resolved_as_browsers_do() {
        let from = "https://r.io:5000/v2/a/blobs/x";
        let cases = [
            ("https://cdn.example/b?c=d#e", "https://cdn.example/b?c=d"),
            ("//cdn.example/b", "https://cdn.example/b"),
            ("/b?to=http://x", "https://r.io:5000/b?to=http://x"),
            ("b", "https://r.io:5000/v2/a/blobs/b"),
        ];
        for (location, expected) in cases {
            assert_eq!(go(from, location).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn nothing_leads_from_private_to_public() {
        assert!(
            go("https://r.io/", "http://r.io/x")
                .unwrap_err()
                .contains("from TLS to")
        );
        assert!(go("https://r.io/", "http://127.0.0.1/x").is_err());
        assert!(go("http://127.0.0.1:5000/", "http://[::1]:1/x").is_ok());
        assert!(go("http://127.0.0.1:5000/", "http://mirror.example:5000/x").is_ok());
        assert!(
            go("http://127.0.0.1:5000/", "http://mirror.example/x")
                .unwrap_err()
                .contains("neither")
        );
        for location in ["ftp://r.io/x", "https://u:p@r.io/", "https://", "\u{ff}"] {
            assert!(go("https://r.io/", location).is_err(), "{location}");
        }
        assert!(target(&"https://r.io/".parse().unwrap(), None, &[]).is_err());
    }

    #[test]
    fn servers_are_the_same_with_scheme_host_and_port() {
        let same = |a: &str, b: &str| same_server(&a.parse().unwrap(), &b.parse().unwrap());
        assert!(same("https://r.io/a", "https://R.io:443/b"));
        assert!(!same("https://r.io/", "http://r.io/"));
        assert!(!same("https://r.io/", "https://r.io:444/"));
        assert!(!same("https://r.io/", "https://r.io.evil/"));
    }
}
