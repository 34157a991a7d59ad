//! Turning a registry's challenge and the user's credentials into an `Authorization` header.

use banger_model::{Code, Error};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use serde::Deserialize;

use crate::challenge::Challenge;
use crate::credentials::{Credential, Found, Secret};
use crate::failure::Failure;
use crate::http::{Http, host_of};
use crate::reference::is_loopback;
use crate::text::shown;

/// Tokens are a few kilobytes.
const MAX_TOKEN: u64 = 1 << 20;
/// How we call ourselves to token servers.
const CLIENT_ID: &str = "banger";

/// Who asks a registry for what.
pub(crate) struct Applicant<'a> {
    pub(crate) http: &'a Http,
    /// The registry as the user wrote it.
    pub(crate) registry: &'a str,
    pub(crate) repository: &'a str,
    /// Whether the registry itself is spoken to without TLS.
    pub(crate) plain: bool,
    pub(crate) found: Option<&'a Found>,
}

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: Option<Secret>,
    #[serde(default)]
    access_token: Option<Secret>,
}

impl Applicant<'_> {
    /// The header that answers the best of `challenges`.
    pub(crate) async fn answer(&self, challenges: &[Challenge]) -> Result<HeaderValue, Failure> {
        let with = |scheme: &str| challenges.iter().find(|offer| offer.scheme == scheme);
        if let Some(bearer) = with("bearer") {
            return self.token(bearer).await;
        }
        if with("basic").is_none() {
            let offered: Vec<&str> = challenges.iter().map(|c| c.scheme.as_str()).collect();
            let offered = match offered.as_slice() {
                [] => "names no way to log in that can be understood".to_owned(),
                some => format!("wants a login by `{}`", shown(&some.join(", "))),
            };
            return Err(Failure::lasting(
                Error::new(Code::FetchFailed, format!("`{}` {offered}", self.registry))
                    .hint("banger logs in to registries with a token or a password"),
            ));
        }
        match self.found.map(|found| &found.credential) {
            Some(Credential::Password { user, password }) => basic(user, password),
            Some(Credential::Identity(_)) => Err(self
                .refused("wants a user name and a password, and only an identity token is known")),
            None => Err(self.refused("wants a user name and a password, and none is known")),
        }
    }

    /// Gets a token for pulling from the server that the challenge names.
    async fn token(&self, challenge: &Challenge) -> Result<HeaderValue, Failure> {
        let realm = self.realm(challenge)?;
        let parameter = |name: &str| challenge.parameters.get(name).map(String::as_str);
        let default_scope = format!("repository:{}:pull", self.repository);
        let mut fields = vec![("scope", parameter("scope").unwrap_or(&default_scope))];
        fields.extend(parameter("service").map(|service| ("service", service)));
        let host = host_of(&realm);
        let request = match self.found.map(|found| &found.credential) {
            Some(Credential::Identity(token)) => {
                fields.extend([
                    ("grant_type", "refresh_token"),
                    ("refresh_token", token.reveal()),
                    ("client_id", CLIENT_ID),
                ]);
                Request::builder()
                    .method(Method::POST)
                    .uri(&realm)
                    .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                    .body(Full::from(encode(&fields)))
            }
            Some(Credential::Password { user, password }) => {
                fields.push(("account", user));
                Request::builder()
                    .uri(with_query(&realm, &fields)?)
                    .header(AUTHORIZATION, basic(user, password)?)
                    .body(Full::<Bytes>::default())
            }
            None => Request::builder()
                .uri(with_query(&realm, &fields)?)
                .body(Full::<Bytes>::default()),
        };
        let mut request = request.map_err(|error| {
            Failure::lasting(Error::internal("cannot make a request for a token").because(error))
        })?;
        request
            .headers_mut()
            .insert(ACCEPT, HeaderValue::from_static("application/json"));
        let answer = self.http.send(request).await?;
        let status = answer.status();
        let after = crate::session::retry_after(answer.headers());
        let body = self
            .http
            .document(&host, "a token", answer.into_body(), MAX_TOKEN)
            .await?;
        match status {
            StatusCode::OK => self.header(&host, &body),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST => {
                Err(match self.found {
                    Some(found) => self.refused(&format!(
                        "does not accept the credentials found through `{}`",
                        found.from.display()
                    )),
                    None => self.refused("wants a login, and no credentials are known"),
                })
            }
            status => Err(Failure {
                after,
                ..Failure::of_status(&host, "a token", status, &body)
            }),
        }
    }

    fn header(&self, host: &str, body: &[u8]) -> Result<HeaderValue, Failure> {
        let bad = |why: &str| {
            Failure::lasting(
                Error::new(
                    Code::FetchFailed,
                    format!(
                        "`{host}`, which gives tokens for `{}`, {why}",
                        self.registry
                    ),
                )
                .hint("ask whoever runs the registry"),
            )
        };
        let answer: TokenAnswer =
            serde_json::from_slice(body).map_err(|_| bad("answered something that is no token"))?;
        let token = answer
            .token
            .filter(|token| !token.reveal().is_empty())
            .or(answer.access_token)
            .ok_or_else(|| bad("answered without a token"))?;
        let mut header = HeaderValue::from_str(&format!("Bearer {}", token.reveal()))
            .map_err(|_| bad("gave a token that cannot be sent"))?;
        header.set_sensitive(true);
        Ok(header)
    }

    /// The token server. It is sent credentials, so it must be at least as private as the
    /// registry that names it.
    fn realm(&self, challenge: &Challenge) -> Result<Uri, Failure> {
        let bad = |why: String| {
            Failure::lasting(
                Error::new(Code::FetchFailed, format!("`{}` {why}", self.registry))
                    .hint("ask whoever runs the registry"),
            )
        };
        let Some(text) = challenge.parameters.get("realm").filter(|r| !r.is_empty()) else {
            return Err(bad("does not say where its tokens come from".to_owned()));
        };
        let uri: Option<Uri> = text.parse().ok();
        let usable = |uri: &Uri| {
            uri.authority().is_some_and(|a| !a.as_str().contains('@'))
                && matches!(uri.scheme_str(), Some("https" | "http"))
        };
        let Some(uri) = uri.filter(usable) else {
            return Err(bad(format!(
                "says that its tokens come from `{}`, which is no address",
                shown(text)
            )));
        };
        let private = uri.scheme_str() == Some("https")
            || (self.plain && (uri.host().is_some_and(is_loopback) || self.found.is_none()))
            || (self.plain && uri.host() == host_part(self.registry));
        if !private {
            return Err(bad(format!(
                "says that its tokens come from `{}`, where passwords would be sent in the clear",
                shown(text)
            )));
        }
        Ok(uri)
    }

    fn refused(&self, why: &str) -> Failure {
        Failure::lasting(
            Error::new(Code::FetchFailed, format!("`{}` {why}", self.registry)).hint(format!(
                "`docker login {}` (or `podman login`) and try again",
                self.registry
            )),
        )
    }
}

