//! Filling an ext4 file system.
//!
//! `mke2fs` makes an empty one: superblocks, groups, tables, the inode for growing, everything
//! that is about the file system as a whole. We put the files into it: inodes, directories,
//! extents, attributes, and the bitmaps and counts that say what is used. That is the simple half
//! of ext4, as everything is known before anything is written, and nothing is ever changed or
//! freed; and no name of a layer ever becomes a name on this machine, so there is nothing to
//! escape from and nothing that needs root. `e2fsck -fn` has the last word on every image.
//!
//! ```text
//! Finished tree ─▶ plan (how many blocks) ─▶ mke2fs ─▶ Volume ─▶ place ─▶ contents ─▶ metadata ─▶ e2fsck
//! ```

pub(crate) mod acl;
mod attributes;
mod contents;
mod crc;
mod directory;
mod extents;
mod inode;
mod metadata;
mod place;
mod space;
mod volume;

pub(crate) use contents::Contents;
pub(crate) use metadata::write as write_metadata;
pub(crate) use place::{Need, place};
pub(crate) use volume::{Identity, Shape, Volume};

/// The size of a block in bytes.
pub(crate) const BLOCK: u64 = 4096;
const BLOCK_SIZE: usize = BLOCK as usize;
/// The first inode that is not reserved; `mke2fs` gives it to `lost+found`.
const FIRST_INODE: u32 = 11;

/// The number on disk of an inode of the finished tree.
fn number_on_disk(inode: u32) -> u32 {
    match inode {
        crate::tree::ROOT => 2,
        other => FIRST_INODE - 1 + other,
    }
}

/// A time as ext4 stores it: 34 bits of seconds, which end in 2446, and 30 of nanoseconds.
/// What is beyond is moved to the nearest time that there is.
pub(crate) fn time((seconds, nanoseconds): (i64, u32)) -> (u32, u32) {
    let first = i64::from(i32::MIN);
    let last = first + (1 << 34) - 1;
    let seconds = seconds.clamp(first, last);
    let low = seconds as u32;
    let epoch = (seconds - i64::from(low.cast_signed())) >> 32;
    (low, (epoch as u32 & 3) | nanoseconds << 2)
}

/// Writes a little-endian number into a block.
fn put<const N: usize>(block: &mut [u8], at: usize, bytes: [u8; N]) {
    block[at..at + N].copy_from_slice(&bytes);
}

fn put16(block: &mut [u8], at: usize, value: u16) {
    put(block, at, value.to_le_bytes());
}

fn put32(block: &mut [u8], at: usize, value: u32) {
    put(block, at, value.to_le_bytes());
}

fn get16(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([block[at], block[at + 1]])
}

fn get32(block: &[u8], at: usize) -> u32 {
    u32::from(get16(block, at)) | u32::from(get16(block, at + 2)) << 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_reach_from_1901_to_2446() {
        assert_eq!(time((0, 5)), (0, 5 << 2));
        assert_eq!(time((-1, 0)), (u32::MAX, 0));
        assert_eq!(time((1 << 31, 0)), (1 << 31, 1));
        assert_eq!(time((1 << 32, 7)), (0, 1 | 7 << 2));
        assert_eq!(time((i64::MAX, 0)), ((1 << 31) - 1, 3));
        assert_eq!(time((i64::MIN, 0)), (1 << 31, 0));
    }
}
