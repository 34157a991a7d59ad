//! Telling whether a repository has changed since it was copied.

use std::fmt;
use std::str::FromStr;

use banger_model::{Code, Error, Result};
use sha2::{Digest, Sha256};

use crate::plan::{Options, Plan};
use crate::repository::Repository;

/// What a repository was like: its commit and branch, what is staged, and size, time and mode of
/// every file that was copied. As text, it can be kept and compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint {
    scope: Scope,
    digest: [u8; 32],
}

/// Which files count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Scope {
    #[default]
    Tracked,
    WithUntracked,
    /// None: the copy is of a commit, which does not change.
    Commit,
}

impl Fingerprint {
    pub(crate) fn of(plan: &Plan, listing: &[u8]) -> Fingerprint {
        let mut hasher = Sha256::new();
        let mut add = |bytes: &[u8]| {
            hasher.update((bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        let scope = match (&plan.from, plan.options.include_untracked) {
            (Some(commit), _) => {
                add(commit.as_bytes());
                Scope::Commit
            }
            (None, untracked) => {
                add(plan.head.commit.as_deref().unwrap_or_default().as_bytes());
                add(plan.head.branch.as_deref().unwrap_or_default().as_bytes());
                add(listing);
                for entry in plan.entries() {
                    let seen = &entry.seen;
                    let stat = format!(
                        "{:?} {:o} {} {:?}",
                        seen.kind, seen.mode, seen.size, seen.modified
                    );
                    add(&entry.path);
                    add(stat.as_bytes());
                }
                if untracked {
                    Scope::WithUntracked
                } else {
                    Scope::Tracked
                }
            }
        };
        Fingerprint {
            scope,
            digest: hasher.finalize().into(),
        }
    }

    /// Whether the copy was of a commit and not of the working tree.
    pub fn is_of_commit(&self) -> bool {
        self.scope == Scope::Commit
    }
}

impl Repository {
    /// Whether nothing that was copied has changed since `fingerprint` was taken. A copy of a
    /// commit cannot change.
    ///
    /// # Errors
    /// As [`plan`](Self::plan).
    pub fn is_unchanged(&self, fingerprint: &Fingerprint) -> Result<bool> {
        if fingerprint.is_of_commit() {
            return Ok(true);
        }
        let options = Options {
            include_untracked: fingerprint.scope == Scope::WithUntracked,
            ..Options::default()
        };
        Ok(self.plan(&options)?.fingerprint() == fingerprint)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.scope {
            Scope::Tracked => "1-tracked-",
            Scope::WithUntracked => "1-untracked-",
            Scope::Commit => "1-commit-",
        })?;
        self.digest
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Fingerprint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Fingerprint> {
        let invalid = || {
            let message = format!(
                "`{}` is not a fingerprint of a repository",
                text.escape_debug()
            );
            Error::new(Code::InvalidArgument, message)
        };
        let rest = text.strip_prefix("1-").ok_or_else(invalid)?;
        let (scope, hex) = rest.split_once('-').ok_or_else(invalid)?;
        let scope = match scope {
            "tracked" => Scope::Tracked,
            "untracked" => Scope::WithUntracked,
            "commit" => Scope::Commit,
            _ => return Err(invalid()),
        };
        if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(invalid());
        }
        let mut digest = [0; 32];
        for (at, byte) in digest.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).map_err(|_| invalid())?;
        }
        Ok(Fingerprint { scope, digest })
    }
}
