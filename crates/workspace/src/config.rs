//! The configuration a guest's repository gets: what decides the meaning of files, and nothing
//! that runs a program of the host's.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use banger_model::{IoContext, Result};

use crate::repository::{ObjectFormat, Repository};

/// Settings that a guest gets as they are on the host.
const COPIED: [(&str, &str); 8] = [
    ("core", "filemode"),
    ("core", "symlinks"),
    ("core", "autocrlf"),
    ("core", "eol"),
    ("core", "ignorecase"),
    ("core", "sparsecheckout"),
    ("core", "sparsecheckoutcone"),
    ("index", "sparse"),
];

/// The host's configuration as far as it matters here.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    values: BTreeMap<(&'static str, &'static str), String>,
    /// Filter drivers that change what git stores.
    pub(crate) drivers: Vec<String>,
}

impl Settings {
    pub(crate) fn read(repository: &Repository) -> Result<Settings> {
        let listed = repository.git.run(&["config", "--list", "-z"])?;
        let mut settings = Settings::default();
        for item in listed.split(|byte| *byte == 0) {
            let item = String::from_utf8_lossy(item);
            let (key, value) = item.split_once('\n').unwrap_or((&item, "true"));
            for (section, name) in COPIED {
                if key == format!("{section}.{name}") && harmless(value) {
                    settings.values.insert((section, name), value.to_owned());
                }
            }
            let driver = key
                .strip_prefix("filter.")
                .and_then(|rest| rest.rsplit_once('.'));
            if let Some((driver, "clean" | "process")) = driver
                && !value.is_empty()
                && harmless(driver)
                && !settings.drivers.iter().any(|known| known == driver)
            {
                settings.drivers.push(driver.to_owned());
            }
        }
        Ok(settings)
    }

    /// For a guest that has another set of files than the host.
    pub(crate) fn without_sparse(mut self) -> Settings {
        self.values
            .retain(|(_, name), _| !name.starts_with("sparse"));
        self
    }

    /// For a guest that has no files.
    pub(crate) fn sparse(mut self) -> Settings {
        self = self.without_sparse();
        self.values
            .insert(("core", "sparsecheckout"), "true".to_owned());
        self.values
            .insert(("core", "sparsecheckoutcone"), "false".to_owned());
        self
    }

    /// The text of `.git/config`.
    ///
    /// Times of change, inodes and owners are another system's in the guest, so git there goes by
    /// the time of modification and the size; it would otherwise have to read every file again.
    pub(crate) fn text(&self, format: ObjectFormat) -> String {
        let version = u8::from(format != ObjectFormat::Sha1);
        let mut text = format!(
            "[core]\n\trepositoryformatversion = {version}\n\tbare = false\n\
             \tlogallrefupdates = true\n\tcheckStat = minimal\n\ttrustctime = false\n"
        );
        let mut add = |line: std::fmt::Arguments<'_>| {
            let written = text.write_fmt(line);
            debug_assert!(written.is_ok(), "a string takes everything");
        };
        if format != ObjectFormat::Sha1 {
            add(format_args!(
                "[extensions]\n\tobjectformat = {}\n",
                format.as_str()
            ));
        }
        for ((section, name), value) in &self.values {
            add(format_args!("[{section}]\n\t{name} = {value}\n"));
        }
        for driver in &self.drivers {
            add(format_args!(
                "[filter \"{driver}\"]\n\tclean = {CLEAN}\n\trequired = false\n"
            ));
        }
        text
    }
}

/// What a filter is in the guest; see [`crate::filters`].
const CLEAN: &str = "\"sh \\\"$(git rev-parse --absolute-git-dir)/banger/clean.sh\\\"\"";

fn harmless(value: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    value.len() <= 64 && !value.is_empty() && value.chars().all(plain)
}

/// Writes the parts of `.git/info` that decide which files there are.
pub(crate) fn write_info(repository: &Repository, directory: &Path, sparse: bool) -> Result<()> {
    let info = directory.join("info");
    // The user's own ignored files, which the guest does not know, come before the repository's.
    let global = ["config", "--type=path", "--default", "~/.config/git/ignore"];
    let global = repository
        .git
        .line(&[&global[..], &["--get", "core.excludesFile"]].concat())?;
    let mut exclude = read(Path::new(OsStr::from_bytes(&global)))?;
    exclude.push(b'\n');
    exclude.extend(read(&repository.git_path("info/exclude")?)?);
    let files = [
        ("exclude", exclude),
        (
            "attributes",
            read(&repository.git_path("info/attributes")?)?,
        ),
        (
            "sparse-checkout",
            match sparse {
                true => b"!/*\n".to_vec(),
                false => read(&repository.git_path("info/sparse-checkout")?)?,
            },
        ),
    ];
    for (name, content) in files {
        let path = info.join(name);
        if !content.is_empty() {
            fs::write(&path, content).at("write", &path)?;
        }
    }
    Ok(())
}

/// The content of a file that may not be there.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    match fs::read(path) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(Vec::new())
        }
        content => content.at("read", path),
    }
}
