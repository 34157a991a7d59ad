//! `[[file_sync]]`: host files and trees that every guest gets at every start.

use std::fmt;
use std::path::{Path, PathBuf};

use banger_model::Result;

use super::Entry;

/// The home directory of the guest's root, its work disk: what is synced goes below it.
const GUEST_HOME: &str = "/root";
/// More is not a list somebody wrote.
const MAX_ENTRIES: usize = 128;
/// The longest name of a file that Linux has, in bytes.
const MAX_COMPONENT: usize = 255;
/// The longest path in the guest, in bytes. Linux allows 4095 with the home directory before it
/// and what a tree holds after it.
const MAX_GUEST_PATH: usize = 1024;
/// What the guest's identity owns below its home: a copy would lock its user out.
const OURS: &str = ".ssh/authorized_keys";

/// One `[[file_sync]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSync {
    /// `host`
    pub host: HostPath,
    /// `guest`
    pub guest: GuestPath,
    /// `mode`: the permission bits of every file; at most 0777.
    pub mode: Option<u32>,
}

/// A file or tree on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPath {
    /// From the root.
    Absolute(PathBuf),
    /// From the home directory of the user, whose daemon it is.
    Home(PathBuf),
}

impl HostPath {
    /// Where it is; `None` when it is below a home directory and there is none.
    pub fn resolve(&self, home: Option<&Path>) -> Option<PathBuf> {
        match self {
            HostPath::Absolute(path) => Some(path.clone()),
            HostPath::Home(path) => home.map(|home| home.join(path)),
        }
    }
}

impl fmt::Display for HostPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostPath::Absolute(path) => write!(f, "{}", path.display()),
            HostPath::Home(path) => write!(f, "~/{}", path.display()),
        }
    }
}

/// A place below the home directory of the guest's root: at least one name, joined by single
/// slashes, none of them `.` or `..`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestPath(String);

impl GuestPath {
    /// The path from the home directory.
    pub fn below_home(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GuestPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "~/{}", self.0)
    }
}

impl fmt::Display for FileSync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.host, self.guest)?;
        match self.mode {
            Some(mode) => write!(f, ", mode {mode:04o}"),
            None => Ok(()),
        }
    }
}

/// Reads the list; a mistake names the entry, counted from 0.
pub(super) fn file_syncs(list: &Entry<'_>) -> Result<Vec<FileSync>> {
    let entries = list.tables()?;
    if entries.len() > MAX_ENTRIES {
        return Err(list.wrong(format_args!("has more than {MAX_ENTRIES} entries")));
    }
    let mut found: Vec<FileSync> = Vec::new();
    for entry in &entries {
        let (sync, guest) = file_sync(entry)?;
        if let Some(first) = found.iter().position(|other| other.guest == sync.guest) {
            return Err(guest
                .wrong(format_args!(
                    "is `{}` in the guest, and so is `file_sync[{first}]`",
                    sync.guest
                ))
                .hint("give each entry a place of its own in the guest with `guest`"));
        }
        found.push(sync);
    }
    Ok(found)
}

/// One entry, and the key that says where it goes.
fn file_sync<'a>(table: &'a Entry<'_>) -> Result<(FileSync, Entry<'a>)> {
    let (mut host, mut guest, mut mode) = (None, None, None);
    for entry in table.table()? {
        match entry.name {
            "host" => host = Some((host_path(&entry)?, entry)),
            "guest" => guest = Some((guest_path(&entry)?, entry)),
            "mode" => mode = Some(permissions(&entry)?),
            _ => return Err(entry.unknown(&["guest", "host", "mode"])),
        }
    }
    let Some((host, host_entry)) = host else {
        return Err(table
            .wrong("has no `host`")
            .hint("name the file or tree to copy, such as host = \"~/.aws\""));
    };
    let (guest, said_by) = match (guest, &host) {
        (Some((guest, entry)), _) => (guest, entry),
        // The same place below the other home.
        (None, HostPath::Home(_)) => (guest_path(&host_entry)?, host_entry),
        (None, HostPath::Absolute(_)) => {
            return Err(table
                .wrong("has no `guest`, and its `host` is not below the home directory")
                .hint("say where it goes in the guest, such as guest = \"~/.config/tool\""));
        }
    };
    Ok((FileSync { host, guest, mode }, said_by))
}

