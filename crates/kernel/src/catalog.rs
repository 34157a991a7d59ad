//! The built-in catalog of kernels.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use banger_model::{ByteSize, Code, Error, KernelName, Result};
use serde::Deserialize;

const CATALOG: &str = include_str!("../../../images/catalog.toml");

/// A kernel that can be pulled by name.
#[derive(Clone, Debug)]
pub struct CatalogEntry {
    /// Its name.
    pub name: KernelName,
    /// One line for people.
    pub description: String,
    /// Where it comes from.
    pub(crate) source: Source,
}

/// Where a kernel comes from. Bundles become a further variant.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub(crate) enum Source {
    /// A package of a distribution.
    Package(PackageSource),
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct PackageSource {
    pub(crate) distribution: String,
    pub(crate) suite: String,
    pub(crate) package: String,
    /// Set for a metapackage: how the name of the real one begins.
    #[serde(default)]
    pub(crate) depends: Option<String>,
    /// Free space that unpacking needs.
    pub(crate) needs: ByteSize,
}

/// The whole file; the images in it are another crate's.
#[derive(Deserialize)]
struct File {
    kernel: BTreeMap<KernelName, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    description: String,
    #[serde(flatten)]
    source: Source,
}

static ENTRIES: LazyLock<Result<Vec<CatalogEntry>, String>> = LazyLock::new(|| {
    let file: File = toml::from_str(CATALOG).map_err(|error| error.to_string())?;
    Ok(file
        .kernel
        .into_iter()
        .map(|(name, entry)| CatalogEntry {
            name,
            description: entry.description,
            source: entry.source,
        })
        .collect())
});

/// Every kernel that can be pulled by name.
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
pub(crate) fn find(name: &KernelName) -> Result<&'static CatalogEntry> {
    let entries = catalog()?;
    entries
        .iter()
        .find(|entry| entry.name == *name)
        .ok_or_else(|| {
            let names: Vec<_> = entries
                .iter()
                .map(|entry| format!("`{}`", entry.name))
                .collect();
            Error::new(Code::NotFound, format!("there is no kernel `{name}`"))
                .hint(format!("choose one of {}", names.join(", ")))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_catalog_is_whole() {
        for (name, suite) in [
            ("debian-bookworm", "bookworm"),
            ("debian-bookworm-backports", "bookworm-backports"),
            ("debian-trixie", "trixie"),
        ] {
            let entry = find(&name.parse().unwrap()).unwrap();
            let Source::Package(source) = &entry.source;
            assert_eq!(source.suite, suite);
            assert_eq!(source.package, "linux-image-cloud-amd64");
            assert_eq!(source.depends.as_deref(), Some("linux-image-6"));
        }
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let error = find(&"no-such".parse().unwrap()).unwrap_err();
        assert_eq!(error.code(), Code::NotFound);
        assert!(error.hint_text().unwrap().contains("`debian-bookworm`"));
    }
}
