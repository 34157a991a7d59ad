//! Deciding where everything goes.

use super::space::{Extent, Space};
use super::{BLOCK, attributes, directory, extents};
use crate::tree::{Finished, Inode, mode};

/// Targets of symbolic links below this length, in bytes, are in the inode.
const IN_INODE: u64 = 60;

/// What a tree needs of a file system.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Need {
    pub(crate) blocks: u64,
    pub(crate) inodes: u64,
}

impl Need {
    /// Counts blocks and inodes; and notes in each directory how many blocks it takes.
    pub(crate) fn of(tree: &mut Finished) -> Self {
        let sizes: Vec<(u32, u32)> = tree
            .directories()
            .map(|(number, names)| (number, directory::blocks(names.map(|(name, _)| name))))
            .collect();
        for (number, blocks) in sizes {
            tree.inodes[number as usize].set_directory_blocks(blocks);
        }
        let mut blocks = 0;
        for number in 0..tree.inodes.len() as u32 {
            let inode = &tree.inodes[number as usize];
            let ranges = Ranges::of(tree, number);
            // A run ends at the latest where an extent must, and a few more at the records of a
            // group; when that is too little, the volume is made again and larger.
            let pieces = ranges.get().len() as u64 + ranges.blocks() / 32_768 + 1;
            blocks += ranges.blocks()
                + u64::from(extents::tree_blocks(pieces as usize))
                + u64::from(attributes::needs_block(tree.attributes(inode)));
        }
        Need {
            blocks,
            inodes: tree.inodes.len() as u64 + u64::from(super::FIRST_INODE),
        }
    }
}

/// The blocks of a file that there are: first and count.
pub(super) struct Ranges<'a> {
    one: [(u32, u32); 1],
    many: Option<&'a [(u32, u32)]>,
}

impl<'a> Ranges<'a> {
    pub(super) fn of(tree: &'a Finished, number: u32) -> Self {
        let inode = &tree.inodes[number as usize];
        let blocks = match inode.kind() {
            mode::FILE => inode.size().div_ceil(BLOCK) as u32,
            mode::DIRECTORY => inode.directory_blocks(),
            mode::SYMLINK => u32::from(target_in_block(tree, inode)),
            _ => 0,
        };
        let many = match inode.kind() {
            mode::FILE => tree.ranges(number),
            _ => None,
        };
        Ranges {
            one: [(0, blocks)],
            many,
        }
    }

    pub(super) fn get(&self) -> &[(u32, u32)] {
        self.many.unwrap_or(&self.one)
    }

    pub(super) fn blocks(&self) -> u64 {
        self.get().iter().map(|(_, count)| u64::from(*count)).sum()
    }
}

pub(super) fn target_in_block(tree: &Finished, inode: &Inode) -> bool {
    tree.target(inode).len() as u64 >= IN_INODE
}

/// Gives every inode its place among the free blocks; returns how many blocks that takes, which
/// may be more than there are.
///
/// Files come last and in the order of the layers, so that their contents are written from the
/// front to the back. Behind a file's own blocks are those of its tree and of its attributes.
pub(crate) fn place(tree: &mut Finished, space: &Space) -> u64 {
    let mut position = 0_u64;
    for files in [false, true] {
        for number in 0..tree.inodes.len() as u32 {
            let inode = tree.inodes[number as usize];
            if (inode.kind() == mode::FILE) != files {
                continue;
            }
            let ranges = Ranges::of(tree, number);
            let start = u32::try_from(position).unwrap_or(u32::MAX);
            let pieces = space.extents(start, ranges.get()).count();
            let taken = ranges.blocks()
                + u64::from(extents::tree_blocks(pieces))
                + u64::from(attributes::needs_block(tree.attributes(&inode)));
            tree.inodes[number as usize].first = start;
            position += taken;
        }
    }
    position
}

/// The extents of a placed inode.
pub(super) fn extents_of(tree: &Finished, space: &Space, number: u32) -> Vec<Extent> {
    let ranges = Ranges::of(tree, number);
    let first = tree.inodes[number as usize].first;
    space.extents(first, ranges.get()).collect()
}
