//! Part of Debian's package archive, for the scenarios that install packages: an outer machine has
//! no network, and what it carries in answers for the archive's hosts there.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use banger_archive::{Archive, Bootstrap, Variant, Work};
use banger_model::{ByteSize, IoContext, Result};
use tokio_util::sync::CancellationToken;

use crate::outer::Words;

/// Run in a tree that has the archive's lists and nothing else.
const COPY: &str = include_str!("../archive.sh");
const KEEP: &str = r#"cp -r "$BANGER_TREE/archive/." "$LAB_OUT""#;
/// A release and packages on each line.
const SETS: &str = include_str!("../archive.sets");
/// What the default image is bootstrapped from, and the essential packages.
const IMAGE: &str = include_str!("../../images/debian-bookworm.packages");
const IMAGE_SUITE: &str = "bookworm";
const ESSENTIAL: &str = "?essential apt";
/// The most that the lists and packages of a release take, twice.
const TREE: ByteSize = ByteSize::bytes(800 << 20);

/// Copies it into the empty directory `to`: half a minute, and 250 MB. It is not kept from run to
/// run, because its signatures are valid for a week.
///
/// # Errors
/// As [`Archive::bootstrap`].
pub(crate) async fn copy(to: &Path, cancel: &CancellationToken) -> Result<()> {
    eprintln!("lab: copying packages for the scenarios that need an archive");
    let out = to.to_owned();
    banger_archive::run("lab-archive", &Words, cancel, move |work| {
        for (suite, packages) in sets(SETS, IMAGE) {
            release(work, &suite, &packages, &out)?;
        }
        Ok(())
    })
    .await
}

fn release(work: &Work, suite: &str, packages: &str, out: &Path) -> Result<()> {
    let staging = tempfile::tempdir_in(out).at("make a directory in", out)?;
    let (tree, scratch) = (staging.path().join("tree"), staging.path().join("tmp"));
    for part in [&tree, &scratch] {
        fs::create_dir(part).at("create", part)?;
    }
    let copied = Archive::default().bootstrap(
        work,
        &Bootstrap {
            suite,
            variant: Variant::Listed,
            packages: &[],
            tree: &tree,
            tree_size: TREE,
            scratch: &scratch,
            prepare: COPY,
            finish: KEEP,
            variables: &[
                ("LAB_OUT", out.as_os_str()),
                ("LAB_PACKAGES", packages.as_ref()),
            ],
        },
        &mut |_| {},
    );
    copied.and(banger_archive::remove_tree(&tree))
}

/// The sets of packages of each release, one on a line.
fn sets(text: &str, image: &str) -> BTreeMap<String, String> {
    fn lines(text: &str) -> impl Iterator<Item = &str> {
        text.lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty())
    }
    let image: Vec<&str> = lines(image).collect();
    let mut sets = BTreeMap::from([(
        IMAGE_SUITE.to_owned(),
        format!("{ESSENTIAL} {}\n", image.join(" ")),
    )]);
    for (suite, packages) in lines(text).filter_map(|line| line.split_once(' ')) {
        *sets.entry(suite.to_owned()).or_default() += &format!("{packages}\n");
    }
    sets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_release_has_its_sets_and_one_the_images() {
        let text = "# a remark\nbookworm one two\ntrixie three\nbookworm four\n";
        let sets = sets(text, "# a remark\n\nx\n# another\ny\n");
        assert_eq!(sets["bookworm"], "?essential apt x y\none two\nfour\n");
        assert_eq!(sets["trixie"], "three\n");
        assert_eq!(sets.len(), 2);
    }

    #[test]
    fn what_the_scenario_of_docker_installs_is_there() {
        let scenario = include_str!("../../tests/scenarios/docker.rs");
        let packages = scenario
            .lines()
            .find_map(|line| {
                line.strip_prefix("const PACKAGES: &str = \"")?
                    .strip_suffix("\";")
            })
            .unwrap();
        assert!(
            sets(SETS, IMAGE)[IMAGE_SUITE]
                .lines()
                .any(|set| set == packages)
        );
    }
}
