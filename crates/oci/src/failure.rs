//! Why a request failed, and whether asking again may help.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use banger_model::{Code, Error};
use hyper::StatusCode;

use crate::text::shown_bytes;

/// A request that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    /// Whether it may work when it is tried again.
    pub(crate) again: bool,
    /// The pause the server asks for.
    pub(crate) after: Option<Duration>,
    /// Whether the server did not speak TLS at all.
    pub(crate) no_tls: bool,
}

impl Failure {
    /// A failure that stays.
    pub(crate) fn lasting(error: Error) -> Self {
        Failure {
            error,
            again: false,
            after: None,
            no_tls: false,
        }
    }

    /// A failure that may pass.
    pub(crate) fn passing(error: Error) -> Self {
        Failure {
            again: true,
            ..Failure::lasting(error)
        }
    }

    /// A server that says nothing, where `what` is what it should have said.
    pub(crate) fn stalled(host: &str, what: &str, limit: Duration) -> Self {
        Failure::passing(
            Error::new(
                Code::FetchFailed,
                format!("`{host}` {what} for {} s", limit.as_secs_f32()),
            )
            .hint("check the network and try again; what was downloaded is kept"),
        )
    }

    /// A connection that could not be made or broke.
    pub(crate) fn of_connection(host: &str, error: impl StdError + Send + Sync + 'static) -> Self {
        if let Some(tls) = find::<rustls::Error>(&error) {
            return of_tls(host, tls);
        }
        let io = find::<io::Error>(&error).map(io::Error::kind);
        let text = chain(&error);
        let (message, hint) = if text.contains("dns error") {
            (
                format!("the name of the server `{host}` cannot be resolved"),
                "check the name and the network".to_owned(),
            )
        } else if io == Some(io::ErrorKind::ConnectionRefused) {
            (
                format!("nothing accepts connections at `{host}`"),
                "check the name and port, and that the server runs".to_owned(),
            )
        } else if matches!(
            io,
            Some(io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable)
        ) {
            (
                format!("`{host}` cannot be reached from this machine"),
                "check the network".to_owned(),
            )
        } else {
            (
                format!("the connection to `{host}` failed"),
                "check the network and try again; what was downloaded is kept".to_owned(),
            )
        };
        let no_tls = matches!(
            io,
            Some(io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset)
        );
        Failure {
            no_tls,
            ..Failure::passing(
                Error::new(Code::FetchFailed, message)
                    .hint(hint)
                    .because(error),
            )
        }
    }

    /// The same, when a proxy was on the way: what could not be reached may be that one.
    pub(crate) fn through(self, host: &str, proxy: &str) -> Self {
        // What is wrong with a certificate is said of the server.
        if !self.again {
            return self;
        }
        let message = format!("`{host}` cannot be reached through the proxy `{proxy}`");
        Failure {
            error: Error::new(self.error.code(), message)
                .hint(
                    "check HTTPS_PROXY, HTTP_PROXY and NO_PROXY; the daemon has those of the \
                     command that started it, until `banger daemon stop`",
                )
                .because(self.error),
            ..self
        }
    }

    /// An answer that says no. `body` is the beginning of it, `what` what was asked for.
    pub(crate) fn of_status(host: &str, what: &str, status: StatusCode, body: &[u8]) -> Self {
        let said = explanation(body);
        let (code, message, hint) = match status {
            StatusCode::NOT_FOUND => (
                Code::NotFound,
                format!("`{host}` does not have {what}"),
                "check the name and the tag".to_owned(),
            ),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => (
                Code::FetchFailed,
                format!("`{host}` does not give away {what}"),
                format!("check the name; if the image is private, `docker login {host}` first"),
            ),
            StatusCode::TOO_MANY_REQUESTS => (
                Code::FetchFailed,
                format!("`{host}` has had too many requests from here"),
                format!("wait and try again, or `docker login {host}` for a higher limit"),
            ),
            status if status.is_server_error() => (
                Code::FetchFailed,
                format!("`{host}` failed with status {} for {what}", status.as_u16()),
                "try again later".to_owned(),
            ),
            status => (
                Code::FetchFailed,
                format!(
                    "`{host}` answered with the unexpected status {} for {what}",
                    status.as_u16()
                ),
                "check that this is a container registry".to_owned(),
            ),
        };
        let mut error = Error::new(code, message).hint(hint);
        if let Some(said) = said {
            error = error.because(said);
        }
        Failure {
            again: Failure::may_pass(status),
            ..Failure::lasting(error)
        }
    }

