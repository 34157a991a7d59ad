//! Writing the bytes of files to their blocks.

use banger_model::{Error, Result};

use super::place::extents_of;
use super::space::Extent;
use super::volume::Volume;
use super::{BLOCK, BLOCK_SIZE};
use crate::tree::Finished;

/// How much is written at once.
const BATCH: usize = 1 << 20;
/// Stretches of zeroes of this size are not written: the file has holes there already.
const HOLE: usize = 64 << 10;

/// The files of a volume, written in the order of their places.
pub(crate) struct Contents<'v> {
    volume: &'v Volume,
    extents: Vec<Extent>,
    /// The extent that was written to last.
    current: usize,
    /// Bytes that follow each other on disk, and where they go.
    batch: Vec<u8>,
    start: u64,
}

impl<'v> Contents<'v> {
    pub(crate) fn new(volume: &'v Volume) -> Self {
        Contents {
            volume,
            extents: Vec::new(),
            current: 0,
            batch: Vec::with_capacity(BATCH),
            start: 0,
        }
    }

    /// Turns to the file with this inode.
    pub(crate) fn begin(&mut self, tree: &Finished, number: u32) {
        self.extents = extents_of(tree, &self.volume.space, number);
        self.current = 0;
    }

    /// Writes `bytes` at `offset` in the file; offsets only rise.
    pub(crate) fn write(&mut self, mut offset: u64, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let (on_disk, room) = self.find(offset)?;
            let count = usize::try_from(room).map_or(bytes.len(), |room| room.min(bytes.len()));
            self.append(on_disk, &bytes[..count])?;
            bytes = &bytes[count..];
            offset += count as u64;
        }
        Ok(())
    }

    /// Writes what is still held back.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.flush()
    }

    /// Where on disk an offset of the file is, and how many bytes follow it there.
    fn find(&mut self, offset: u64) -> Result<(u64, u64)> {
        while let Some(extent) = self.extents.get(self.current) {
            let start = u64::from(extent.logical) * BLOCK;
            let end = start + u64::from(extent.count) * BLOCK;
            if offset < end && offset >= start {
                return Ok((extent.physical * BLOCK + (offset - start), end - offset));
            }
            self.current += 1;
        }
        Err(Error::internal(
            "a file has more bytes than it was given blocks",
        ))
    }

    fn append(&mut self, on_disk: u64, bytes: &[u8]) -> Result<()> {
        let end = self.start + self.batch.len() as u64;
        let gap = on_disk.checked_sub(end).filter(|gap| *gap < BLOCK);
        match gap {
            // The rest of a block is zero anyway.
            Some(gap) if self.batch.len() + bytes.len() + BLOCK_SIZE <= BATCH => {
                self.batch.resize(self.batch.len() + gap as usize, 0);
            }
            _ => {
                self.flush()?;
                self.start = on_disk;
            }
        }
        self.batch.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        static ZEROES: [u8; HOLE] = [0; HOLE];
        for (piece, at) in self.batch.chunks(HOLE).zip(0_u64..) {
            if *piece != ZEROES[..piece.len()] {
                self.volume.write_at(piece, self.start + at * HOLE as u64)?;
            }
        }
        self.batch.clear();
        Ok(())
    }
}
