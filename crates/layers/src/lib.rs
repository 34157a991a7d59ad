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
//! Not for registries or archives of images: the caller has the layers as files.

mod ext4;
mod limits;
mod name;
mod stream;
mod tar;
mod tools;
mod tree;
mod watch;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use banger_content::{Hasher, ensure_space};
use banger_model::{ByteSize, Code, Digest, Error, IoContext, Result};

pub use limits::Limits;
pub use watch::Watch;

use ext4::{Contents, Identity, Need, Shape, Volume};
use limits::Budget;
use stream::Source;
use tar::Archive;
use tools::Tools;
use tree::{Finished, Tree, mode};

/// The most layers an image may have.
const MAX_LAYERS: usize = 1024;
/// The longest label of an ext4 file system, in bytes.
const MAX_LABEL: usize = 16;
/// How often a file system that turned out too small is made larger.
const ATTEMPTS: usize = 8;

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

/// What the first reading found.
struct Read {
    tree: Finished,
    /// The number of the first entry of each layer, and of the one behind the last.
    starts: Vec<u32>,
    uuid: String,
}

fn read_tree(
    layers: &[Layer],
    sources: &[Source<'_>],
    options: &Options,
    watch: &Watch<'_>,
) -> Result<Read> {
    let budget = Budget::new(&options.limits);
    let mut tree = Tree::new(&options.limits);
    let mut identity = Hasher::new();
    let mut starts = vec![0];
    for ((layer, source), number) in layers.iter().zip(sources).zip(1_u16..) {
        let digest = read_layer(layer, source, &mut tree, number, &budget, watch)
            .map_err(|error| in_layer(layer, error))?;
        identity.update(digest.as_str().as_bytes());
        starts.push(budget.entries());
    }
    Ok(Read {
        tree: tree.finish()?,
        starts,
        uuid: uuid(&identity.finish()),
    })
}

fn read_layer(
    layer: &Layer,
    source: &Source<'_>,
    tree: &mut Tree<'_>,
    number: u16,
    budget: &Budget<'_>,
    watch: &Watch<'_>,
) -> Result<Digest> {
    let mut archive = Archive::new(source.stream(budget, watch, true)?);
    while let Some(entry) = archive.next()? {
        let ordinal = budget.entry()?;
        tree.apply(&entry, number, ordinal)
            .map_err(|error| tar::in_entry(&entry.path, error))?;
    }
    let has_end = archive.has_end();
    let digest = archive
        .into_stream()
        .finish()?
        .ok_or_else(|| Error::internal("a layer was not hashed"))?;
    match &layer.diff_id {
        Some(expected) if *expected != digest => Err(refuse(format!(
            "its contents have the digest `{digest}`, not `{expected}`"
        ))),
        None if !has_end => Err(refuse("it ends in the middle")),
        _ => Ok(digest),
    }
}

/// Makes the empty file system and finds a place in it for everything in the tree. Returns how
/// many blocks that takes as well.
fn make_volume(
    tree: &mut Finished,
    disk: &Path,
    uuid: &str,
    options: &Options,
    watch: &Watch<'_>,
) -> Result<(Volume, u32)> {
    let need = Need::of(tree);
    let mut shape = Shape::of(&need);
    let bytes =
        ByteSize::bytes((need.blocks * ext4::BLOCK).saturating_add(options.keep_free.as_bytes()));
    ensure_space(disk, bytes, "unpacking the image")?;
    let identity = Identity {
        label: &options.label,
        uuid,
    };
    let tools = Tools {
        search_path: options.search_path.as_deref(),
    };
    for _ in 0..ATTEMPTS {
        let volume = Volume::format(disk, shape, &identity, &tools, watch)?;
        let used = ext4::place(tree, &volume.space);
        let free = u64::from(volume.space.total());
        if let Ok(blocks) = u32::try_from(used)
            && used <= free
        {
            return Ok((volume, blocks));
        }
        shape = shape.grown(used - free + 16);
    }
    Err(Error::internal(format!(
        "no file system of {} blocks has room for {} blocks",
        shape.blocks, need.blocks
    )))
}

/// The second reading: the bytes of the files that are left.
fn write_contents(
    layers: &[Layer],
    sources: &[Source<'_>],
    starts: &[u32],
    tree: &Finished,
    volume: &Volume,
    options: &Options,
    watch: &Watch<'_>,
) -> Result<()> {
    let budget = Budget::new(&options.limits);
    let mut contents = Contents::new(volume);
    // In the order in which the layers have them.
    let mut wanted = tree
        .inodes
        .iter()
        .zip(0_u32..)
        .filter(|(inode, _)| inode.kind() == mode::FILE && inode.size() > 0)
        .map(|(inode, number)| (inode.entry, number))
        .peekable();
    let half = sources.iter().map(Source::size).sum::<u64>();
    let mut before = half;
    for ((layer, source), range) in layers.iter().zip(sources).zip(starts.windows(2)) {
        let mut copy = || -> Result<()> {
            if wanted.peek().is_none_or(|(entry, _)| *entry >= range[1]) {
                return source.unchanged();
            }
            let mut archive = Archive::new(source.stream(&budget, watch, false)?);
            let mut ordinal = range[0];
            while let Some((_, number)) = wanted.next_if(|(entry, _)| *entry < range[1]) {
                let entry = tree.inodes[number as usize].entry;
                copy_file(
                    &mut archive,
                    &mut ordinal,
                    entry,
                    tree,
                    number,
                    &mut contents,
                )?;
            }
            source.unchanged()
        };
        copy().map_err(|error| in_layer(layer, error))?;
        before += source.size();
        watch.reach(before);
    }
    contents.finish()
}

/// Copies the file of the entry `wanted`; the next entry of the archive is `ordinal`.
fn copy_file(
    archive: &mut Archive<'_>,
    ordinal: &mut u32,
    wanted: u32,
    tree: &Finished,
    number: u32,
    contents: &mut Contents<'_>,
) -> Result<()> {
    let changed = || refuse("it changed while it was read");
    let entry = loop {
        let entry = archive.next()?.ok_or_else(changed)?;
        *ordinal += 1;
        if *ordinal > wanted {
            break entry;
        }
    };
    if entry.size != tree.inodes[number as usize].size() {
        return Err(changed());
    }
    contents.begin(tree, number);
    let whole = [tar::Segment {
        offset: 0,
        length: entry.size,
    }];
    for segment in entry.sparse.as_deref().unwrap_or(&whole) {
        let (mut offset, end) = (segment.offset, segment.offset + segment.length);
        while offset < end {
            let bytes = archive.data()?;
            let room = usize::try_from(end - offset).unwrap_or(usize::MAX);
            let count = bytes.len().min(room);
            if count == 0 {
                return Err(changed());
            }
            contents.write(offset, &bytes[..count])?;
            archive.consume(count);
            offset += count as u64;
        }
    }
    Ok(())
}

/// A UUID (version 8, made in a way of our own) from a digest.
fn uuid(digest: &Digest) -> String {
    let hex = digest.hex();
    format!(
        "{}-{}-8{}-8{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[13..16],
        &hex[17..20],
        &hex[20..32]
    )
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
