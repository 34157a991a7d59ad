//! Directories: names and inodes in blocks, one after the other.

use super::crc::crc32c;
use super::{BLOCK_SIZE, put, put16, put32};
use crate::tree::mode;

/// The checksum at the end of every block.
const TAIL: usize = 12;

/// One entry of a directory.
#[derive(Clone, Copy)]
pub(super) struct Entry<'a> {
    pub(super) name: &'a [u8],
    /// The inode's number on disk.
    pub(super) inode: u32,
    /// Its mode.
    pub(super) mode: u16,
}

impl Entry<'_> {
    fn space(&self) -> usize {
        8 + self.name.len().next_multiple_of(4)
    }

    fn put(&self, block: &mut [u8], at: usize, length: usize) {
        put32(block, at, self.inode);
        put16(block, at + 4, length as u16);
        block[at + 6] = self.name.len() as u8;
        block[at + 7] = match self.mode & mode::TYPE {
            mode::FILE => 1,
            mode::DIRECTORY => 2,
            mode::CHAR => 3,
            mode::BLOCK => 4,
            mode::FIFO => 5,
            mode::SYMLINK => 7,
            _ => 0,
        };
        block[at + 8..at + 8 + self.name.len()].copy_from_slice(self.name);
    }
}

/// How many blocks a directory of these names takes, `.` and `..` apart.
pub(super) fn blocks<'a>(names: impl Iterator<Item = &'a [u8]>) -> u32 {
    let (mut blocks, mut used) = (1, 24);
    for name in names {
        let space = 8 + name.len().next_multiple_of(4);
        if used + space > BLOCK_SIZE - TAIL {
            blocks += 1;
            used = 0;
        }
        used += space;
    }
    blocks
}

/// Hands over the blocks of a directory, one after the other; `seed` is the inode's.
pub(super) fn encode<'a, E>(
    entries: impl Iterator<Item = Entry<'a>>,
    seed: u32,
    mut write: impl FnMut(&[u8; BLOCK_SIZE]) -> Result<(), E>,
) -> Result<(), E> {
    let mut block = [0; BLOCK_SIZE];
    let mut used = 0;
    // The entry before, which is written once it is known whether it is the last of its block.
    let mut last: Option<Entry<'a>> = None;
    for entry in entries {
        if let Some(before) = last.replace(entry) {
            if used + before.space() + entry.space() > BLOCK_SIZE - TAIL {
                before.put(&mut block, used, BLOCK_SIZE - TAIL - used);
                write(seal(&mut block, seed))?;
                (block, used) = ([0; BLOCK_SIZE], 0);
            } else {
                before.put(&mut block, used, before.space());
                used += before.space();
            }
        }
    }
    if let Some(before) = last {
        before.put(&mut block, used, BLOCK_SIZE - TAIL - used);
        write(seal(&mut block, seed))?;
    }
    Ok(())
}

/// Adds the entry without a name that holds the checksum.
fn seal(block: &mut [u8; BLOCK_SIZE], seed: u32) -> &[u8; BLOCK_SIZE] {
    let tail = BLOCK_SIZE - TAIL;
    let sum = crc32c(seed, &block[..tail]);
    put(block, tail, [0, 0, 0, 0, TAIL as u8, 0, 0, 0xde]);
    put32(block, tail + 8, sum);
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_have_as_many_blocks_as_announced() {
        for length in [1, 3, 4, 5, 100, 254, 255] {
            let name = vec![b'n'; length];
            for count in [0, 1, 14, 15, 16, 33, 34, 35, 250, 300, 1000] {
                let entry = |name| Entry {
                    name,
                    inode: 12,
                    mode: mode::FILE,
                };
                let names = std::iter::repeat_n(&name[..], count);
                let entries = [&b"."[..], b".."].into_iter().chain(names.clone());
                let mut written = 0;
                encode(entries.map(entry), 1, |_| {
                    written += 1;
                    Ok::<(), ()>(())
                })
                .unwrap();
                assert_eq!(written, blocks(names), "{count} names of {length}");
            }
        }
    }
}
