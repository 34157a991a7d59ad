//! Extents: where the blocks of a file are, in its inode or in a tree below it.

use super::crc::crc32c;
use super::space::{Extent, Space};
use super::{BLOCK_SIZE, put16, put32};

const MAGIC: u16 = 0xf30a;
/// What fits into an inode, and into a block with its checksum.
const IN_INODE: usize = 4;
const IN_BLOCK: usize = (BLOCK_SIZE - 12 - 4) / 12;

/// How many blocks the tree for `extents` extents takes.
pub(super) fn tree_blocks(extents: usize) -> u32 {
    let (mut level, mut total) = (extents, 0);
    while level > IN_INODE {
        level = level.div_ceil(IN_BLOCK);
        total += level;
    }
    total as u32
}

/// The 60 bytes in the inode, and the blocks of the tree with their numbers. The blocks are at
/// `position` and behind it; `seed` is the inode's.
pub(super) fn encode(
    extents: &[Extent],
    space: &Space,
    mut position: u32,
    seed: u32,
) -> ([u8; 60], Vec<(u64, Vec<u8>)>) {
    let mut blocks = Vec::new();
    let mut level: Vec<(u32, [u8; 12])> = extents
        .iter()
        .map(|extent| (extent.logical, leaf(extent)))
        .collect();
    let mut depth = 0;
    while level.len() > IN_INODE {
        let mut above = Vec::new();
        for entries in level.chunks(IN_BLOCK) {
            let mut block = vec![0; BLOCK_SIZE];
            node(&mut block, entries, IN_BLOCK, depth);
            let sum = crc32c(seed, &block[..BLOCK_SIZE - 4]);
            put32(&mut block, BLOCK_SIZE - 4, sum);
            let number = space.block(position);
            position += 1;
            above.push((entries[0].0, index(entries[0].0, number)));
            blocks.push((number, block));
        }
        level = above;
        depth += 1;
    }
    let mut root = [0; 60];
    node(&mut root, &level, IN_INODE, depth);
    (root, blocks)
}

fn node(bytes: &mut [u8], entries: &[(u32, [u8; 12])], room: usize, depth: u16) {
    put16(bytes, 0, MAGIC);
    put16(bytes, 2, entries.len() as u16);
    put16(bytes, 4, room as u16);
    put16(bytes, 6, depth);
    for ((_, entry), slot) in entries.iter().zip(bytes[12..].chunks_exact_mut(12)) {
        slot.copy_from_slice(entry);
    }
}

fn leaf(extent: &Extent) -> [u8; 12] {
    let mut entry = [0; 12];
    put32(&mut entry, 0, extent.logical);
    put16(&mut entry, 4, extent.count as u16);
    put16(&mut entry, 6, (extent.physical >> 32) as u16);
    put32(&mut entry, 8, extent.physical as u32);
    entry
}

fn index(logical: u32, block: u64) -> [u8; 12] {
    let mut entry = [0; 12];
    put32(&mut entry, 0, logical);
    put32(&mut entry, 4, block as u32);
    put16(&mut entry, 8, (block >> 32) as u16);
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_have_as_many_blocks_as_announced() {
        let mut space = Space::default();
        for block in 0..200_000 {
            space.add(block * 2);
        }
        for count in [0, 1, 4, 5, 340, 341, 1360, 1361, 120_000] {
            let ranges = [(0, count)];
            let extents: Vec<Extent> = space.extents(0, &ranges).collect();
            assert_eq!(extents.len(), count as usize);
            let (root, blocks) = encode(&extents, &space, count, 1);
            assert_eq!(blocks.len() as u32, tree_blocks(extents.len()), "{count}");
            let depth = match count {
                0..=4 => 0,
                5..=1360 => 1,
                _ => 2,
            };
            assert_eq!(root[6], depth, "{count}");
        }
    }
}
