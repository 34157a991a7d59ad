//! The configuration file: read, checked to the last key, never written.
//!
//! The file is walked by hand rather than deserialised, so that every refusal, a misspelt key
//! as well as a value that cannot work, names the file, the line and the key.

use std::fmt;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use banger_model::{
    ByteSize, Code, Error, ImageName, IoContext, MAX_MEMORY, MAX_VCPUS, MIN_DISK, MIN_MEMORY,
    Result, VmmChoice,
};
use toml::de::{DeTable, DeValue};

use sync::file_syncs;
pub use sync::{FileSync, GuestPath, HostPath};

mod sync;

/// Far more than every key written out; a larger file is not a configuration.
const MAX_FILE: u64 = 1 << 20;
/// The largest disk a file system of 4 KiB blocks can fill.
const MAX_DISK: ByteSize = ByteSize::gib(16 * 1024);

/// The longest a guest may be given to come up, in seconds: an hour.
const MAX_BOOT_TIMEOUT: u32 = 3600;

/// What the configuration file says; every key is optional.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// `[vm_defaults]`
    pub vm_defaults: VmDefaults,
    /// `default_image`
    pub default_image: Option<ImageName>,
    /// `firecracker_bin`
    pub firecracker_bin: Option<PathBuf>,
    /// `qemu_bin`
    pub qemu_bin: Option<PathBuf>,
    /// `log_level`
    pub log_level: Option<LogLevel>,
    /// `[images]`
    pub images: ImagesConfig,
    /// `[[file_sync]]`, in the order of the file.
    pub file_sync: Vec<FileSync>,
}

/// `[vm_defaults]`: what a VM gets when the command line does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VmDefaults {
    /// `vcpu`
    pub vcpu: Option<u32>,
    /// `memory`
    pub memory: Option<ByteSize>,
    /// `disk_size`
    pub disk_size: Option<ByteSize>,
    /// `system_overlay_size`
    pub system_overlay_size: Option<ByteSize>,
    /// `vmm`
    pub vmm: Option<VmmChoice>,
    /// `nat`
    pub nat: Option<bool>,
    /// `boot_timeout`: how long a guest may take to come up, in seconds.
    pub boot_timeout: Option<u32>,
}

/// `[images]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImagesConfig {
    /// `mirror`: the package archive to bootstrap from instead of the host's own.
    pub mirror: Option<String>,
    /// `catalogs`: files with images that can be pulled by name, before the built-in catalog.
    pub catalogs: Vec<PathBuf>,
    /// `insecure_registries`: registries that are spoken to without TLS, as `HOST[:PORT]`.
    pub insecure_registries: Vec<String>,
    /// `certificate_authorities`: PEM files with authorities that are trusted for registries,
    /// beside those of the system.
    pub certificate_authorities: Vec<PathBuf>,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Failures only.
    Error,
    /// And what may become one.
    Warn,
    /// And what was done.
    Info,
    /// And how.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    const ALL: [(LogLevel, &str); 5] = [
        (LogLevel::Error, "error"),
        (LogLevel::Warn, "warn"),
        (LogLevel::Info, "info"),
        (LogLevel::Debug, "debug"),
        (LogLevel::Trace, "trace"),
    ];

    /// The word.
    pub fn as_str(self) -> &'static str {
        LogLevel::ALL
            .into_iter()
            .find(|(level, _)| *level == self)
            .map_or("info", |(_, word)| word)
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for LogLevel {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        LogLevel::ALL
            .into_iter()
            .find(|(_, word)| *word == text)
            .map(|(level, _)| level)
            .ok_or_else(|| {
                Error::new(
                    Code::InvalidArgument,
                    format!("`{}` is not a log level", text.escape_debug()),
                )
                .hint("choose one of error, warn, info, debug, trace")
            })
    }
}

