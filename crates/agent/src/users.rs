//! Who a command runs as, from `/etc/passwd` and `/etc/group`.
//!
//! The agent is static and therefore has no NSS: users from LDAP and the like can be named by
//! number. [`look_up`] reads the files, [`resolve`] is a pure function over their text.

use std::fs::File;
use std::io::Read;

/// A resolved user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
    pub(crate) shell: String,
}

/// The guest's own files are not trusted to be of a sane size.
const MAX_DATABASE: u64 = 4 << 20;
/// Where every system that has a shell has one.
pub(crate) const DEFAULT_SHELL: &str = "/bin/sh";
/// What Linux accepts for one process, which also bounds what a hostile `/etc/group` can ask.
const MAX_GROUPS: usize = 65_536;
/// The value that means "unchanged" to the kernel and can therefore not be anybody's number.
const INVALID_ID: u32 = u32::MAX;

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
    shell: &'a str,
}

fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let home = fields.nth(1).unwrap_or_default();
        let shell = fields.next().unwrap_or_default();
        Some(Account {
            name,
            uid,
            gid,
            home,
            shell,
        })
    })
}

/// `(name, gid, members)` of each group.
fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some((name, gid, fields.next().unwrap_or_default()))
    })
}

fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits
        .then(|| text.parse().ok())
        .flatten()
        .filter(|id| *id != INVALID_ID)
}

/// Resolves `wanted` with the guest's user database, see [`resolve`].
pub(crate) fn look_up(wanted: Option<&str>) -> Result<User, String> {
    resolve(
        wanted,
        &read_database("/etc/passwd"),
        &read_database("/etc/group"),
    )
}

/// A missing or unreadable database is an empty one: root needs none.
fn read_database(path: &str) -> String {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(MAX_DATABASE).read_to_end(&mut bytes)) {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => String::new(),
    }
}

/// Resolves `name`, `uid`, `name:group` or `uid:gid`; root when absent.
///
/// As in Docker, a name wins over a number, a uid without an account gets gid 0 and the home
/// `/`, and a group given explicitly replaces the account's supplementary groups.
fn resolve(wanted: Option<&str>, passwd: &str, group: &str) -> Result<User, String> {
    let (user, wanted_group) = match wanted.unwrap_or("root").split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (wanted.unwrap_or("root"), None),
    };
    let account = accounts(passwd)
        .find(|account| account.name == user)
        .or_else(|| {
            let uid = number(user)?;
            accounts(passwd).find(|account| account.uid == uid)
        });
    let mut resolved = match (account, number(user)) {
        (Some(account), _) => User {
            name: account.name.to_owned(),
            uid: account.uid,
            gid: account.gid,
            groups: Vec::new(),
            home: or(account.home, "/"),
            shell: or(account.shell, DEFAULT_SHELL),
        },
        // The superuser exists even where no file says so.
        (None, None | Some(0)) if user == "root" || number(user) == Some(0) => User {
            name: "root".to_owned(),
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            home: "/root".to_owned(),
            shell: DEFAULT_SHELL.to_owned(),
        },
        (None, Some(uid)) => User {
            name: user.to_owned(),
            uid,
            gid: 0,
            groups: Vec::new(),
            home: "/".to_owned(),
            shell: DEFAULT_SHELL.to_owned(),
        },
        (None, None) => return Err(format!("no user `{user}` in the guest's /etc/passwd")),
    };
    match wanted_group {
        Some(wanted) => {
            resolved.gid = groups(group)
                .find(|(name, ..)| *name == wanted)
                .map(|(_, gid, _)| gid)
                .or_else(|| number(wanted))
                .ok_or_else(|| format!("no group `{wanted}` in the guest's /etc/group"))?;
            resolved.groups = vec![resolved.gid];
        }
        None => {
            resolved.groups = std::iter::once(resolved.gid)
                .chain(groups(group).filter_map(|(_, gid, members)| {
                    let member = members.split(',').any(|member| member == resolved.name);
                    (member && gid != resolved.gid).then_some(gid)
                }))
                .take(MAX_GROUPS)
                .collect();
        }
    }
    Ok(resolved)
}

fn or(value: &str, default: &str) -> String {
    if value.is_empty() { default } else { value }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nbroken\n:x:1:1:::\n\
        dev:x:1000:1000:,,,:/home/dev:/usr/bin/zsh\nbare:x:1001:1001:::\n4000:x:7:7::/n:/bin/n\n";
    const GROUP: &str =
        "root:x:0:\nsudo:x:27:dev,other\ndev:x:1000:dev\nx:x:bad:dev\nlast:x:50:dev";

    fn get(user: &str) -> User {
        resolve(Some(user), PASSWD, GROUP).unwrap()
    }

    #[test]
    fn a_name_brings_its_groups() {
        let dev = get("dev");
        assert_eq!(
            (dev.uid, dev.gid, dev.groups),
            (1000, 1000, vec![1000, 27, 50])
        );
        assert_eq!(
            (dev.home.as_str(), dev.shell.as_str()),
            ("/home/dev", "/usr/bin/zsh")
        );
    }

    #[test]
    fn numbers_and_groups() {
        assert_eq!(get("1000").name, "dev");
        assert_eq!(get("dev:sudo").groups, [27]);
        assert_eq!((get("5:6").uid, get("5:6").gid), (5, 6));
        assert_eq!((get("5").gid, get("5").home), (0, "/".to_owned()));
        assert_eq!(get("4000").uid, 7, "a name wins over a number");
        assert_eq!(
            (get("bare").home, get("bare").shell),
            ("/".into(), "/bin/sh".into())
        );
    }

    #[test]
    fn root_needs_no_files() {
        let root = resolve(None, "", "").unwrap();
        assert_eq!((root.uid, root.gid, root.groups), (0, 0, vec![0]));
        assert_eq!(root.home, "/root");
        assert_eq!(resolve(Some("0"), "", "").unwrap().name, "root");
    }

    #[test]
    fn nonsense_is_refused() {
        for user in [
            "nobody-here",
            "",
            "-1",
            "dev:nogroup",
            "4294967295",
            "99999999999",
            "dev:",
        ] {
            assert!(resolve(Some(user), PASSWD, GROUP).is_err(), "{user}");
        }
    }
}
