//! The second reading of the layers: the bytes of the files, into the file system made for them.

use std::path::Path;

use banger_content::ensure_space;
use banger_model::{ByteSize, Error, Result};

use crate::ext4::{self, Contents, Identity, Need, Shape, Volume};
use crate::limits::Budget;
use crate::stream::Source;
use crate::tar::{self, Archive};
use crate::tools::Tools;
use crate::tree::{Finished, mode};
use crate::watch::Watch;
use crate::{Layer, Options, in_layer, refuse};

/// How often a file system that turned out too small is made larger.
const ATTEMPTS: usize = 8;

/// Makes the empty file system and finds a place in it for everything in the tree. Returns how
/// many blocks that takes as well.
pub(crate) fn make_volume(
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
pub(crate) fn write_contents(
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