fn host_path(entry: &Entry<'_>) -> Result<HostPath> {
    let text = entry.text()?;
    let hint = "write an absolute path, or one below your home directory such as \"~/.aws\"";
    let refuse = |why: &str| Err(entry.wrong(why).hint(hint));
    let (path, below_home) = match text.strip_prefix('~') {
        Some(rest) => match rest.strip_prefix('/') {
            Some(path) => (path, true),
            None => return refuse(tilde(rest)),
        },
        None if text.starts_with('/') => (text, false),
        None if text.is_empty() => return refuse("is empty"),
        None => return refuse("is relative, and there is nothing it could be relative to"),
    };
    let names = match names(path) {
        Ok(names) => names,
        Err(why) => return refuse(why),
    };
    match below_home {
        true => Ok(HostPath::Home(names.join("/").into())),
        false => Ok(HostPath::Absolute(format!("/{}", names.join("/")).into())),
    }
}

fn guest_path(entry: &Entry<'_>) -> Result<GuestPath> {
    let text = entry.text()?;
    let hint = "write a path below the guest's home directory /root, such as \"~/.aws\"";
    let refuse = |why: &str| Err(entry.wrong(why).hint(hint));
    let path = match text.strip_prefix('~') {
        Some(rest) => match rest.strip_prefix('/') {
            Some(path) => path,
            None => return refuse(tilde(rest)),
        },
        None if text.is_empty() => return refuse("is empty"),
        None => match text.strip_prefix(GUEST_HOME) {
            Some(path) if path.is_empty() || path.starts_with('/') => path,
            _ => return refuse("is not below /root in the guest"),
        },
    };
    let names = match names(path) {
        Ok(names) => names.join("/"),
        Err(why) => return refuse(why),
    };
    if names.len() > MAX_GUEST_PATH {
        return refuse("is longer than 1024 bytes");
    }
    if names == OURS {
        return Err(entry
            .wrong("is where banger keeps the key that lets you in")
            .hint("add your keys in the guest: what is outside of banger's lines stays"));
    }
    Ok(GuestPath(names))
}

/// Why what begins with `~`, and then with this, is not taken.
fn tilde(rest: &str) -> &'static str {
    match rest {
        "" => "is a home directory as a whole",
        _ => "is in the home directory of another user",
    }
}

fn names(path: &str) -> Result<Vec<&str>, &'static str> {
    let names: Vec<&str> = path
        .split('/')
        .filter(|name| !matches!(*name, "" | "."))
        .collect();
    if names.is_empty() {
        return Err("is a directory as a whole, not something in it");
    }
    for name in &names {
        match *name {
            ".." => return Err("contains `..`"),
            name if name.contains('\0') => return Err("contains a zero byte"),
            name if name.len() > MAX_COMPONENT => return Err("has a name longer than 255 bytes"),
            _ => {}
        }
    }
    Ok(names)
}

fn permissions(entry: &Entry<'_>) -> Result<u32> {
    let hint = "write permission bits in octal as text, such as \"0600\"";
    let text = entry.text().map_err(|error| error.hint(hint))?;
    let octal = (3..=4).contains(&text.len()) && text.bytes().all(|b| matches!(b, b'0'..=b'7'));
    match u32::from_str_radix(text, 8) {
        Ok(mode) if octal && mode <= 0o777 => Ok(mode),
        _ => Err(entry
            .wrong(format_args!("is `{}`, not a mode", text.escape_debug()))
            .hint(hint)),
    }
}

#[cfg(test)]
mod tests {
    use banger_model::Code;

    use super::super::Config;
    use super::*;

    fn parse(text: &str) -> Result<Vec<FileSync>> {
        Config::parse(text, Path::new("/c/config.toml")).map(|config| config.file_sync)
    }

