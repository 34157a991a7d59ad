//! Credential helpers: programs named `docker-credential-NAME` that know passwords.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use banger_model::{Code, Error, Result};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::{Credential, Secret};
use crate::text::shown;

/// A helper may ask its user something.
const LIMIT: Duration = Duration::from_secs(60);
/// More than any helper has to say.
const MAX_OUTPUT: u64 = 64 << 10;
/// The user name that says that the secret is an identity token.
const TOKEN_USER: &str = "<token>";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: Secret,
}

/// Asks the helper `name` for the credentials of `server`; none when it knows of none.
pub(super) async fn get(path: &OsStr, name: &str, server: &str) -> Result<Option<Credential>> {
    let program = find(path, name)?;
    let failed = |what: &str| {
        Error::new(
            Code::FetchFailed,
            format!("the credential helper `{}` {what}", program.display()),
        )
        .hint(format!("try `echo {server} | {} get`", program.display()))
    };
    let mut child = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed("cannot be run").because(error))?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let talk = async {
        let (Some(mut stdin), Some(stdout)) = (stdin, stdout) else {
            return Err(Error::internal("a helper has no pipes"));
        };
        // One that does not read is free not to; what it says and how it ends counts.
        if let Err(error) = stdin.write_all(server.as_bytes()).await {
            tracing::debug!(%error, "a credential helper does not read");
        }
        drop(stdin);
        let mut output = Vec::new();
        stdout
            .take(MAX_OUTPUT + 1)
            .read_to_end(&mut output)
            .await
            .map_err(|error| failed("cannot be read from").because(error))?;
        if output.len() as u64 > MAX_OUTPUT {
            return Err(failed("says too much"));
        }
        let status = child
            .wait()
            .await
            .map_err(|error| failed("cannot be waited for").because(error))?;
        Ok((status, output))
    };
    let (status, output) = tokio::time::timeout(LIMIT, talk)
        .await
        .map_err(|_| failed(&format!("did not answer within {} s", LIMIT.as_secs())))??;
    if !status.success() {
        let said = String::from_utf8_lossy(&output);
        if said.contains("credentials not found") {
            return Ok(None);
        }
        // When a helper fails, what it prints is an error and not a secret.
        return Err(failed(&format!(
            "failed ({status}): {}",
            shown(said.trim())
        )));
    }
    let answer: Answer = serde_json::from_slice(&output)
        .map_err(|_| failed("answered something that is not a user name and a secret"))?;
    Ok(Some(if answer.username == TOKEN_USER {
        Credential::Identity(answer.secret)
    } else {
        Credential::Password {
            user: answer.username,
            password: answer.secret,
        }
    }))
}

/// Names come from a file: one with a slash would run any program.
fn find(path: &OsStr, name: &str) -> Result<PathBuf> {
    let plain = !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if !plain {
        return Err(Error::new(
            Code::InvalidConfig,
            format!("`{}` cannot name a credential helper", shown(name)),
        )
        .hint("correct `credsStore` and `credHelpers` in docker's config.json"));
    }
    let program = format!("docker-credential-{name}");
    std::env::split_paths(path)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(&program))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| {
            Error::new(
                Code::MissingProgram,
                format!("the credential helper `{program}` is not installed"),
            )
            .hint(format!(
                "install `{program}` so that the daemon finds it in its `PATH`, or remove it \
                 from docker's config.json"
            ))
        })
}