impl Config {
    /// Reads the file; one that does not exist says nothing.
    ///
    /// # Errors
    /// `invalid_config` naming the file, the line and the key; `io` when it cannot be read.
    pub fn load(path: &Path) -> Result<Config> {
        let file = match std::fs::File::open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Config::default());
            }
            opened => opened.at("open", path)?,
        };
        let mut bytes = Vec::new();
        file.take(MAX_FILE + 1)
            .read_to_end(&mut bytes)
            .at("read", path)?;
        let invalid = |what: &str| {
            Error::new(Code::InvalidConfig, format!("`{}` {what}", path.display()))
                .hint("write it as TOML text, or remove it: every key is optional")
        };
        if bytes.len() as u64 > MAX_FILE {
            return Err(invalid("is larger than 1 MiB"));
        }
        let text = String::from_utf8(bytes).map_err(|_| invalid("is not UTF-8 text"))?;
        Config::parse(&text, path)
    }

    fn parse(text: &str, path: &Path) -> Result<Config> {
        let source = Source { text, path };
        let root = DeTable::parse(text).map_err(|error| {
            let at = error.span().unwrap_or(0..0);
            source.error(&at, error.message().trim().to_owned())
        })?;
        let mut config = Config::default();
        for entry in source.entries(root.get_ref(), "") {
            match entry.name {
                "vm_defaults" => config.vm_defaults = vm_defaults(&entry)?,
                "images" => config.images = images(&entry)?,
                "file_sync" => config.file_sync = file_syncs(&entry)?,
                "default_image" => config.default_image = Some(entry.parsed()?),
                "firecracker_bin" => config.firecracker_bin = Some(entry.program()?),
                "qemu_bin" => config.qemu_bin = Some(entry.program()?),
                "log_level" => config.log_level = Some(entry.parsed()?),
                _ => {
                    return Err(entry.unknown(&[
                        "default_image",
                        "file_sync",
                        "images",
                        "log_level",
                        "firecracker_bin",
                        "qemu_bin",
                        "vm_defaults",
                    ]));
                }
            }
        }
        Ok(config)
    }
}

fn vm_defaults(table: &Entry<'_>) -> Result<VmDefaults> {
    let mut found = VmDefaults::default();
    for entry in table.table()? {
        match entry.name {
            "vcpu" => found.vcpu = Some(entry.count(1, MAX_VCPUS)?),
            "memory" => found.memory = Some(entry.size(MIN_MEMORY, MAX_MEMORY)?),
            "disk_size" => found.disk_size = Some(entry.size(MIN_DISK, MAX_DISK)?),
            "system_overlay_size" => {
                found.system_overlay_size = Some(entry.size(MIN_DISK, MAX_DISK)?);
            }
            "vmm" => found.vmm = Some(entry.parsed()?),
            "nat" => found.nat = Some(entry.boolean()?),
            "boot_timeout" => found.boot_timeout = Some(entry.count(1, MAX_BOOT_TIMEOUT)?),
            _ => {
                return Err(entry.unknown(&[
                    "boot_timeout",
                    "disk_size",
                    "memory",
                    "nat",
                    "system_overlay_size",
                    "vcpu",
                    "vmm",
                ]));
            }
        }
    }
    Ok(found)
}

fn images(table: &Entry<'_>) -> Result<ImagesConfig> {
    let mut found = ImagesConfig::default();
    for entry in table.table()? {
        match entry.name {
            "mirror" => found.mirror = Some(entry.url()?),
            "catalogs" => found.catalogs = entry.list(Entry::file)?,
            "insecure_registries" => found.insecure_registries = entry.list(Entry::registry)?,
            "certificate_authorities" => {
                found.certificate_authorities = entry.list(Entry::file)?;
            }
            _ => {
                return Err(entry.unknown(&[
                    "catalogs",
                    "certificate_authorities",
                    "insecure_registries",
                    "mirror",
                ]));
            }
        }
    }
    Ok(found)
}

/// The text being read, for saying where something is.
#[derive(Clone, Copy)]
struct Source<'a> {
    text: &'a str,
    path: &'a Path,
}

impl<'a> Source<'a> {
    fn error(&self, at: &Range<usize>, message: String) -> Error {
        let before = self.text.get(..at.start).unwrap_or(self.text);
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        Error::new(
            Code::InvalidConfig,
            format!("`{}`, line {line}: {message}", self.path.display()),
        )
        .hint(format!("correct line {line} of `{}`", self.path.display()))
    }

    /// The keys of a table in the order of the file, so that the first mistake is reported first.
    fn entries(self, table: &'a DeTable<'_>, prefix: &str) -> Vec<Entry<'a>> {
        let mut entries: Vec<_> = table
            .iter()
            .map(|(key, value)| {
                let name: &str = key.get_ref();
                Entry {
                    source: self,
                    name,
                    path: format!("{prefix}{}", name.escape_debug()),
                    key_at: key.span(),
                    value_at: value.span(),
                    value: value.get_ref(),
                }
            })
            .collect();
        entries.sort_by_key(|entry| entry.key_at.start);
        entries
    }
}

/// One key and its value.
struct Entry<'a> {
    source: Source<'a>,
    name: &'a str,
    path: String,
    key_at: Range<usize>,
    value_at: Range<usize>,
    value: &'a DeValue<'a>,
}

impl<'a> Entry<'a> {
    fn unknown(&self, known: &[&str]) -> Error {
        self.source
            .error(&self.key_at, format!("there is no key `{}`", self.path))
            .hint(format!("the keys here are {}", known.join(", ")))
    }

