//! The layers of a container image, flattened into one ext4 file that is never written again.
//!
//! No privilege and no subordinate ids: the layers are never unpacked. They are read twice. The
//! first reading builds the merged tree in memory, checks every byte against the digests and
//! every entry against the rules, and fails before anything is written. Then the size is known,
//! `mke2fs` makes an empty file system of it, and the second reading writes the bytes of the files
//! that are left to where they belong in it. No name of a layer ever becomes a name on this
//! machine, so there is no path to escape by and nothing but one file to clean up.
//!
//! ```text
//! layers ─▶ stream (gzip, zstd, SHA-256) ─▶ tar ─┬─▶ tree: whiteouts, links, metadata ─▶ plan
//!                                               └─▶ ext4: contents, then metadata ─▶ e2fsck
//! ```
//!
//! [`take_files`] reads an archive of known files with the same reader.
//!
//! Not for registries or archives of images: the caller has the layers as files.

mod ext4;
mod files;
mod limits;
mod name;
mod read;
mod stream;
mod tar;
mod tools;
mod tree;
mod watch;
mod write;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use banger_model::{ByteSize, Code, Digest, Error, IoContext, Result};

pub use files::{Wanted, take_files};
pub use limits::Limits;
pub use watch::Watch;

use read::read_tree;
use stream::Source;
use tools::Tools;
use tree::mode;
use write::{make_volume, write_contents};

/// The most layers an image may have.
const MAX_LAYERS: usize = 1024;
/// The longest label of an ext4 file system, in bytes.
const MAX_LABEL: usize = 16;

/// One layer: a tar archive, as it is or compressed with gzip or zstd, whatever it is called.
#[derive(Clone, Debug)]
pub struct Layer {
    /// The file.
    pub path: PathBuf,
    /// The SHA-256 of the archive without the compression; when it is not known, the archive must
    /// at least have its end.
    pub diff_id: Option<Digest>,
    /// What messages call it.
    pub name: String,
}

/// How the image is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the layers may ask for.
    pub limits: Limits,
    /// How much of the file system with the image is to stay free.
    pub keep_free: ByteSize,
    /// The label of the ext4 file system, up to 16 bytes.
    pub label: String,
    /// Where to look for `mke2fs` and `e2fsck` before the system's directories: the value of
    /// `PATH`.
    pub search_path: Option<OsString>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            limits: Limits::default(),
            keep_free: ByteSize::bytes(256 << 20),
            label: "banger-root".to_owned(),
            search_path: None,
        }
    }
}

/// A finished image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flattened {
    /// The size of the file in bytes.
    pub size: u64,
    /// Files, directories, links and devices in it; a file with several names counts once.
    pub entries: u64,
    /// Entries of all layers, those that later ones hide included.
    pub layer_entries: u64,
    /// The bytes of the files in it.
    pub bytes: u64,
}

/// Makes an ext4 image of `layers`, lowest first, in the file `disk`, which must not exist.
///
/// The same layers make the same file, to the byte, with the same version of e2fsprogs. It has no
/// journal, a UUID made from the digests of the layers, and passed `e2fsck -fn`; it is not synced.
/// Blocks the thread.
///
/// # Errors
/// `build_failed` for layers that are damaged, hostile, not what `diff_id` says, or beyond the
/// limits: it names the layer, and its cause the entry. `no_space` before anything is written,
/// `missing_program`, `io`, `cancelled`. After an error there is no file.
pub fn flatten(
    layers: &[Layer],
    disk: &Path,
    options: &Options,
    watch: &Watch<'_>,
) -> Result<Flattened> {
    if layers.len() > MAX_LAYERS {
        return Err(refuse(format!(
            "an image of {} layers: the limit is {MAX_LAYERS}",
            layers.len()
        )));
    }
    if options.label.len() > MAX_LABEL {
        return Err(Error::new(
            Code::InvalidArgument,
            format!("the label `{}` is too long for ext4", options.label),
        ));
    }
    let sources = layers
        .iter()
        .map(|layer| Source::open(&layer.path).map_err(|error| in_layer(layer, error)))
        .collect::<Result<Vec<_>>>()?;
    let total = sources.iter().map(Source::size).sum::<u64>();
    watch.begin(total * 2);

    let read = read_tree(layers, &sources, options, watch)?;
    watch.reach(total);
    let mut tree = read.tree;
    let partial = Partial::create(disk)?;
    let (mut volume, used) = make_volume(&mut tree, disk, &read.uuid, options, watch)?;
    write_contents(
        layers,
        &sources,
        &read.starts,
        &tree,
        &volume,
        options,
        watch,
    )?;
    ext4::write_metadata(&tree, &mut volume, used, watch)?;
    let size = volume.size();
    drop(volume);
    let tools = Tools {
        search_path: options.search_path.as_deref(),
    };
    tools
        .run("e2fsck", &["-fn"], disk, None, watch)
        .map_err(|error| match error.code() {
            Code::BuildFailed => Error::internal("the new file system is not clean").because(error),
            _ => error,
        })?;
    watch.reach(total * 2);
    partial.keep();
    let files = tree
        .inodes
        .iter()
        .filter(|inode| inode.kind() == mode::FILE);
    Ok(Flattened {
        size,
        entries: tree.inodes.len() as u64,
        layer_entries: u64::from(read.starts.last().copied().unwrap_or(0)),
        bytes: files.map(tree::Inode::size).sum(),
    })
}

/// The file being made, removed unless it is kept.
struct Partial<'a>(Option<&'a Path>);

impl<'a> Partial<'a> {
    fn create(path: &'a Path) -> Result<Self> {
        std::fs::File::create_new(path).at("create", path)?;
        Ok(Partial(Some(path)))
    }

    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Partial<'_> {
    fn drop(&mut self) {
        if let Some(path) = self.0
            && let Err(error) = std::fs::remove_file(path)
        {
            tracing::warn!(path = %path.display(), %error, "an unfinished image stays behind");
        }
    }
}

/// The error for something in a layer that will not do.
fn refuse(message: impl Into<String>) -> Error {
    Error::new(Code::BuildFailed, message)
}

/// Names the layer in an error about what is in it.
fn in_layer(layer: &Layer, error: Error) -> Error {
    if error.code() != Code::BuildFailed {
        return error;
    }
    let name = name::shown(layer.name.as_bytes());
    refuse(format!("the layer `{name}` cannot be used"))
        .hint("pull the image again; if that does not help, the image itself is at fault")
        .because(error)
}
