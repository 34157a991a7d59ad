//! The catalogs of images: the built-in one and those of the configuration.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use banger_model::{ByteSize, Code, Digest, Error, ImageName, KernelName, Result};
use banger_oci::{Address, Reference};
use serde::Deserialize;

use crate::images::Image;

/// Far more than any catalog needs.
const MAX_CATALOG: u64 = 1 << 20;
const CATALOG: &str = include_str!("../../../images/catalog.toml");

/// The package lists that catalog entries name.
const PACKAGE_LISTS: [(&str, &str); 1] = [(
    "debian-bookworm.packages",
    include_str!("../../../images/debian-bookworm.packages"),
)];

/// An image that can be pulled by name.
#[derive(Clone, Debug)]
pub struct CatalogEntry {
    /// Its name.
    pub name: ImageName,
    /// One line for people.
    pub description: String,
    /// The kernel its VMs boot by default.
    pub kernel: KernelName,
    /// Where it comes from.
    pub(crate) source: Source,
}

impl CatalogEntry {
    /// Where it comes from, in a word.
    pub fn kind(&self) -> &'static str {
        match self.source {
            Source::Bootstrap(_) => "bootstrap",
            Source::Bundle { .. } => "bundle",
            Source::Oci { .. } => "oci",
        }
    }

    /// Whether `image` is what this entry means now: a catalog may name another bundle under
    /// the same name.
    pub fn means(&self, image: &Image) -> bool {
        match &self.source {
            Source::Bundle { sha256, .. } => image
                .origin
                .as_ref()
                .is_some_and(|origin| origin.manifest_digest == *sha256),
            Source::Bootstrap(_) | Source::Oci { .. } => true,
        }
    }
}

/// Where an image comes from.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub(crate) enum Source {
    /// Installed from a distribution's package archive.
    Bootstrap(BootstrapSource),
    /// One file with a finished root file system.
    Bundle {
        /// Where it is.
        url: Address,
        /// What it must be.
        #[serde(deserialize_with = "sha256")]
        sha256: Digest,
    },
    /// Pulled from a registry.
    Oci {
        /// Its name there.
        reference: Reference,
    },
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct BootstrapSource {
    pub(crate) distribution: String,
    pub(crate) suite: String,
    #[serde(deserialize_with = "package_list")]
    pub(crate) packages: Vec<String>,
    /// The most the tree takes, with the packages it is made of.
    pub(crate) tree: ByteSize,
    /// Free space the build needs.
    pub(crate) needs: ByteSize,
}

/// The whole file; the kernels in it are another crate's.
#[derive(Deserialize)]
struct File {
    default_kernel: Option<KernelName>,
    #[serde(default)]
    image: BTreeMap<ImageName, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    description: String,
    kernel: Option<KernelName>,
    #[serde(flatten)]
    source: Source,
}

fn package_list<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let name = String::deserialize(from)?;
    PACKAGE_LISTS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, text)| packages(text))
        .ok_or_else(|| serde::de::Error::custom(format!("no package list `{name}`")))
}

/// A digest as `sha256sum` prints it.
fn sha256<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Digest, D::Error> {
    let hex = String::deserialize(from)?;
    format!("sha256:{hex}").parse().map_err(|_| {
        let hex = hex.escape_debug();
        serde::de::Error::custom(format!("`{hex}` is not 64 lower-case hexadecimal digits"))
    })
}

/// The names in a package list: one per line, `#` begins a comment.
fn packages(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.split('#').next())
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The built-in catalog as it is used.
struct BuiltIn {
    default_kernel: KernelName,
    images: Vec<CatalogEntry>,
}

static BUILT_IN: LazyLock<Result<BuiltIn, String>> = LazyLock::new(|| {
    let file: File = toml::from_str(CATALOG).map_err(|error| error.to_string())?;
    let default_kernel = file.default_kernel.clone();
    Ok(BuiltIn {
        default_kernel: default_kernel.ok_or("it names no default kernel")?,
        images: file.entries(None)?,
    })
});

impl File {
    fn entries(self, default_kernel: Option<&KernelName>) -> Result<Vec<CatalogEntry>, String> {
        let entries = self.image.into_iter().map(|(name, entry)| {
            let kernel = entry.kernel.as_ref().or(default_kernel).cloned();
            Ok(CatalogEntry {
                kernel: kernel.ok_or_else(|| format!("`{name}` names no kernel"))?,
                name,
                description: entry.description,
                source: entry.source,
            })
        });
        entries.collect()
    }
}

fn built_in() -> Result<&'static BuiltIn> {
    match &*BUILT_IN {
        Ok(catalog) => Ok(catalog),
        Err(error) => Err(Error::internal("the built-in catalog is wrong").because(error.clone())),
    }
}

/// The kernel for images that come without a word about theirs.
///
/// # Errors
/// `internal` when the built-in catalog is wrong, which a test rules out.
pub fn default_kernel() -> Result<KernelName> {
    Ok(built_in()?.default_kernel.clone())
}

/// The built-in catalog, and those of the configuration, which come first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Catalogs {
    own: Arc<Vec<CatalogEntry>>,
}