    /// Whether an answer of this status may be another one later.
    pub(crate) fn may_pass(status: StatusCode) -> bool {
        status == StatusCode::TOO_MANY_REQUESTS
            || status == StatusCode::REQUEST_TIMEOUT
            || (status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED)
    }
}

fn of_tls(host: &str, tls: &rustls::Error) -> Failure {
    let (message, hint) = match tls {
        rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer) => (
            format!("the certificate of `{host}` is from an authority this machine does not trust"),
            "add the authority to the system's certificates (`update-ca-certificates`)",
        ),
        rustls::Error::InvalidCertificate(
            rustls::CertificateError::Expired | rustls::CertificateError::ExpiredContext { .. },
        ) => (
            format!("the certificate of `{host}` has expired"),
            "check this machine's clock, or ask whoever runs the registry",
        ),
        rustls::Error::InvalidCertificate(
            rustls::CertificateError::NotValidForName
            | rustls::CertificateError::NotValidForNameContext { .. },
        ) => (
            format!("the certificate of `{host}` is for another name"),
            "check the name of the registry",
        ),
        rustls::Error::InvalidCertificate(_) => (
            format!("the certificate of `{host}` is not valid"),
            "ask whoever runs the registry",
        ),
        _ => (
            format!("`{host}` does not speak TLS as it should"),
            "if it is a plain HTTP registry that you trust the network to, name it as insecure",
        ),
    };
    Failure {
        no_tls: matches!(tls, rustls::Error::InvalidMessage(_)),
        ..Failure::lasting(
            Error::new(Code::FetchFailed, message)
                .hint(hint)
                .because(tls.to_string()),
        )
    }
}

/// What a registry says about an error, when it says it in the registries' own form.
fn explanation(body: &[u8]) -> Option<String> {
    let body: serde_json::Value = serde_json::from_slice(body).ok()?;
    let first = body.get("errors")?.get(0)?;
    let word = |key: &str| first.get(key).and_then(serde_json::Value::as_str);
    let said = match (word("code"), word("message")) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(text), None) | (None, Some(text)) => text.to_owned(),
        (None, None) => return None,
    };
    Some(format!(
        "the registry says: {}",
        shown_bytes(said.as_bytes())
    ))
}

/// The first cause of type `T`, also inside of I/O errors, which do not show it as their cause.
fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut current = Some(error);
    while let Some(error) = current {
        if let Some(found) = error.downcast_ref::<T>() {
            // An I/O error around another error says less than that one.
            let inner = (error.downcast_ref::<io::Error>())
                .and_then(io::Error::get_ref)
                .and_then(|inner| find::<T>(inner));
            return inner.or(Some(found));
        }
        if let Some(io) = error.downcast_ref::<io::Error>()
            && let Some(inner) = io.get_ref()
            && let Some(found) = find::<T>(inner)
        {
            return Some(found);
        }
        current = error.source();
    }
    None
}

fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_told_from_what_stays() {
        for (status, again) in [
            (429, true),
            (500, true),
            (503, true),
            (404, false),
            (403, false),
            (501, false),
            (418, false),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let failure = Failure::of_status("r.io", "manifest `x`", status, b"");
            assert_eq!(failure.again, again, "{status}");
            assert!(failure.error.hint_text().is_some());
        }
        let missing = Failure::of_status("r.io", "x", StatusCode::NOT_FOUND, b"");
        assert_eq!(missing.error.code(), Code::NotFound);
    }

    #[test]
    fn a_registry_is_quoted_but_not_trusted() {
        let body = "{\"errors\":[{\"code\":\"DENIED\",\"message\":\"no\u{1b}[2J\"}]}"
            .replace('\u{1b}', "\\u001b");
        let failure = Failure::of_status("r.io", "x", StatusCode::FORBIDDEN, body.as_bytes());
        assert!(
            failure
                .error
                .chain()
                .ends_with("the registry says: DENIED: no\\u{1b}[2J")
        );
        let html = Failure::of_status("r.io", "x", StatusCode::FORBIDDEN, b"<html>");
        assert_eq!(html.error.chain(), "`r.io` does not give away x");
    }

    #[test]
    fn tls_faults_are_found_inside_of_other_errors() {
        let tls = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let wrapped = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, tls));
        let failure = Failure::of_connection("r.io", wrapped);
        assert!(
            failure.error.message().contains("does not trust"),
            "{}",
            failure.error
        );
        assert!(!failure.again && !failure.no_tls);
        let eof = io::Error::other(io::Error::from(io::ErrorKind::UnexpectedEof));
        assert!(Failure::of_connection("r.io", eof).no_tls);
    }
}
