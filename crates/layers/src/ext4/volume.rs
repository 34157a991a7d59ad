//! An empty ext4 file system as `mke2fs` made it, and what must be known of it to fill it.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use banger_model::{Code, Error, IoContext, Result};

use super::crc::crc32c;
use super::place::Need;
use super::space::Space;
use super::{BLOCK, BLOCK_SIZE, get16, get32};
use crate::tools::Tools;
use crate::watch::Watch;

/// The features of banger's images, spelled out because the defaults differ between versions of
/// e2fsprogs and not every kernel knows the newest. No journal: images are only ever read.
const FEATURES: &str = "none,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,\
    large_file,huge_file,dir_nlink,extra_isize,metadata_csum,resize_inode";
/// The same as the three words of the superblock: compatible, incompatible, read-only compatible.
const FEATURE_WORDS: [u32; 3] = [0x38, 0x2c2, 0x46b];
const SUPERBLOCK: u64 = 1024;
pub(super) const GROUP_BLOCKS: u64 = 32_768;
pub(super) const DESCRIPTOR: usize = 64;
pub(super) const INODE: usize = 256;
/// The most inodes that the bitmap of a group has bits for.
const GROUP_INODES: u64 = 32_768;
/// A group's bitmap of blocks is not on disk: it would be all free, its own records apart.
const BLOCKS_UNINIT: u16 = 2;

/// How large a file system must be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) blocks: u64,
    inodes: u64,
}

impl Shape {
    /// Room for `need`, the file system's own records, and next to nothing else.
    pub(crate) fn of(need: &Need) -> Self {
        // Free inodes cost nothing while they are zeroes, and a copy of the image that grows gets
        // as many inodes a group as this has: one for 32 KiB at least.
        let inodes = (need.inodes + need.inodes / 16 + 16).max(need.blocks / 8);
        let mut blocks = need.blocks;
        for _ in 0..4 {
            // Below 50 free blocks `mke2fs` does not begin.
            blocks = need.blocks.max(50) + overhead(blocks, inodes) + 16;
        }
        let groups = inodes.div_ceil(GROUP_INODES);
        if blocks.div_ceil(GROUP_BLOCKS) < groups {
            blocks = groups * GROUP_BLOCKS;
        }
        Shape { blocks, inodes }
    }

    /// The same with `more` blocks.
    pub(crate) fn grown(self, more: u64) -> Self {
        Shape {
            blocks: self.blocks + more,
            ..self
        }
    }
}

/// About what `mke2fs` takes for itself: bitmaps, tables, and superblocks with the group
/// descriptors and the room for more of them. When it takes more, the caller tries again.
fn overhead(blocks: u64, inodes: u64) -> u64 {
    let groups = blocks.div_ceil(GROUP_BLOCKS);
    let descriptors = (groups * DESCRIPTOR as u64).div_ceil(BLOCK);
    let reserved = (groups * 1024 * DESCRIPTOR as u64)
        .div_ceil(BLOCK)
        .min(1024);
    let copies = (0..groups).filter(|group| has_superblock(*group)).count() as u64;
    let tables = inodes.div_ceil(groups).div_ceil(16) * groups;
    copies * (1 + descriptors + reserved) + groups * 2 + tables + 1
}

/// Whether a group has a copy of the superblock: the first two, and powers of three, five, seven.
pub(super) fn has_superblock(group: u64) -> bool {
    let power_of = |base: u64| {
        let mut rest = group;
        while rest > 1 && rest.is_multiple_of(base) {
            rest /= base;
        }
        rest == 1
    };
    group <= 1 || power_of(3) || power_of(5) || power_of(7)
}

/// What names a file system.
pub(crate) struct Identity<'a> {
    pub(crate) label: &'a str,
    /// In the usual form, with dashes.
    pub(crate) uuid: &'a str,
}

