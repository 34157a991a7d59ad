//! What people call an image: `debian:12`, `ghcr.io/a/b@sha256:…`, `localhost:5000/x`.
//!
//! The grammar and the short forms are docker's, so that what is typed means the same image as
//! in `docker pull`. Nothing is guessed beyond that.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use banger_model::{Code, Digest, Error, Result};
use serde::{Deserialize, Serialize};

/// Docker's limit for the name with its registry.
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;
const NOT_IPV6: &str = "what stands between `[` and `]` is not an IPv6 address";

/// The name docker gives to its own registry.
const DOCKER_HUB: &str = "docker.io";
/// Where that registry really is.
const DOCKER_HUB_SERVER: &str = "registry-1.docker.io";

/// A registry as the user writes it: a host and perhaps a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Registry(String);

impl Registry {
    /// The name as in references, such as `docker.io` or `localhost:5000`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The host and port to connect to.
    pub(crate) fn server(&self) -> &str {
        if self.is_docker_hub() {
            DOCKER_HUB_SERVER
        } else {
            &self.0
        }
    }

    /// Whether this is docker's own registry, which has several names.
    pub(crate) fn is_docker_hub(&self) -> bool {
        self.0 == DOCKER_HUB
    }

    /// Whether the registry is on this machine, so that plain HTTP shows nothing to anybody.
    pub(crate) fn is_loopback(&self) -> bool {
        is_loopback(split_port(&self.0).0)
    }

    fn parse(text: &str) -> std::result::Result<Self, &'static str> {
        if text.starts_with('[') && !text.contains(']') {
            return Err(NOT_IPV6);
        }
        let (host, port) = split_port(text);
        if let Some(port) = port
            && !(port.bytes().all(|b| b.is_ascii_digit())
                && port.parse::<u16>().is_ok_and(|p| p > 0))
        {
            return Err("its port is not a number from 1 to 65535");
        }
        if let Some(address) = host.strip_prefix('[') {
            let address = address.strip_suffix(']').unwrap_or_default();
            if address.parse::<Ipv6Addr>().is_err() {
                return Err(NOT_IPV6);
            }
        } else if !host.split('.').all(is_host_label) {
            return Err("its registry is not a host name");
        }
        let lower = text.to_ascii_lowercase();
        Ok(Registry(match lower.as_str() {
            "index.docker.io" | DOCKER_HUB_SERVER => DOCKER_HUB.to_owned(),
            _ => lower,
        }))
    }
}

impl FromStr for Registry {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Registry::parse(text).map_err(|why| {
            Error::new(
                Code::InvalidArgument,
                format!("`{}` does not name a registry: {why}", text.escape_debug()),
            )
            .hint("write a host and perhaps a port, such as `registry.example.com:5000`")
        })
    }
}

impl fmt::Display for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Whether `host`, an IPv6 address in brackets, is this machine itself.
pub(crate) fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|address| match address {
            IpAddr::V4(v4) => v4.is_loopback(),
            IpAddr::V6(v6) => {
                v6.is_loopback() || v6.to_ipv4_mapped().is_some_and(|v4| v4.is_loopback())
            }
        })
}

/// The name of an image in a registry, always with a tag, a digest or both.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    registry: Registry,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The registry; `docker.io` when none was written.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The path in the registry, such as `library/debian`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag: `latest` when neither a tag nor a digest was written.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest that the manifest must have.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// What the registry is asked for: the digest where there is one.
    pub(crate) fn wanted(&self) -> &str {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.as_str(),
            (None, Some(tag)) => tag,
            (None, None) => "latest",
        }
    }

    /// The shortest text that means the same image, as docker prints it.
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        let Some(rest) = full.strip_prefix("docker.io/") else {
            return full;
        };
        match rest.strip_prefix("library/") {
            Some(short) if !short.contains('/') => short.to_owned(),
            _ => rest.to_owned(),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        parse(text).map_err(|why| {
            Error::new(
                Code::InvalidArgument,
                format!("`{}` is not an image reference: {why}", text.escape_debug()),
            )
            .hint("write `[REGISTRY/]NAME[:TAG][@sha256:…]`, such as `debian:12`")
        })
    }
}

impl TryFrom<String> for Reference {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> String {
        reference.to_string()
    }
}

