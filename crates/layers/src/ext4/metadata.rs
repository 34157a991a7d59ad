//! Writing everything but the contents of files: directories, inodes, and what is in use.

use banger_model::{Error, Result};

use super::crc::crc32c;
use super::volume::{DESCRIPTOR, GROUP_BLOCKS, INODE, Volume, has_superblock};
use super::{BLOCK, BLOCK_SIZE, FIRST_INODE, directory, inode, number_on_disk, put, put16, put32};
use crate::tree::Finished;
use crate::watch::Watch;

/// How many inodes are written at once.
const BATCH: usize = 4096;
/// The inodes that are not for files, but for the root.
const RESERVED: std::ops::Range<u32> = 1..FIRST_INODE;
const ROOT_INODE: u32 = 2;
/// A group's bitmaps are on disk, and its table of inodes has no garbage.
const FLAG_ZEROED: u16 = 4;

/// Writes the metadata of a placed tree whose blocks are the first `used` free ones.
pub(crate) fn write(
    tree: &Finished,
    volume: &mut Volume,
    used: u32,
    watch: &Watch<'_>,
) -> Result<()> {
    write_directories(tree, volume, watch)?;
    write_inodes(tree, volume, watch)?;
    write_groups(tree, volume, used)?;
    write_superblocks(volume)
}

fn write_directories(tree: &Finished, volume: &Volume, watch: &Watch<'_>) -> Result<()> {
    for (number, names) in tree.directories() {
        watch.check()?;
        let own = &tree.inodes[number as usize];
        let entry = |(name, number): (_, u32)| directory::Entry {
            name,
            inode: number_on_disk(number),
            mode: tree.inodes[number as usize].mode,
        };
        let dots = [(&b"."[..], number), (b"..", own.parent())];
        let mut position = own.first;
        directory::encode(
            dots.into_iter().chain(names).map(entry),
            volume.inode_seed(number_on_disk(number)),
            |block| {
                let at = volume.space.block(position) * BLOCK;
                position += 1;
                volume.write_at(block, at)
            },
        )?;
        if position != own.first + own.directory_blocks() {
            return Err(Error::internal("a directory is not as large as planned"));
        }
    }
    Ok(())
}

fn write_inodes(tree: &Finished, volume: &Volume, watch: &Watch<'_>) -> Result<()> {
    let mut batch: Vec<u8> = Vec::with_capacity(BATCH * INODE);
    let mut start = 0;
    for number in 0..tree.inodes.len() as u32 {
        let bytes = inode::encode(tree, volume, number, |block, bytes| {
            volume.write_at(bytes, block * BLOCK)
        })?;
        let offset = volume.inode_offset(number_on_disk(number));
        if offset != start + batch.len() as u64 || batch.len() == BATCH * INODE {
            watch.check()?;
            volume.write_at(&batch, start)?;
            batch.clear();
            start = offset;
        }
        batch.extend_from_slice(&bytes);
    }
    volume.write_at(&batch, start)?;

    forget_times(volume)
}

/// Takes the time of their making from the reserved inodes that `mke2fs` wrote.
fn forget_times(volume: &Volume) -> Result<()> {
    for number in RESERVED {
        let mut bytes = [0; INODE];
        let offset = volume.inode_offset(number);
        volume.read_at(&mut bytes, offset)?;
        if bytes == [0; INODE] || number == ROOT_INODE {
            continue;
        }
        for at in [0x08, 0x0c, 0x10, 0x84, 0x88, 0x8c, 0x90, 0x94] {
            put32(&mut bytes, at, 0);
        }
        inode::seal(&mut bytes, volume.inode_seed(number));
        volume.write_at(&bytes, offset)?;
    }
    Ok(())
}

