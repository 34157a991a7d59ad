//! One inode as its 256 bytes.

use super::crc::crc32c;
use super::place::{Ranges, extents_of, target_in_block};
use super::volume::{INODE, Volume};
use super::{BLOCK, BLOCK_SIZE, attributes, extents, get16, number_on_disk, put16, put32};
use crate::tree::{Finished, mode};

const FLAG_EXTENTS: u32 = 0x8_0000;
/// The bytes beyond the first 128 that are fields.
const EXTRA: u16 = 32;

/// The inode `number` of the tree. Hands the blocks that belong to it, data apart, to `write`.
pub(super) fn encode<E>(
    tree: &Finished,
    volume: &Volume,
    number: u32,
    mut write: impl FnMut(u64, &[u8]) -> Result<(), E>,
) -> Result<[u8; INODE], E> {
    let inode = &tree.inodes[number as usize];
    let on_disk = number_on_disk(number);
    let seed = volume.inode_seed(on_disk);
    let ranges = Ranges::of(tree, number);
    let mut blocks = ranges.blocks();
    let mut bytes = [0; INODE];

    let mut size = 0;
    match inode.kind() {
        mode::FILE => size = inode.size(),
        mode::DIRECTORY => size = blocks * BLOCK,
        mode::SYMLINK => size = tree.target(inode).len() as u64,
        _ => {}
    }
    match inode.kind() {
        mode::CHAR | mode::BLOCK => {
            let (major, minor) = inode.device();
            if major < 256 && minor < 256 {
                put32(&mut bytes, 0x28, major << 8 | minor);
            } else {
                put32(
                    &mut bytes,
                    0x2c,
                    minor & 0xff | major << 8 | (minor & !0xff) << 12,
                );
            }
        }
        mode::FIFO => {}
        mode::SYMLINK if !target_in_block(tree, inode) => {
            let target = tree.target(inode);
            bytes[0x28..0x28 + target.len()].copy_from_slice(target);
        }
        kind => {
            let found = extents_of(tree, &volume.space, number);
            let below = inode.first + blocks as u32;
            let (root, nodes) = extents::encode(&found, &volume.space, below, seed);
            bytes[0x28..0x64].copy_from_slice(&root);
            put32(&mut bytes, 0x20, FLAG_EXTENTS);
            for (block, node) in &nodes {
                write(*block, node)?;
            }
            blocks += nodes.len() as u64;
            if kind == mode::SYMLINK {
                let mut block = [0; BLOCK_SIZE];
                let target = tree.target(inode);
                block[..target.len()].copy_from_slice(target);
                write(volume.space.block(inode.first), &block)?;
            }
        }
    }
    let set = tree.attributes(inode);
    if attributes::needs_block(set) {
        let block = volume.space.block(inode.first + blocks as u32);
        write(block, &attributes::block(set, block, volume.seed))?;
        put32(&mut bytes, 0x68, block as u32);
        put16(&mut bytes, 0x76, (block >> 32) as u16);
        blocks += 1;
    } else {
        attributes::put_in_inode(set, &mut bytes[128 + usize::from(EXTRA)..]);
    }

    put16(&mut bytes, 0x00, inode.mode);
    put16(&mut bytes, 0x02, inode.uid as u16);
    put16(&mut bytes, 0x78, (inode.uid >> 16) as u16);
    put16(&mut bytes, 0x18, inode.gid as u16);
    put16(&mut bytes, 0x7a, (inode.gid >> 16) as u16);
    put32(&mut bytes, 0x04, size as u32);
    put32(&mut bytes, 0x6c, (size >> 32) as u32);
    put16(&mut bytes, 0x1a, inode.links);
    let sectors = blocks * (BLOCK / 512);
    put32(&mut bytes, 0x1c, sectors as u32);
    put16(&mut bytes, 0x74, (sectors >> 32) as u16);
    put16(&mut bytes, 0x80, EXTRA);
    // Access, change, modification, creation: one time for all, so that the same layers make the
    // same file.
    for (low, high) in [(0x08, 0x8c), (0x0c, 0x84), (0x10, 0x88), (0x90, 0x94)] {
        put32(&mut bytes, low, inode.modified.0);
        put32(&mut bytes, high, inode.modified.1);
    }
    seal(&mut bytes, seed);
    Ok(bytes)
}

/// Sets the checksum. Some of `mke2fs`'s inodes have no room for its upper half.
pub(super) fn seal(bytes: &mut [u8; INODE], seed: u32) {
    let whole = get16(bytes, 0x80) >= 4;
    put16(bytes, 0x7c, 0);
    if whole {
        put16(bytes, 0x82, 0);
    }
    let sum = crc32c(seed, bytes);
    put16(bytes, 0x7c, sum as u16);
    if whole {
        put16(bytes, 0x82, (sum >> 16) as u16);
    }
}
