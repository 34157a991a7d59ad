//! Who makes commits, as the host user's own git has it: for the guests' identity.

use std::process::Stdio;
use std::time::Duration;

use banger_guest_api::GitIdentity;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

/// How long git may take to read a file or two.
const LIMIT: Duration = Duration::from_secs(5);
/// The most that git is listened to, in bytes: two short lines.
const MAX_OUTPUT: u64 = 64 << 10;
/// The longest name or address, in bytes; a longer one is none.
const MAX_VALUE: usize = 1024;

/// Asks git for the user's name and address. Without git, without a configuration, or with one
/// that git cannot read there is no identity, which is no error: the guest's own then counts.
pub(super) async fn of_host() -> Option<GitIdentity> {
    ask(Command::new("git")).await
}

async fn ask(mut git: Command) -> Option<GitIdentity> {
    git.args(["config", "--global", "--includes", "-z", "--get-regexp"])
        .arg(r"^user\.(name|email)$")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let mut child = match git.spawn() {
        Ok(child) => child,
        Err(error) => {
            tracing::debug!(%error, "no git, and so no git identity");
            return None;
        }
    };
    let mut said = Vec::new();
    let listen = async {
        if let Some(stdout) = child.stdout.take() {
            stdout.take(MAX_OUTPUT).read_to_end(&mut said).await?;
        }
        child.wait().await
    };
    match tokio::time::timeout(LIMIT, listen).await {
        Ok(Ok(status)) if status.success() => identity(&said),
        // 1 means that there is neither.
        Ok(Ok(status)) => {
            tracing::debug!(%status, "git knows no identity");
            None
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, "git cannot be asked for an identity");
            None
        }
        Err(_) => {
            tracing::warn!("git does not say who makes commits");
            None
        }
    }
}

/// From `key`, a line break, the value and a zero byte, as often as it is set: the last counts.
fn identity(said: &[u8]) -> Option<GitIdentity> {
    let mut identity = GitIdentity::default();
    for entry in said.split(|byte| *byte == 0) {
        let Some(at) = entry.iter().position(|byte| *byte == b'\n') else {
            continue;
        };
        let (key, value) = (&entry[..at], &entry[at + 1..]);
        let usable = !value.trim_ascii().is_empty() && value.len() <= MAX_VALUE;
        let value = usable.then(|| value.to_vec().into());
        match key {
            b"user.name" => identity.name = value,
            b"user.email" => identity.email = value,
            _ => {}
        }
    }
    (identity != GitIdentity::default()).then_some(identity)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn git_at(home: &std::path::Path) -> Command {
        let mut git = Command::new("git");
        git.env("HOME", home)
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("GIT_CONFIG_GLOBAL")
            .current_dir(home);
        git
    }

    #[tokio::test]
    async fn git_is_asked_for_the_users_own_settings() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(ask(git_at(home.path())).await, None, "no configuration");
        fs::write(
            home.path().join(".gitconfig"),
            "[user]\n name = First\n email = a@localhost\n[include]\n path = more\n",
        )
        .unwrap();
        fs::write(
            home.path().join("more"),
            "[user]\n name = \" Łukasz \\\"x\\\"\\n# \"\n signingkey = 1\n",
        )
        .unwrap();
        let expected = GitIdentity {
            name: Some(" Łukasz \"x\"\n# ".into()),
            email: Some("a@localhost".into()),
        };
        assert_eq!(ask(git_at(home.path())).await, Some(expected));
        // The daemon's directory may be a repository: its settings are not the user's.
        fs::create_dir(home.path().join(".git")).unwrap();
        fs::write(home.path().join(".gitconfig"), "[user\n").unwrap();
        assert_eq!(ask(git_at(home.path())).await, None, "broken");
        let absent = Command::new(home.path().join("git"));
        assert_eq!(ask(absent).await, None, "no git");
    }

    #[test]
    fn the_last_value_counts_and_what_is_none_does_not() {
        let name = |said: &[u8]| identity(said).and_then(|found| found.name);
        assert_eq!(name(b"user.name\nA\0user.name\nB\0"), Some("B".into()));
        assert_eq!(name(b"user.name\0"), None);
        assert_eq!(name(b"user.name\n \0"), None);
        assert_eq!(name(b"user.name\nA\0user.name\n\0"), None);
        assert_eq!(name(b""), None);
        let long = [b"user.name\n".as_slice(), &[b'x'; MAX_VALUE + 1], b"\0"].concat();
        assert_eq!(name(&long), None);
        assert_eq!(name(b"user.name\n\xe9\0"), Some(vec![0xe9].into()));
    }
}
