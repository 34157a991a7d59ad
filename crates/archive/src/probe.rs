//! What the host has of what a build needs, for `banger doctor`.

use std::fs;

use banger_model::Check;

use crate::namespace::needs_user_namespace;
use crate::programs;

/// How many ids an image needs: Debian's `nobody` is 65534.
const IDS: u64 = 65536;

/// Looks for the programs and rights a build needs. Starts nothing.
pub fn probe() -> Vec<Check> {
    let mut checks: Vec<Check> = [
        "mmdebstrap",
        "dpkg-deb",
        "mke2fs",
        "e2fsck",
        "depmod",
        "unshare",
    ]
    .into_iter()
    .map(program)
    .collect();
    if needs_user_namespace() {
        checks.push(program("newuidmap"));
        checks.push(subordinate_ids());
    }
    checks
}

fn program(name: &str) -> Check {
    match programs::find(name) {
        Ok(path) => Check::ok(name, path.display().to_string()),
        Err(error) => Check::fail(name, error.message(), error.hint_text().unwrap_or_default()),
    }
}

fn subordinate_ids() -> Check {
    let name = "subordinate ids";
    let users = Users::now();
    for file in ["/etc/subuid", "/etc/subgid"] {
        let text = fs::read_to_string(file).unwrap_or_default();
        let count = users.granted(&text);
        if count < IDS {
            return Check::fail(
                name,
                format!("`{file}` gives this user {count} ids; images need {IDS}"),
                subordinate_ids_fix(),
            );
        }
    }
    Check::ok(
        name,
        format!("at least {IDS} in /etc/subuid and /etc/subgid"),
    )
}

/// The command that gives this user the ids a build needs.
pub(crate) fn subordinate_ids_fix() -> String {
    let users = Users::now();
    let taken = ["/etc/subuid", "/etc/subgid"]
        .iter()
        .map(|file| first_free(&fs::read_to_string(file).unwrap_or_default()))
        .max()
        .unwrap_or(100_000);
    let last = taken + IDS - 1;
    format!(
        "run `sudo usermod --add-subuids {taken}-{last} --add-subgids {taken}-{last} {}`",
        users.name
    )
}

/// The user this process runs as, by both names that the files may use.
struct Users {
    id: String,
    name: String,
}

impl Users {
    fn now() -> Self {
        let id = rustix::process::geteuid().as_raw().to_string();
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let name = name_of(&passwd, &id).unwrap_or(&id).to_owned();
        Users { id, name }
    }

    /// The ids that a subuid file gives this user in all.
    fn granted(&self, text: &str) -> u64 {
        text.lines()
            .filter_map(parse)
            .filter(|range| range.user == self.id || range.user == self.name)
            .fold(0, |sum, range| sum.saturating_add(range.count))
    }
}

fn name_of<'a>(passwd: &'a str, id: &str) -> Option<&'a str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == id).then_some(name)
    })
}

struct Range<'a> {
    user: &'a str,
    first: u64,
    count: u64,
}

fn parse(line: &str) -> Option<Range<'_>> {
    let mut fields = line.trim().split(':');
    Some(Range {
        user: fields.next()?,
        first: fields.next()?.parse().ok()?,
        count: fields.next()?.parse().ok()?,
    })
}

/// The first id above every range in use, and above ordinary users.
fn first_free(text: &str) -> u64 {
    text.lines()
        .filter_map(parse)
        .map(|range| range.first.saturating_add(range.count))
        .fold(100_000, u64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_name_and_by_number() {
        let users = Users {
            id: "1001".to_owned(),
            name: "dev".to_owned(),
        };
        assert_eq!(users.granted("dev:100000:65536\n"), 65536);
        assert_eq!(users.granted("1001:100000:1000\ndev:200000:5\n"), 1005);
        assert_eq!(users.granted("other:1:65536\ngarbage\ndev:x:y\n"), 0);
    }

    #[test]
    fn a_new_range_lies_above_all_others() {
        assert_eq!(first_free(""), 100_000);
        assert_eq!(first_free("a:100000:65536\nb:165536:65536\n"), 231_072);
        assert_eq!(first_free("a:5:10\n"), 100_000);
    }

    #[test]
    fn user_names_come_from_the_password_file() {
        let passwd = "root:x:0:0::/root:/bin/sh\ndev:x:1001:1001::/home/dev:/bin/sh\n";
        assert_eq!(name_of(passwd, "1001"), Some("dev"));
        assert_eq!(name_of(passwd, "7"), None);
    }
}