fn host_part(registry: &str) -> Option<&str> {
    let end = registry
        .rfind(':')
        .filter(|at| !registry[*at..].contains(']'));
    Some(&registry[..end.unwrap_or(registry.len())])
}

fn basic(user: &str, password: &Secret) -> Result<HeaderValue, Failure> {
    let encoded = STANDARD.encode(format!("{user}:{}", password.reveal()));
    let mut header = HeaderValue::from_str(&format!("Basic {encoded}")).map_err(|error| {
        Failure::lasting(Error::internal("cannot send a password").because(error))
    })?;
    header.set_sensitive(true);
    Ok(header)
}

fn with_query(realm: &Uri, fields: &[(&str, &str)]) -> Result<Uri, Failure> {
    let joint = if realm.query().is_some() { '&' } else { '?' };
    let text = format!("{realm}{joint}{}", encode(fields));
    text.parse().map_err(|error: hyper::http::uri::InvalidUri| {
        Failure::lasting(
            Error::new(
                Code::FetchFailed,
                format!("the address `{}` for a token cannot be used", shown(&text)),
            )
            .because(error),
        )
    })
}

/// `a=1&b=2` with everything else escaped.
fn encode(fields: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, value) in fields {
        if !text.is_empty() {
            text.push('&');
        }
        text.push_str(name);
        text.push('=');
        for byte in value.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    text.push(char::from(byte));
                }
                other => text.push_str(&format!("%{other:02X}")),
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_escaped() {
        assert_eq!(
            encode(&[("scope", "repository:a/b:pull"), ("service", "x y&z=é")]),
            "scope=repository%3Aa%2Fb%3Apull&service=x%20y%26z%3D%C3%A9"
        );
        let realm: Uri = "https://x/t?a=1".parse().unwrap();
        let uri = with_query(&realm, &[("b", "2")]).unwrap();
        assert_eq!(uri, "https://x/t?a=1&b=2");
    }

    #[test]
    fn the_host_of_a_registry_has_no_port() {
        assert_eq!(host_part("r.io:5000"), Some("r.io"));
        assert_eq!(host_part("r.io"), Some("r.io"));
        assert_eq!(host_part("[::1]:5000"), Some("[::1]"));
        assert_eq!(host_part("[::1]"), Some("[::1]"));
    }
}