/// Bitmaps and group descriptors, and the sums of them in the superblock.
fn write_groups(tree: &Finished, volume: &mut Volume, used: u32) -> Result<()> {
    let mut taken = std::mem::take(&mut volume.taken);
    volume.space.used(used, |first, count| {
        for block in first..first + u64::from(count) {
            taken[(block / 8) as usize] |= 1 << (block % 8);
        }
    });
    let per_group = volume.inodes_per_group;
    let last_inode = number_on_disk(tree.inodes.len() as u32 - 1);
    let mut directories = vec![0_u32; volume.groups.len()];
    for (inode, number) in tree.inodes.iter().zip(0_u32..) {
        if inode.is_directory() {
            directories[((number_on_disk(number) - 1) / per_group) as usize] += 1;
        }
    }
    let (mut free_blocks, mut free_inodes) = (0_u64, 0_u32);
    for group in 0..volume.groups.len() {
        let first = group as u64 * GROUP_BLOCKS;
        let blocks = (volume.blocks - first).min(GROUP_BLOCKS);
        let bits = &mut taken[group * BLOCK_SIZE..][..BLOCK_SIZE];
        fill_from(bits, blocks as usize);
        let free = bits.iter().map(|byte| byte.count_zeros()).sum::<u32>();

        // Inodes are used without gaps: the reserved ones, and ours behind them.
        let before = group as u32 * per_group;
        let inodes = last_inode.saturating_sub(before).min(per_group);
        let mut inode_bits = [0; BLOCK_SIZE];
        inode_bits[..(inodes / 8) as usize].fill(0xff);
        for bit in inodes / 8 * 8..inodes {
            inode_bits[(bit / 8) as usize] |= 1 << (bit % 8);
        }
        fill_from(&mut inode_bits, per_group as usize);

        let [block_bitmap, inode_bitmap, _] = volume.records(group);
        volume.write_at(bits, block_bitmap * BLOCK)?;
        volume.write_at(&inode_bits, inode_bitmap * BLOCK)?;
        let sums = [
            crc32c(volume.seed, bits),
            crc32c(volume.seed, &inode_bits[..per_group as usize / 8]),
        ];
        let unused = per_group - inodes;
        let counts = [free, unused, directories[group], unused];
        describe(
            &mut volume.groups[group],
            group as u32,
            volume.seed,
            counts,
            sums,
        );
        free_blocks += u64::from(free);
        free_inodes += unused;
    }
    put32(&mut volume.superblock, 0x0c, free_blocks as u32);
    put32(&mut volume.superblock, 0x158, (free_blocks >> 32) as u32);
    put32(&mut volume.superblock, 0x10, free_inodes);
    Ok(())
}

/// Sets all bits from `start` on: what is beyond the end of a group counts as used.
fn fill_from(bits: &mut [u8], start: usize) {
    for bit in start..start.next_multiple_of(8) {
        bits[bit / 8] |= 1 << (bit % 8);
    }
    bits[start.div_ceil(8)..].fill(0xff);
}

/// Fills in a group descriptor: free blocks, free inodes, directories, unused inodes at the end;
/// checksums of the bitmaps of blocks and inodes.
fn describe(
    descriptor: &mut [u8; DESCRIPTOR],
    group: u32,
    seed: u32,
    counts: [u32; 4],
    sums: [u32; 2],
) {
    for (value, at) in counts.into_iter().zip([0x0c, 0x0e, 0x10, 0x1c]) {
        put16(descriptor, at, value as u16);
        let high = if at == 0x1c { 0x32 } else { at + 0x20 };
        put16(descriptor, high, (value >> 16) as u16);
    }
    for (value, at) in sums.into_iter().zip([0x18, 0x1a]) {
        put16(descriptor, at, value as u16);
        put16(descriptor, at + 0x20, (value >> 16) as u16);
    }
    put16(descriptor, 0x12, FLAG_ZEROED);
    put16(descriptor, 0x1e, 0);
    let sum = crc32c(crc32c(seed, &group.to_le_bytes()), descriptor);
    put16(descriptor, 0x1e, sum as u16);
}

/// The superblock and the group descriptors, and all copies of them.
fn write_superblocks(volume: &mut Volume) -> Result<()> {
    // When it was made, written, checked, and how much was written: nothing that depends on the
    // clock, so that the same layers make the same file.
    for at in [0x2c, 0x30, 0x40, 0x108, 0x178, 0x17c] {
        put32(&mut volume.superblock, at, 0);
    }
    put(&mut volume.superblock, 0x274, [0; 4]);
    let descriptors: Vec<u8> = volume.groups.concat();
    for group in (0..volume.groups.len() as u64).filter(|group| has_superblock(*group)) {
        let mut superblock = volume.superblock;
        put16(&mut superblock, 0x5a, group as u16);
        let sum = crc32c(!0, &superblock[..0x3fc]);
        put32(&mut superblock, 0x3fc, sum);
        let start = group * GROUP_BLOCKS * BLOCK;
        let offset = if group == 0 { 1024 } else { 0 };
        volume.write_at(&superblock, start + offset)?;
        volume.write_at(&descriptors, start + BLOCK)?;
    }
    Ok(())
}
