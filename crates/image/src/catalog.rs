//! The built-in catalog of images.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use banger_model::{ByteSize, Code, Error, ImageName, KernelName, Result};
use serde::Deserialize;

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

/// Where an image comes from. Bundles and OCI registries become further variants.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub(crate) enum Source {
    /// Installed from a distribution's package archive.
    Bootstrap(BootstrapSource),
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
    image: BTreeMap<ImageName, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    description: String,
    kernel: KernelName,
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

/// The names in a package list: one per line, `#` begins a comment.
fn packages(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.split('#').next())
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

static ENTRIES: LazyLock<Result<Vec<CatalogEntry>, String>> = LazyLock::new(|| {
    let file: File = toml::from_str(CATALOG).map_err(|error| error.to_string())?;
    Ok(file
        .image
        .into_iter()
        .map(|(name, entry)| CatalogEntry {
            name,
            description: entry.description,
            kernel: entry.kernel,
            source: entry.source,
        })
        .collect())
});

/// Every image that can be pulled by name.
///
/// # Errors
/// `internal` when the built-in catalog is wrong, which a test rules out.
pub fn catalog() -> Result<&'static [CatalogEntry]> {
    match &*ENTRIES {
        Ok(entries) => Ok(entries),
        Err(error) => Err(Error::internal("the built-in catalog is wrong").because(error.clone())),
    }
}

/// The entry called `name`.
pub(crate) fn find(name: &ImageName) -> Result<&'static CatalogEntry> {
    let entries = catalog()?;
    entries
        .iter()
        .find(|entry| entry.name == *name)
        .ok_or_else(|| {
            let names: Vec<_> = entries
                .iter()
                .map(|entry| format!("`{}`", entry.name))
                .collect();
            Error::new(Code::NotFound, format!("there is no image `{name}`"))
                .hint(format!("choose one of {}", names.join(", ")))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_catalog_is_whole() {
        let entry = find(&"debian-bookworm".parse().unwrap()).unwrap();
        assert_eq!(entry.kernel.as_str(), "debian-bookworm");
        let Source::Bootstrap(source) = &entry.source;
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
    fn an_unknown_name_lists_the_known_ones() {
        let error = find(&"no-such".parse().unwrap()).unwrap_err();
        assert_eq!(error.code(), Code::NotFound);
        assert!(error.hint_text().unwrap().contains("`debian-bookworm`"));
    }

    #[test]
    fn comments_and_blank_lines_are_no_packages() {
        assert_eq!(packages("# x\n\n a # b\nc\n"), ["a", "c"]);
    }
}
