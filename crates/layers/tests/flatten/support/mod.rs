//! Making archives, reading images back, and the second opinion.

pub(crate) mod image;
pub(crate) mod second;
pub(crate) mod tarball;
pub(crate) mod tree;

use std::path::PathBuf;

use banger_content::Hasher;
use banger_layers::{Flattened, Layer, Options, Watch};
use banger_model::{ByteSize, Digest, Result};
use tempfile::TempDir;

use tree::Tree;

/// A directory for one test. Not in /tmp, which may be a file system without attributes.
pub(crate) fn scratch() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

pub(crate) fn digest(bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::new();
    hasher.update(bytes);
    hasher.finish()
}

pub(crate) fn options() -> Options {
    Options {
        keep_free: ByteSize::bytes(0),
        search_path: std::env::var_os("PATH"),
        ..Options::default()
    }
}

/// One attempt to flatten archives.
pub(crate) struct Attempt {
    /// Held, not used: it goes when the test is done.
    _directory: TempDir,
    pub(crate) disk: PathBuf,
    pub(crate) outcome: Result<Flattened>,
}

impl Attempt {
    /// What is in the image.
    pub(crate) fn tree(&self) -> Tree {
        self.outcome.as_ref().unwrap();
        image::read(&self.disk)
    }
}

/// Flattens archives, each with its digest.
pub(crate) fn flatten(layers: &[Vec<u8>]) -> Attempt {
    flatten_with(layers, true, &options())
}

pub(crate) fn flatten_with(layers: &[Vec<u8>], digests: bool, options: &Options) -> Attempt {
    let directory = scratch();
    let files: Vec<Layer> = layers
        .iter()
        .enumerate()
        .map(|(number, bytes)| {
            let path = directory.path().join(format!("layer-{number}"));
            std::fs::write(&path, bytes).unwrap();
            Layer {
                path,
                diff_id: digests.then(|| digest(&tarball::unpacked(bytes))),
                name: format!("layer {number}"),
            }
        })
        .collect();
    let disk = directory.path().join("disk");
    let watch = Watch::new(&|_, _| {}, &|| false);
    let outcome = banger_layers::flatten(&files, &disk, options, &watch);
    if outcome.is_err() {
        let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
        assert_eq!(left.len(), layers.len(), "{left:?}");
    }
    Attempt {
        _directory: directory,
        disk,
        outcome,
    }
}

/// The layers make this tree, and umoci agrees.
#[track_caller]
pub(crate) fn check(layers: &[Vec<u8>], expected: &[&str]) {
    let ours = check_alone(layers, expected);
    let theirs = second::unpack(layers);
    tree::assert_same(ours, theirs);
}

/// The layers make this tree, about which umoci is of another opinion.
#[track_caller]
pub(crate) fn check_alone(layers: &[Vec<u8>], expected: &[&str]) -> Tree {
    let attempt = flatten(layers);
    if let Err(error) = &attempt.outcome {
        panic!("{error:?}");
    }
    let tree = attempt.tree();
    let described = tree::describe(&tree);
    assert_eq!(described, expected, "{described:#?}");
    tree
}

/// The layers are refused with an error that says all of `words`, and nothing is left.
#[track_caller]
pub(crate) fn refuse(layers: &[Vec<u8>], words: &[&str]) {
    refuse_with(layers, &options(), words);
}

#[track_caller]
pub(crate) fn refuse_with(layers: &[Vec<u8>], options: &Options, words: &[&str]) {
    let attempt = flatten_with(layers, true, options);
    let Err(error) = attempt.outcome else {
        panic!("accepted as {:#?}", tree::describe(&attempt.tree()));
    };
    let chain = error.chain();
    for word in words {
        assert!(chain.contains(word), "no {word:?} in {chain:?}");
    }
    assert_eq!(error.code(), banger_model::Code::BuildFailed, "{chain}");
    assert!(
        chain.contains("layer 0") || chain.contains("layer 1"),
        "{chain}"
    );
    assert!(error.hint_text().is_some(), "{chain}");
    assert!(!chain.contains('\n'), "{chain}");
}
