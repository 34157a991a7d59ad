//! Extended attributes: in the inode when they fit, else in a block of their own.

use super::crc::crc32c;
use super::{BLOCK_SIZE, get32, put16, put32};
use crate::tree::Set;

const MAGIC: u32 = 0xea02_0000;
/// The room in an inode of 256 bytes, without the magic number and the end mark.
const IN_INODE: usize = 256 - 128 - 32 - 4 - 4;
const BLOCK_HEADER: usize = 32;

/// Whether a set needs a block.
pub(super) fn needs_block(set: Set<'_>) -> bool {
    set.space() > IN_INODE
}

/// Writes a set into the end of an inode.
pub(super) fn put_in_inode(set: Set<'_>, room: &mut [u8]) {
    if set.iter().next().is_some() {
        put32(room, 0, MAGIC);
        put_entries(set, &mut room[4..], 0, false);
    }
}

/// A set in a block with the number `number`; `seed` is the file system's.
pub(super) fn block(set: Set<'_>, number: u64, seed: u32) -> Vec<u8> {
    let mut block = vec![0; BLOCK_SIZE];
    put32(&mut block, 0, MAGIC);
    // References and blocks: one of each.
    put32(&mut block, 4, 1);
    put32(&mut block, 8, 1);
    let hash = put_entries(set, &mut block[BLOCK_HEADER..], BLOCK_HEADER, true);
    put32(&mut block, 12, hash);
    let sum = crc32c(crc32c(seed, &number.to_le_bytes()), &block);
    put32(&mut block, 16, sum);
    block
}

/// Entries from the front, values from the back. Offsets count from `base` before `room`.
/// Returns the hash of all.
fn put_entries(set: Set<'_>, room: &mut [u8], base: usize, hashed: bool) -> u32 {
    let (mut at, mut end, mut total) = (0, room.len(), 0_u32);
    for attribute in set.iter() {
        let length = attribute.value.len();
        end -= length.next_multiple_of(4);
        room[end..end + length].copy_from_slice(attribute.value);
        let value = &room[end..end + length.next_multiple_of(4)];
        let hash = if hashed {
            hash(attribute.name, value)
        } else {
            0
        };
        total = total.rotate_left(16) ^ hash;
        room[at] = attribute.name.len() as u8;
        room[at + 1] = attribute.index;
        let offset = if length == 0 { 0 } else { end + base };
        put16(room, at + 2, offset as u16);
        put32(room, at + 8, length as u32);
        put32(room, at + 12, hash);
        room[at + 16..at + 16 + attribute.name.len()].copy_from_slice(attribute.name);
        at += 16 + attribute.name.len().next_multiple_of(4);
    }
    total
}

/// The hash of one entry, over its name and the words of its value.
fn hash(name: &[u8], value: &[u8]) -> u32 {
    let name = name
        .iter()
        .fold(0_u32, |hash, byte| hash.rotate_left(5) ^ u32::from(*byte));
    value
        .chunks_exact(4)
        .fold(name, |hash, word| hash.rotate_left(16) ^ get32(word, 0))
}
