//! User names and passwords for registries, from the files of docker and podman.
//!
//! The crate `docker_credential` does part of this. It waits for helpers without a limit, puts
//! what they print, which may be a secret, into its errors, does not say which file is wrong, and
//! knows nothing of podman's entries for parts of a registry; so this is our own.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use banger_model::{Code, Error, IoContext, Result};
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

use crate::reference::Registry;

mod helper;

/// Larger files are not credential files.
const MAX_FILE: u64 = 1 << 20;
/// The key under which docker keeps the credentials for docker.io.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// Where credentials are looked for.
#[derive(Clone, Debug, Default)]
pub struct CredentialFiles {
    /// Files in the form of docker's `config.json` or podman's `auth.json`; the first that
    /// knows the registry counts. Files that are not there are left out.
    pub files: Vec<PathBuf>,
    /// Directories in which credential helpers are looked for, as in `PATH`.
    pub helper_path: OsString,
}

impl CredentialFiles {
    /// The usual files: `auth_file` (`REGISTRY_AUTH_FILE`), docker's in `docker_config`
    /// (`DOCKER_CONFIG`) or else in `home`, podman's in `runtime_dir` (`XDG_RUNTIME_DIR`) and in
    /// `home`. Helpers are looked for in `path` (`PATH`).
    pub fn usual(
        home: Option<&Path>,
        docker_config: Option<&Path>,
        auth_file: Option<&Path>,
        runtime_dir: Option<&Path>,
        path: OsString,
    ) -> Self {
        let docker = match docker_config {
            Some(dir) => Some(dir.join("config.json")),
            None => home.map(|home| home.join(".docker/config.json")),
        };
        let files = [
            auth_file.map(Path::to_owned),
            docker,
            runtime_dir.map(|dir| dir.join("containers/auth.json")),
            home.map(|home| home.join(".config/containers/auth.json")),
        ];
        CredentialFiles {
            files: files.into_iter().flatten().collect(),
            helper_path: path,
        }
    }

    /// What is known for `repository` in `registry`, and where it was found.
    ///
    /// # Errors
    /// `invalid_config` for a file that cannot be understood, `missing_program` and
    /// `fetch_failed` for a helper that is not there or fails. Credentials that may exist are
    /// never passed over in silence.
    pub(crate) async fn find(
        &self,
        registry: &Registry,
        repository: &str,
    ) -> Result<Option<Found>> {
        for path in &self.files {
            let Some(file) = AuthFile::read(path)? else {
                continue;
            };
            let found = match file.look_up(registry, repository, path)? {
                Some(Entry::Credential(credential)) => Some(credential),
                Some(Entry::Helper(name)) => {
                    helper::get(&self.helper_path, &name, &server_key(registry)).await?
                }
                None => None,
            };
            if let Some(credential) = found {
                return Ok(Some(Found {
                    credential,
                    from: path.clone(),
                }));
            }
        }
        Ok(None)
    }
}

/// A credential and the file that led to it.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) credential: Credential,
    pub(crate) from: PathBuf,
}

/// What a registry is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Credential {
    Password {
        user: String,
        password: Secret,
    },
    /// A token that is exchanged for others.
    Identity(Secret),
}

/// A text that no log and no error shows.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