    fn wrong(&self, why: impl fmt::Display) -> Error {
        self.source
            .error(&self.value_at, format!("`{}` {why}", self.path))
    }

    fn wrong_type(&self, expected: &str) -> Error {
        self.wrong(format_args!("is {expected}, not {}", self.value.type_str()))
    }

    fn table(&self) -> Result<Vec<Entry<'a>>> {
        let table = self
            .value
            .as_table()
            .ok_or_else(|| self.wrong_type("a table"))?;
        Ok(self.source.entries(table, &format!("{}.", self.path)))
    }

    /// The tables of a list, such as `[[name]]` makes them.
    fn tables(&self) -> Result<Vec<Entry<'a>>> {
        let list = self
            .value
            .as_array()
            .ok_or_else(|| self.wrong_type("a list of tables"))?;
        let tables = list.iter().enumerate().map(|(index, item)| {
            let entry = Entry {
                source: self.source,
                name: self.name,
                path: format!("{}[{index}]", self.path),
                key_at: item.span(),
                value_at: item.span(),
                value: item.get_ref(),
            };
            match entry.value.is_table() {
                true => Ok(entry),
                false => Err(entry.wrong_type("a table")),
            }
        });
        tables.collect()
    }

    fn text(&self) -> Result<&'a str> {
        self.value
            .as_str()
            .ok_or_else(|| self.wrong_type("text in quotes"))
    }

    fn boolean(&self) -> Result<bool> {
        self.value
            .as_bool()
            .ok_or_else(|| self.wrong_type("true or false"))
    }

    /// Text that a type of the model parses.
    fn parsed<T: FromStr<Err = Error>>(&self) -> Result<T> {
        self.text()?.parse().map_err(|error: Error| {
            let refused = self.wrong(format_args!("is not valid: {error}"));
            match error.hint_text() {
                Some(hint) => refused.hint(hint.to_owned()),
                None => refused,
            }
        })
    }

    fn count(&self, least: u32, most: u32) -> Result<u32> {
        let number = self
            .value
            .as_integer()
            .ok_or_else(|| self.wrong_type("a whole number"))?;
        // What does not fit is as impossible as what is out of range.
        i64::from_str_radix(number.as_str(), number.radix())
            .ok()
            .and_then(|number| u32::try_from(number).ok())
            .filter(|number| (least..=most).contains(number))
            .ok_or_else(|| self.wrong(format_args!("is not from {least} to {most}")))
    }

    fn size(&self, least: ByteSize, most: ByteSize) -> Result<ByteSize> {
        if self.value.is_integer() {
            return Err(self
                .wrong("needs a unit")
                .hint("write the size as text with a unit, such as \"2G\""));
        }
        let size: ByteSize = self.parsed()?;
        if size < least || size > most {
            return Err(self.wrong(format_args!("is {size}; it must be from {least} to {most}")));
        }
        Ok(size)
    }

    /// A list; each item is looked at as an entry of its own.
    fn list<T>(&self, item: impl Fn(&Entry<'a>) -> Result<T>) -> Result<Vec<T>> {
        let array = self
            .value
            .as_array()
            .ok_or_else(|| self.wrong_type("a list"))?;
        array
            .iter()
            .map(|value| {
                item(&Entry {
                    source: self.source,
                    name: self.name,
                    path: self.path.clone(),
                    key_at: self.key_at.clone(),
                    value_at: value.span(),
                    value: value.get_ref(),
                })
            })
            .collect()
    }

    /// The path of a file. Whether it is there is checked when it is needed.
    fn file(&self) -> Result<PathBuf> {
        self.program()
    }

    fn registry(&self) -> Result<String> {
        let text = self.text()?;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
        if text.is_empty() || !text.chars().all(plain) {
            return Err(self
                .wrong("is not a registry")
                .hint("write a host and perhaps a port, such as \"registry.example.com:5000\""));
        }
        Ok(text.to_owned())
    }

    /// The path of a program. Whether it is there is checked when it is needed.
    fn program(&self) -> Result<PathBuf> {
        let path = self.text()?;
        if !path.starts_with('/') || path.contains('\0') {
            return Err(self.wrong("is not an absolute path"));
        }
        Ok(path.into())
    }

    fn url(&self) -> Result<String> {
        let url = self.text()?;
        let rest = ["http://", "https://", "file:///"]
            .iter()
            .find_map(|scheme| url.strip_prefix(scheme));
        let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\'' | '[' | ']' | '\\');
        match rest {
            Some(rest) if !rest.is_empty() && rest.chars().all(plain) => Ok(url.to_owned()),
            _ => Err(self
                .wrong("is not a URL")
                .hint("write a URL that begins with http://, https:// or file:///")),
        }
    }
}

#[cfg(test)]
mod tests;