impl Catalogs {
    /// Reads the catalogs in these files, the first of which counts most.
    ///
    /// # Errors
    /// `invalid_config`, naming the file.
    pub(crate) fn read(files: &[PathBuf]) -> Result<Catalogs> {
        let mut own: Vec<CatalogEntry> = Vec::new();
        for path in files {
            for entry in read(path)? {
                if own.iter().all(|known| known.name != entry.name) {
                    own.push(entry);
                }
            }
        }
        Ok(Catalogs { own: Arc::new(own) })
    }

    /// What can be pulled by name, in order of the names.
    pub(crate) fn entries(&self) -> Result<Vec<CatalogEntry>> {
        let mut entries: Vec<_> = self.own.to_vec();
        for entry in &built_in()?.images {
            if entries.iter().all(|known| known.name != entry.name) {
                entries.push(entry.clone());
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// The entry called `name`.
    pub(crate) fn find(&self, name: &ImageName) -> Result<Option<CatalogEntry>> {
        let entries = self.own.iter().chain(&built_in()?.images);
        Ok(entries
            .into_iter()
            .find(|entry| entry.name == *name)
            .cloned())
    }
}

fn read(path: &Path) -> Result<Vec<CatalogEntry>> {
    let refuse = |why: &str| {
        Error::new(
            Code::InvalidConfig,
            format!(
                "the catalog `{}` cannot be used: {}",
                path.display(),
                why.trim()
            ),
        )
        .hint("correct it, or take it out of `catalogs` in the configuration")
    };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| refuse(&error.to_string()))?;
    file.take(MAX_CATALOG + 1)
        .read_to_string(&mut text)
        .map_err(|error| refuse(&error.to_string()))?;
    if text.len() as u64 > MAX_CATALOG {
        return Err(refuse("it is larger than 1 MiB"));
    }
    let file: File = toml::from_str(&text).map_err(|error| refuse(&error.to_string()))?;
    let kernel = match &file.default_kernel {
        Some(kernel) => kernel.clone(),
        None => default_kernel()?,
    };
    file.entries(Some(&kernel)).map_err(|why| refuse(&why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_catalog_is_whole() {
        let name = "debian-bookworm".parse().unwrap();
        let entry = Catalogs::default().find(&name).unwrap().unwrap();
        assert_eq!(entry.kernel.as_str(), "debian-bookworm");
        assert_eq!(default_kernel().unwrap(), entry.kernel);
        let Source::Bootstrap(source) = &entry.source else {
            panic!("{entry:?}");
        };
        assert_eq!(source.suite, "bookworm");
        for needed in ["systemd-sysv", "openssh-server", "git", "iptables"] {
            assert!(
                source.packages.iter().any(|name| name == needed),
                "{needed}"
            );
        }
        for name in &source.packages {
            assert!(
                name.bytes()
                    .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'+' | b'-')),
                "{name}"
            );
        }
    }

    #[test]
    fn own_catalogs_come_first_and_bad_ones_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("own.toml");
        std::fs::write(
            &path,
            "[image.debian-bookworm]\nkind = \"oci\"\nreference = \"r.example/d:12\"\n\
             [image.own]\nkind = \"oci\"\nreference = \"own\"\nkernel = \"k\"\n\
             [image.whole]\nkind = \"bundle\"\nurl = \"https://a/b\"\n\
             sha256 = \"0000000000000000000000000000000000000000000000000000000000000000\"\n",
        )
        .unwrap();
        let catalogs = Catalogs::read(std::slice::from_ref(&path)).unwrap();
        let names: Vec<_> = catalogs.entries().unwrap();
        assert_eq!(names.len(), 3);
        assert_eq!(names[2].kind(), "bundle");
        let find = |name: &str| catalogs.find(&name.parse().unwrap()).unwrap();
        assert!(matches!(
            find("debian-bookworm").unwrap().source,
            Source::Oci { .. }
        ));
        assert_eq!(find("own").unwrap().kernel.as_str(), "k");
        assert!(find("other").is_none());

        for bad in [
            "[image.x]\nkind = \"oci\"\n",
            "[image.x]\nkind = \"new\"\n",
            "[image.x]\nkind = \"bundle\"\nurl = \"https://a/b\"\n",
            "[image.x]\nkind = \"bundle\"\nurl = \"https://a/b\"\nsha256 = \"12\"\n",
            &format!(
                "[image.x]\nkind = \"bundle\"\nurl = \"b\"\nsha256 = \"{:064}\"\n",
                0
            ),
            "[image.X]\nkind = \"oci\"\nreference = \"a\"\n",
            "x",
        ] {
            std::fs::write(&path, bad).unwrap();
            let error = Catalogs::read(std::slice::from_ref(&path)).unwrap_err();
            assert_eq!(error.code(), Code::InvalidConfig, "{bad}");
            assert!(error.message().contains("own.toml"), "{error}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(Catalogs::read(&[path]).is_err());
    }

    #[test]
    fn comments_and_blank_lines_are_no_packages() {
        assert_eq!(packages("# x\n\n a # b\nc\n"), ["a", "c"]);
    }
}
