//! Kernel modules: which need which, in what order they load, and their plain content.
//!
//! Debian's package has no `modules.dep`; depmod makes it after installation. What the
//! initramfs needs to know is made here, from what each module says about itself (`depends=`
//! and `softdep=` in its `.modinfo`); the guest gets what depmod makes, see [`crate::drive`].

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use banger_content::write_atomically;
use banger_model::{Code, Error, IoContext, Result};

/// Which modules need which, in depmod's own format.
const DEPENDENCIES: &str = "modules.dep";
/// Optional companions that should load first: our own file, in the same format.
const SOFT_DEPENDENCIES: &str = "modules.softdep.dep";
/// What is built into the kernel, from the package.
const BUILT_IN: &str = "modules.builtin";
/// No module is larger.
const MAX_MODULE: u64 = 256 << 20;

/// Writes the dependencies of all modules below `root` into it.
///
/// # Errors
/// `io`, or `build_failed` naming the module that cannot be read.
pub(crate) fn index(root: &Path) -> Result<()> {
    let mut known = BTreeMap::new();
    for path in module_files(root)? {
        let content = plain(&root.join(&path))?;
        known.insert(name_of(&path), (path, about(&content)));
    }
    let mut hard = String::new();
    let mut soft = String::new();
    for (path, about) in known.values() {
        let paths = |names: &[String]| -> String {
            names
                .iter()
                .filter_map(|name| known.get(name))
                .map(|(path, _)| format!(" {}", path.display()))
                .collect()
        };
        hard.push_str(&format!("{}:{}\n", path.display(), paths(&about.depends)));
        let before = paths(&about.soft);
        if !before.is_empty() {
            soft.push_str(&format!("{}:{before}\n", path.display()));
        }
    }
    write_atomically(&root.join(DEPENDENCIES), hard.as_bytes())?;
    write_atomically(&root.join(SOFT_DEPENDENCIES), soft.as_bytes())
}

/// The modules of one kernel.
pub(crate) struct Modules {
    root: PathBuf,
    /// Name to path below the root.
    paths: HashMap<String, PathBuf>,
    /// Name to the names that load before it.
    depends: HashMap<String, Vec<String>>,
    built_in: HashSet<String>,
}