/// An ext4 file system in a file, empty but for what `mke2fs` writes.
pub(crate) struct Volume {
    pub(super) file: File,
    pub(super) path: PathBuf,
    pub(super) superblock: [u8; 1024],
    pub(super) groups: Vec<[u8; DESCRIPTOR]>,
    /// One bit for every block that the file system's own records take.
    pub(super) taken: Vec<u8>,
    pub(super) blocks: u64,
    pub(super) inodes_per_group: u32,
    /// Where the checksums of its records begin.
    pub(super) seed: u32,
    pub(crate) space: Space,
}

impl Volume {
    /// Makes an empty file system in the file at `path`, which is made anew.
    ///
    /// # Errors
    /// `missing_program` without `mke2fs`; `no_space`, `io`; `cancelled`.
    pub(crate) fn format(
        path: &Path,
        shape: Shape,
        identity: &Identity<'_>,
        tools: &Tools<'_>,
        watch: &Watch<'_>,
    ) -> Result<Volume> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)
            .at("create", path)?;
        let inodes = shape.inodes.to_string();
        let blocks = shape.blocks.to_string();
        let extended = format!(
            "lazy_itable_init=0,nodiscard,root_owner=0:0,hash_seed={}",
            identity.uuid
        );
        #[rustfmt::skip]
        let arguments = [
            "-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-N", &inodes, "-m", "0",
            "-U", identity.uuid, "-L", identity.label, "-O", FEATURES, "-E", &extended,
        ];
        tools.run("mke2fs", &arguments, path, Some(&blocks), watch)?;
        let mut volume = Volume::read(file, path)?;
        volume.free_first_directories()?;
        volume.list_free();
        volume
            .file
            .set_len(volume.blocks * BLOCK)
            .at("extend", path)?;
        Ok(volume)
    }

    /// Reads what `mke2fs` wrote, and makes sure that it is what was asked for.
    fn read(file: File, path: &Path) -> Result<Volume> {
        let mut superblock = [0; 1024];
        file.read_exact_at(&mut superblock, SUPERBLOCK)
            .at("read", path)?;
        let features = [0x5c, 0x60, 0x64].map(|at| get32(&superblock, at));
        let sound = get16(&superblock, 0x38) == 0xef53
            && features == FEATURE_WORDS
            && get32(&superblock, 0x18) == 2
            && u64::from(get32(&superblock, 0x20)) == GROUP_BLOCKS
            && usize::from(get16(&superblock, 0x58)) == INODE
            && usize::from(get16(&superblock, 0xfe)) == DESCRIPTOR
            && get32(&superblock, 0x54) == super::FIRST_INODE;
        if !sound {
            return Err(Error::new(
                Code::BuildFailed,
                format!("`mke2fs` made another file system than it was asked for ({features:x?})"),
            )
            .hint("check that the `mke2fs` in the search path is that of e2fsprogs"));
        }
        let blocks = u64::from(get32(&superblock, 0x150)) << 32 | u64::from(get32(&superblock, 4));
        let groups = blocks.div_ceil(GROUP_BLOCKS);
        let mut table = vec![0; groups as usize * DESCRIPTOR];
        file.read_exact_at(&mut table, BLOCK).at("read", path)?;
        let mut volume = Volume {
            file,
            path: path.to_owned(),
            groups: table.as_chunks().0.to_vec(),
            taken: vec![0; groups as usize * BLOCK_SIZE],
            blocks,
            inodes_per_group: get32(&superblock, 0x28),
            seed: crc32c(!0, &superblock[0x68..0x78]),
            superblock,
            space: Space::default(),
        };
        volume.read_bitmaps()?;
        Ok(volume)
    }

    /// The size of the file in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.blocks * BLOCK
    }

    /// Blocks of group descriptors, in use and kept for growing.
    pub(super) fn descriptor_blocks(&self) -> (u64, u64) {
        let used = (self.groups.len() * DESCRIPTOR).div_ceil(BLOCK_SIZE);
        (used as u64, u64::from(get16(&self.superblock, 0xce)))
    }

    /// The first block of a group's block bitmap, inode bitmap and inode table.
    pub(super) fn records(&self, group: usize) -> [u64; 3] {
        let descriptor = &self.groups[group];
        [0, 4, 8].map(|at| {
            u64::from(get32(descriptor, at + 0x20)) << 32 | u64::from(get32(descriptor, at))
        })
    }

    /// Where an inode is in the file, by its number on disk.
    pub(super) fn inode_offset(&self, number: u32) -> u64 {
        let (group, index) = (
            (number - 1) / self.inodes_per_group,
            (number - 1) % self.inodes_per_group,
        );
        self.records(group as usize)[2] * BLOCK + u64::from(index) * INODE as u64
    }

    /// Where the checksums of an inode's records begin; all generations are zero.
    pub(super) fn inode_seed(&self, number: u32) -> u32 {
        crc32c(crc32c(self.seed, &number.to_le_bytes()), &[0; 4])
    }

    pub(super) fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.file
            .write_all_at(bytes, offset)
            .at("write", &self.path)
    }

    pub(super) fn read_at(&self, bytes: &mut [u8], offset: u64) -> Result<()> {
        self.file
            .read_exact_at(bytes, offset)
            .at("read", &self.path)
    }

    fn take(&mut self, first: u64, count: u64) {
        for block in first..(first + count).min(self.blocks) {
            self.taken[(block / 8) as usize] |= 1 << (block % 8);
        }
    }

    fn read_bitmaps(&mut self) -> Result<()> {
        let (used, reserved) = self.descriptor_blocks();
        let table = u64::from(self.inodes_per_group).div_ceil(16);
        for group in 0..self.groups.len() {
            let [block_bitmap, inode_bitmap, inode_table] = self.records(group);
            if get16(&self.groups[group], 0x12) & BLOCKS_UNINIT == 0 {
                let bits = &mut self.taken[group * BLOCK_SIZE..][..BLOCK_SIZE];
                let mut read = vec![0; BLOCK_SIZE];
                self.file
                    .read_exact_at(&mut read, block_bitmap * BLOCK)
                    .at("read", &self.path)?;
                for (bits, read) in bits.iter_mut().zip(read) {
                    *bits |= read;
                }
            }
            self.take(block_bitmap, 1);
            self.take(inode_bitmap, 1);
            self.take(inode_table, table);
            if has_superblock(group as u64) {
                self.take(group as u64 * GROUP_BLOCKS, 1 + used + reserved);
            }
        }
        Ok(())
    }

    /// Gives back and clears the blocks of the root and `lost+found`, which are written anew.
    fn free_first_directories(&mut self) -> Result<()> {
        for number in [2, super::FIRST_INODE] {
            let mut inode = [0; INODE];
            self.read_at(&mut inode, self.inode_offset(number))?;
            let (entries, depth) = (get16(&inode, 0x2a), get16(&inode, 0x2e));
            if depth != 0 || entries > 4 {
                return Err(Error::internal("an empty directory has a tree of extents"));
            }
            for entry in inode[0x34..].chunks_exact(12).take(usize::from(entries)) {
                let first = u64::from(get16(entry, 6)) << 32 | u64::from(get32(entry, 8));
                for block in first..first + u64::from(get16(entry, 4)) {
                    self.taken[(block / 8) as usize] &= !(1 << (block % 8));
                    self.write_at(&[0; BLOCK_SIZE], block * BLOCK)?;
                }
            }
        }
        Ok(())
    }

    fn list_free(&mut self) {
        for block in 0..self.blocks {
            if self.taken[(block / 8) as usize] & 1 << (block % 8) == 0 {
                self.space.add(block);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn superblocks_are_copied_where_ext4_looks_for_them() {
        let groups: Vec<u64> = (0..130).filter(|group| has_superblock(*group)).collect();
        assert_eq!(groups, [0, 1, 3, 5, 7, 9, 25, 27, 49, 81, 125]);
    }
}
