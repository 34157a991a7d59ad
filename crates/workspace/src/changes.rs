//! What a patch changes, file by file.

use std::fs::File;
use std::path::Path;
use std::process::Stdio;

use banger_model::{IoContext, Result};

use crate::git::{Git, Input};
use crate::repository::strange;

/// What happens to one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its path, the new one of a file that moved; any bytes but NUL.
    pub path: Vec<u8>,
    /// How many lines come and how many go; absent for a file that is not text.
    pub lines: Option<(u64, u64)>,
}

/// Lists what `patch`, a file that git made, changes. It is read, and nothing is done with it.
///
/// # Errors
/// [`Code::Io`](banger_model::Code::Io) when it is no patch.
pub fn changes(patch: &Path) -> Result<Vec<Change>> {
    let file = File::open(patch).at("open", patch)?;
    if file.metadata().at("look at", patch)?.len() == 0 {
        return Ok(Vec::new());
    }
    // Outside of any repository: nobody's configuration has a say in it.
    let git = Git::new(Path::new("/")).with("GIT_CEILING_DIRECTORIES", "/");
    let listed = git.feed(
        &["apply", "--numstat", "-z", "-"],
        Input::From(Stdio::from(file)),
    )?;
    let lines = listed
        .split(|byte| *byte == 0)
        .filter(|line| !line.is_empty());
    lines.map(parse).collect()
}

fn parse(line: &[u8]) -> Result<Change> {
    let mut parts = line.splitn(3, |byte| *byte == b'\t');
    let mut part = || parts.next().ok_or_else(strange);
    let (added, removed, path) = (part()?, part()?, part()?);
    let number = |digits: &[u8]| {
        let digits = std::str::from_utf8(digits).ok()?;
        digits.parse::<u64>().ok()
    };
    Ok(Change {
        path: path.to_vec(),
        lines: number(added).zip(number(removed)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Pair, git};

    #[test]
    fn every_file_is_listed_with_its_lines() {
        let pair = Pair::filled();
        let host = pair.host();
        pair.write("dir/a.txt", b"a\nB\nc\ne\n");
        pair.write("dir/sub/b.bin", b"\0other");
        std::fs::remove_file(host.join("empty")).unwrap();
        std::fs::rename(host.join("run.sh"), host.join("walk.sh")).unwrap();
        pair.write_bytes(b"new \"\xe9\n", b"x\n");
        git(&host, "add -A");
        let patch = pair.at("patch");
        std::fs::write(&patch, git(&host, "diff --cached --binary -M --full-index")).unwrap();
        let change = |path: &[u8], lines| Change {
            path: path.to_vec(),
            lines,
        };
        let mut found = changes(&patch).unwrap();
        found.sort_by(|one, other| one.path.cmp(&other.path));
        assert_eq!(
            found,
            [
                change(b"dir/a.txt", Some((2, 1))),
                change(b"dir/sub/b.bin", None),
                change(b"empty", Some((0, 0))),
                change(b"new \"\xe9\n", Some((1, 0))),
                change(b"walk.sh", Some((0, 0))),
            ]
        );
        std::fs::write(&patch, b"").unwrap();
        assert_eq!(changes(&patch).unwrap(), []);
        std::fs::write(&patch, b"no patch\n").unwrap();
        assert!(changes(&patch).is_err());
    }
}