impl Modules {
    /// Reads the index of the modules below `root`.
    ///
    /// # Errors
    /// `io`.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let mut modules = Modules {
            root: root.to_owned(),
            paths: HashMap::new(),
            depends: HashMap::new(),
            built_in: HashSet::new(),
        };
        for file in [DEPENDENCIES, SOFT_DEPENDENCIES] {
            let path = root.join(file);
            let text = fs::read_to_string(&path).at("read", &path)?;
            for line in text.lines() {
                modules.add(line);
            }
        }
        let path = root.join(BUILT_IN);
        // Older packages have none; then what is missing is found when it is missed.
        if path.exists() {
            let text = fs::read_to_string(&path).at("read", &path)?;
            modules.built_in = text.lines().map(|line| name_of(Path::new(line))).collect();
        }
        Ok(modules)
    }

    fn add(&mut self, line: &str) {
        let Some((path, needs)) = line.split_once(':') else {
            return;
        };
        let path = Path::new(path);
        let name = name_of(path);
        self.paths.insert(name.clone(), path.to_owned());
        self.depends.entry(name).or_default().extend(
            needs
                .split_whitespace()
                .map(|path| name_of(Path::new(path))),
        );
    }

    /// Whether there is a module of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.paths.contains_key(name)
    }

    /// Whether this module is built into the kernel.
    pub(crate) fn is_built_in(&self, name: &str) -> bool {
        self.built_in.contains(name)
    }

    /// Refuses modules that were built for another kernel, which would not load.
    ///
    /// # Errors
    /// `build_failed`, naming the module; `io`.
    pub(crate) fn check_release(&self, names: &[String], release: &str) -> Result<()> {
        for name in names {
            let about = about(&self.content(name)?);
            if let Some(other) = about.built_for
                && other != release
            {
                return Err(Error::new(
                    Code::BuildFailed,
                    format!(
                        "the module `{name}` was built for the kernel {}, not for {release}",
                        other.escape_debug()
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Notes modules that are known to be built in, though no list says so.
    pub(crate) fn know_built_in(&mut self, names: &HashSet<&str>) {
        self.built_in
            .extend(names.iter().map(|name| (*name).to_owned()));
    }

    /// Removes every module but these from the disk and from the index: what stays is what the
    /// initramfs is made of.
    ///
    /// # Errors
    /// `io`.
    pub(crate) fn keep_only(self, names: &[String]) -> Result<()> {
        let keep: HashSet<&PathBuf> = names
            .iter()
            .filter_map(|name| self.paths.get(name))
            .collect();
        for path in module_files(&self.root)? {
            if !keep.contains(&path) {
                let path = self.root.join(path);
                fs::remove_file(&path).at("remove", &path)?;
            }
        }
        // What depmod made is on the drive, and describes modules that are gone from here.
        for entry in fs::read_dir(&self.root).at("list", &self.root)? {
            let path = entry.at("list", &self.root)?.path();
            if path.is_dir() {
                remove_empty(&path)?;
            } else {
                fs::remove_file(&path).at("remove", &path)?;
            }
        }
        let mut lines: Vec<String> = self
            .built_in
            .iter()
            .map(|name| format!("{name}.ko\n"))
            .collect();
        lines.sort();
        write_atomically(&self.root.join(BUILT_IN), lines.concat().as_bytes())?;
        index(&self.root)
    }

    /// The modules to load for `wanted`, dependencies first, each once. What is built into the
    /// kernel does not appear.
    ///
    /// # Errors
    /// `build_failed`, naming a module that is neither there nor built in.
    pub(crate) fn in_load_order(&self, wanted: &[&str]) -> Result<Vec<String>> {
        let mut order = Vec::new();
        let mut seen = HashSet::new();
        for name in wanted {
            if self.built_in.contains(*name) {
                continue;
            }
            if !self.paths.contains_key(*name) {
                return Err(Error::new(
                    Code::BuildFailed,
                    format!(
                        "the kernel module `{name}` is missing in `{}`",
                        self.root.display()
                    ),
                )
                .hint("pull the kernel again, or choose another"));
            }
            self.visit(name, &mut seen, &mut order);
        }
        Ok(order)
    }

    /// Depth first; a cycle, which no kernel has, is cut where it closes.
    fn visit(&self, name: &str, seen: &mut HashSet<String>, order: &mut Vec<String>) {
        if !seen.insert(name.to_owned()) {
            return;
        }
        for needed in self.depends.get(name).into_iter().flatten() {
            self.visit(needed, seen, order);
        }
        if self.paths.contains_key(name) {
            order.push(name.to_owned());
        }
    }

    /// The uncompressed content of a module that [`Modules::in_load_order`] named.
    ///
    /// # Errors
    /// `io`, or `build_failed` when it cannot be unpacked.
    pub(crate) fn content(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.paths.get(name).ok_or_else(|| {
            Error::internal(format!("there is no module `{}`", name.escape_debug()))
        })?;
        plain(&self.root.join(path))
    }
}

/// Removes the directories below `dir` that hold nothing, and `dir` itself when nothing is left.
fn remove_empty(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).at("list", dir)? {
        let entry = entry.at("list", dir)?;
        if entry.file_type().at("look at", &entry.path())?.is_dir() {
            remove_empty(&entry.path())?;
        }
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => Ok(()),
        other => other.at("remove", dir),
    }
}

/// Every module below `root`, as sorted paths relative to it.
fn module_files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).at("list", &dir)? {
            let entry = entry.at("list", &dir)?;
            let path = entry.path();
            if entry.file_type().at("look at", &path)?.is_dir() {
                todo.push(path);
            } else if is_module(&path)
                && let Ok(below) = path.strip_prefix(root)
            {
                found.push(below.to_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}

const SUFFIXES: [&str; 4] = [".ko", ".ko.xz", ".ko.zst", ".ko.gz"];

pub(crate) fn is_module(path: &Path) -> bool {
    path.to_str()
        .is_some_and(|path| SUFFIXES.iter().any(|suffix| path.ends_with(suffix)))
}

/// The name of a module: of its file, with the `-` that some have instead of `_`.
fn name_of(path: &Path) -> String {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let name = SUFFIXES
        .iter()
        .find_map(|suffix| file.strip_suffix(suffix))
        .unwrap_or(&file);
    name.replace('-', "_")
}

fn plain(path: &Path) -> Result<Vec<u8>> {
    let file = fs::File::open(path).at("open", path)?;
    let mut content = Vec::new();
    let reader: Box<dyn Read> = match path.extension().and_then(|end| end.to_str()) {
        Some("xz") => Box::new(liblzma::read::XzDecoder::new(file)),
        Some("zst") => Box::new(zstd::stream::read::Decoder::new(file).at("read", path)?),
        Some("gz") => Box::new(flate2::read::GzDecoder::new(file)),
        _ => Box::new(file),
    };
    reader
        .take(MAX_MODULE)
        .read_to_end(&mut content)
        .map_err(|error| {
            Error::new(
                Code::BuildFailed,
                format!("cannot unpack the module `{}`", path.display()),
            )
            .because(error)
        })?;
    Ok(content)
}

/// What a module says about itself.
#[derive(Debug, Default, PartialEq)]
struct About {
    /// The release of the kernel it was built for.
    built_for: Option<String>,
    depends: Vec<String>,
    soft: Vec<String>,
}

/// Reads the `.modinfo` section: `key=value` strings, each ended by NUL.
fn about(module: &[u8]) -> About {
    let mut about = About::default();
    let Some(info) = section(module, b".modinfo") else {
        return about;
    };
    for field in info.split(|byte| *byte == 0) {
        let field = String::from_utf8_lossy(field);
        if let Some(list) = field.strip_prefix("depends=") {
            about.depends.extend(
                list.split(',')
                    .filter(|name| !name.is_empty())
                    .map(|name| name.replace('-', "_")),
            );
        } else if let Some(list) = field.strip_prefix("softdep=") {
            about.soft.extend(soft_before(list));
        } else if let Some(magic) = field.strip_prefix("vermagic=") {
            about.built_for = magic.split(' ').next().map(str::to_owned);
        }
    }
    about
}

/// The names after `pre:` in a soft dependency such as `pre: a b post: c`.
fn soft_before(list: &str) -> Vec<String> {
    let mut before = false;
    let mut names = Vec::new();
    for word in list.split_whitespace() {
        match word {
            "pre:" => before = true,
            "post:" => before = false,
            name if before => names.push(name.replace('-', "_")),
            _ => {}
        }
    }
    names
}

/// The content of a section of a 64-bit little-endian ELF file.
fn section<'a>(elf: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    let u16_at = |at: usize| Some(u16::from_le_bytes(elf.get(at..at + 2)?.try_into().ok()?));
    let u64_at = |bytes: &[u8], at: usize| -> Option<usize> {
        let value = u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?);
        usize::try_from(value).ok()
    };
    if elf.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let table = u64_at(elf, 40)?;
    let size = usize::from(u16_at(58)?);
    let count = usize::from(u16_at(60)?);
    let names_index = usize::from(u16_at(62)?);
    let header = |index: usize| -> Option<&[u8]> {
        let start = table.checked_add(index.checked_mul(size)?)?;
        elf.get(start..start.checked_add(size.max(64))?)
    };
    let content = |header: &[u8]| -> Option<&'a [u8]> {
        let from = u64_at(header, 24)?;
        elf.get(from..from.checked_add(u64_at(header, 32)?)?)
    };
    let names = content(header(names_index)?)?;
    (0..count).find_map(|index| {
        let header = header(index)?;
        let name = u32::from_le_bytes(header.get(..4)?.try_into().ok()?);
        let name = names.get(usize::try_from(name).ok()?..)?;
        let end = name.iter().position(|byte| *byte == 0)?;
        (&name[..end] == wanted).then(|| content(header))?
    })
}

#[cfg(test)]
pub(crate) mod tests;