fn parse(text: &str) -> std::result::Result<Reference, &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    if text.contains("://") {
        return Err("it has a URL scheme; leave `…://` out");
    }
    if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err("it is 64 hexadecimal digits, which could only be an image id");
    }
    let (name, digest) = match text.split_once('@') {
        Some((name, digest)) => (name, Some(parse_digest(digest)?)),
        None => (text, None),
    };
    // A colon after the last slash starts a tag; one before it belongs to a port.
    let path_at = name.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match name[path_at..].find(':') {
        Some(colon) => (&name[..path_at + colon], Some(&name[path_at + colon + 1..])),
        None => (name, None),
    };
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    let (registry, path) = match name.split_once('/') {
        Some((first, rest)) if names_registry(first) => (Registry::parse(first)?, rest),
        _ => (Registry(DOCKER_HUB.to_owned()), name),
    };
    check_path(path)?;
    let repository = if registry.is_docker_hub() && !path.contains('/') {
        format!("library/{path}")
    } else {
        path.to_owned()
    };
    if registry.0.len() + 1 + repository.len() > MAX_NAME {
        return Err("its name is longer than 255 characters");
    }
    let tag = match (tag, &digest) {
        (Some(tag), _) => Some(tag.to_owned()),
        (None, Some(_)) => None,
        (None, None) => Some("latest".to_owned()),
    };
    Ok(Reference {
        registry,
        repository,
        tag,
        digest,
    })
}

/// Docker's rule: what stands before the first slash is a registry when it cannot be part of a
/// name on docker.io.
fn names_registry(first: &str) -> bool {
    first.contains(['.', ':', '['])
        || first == "localhost"
        || first.bytes().any(|b| b.is_ascii_uppercase())
}

/// The host and the port of `host:port`, where the host may be an IPv6 address in brackets.
fn split_port(text: &str) -> (&str, Option<&str>) {
    let after = text.rfind(']').map_or(0, |end| end + 1);
    match text[after..].find(':') {
        Some(colon) => (&text[..after + colon], Some(&text[after + colon + 1..])),
        None => (text, None),
    }
}

fn is_host_label(label: &str) -> bool {
    !label.is_empty()
        && label
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

fn check_path(path: &str) -> std::result::Result<(), &'static str> {
    if path.is_empty() {
        return Err("it has no name");
    }
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("its name must be in lower case");
    }
    for component in path.split('/') {
        check_component(component)?;
    }
    Ok(())
}

/// Words of `a-z 0-9`, joined by `.`, `_`, `__` or any number of `-`.
fn check_component(component: &str) -> std::result::Result<(), &'static str> {
    if component.is_empty() {
        return Err("a part of its name is empty");
    }
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if !component
        .bytes()
        .all(|b| word(b) || matches!(b, b'.' | b'_' | b'-'))
    {
        return Err("its name may only have `a-z 0-9 . _ -` between the slashes");
    }
    let separators = component.split(|c: char| c.is_ascii_alphanumeric());
    let ends_well = component.bytes().next().is_some_and(word)
        && component.bytes().next_back().is_some_and(word);
    let joined_well = separators
        .into_iter()
        .all(|s| matches!(s, "" | "." | "_" | "__") || s.bytes().all(|b| b == b'-'));
    if ends_well && joined_well {
        Ok(())
    } else {
        Err(
            "each part of its name must begin and end with `a-z 0-9`, joined by single `.`, `_`, `__` or `-`",
        )
    }
}

fn check_tag(tag: &str) -> std::result::Result<(), &'static str> {
    if tag.is_empty() {
        return Err("its tag is empty");
    }
    if tag.len() > MAX_TAG {
        return Err("its tag is longer than 128 characters");
    }
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
    {
        Ok(())
    } else {
        Err("its tag may only have `A-Z a-z 0-9 _ . -` and not begin with `.` or `-`")
    }
}

fn parse_digest(text: &str) -> std::result::Result<Digest, &'static str> {
    match text.split_once(':') {
        Some(("sha256", _)) => text
            .parse()
            .map_err(|_| "its digest is not `sha256:` and 64 lower-case hexadecimal digits"),
        Some((_, _)) => Err("its digest is not a sha256, the only kind banger reads"),
        None => Err("its digest lacks the `sha256:`"),
    }
}

#[cfg(test)]
mod tests;