enum Entry {
    Credential(Credential),
    Helper(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AuthFile {
    #[serde(default)]
    auths: Option<BTreeMap<String, Auth>>,
    #[serde(default)]
    creds_store: Option<String>,
    #[serde(default)]
    cred_helpers: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct Auth {
    #[serde(default)]
    auth: Option<Secret>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<Secret>,
    #[serde(default)]
    identitytoken: Option<Secret>,
}

impl AuthFile {
    fn read(path: &Path) -> Result<Option<Self>> {
        let file = match File::open(path) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(None);
            }
            other => other.at("open", path)?,
        };
        let mut bytes = Vec::new();
        file.take(MAX_FILE + 1)
            .read_to_end(&mut bytes)
            .at("read", path)?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(invalid(path, "is too large to be a file with credentials"));
        }
        // The error names the place only: the text around it may be a password.
        let parsed: Self = serde_json::from_slice(&bytes).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            invalid(
                path,
                &format!("cannot be understood from line {line}, column {column} on"),
            )
        })?;
        Ok(Some(parsed))
    }

    /// The order is docker's: a helper for the registry, an entry in the file, the helper for
    /// all registries.
    fn look_up(&self, registry: &Registry, repository: &str, path: &Path) -> Result<Option<Entry>> {
        let keys = keys(registry, repository);
        let of_registry = self.cred_helpers.as_ref().and_then(|helpers| {
            let mut names = keys.iter().filter_map(|key| helpers.get(key));
            names.next()
        });
        if let Some(name) = of_registry {
            return Ok(Some(Entry::Helper(name.clone())));
        }
        for key in &keys {
            for (written, auth) in self.auths.iter().flatten() {
                if written != key && bare(written) != key.as_str() {
                    continue;
                }
                // `docker login` with a store leaves an empty entry behind.
                if let Some(credential) = auth.credential(path, written)? {
                    return Ok(Some(Entry::Credential(credential)));
                }
            }
        }
        Ok(self.creds_store.clone().map(Entry::Helper))
    }
}

impl Auth {
    fn credential(&self, path: &Path, key: &str) -> Result<Option<Credential>> {
        let full = |secret: &Option<Secret>| secret.clone().filter(|s| !s.0.is_empty());
        if let Some(token) = full(&self.identitytoken) {
            return Ok(Some(Credential::Identity(token)));
        }
        if let Some(auth) = full(&self.auth) {
            return match decode(&auth) {
                Some(credential) => Ok(Some(credential)),
                None => Err(invalid(
                    path,
                    &format!(
                        "has an `auth` for `{}` that is not a user and a password in base64",
                        crate::text::shown(key)
                    ),
                )),
            };
        }
        Ok(match (&self.username, full(&self.password)) {
            (Some(user), Some(password)) if !user.is_empty() => Some(Credential::Password {
                user: user.clone(),
                password,
            }),
            _ => None,
        })
    }
}

fn decode(auth: &Secret) -> Option<Credential> {
    let config =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let bytes = GeneralPurpose::new(&STANDARD, config)
        .decode(auth.reveal().trim())
        .ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (user, password) = text.split_once(':')?;
    // Docker pads old entries with NUL.
    let password = password.trim_end_matches('\0').to_owned();
    Some(Credential::Password {
        user: user.to_owned(),
        password: Secret(password),
    })
}

/// The keys under which the credentials may be kept, the most exact first.
fn keys(registry: &Registry, repository: &str) -> Vec<String> {
    let mut keys = Vec::new();
    let mut path = format!("{registry}/{repository}");
    loop {
        keys.push(path.clone());
        match path.rfind('/') {
            Some(slash) => path.truncate(slash),
            None => break,
        }
    }
    if registry.is_docker_hub() {
        keys.push(DOCKER_HUB_KEY.to_owned());
        keys.push("index.docker.io".to_owned());
        keys.push(registry.server().to_owned());
    }
    keys
}

/// What a helper knows the registry by.
fn server_key(registry: &Registry) -> String {
    if registry.is_docker_hub() {
        DOCKER_HUB_KEY.to_owned()
    } else {
        registry.to_string()
    }
}

/// A key without what old versions of docker put around the host.
fn bare(key: &str) -> &str {
    let key = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    let key = key.trim_end_matches('/');
    key.strip_suffix("/v1")
        .or_else(|| key.strip_suffix("/v2"))
        .unwrap_or(key)
}

fn invalid(path: &Path, why: &str) -> Error {
    Error::new(Code::InvalidConfig, format!("`{}` {why}", path.display()))
        .hint("correct the file, or make it anew with `docker login`")
}

#[cfg(test)]
mod tests;
