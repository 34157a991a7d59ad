//! What an image may ask for, and the counting of what it asked for so far.

use std::cell::Cell;

use banger_model::{ByteSize, Error, Result};

use crate::refuse;

/// How much a set of layers may ask for before it is refused.
///
/// Memory is bounded by these alone, whatever the layers hold: about 70 bytes an entry, plus
/// `text`, plus 4 MiB for the sparse files, plus the window of the decompressor (32 MiB at
/// most, 8 MiB or less for all but the slowest settings of zstd, 32 KiB for gzip).
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of all uncompressed layers together.
    pub unpacked: ByteSize,
    /// Entries of all layers together, including those that later layers hide.
    pub entries: u32,
    /// Bytes of all file names, targets of symbolic links and extended attributes together.
    pub text: u32,
    /// Bytes of one path.
    pub path: usize,
    /// Directories above one entry.
    pub depth: usize,
    /// How many times larger a layer may become when it is uncompressed ...
    pub ratio: u64,
    /// ... once it has grown to this size.
    pub ratio_from: ByteSize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            unpacked: ByteSize::bytes(64 << 30),
            entries: 1_000_000,
            text: 24 << 20,
            path: 4095,
            depth: 512,
            ratio: 200,
            ratio_from: ByteSize::bytes(1 << 30),
        }
    }
}

/// What one reading of all layers has used up.
pub(crate) struct Budget<'a> {
    pub(crate) limits: &'a Limits,
    unpacked: Cell<u64>,
    entries: Cell<u32>,
}

impl<'a> Budget<'a> {
    pub(crate) fn new(limits: &'a Limits) -> Self {
        Budget {
            limits,
            unpacked: Cell::new(0),
            entries: Cell::new(0),
        }
    }

    /// Counts `more` uncompressed bytes of a layer that now has `layer` of them, made from
    /// `compressed` bytes.
    pub(crate) fn unpack(&self, more: u64, layer: u64, compressed: u64) -> Result<()> {
        let total = self.unpacked.get().saturating_add(more);
        self.unpacked.set(total);
        if total > self.limits.unpacked.as_bytes() {
            return Err(refuse(format!(
                "it is larger than {} MiB unpacked, which is the limit",
                self.limits.unpacked.as_mib()
            )));
        }
        if layer > self.limits.ratio_from.as_bytes()
            && layer / self.limits.ratio.max(1) > compressed
        {
            return Err(refuse(format!(
                "it unpacks to more than {} times its size, as only a trap does",
                self.limits.ratio
            )));
        }
        Ok(())
    }

    /// Counts one entry and returns its number, from zero.
    pub(crate) fn entry(&self) -> Result<u32> {
        let number = self.entries.get();
        if number >= self.limits.entries {
            return Err(self.too_many());
        }
        self.entries.set(number + 1);
        Ok(number)
    }

    /// The entries so far.
    pub(crate) fn entries(&self) -> u32 {
        self.entries.get()
    }

    fn too_many(&self) -> Error {
        refuse(format!(
            "it has more than {} entries, which is the limit",
            self.limits.entries
        ))
    }
}