    #[test]
    fn entries_say_what_goes_where() {
        let text = r#"
            [[file_sync]]
            host = "~/.aws"

            [[file_sync]]
            host = "/etc/tool//./conf"
            guest = "/root/.config/tool/"
            mode = "0640"

            [[file_sync]]
            host = "~/bin/my script"
            guest = "~/bin/ä"
            mode = "755"
        "#;
        let found = parse(text).unwrap();
        let shown: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "~/.aws -> ~/.aws",
                "/etc/tool/conf -> ~/.config/tool, mode 0640",
                "~/bin/my script -> ~/bin/ä, mode 0755",
            ]
        );
        let home = Path::new("/home/u");
        assert_eq!(
            found[0].host.resolve(Some(home)),
            Some("/home/u/.aws".into())
        );
        assert_eq!(found[0].host.resolve(None), None);
        assert_eq!(found[1].host.resolve(None), Some("/etc/tool/conf".into()));
        assert_eq!(parse("file_sync = []").unwrap(), []);
    }

    #[test]
    fn every_mistake_names_the_entry_and_its_line() {
        let cases = [
            ("host = \"\"", "host", "is empty"),
            ("host = \"aws\"", "host", "is relative"),
            ("host = \"./aws\"", "host", "is relative"),
            ("host = \"~\"", "host", "as a whole"),
            ("host = \"~/\"", "host", "as a whole"),
            ("host = \"/\"", "host", "as a whole"),
            ("host = \"~other/.aws\"", "host", "another user"),
            ("host = \"~/../x\"", "host", "contains `..`"),
            ("host = \"/a/..\"", "host", "contains `..`"),
            ("host = \"/a\\u0000\"", "host", "zero byte"),
            ("host = 3", "host", "is text in quotes"),
            ("host = \"~/.ssh/authorized_keys\"", "host", "lets you in"),
            ("host = \"~/x\", guest = \"x\"", "guest", "not below /root"),
            ("host = \"~/x\", guest = \"/etc/x\"", "guest", "not below"),
            ("host = \"~/x\", guest = \"/rooted\"", "guest", "not below"),
            ("host = \"~/x\", guest = \"/root\"", "guest", "as a whole"),
            ("host = \"~/x\", guest = \"~\"", "guest", "as a whole"),
            ("host = \"~/x\", guest = \"~u/x\"", "guest", "another user"),
            ("host = \"~/x\", guest = \"~/../x\"", "guest", "contains"),
            ("host = \"~/x\", guest = \"\"", "guest", "is empty"),
            ("host = \"~/x\", mode = \"0888\"", "mode", "not a mode"),
            ("host = \"~/x\", mode = \"4755\"", "mode", "not a mode"),
            ("host = \"~/x\", mode = \"+755\"", "mode", "not a mode"),
            ("host = \"~/x\", mode = \"7\"", "mode", "not a mode"),
            ("host = \"~/x\", mode = \"\"", "mode", "not a mode"),
            ("host = \"~/x\", mode = 600", "mode", "text in quotes"),
            ("host = \"~/x\", gast = \"~/x\"", "gast", "no key"),
        ];
        for (keys, key, why) in cases {
            let keys = keys.replace(", ", "\n");
            let line = 5 + keys.matches('\n').count();
            let text = format!("[[file_sync]]\nhost = \"~/first\"\n\n[[file_sync]]\n{keys}\n");
            let error = parse(&text).expect_err(&text);
            assert_eq!(error.code(), Code::InvalidConfig, "{text}");
            let message = error.message();
            let prefix = format!("`/c/config.toml`, line {line}: ");
            assert!(message.starts_with(&prefix), "{text}: {error}");
            let named = format!("`file_sync[1].{key}`");
            assert!(message.contains(&named), "{text}: {error}");
            assert!(message.contains(why), "{text}: {error}");
            assert!(error.hint_text().is_some(), "{text}");
        }
        for (text, line, what) in [
            (
                "\n[[file_sync]]\nguest = \"~/x\"",
                2,
                "`file_sync[0]` has no `host`",
            ),
            (
                "[[file_sync]]\nhost = \"/x\"",
                1,
                "`file_sync[0]` has no `guest`",
            ),
            ("file_sync = 3", 1, "`file_sync` is a list of tables"),
            ("\nfile_sync = [3]", 2, "`file_sync[0]` is a table"),
            (
                "[file_sync]\nhost = \"~/x\"",
                1,
                "`file_sync` is a list of tables",
            ),
        ] {
            let error = parse(text).expect_err(text);
            let expected = format!("`/c/config.toml`, line {line}: {what}");
            assert!(error.message().starts_with(&expected), "{text}: {error}");
        }
    }

    #[test]
    fn one_place_in_the_guest_has_one_entry() {
        let text =
            "[[file_sync]]\nhost = \"~/a\"\n[[file_sync]]\nhost = \"/b\"\nguest = \"/root//a\"";
        let error = parse(text).unwrap_err();
        let said = "`/c/config.toml`, line 5: `file_sync[1].guest` is `~/a` in the guest, and so \
                    is `file_sync[0]`";
        assert_eq!(error.message(), said);
        // One in the other is fine: they are copied in order.
        parse("[[file_sync]]\nhost = \"~/a\"\n[[file_sync]]\nhost = \"~/a/b\"").unwrap();
        let many = "[[file_sync]]\nhost = \"~/a\"\n".repeat(129);
        let error = parse(&many).unwrap_err();
        assert!(error.message().contains("more than 128"), "{error}");
    }
}
