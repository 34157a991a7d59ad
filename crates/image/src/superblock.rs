//! The head of an ext4 file system: whether a file is one, and one that can be an image.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use banger_model::{Code, Error, IoContext, Result};

/// Where the superblock is, and how much of it is looked at.
const OFFSET: u64 = 1024;
const LENGTH: usize = 1024;
const MAGIC: u16 = 0xEF53;

const COMPAT_HAS_JOURNAL: u32 = 0x4;
const INCOMPAT_FILETYPE: u32 = 0x2;
const INCOMPAT_RECOVER: u32 = 0x4;
const INCOMPAT_JOURNAL_DEV: u32 = 0x8;
const INCOMPAT_EXTENTS: u32 = 0x40;
const INCOMPAT_64BIT: u32 = 0x80;
/// The file system was unmounted, or never mounted.
const STATE_CLEAN: u16 = 1;

/// What other files begin with, and what to do with them.
const OTHERS: [(usize, &[u8], &str, &str); 8] = [
    (
        0,
        b"QFI\xfb",
        "a qcow2 disk",
        "convert it with `qemu-img convert -O raw`, and take its partition",
    ),
    (
        0,
        b"hsqs",
        "a squashfs file system",
        "unpack it with `unsquashfs` and make an ext4 file with `mke2fs -d`",
    ),
    (
        0,
        b"XFSB",
        "an XFS file system",
        "copy its files and make an ext4 file with `mke2fs -d`",
    ),
    (
        0x10040,
        b"_BHRfS_M",
        "a btrfs file system",
        "copy its files and make an ext4 file with `mke2fs -d`",
    ),
    (
        0,
        b"\x1f\x8b",
        "compressed with gzip",
        "decompress it first: `gzip -d`",
    ),
    (
        0,
        b"\x28\xb5\x2f\xfd",
        "compressed with zstd",
        "decompress it first: `zstd -d`",
    ),
    (
        0,
        b"\xfd7zXZ",
        "compressed with xz",
        "decompress it first: `xz -d`",
    ),
    (
        510,
        b"\x55\xaa",
        "a whole disk with partitions",
        "take the partition with the root file system out of it, such as with `dd`",
    ),
];

/// What is needed of a superblock.
#[derive(Debug)]
pub(crate) struct Superblock {
    /// The size of the file system in bytes.
    pub(crate) size: u64,
    state: u16,
    compat: u32,
    incompat: u32,
}

impl Superblock {
    /// Reads the superblock of the file system in `file`.
    ///
    /// # Errors
    /// `invalid_argument` when the file is no ext4 file system, saying what it is instead.
    pub(crate) fn read(file: &File, path: &Path) -> Result<Superblock> {
        let length = file.metadata().at("look at", path)?.len();
        let mut bytes = [0; LENGTH];
        if length < OFFSET + LENGTH as u64 {
            return Err(not_ext4(path, "it is too small for one", None));
        }
        file.read_exact_at(&mut bytes, OFFSET).at("read", path)?;
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        if u16_at(56) != MAGIC {
            return Err(other(file, path));
        }
        let incompat = u32_at(96);
        let mut blocks = u64::from(u32_at(4));
        if incompat & INCOMPAT_64BIT != 0 {
            blocks |= u64::from(u32_at(336)) << 32;
        }
        let size = 1024u64
            .checked_shl(u32_at(24))
            .filter(|block| (1024..=65536).contains(block))
            .and_then(|block| blocks.checked_mul(block))
            .ok_or_else(|| not_ext4(path, "its superblock makes no sense", None))?;
        Ok(Superblock {
            size,
            state: u16_at(58),
            compat: u32_at(92),
            incompat,
        })
    }

    /// Refuses what cannot be an image, which is only ever mounted read-only.
    ///
    /// # Errors
    /// `invalid_argument`, saying what to do.
    pub(crate) fn check(&self, file: &File, path: &Path) -> Result<()> {
        let length = file.metadata().at("look at", path)?.len();
        let check = format!("run `e2fsck -f {}` first", path.display());
        if self.incompat & INCOMPAT_JOURNAL_DEV != 0 {
            return Err(not_ext4(path, "it is the journal of one", None));
        }
        if self.incompat & (INCOMPAT_FILETYPE | INCOMPAT_EXTENTS)
            != INCOMPAT_FILETYPE | INCOMPAT_EXTENTS
        {
            let convert = format!(
                "make it one with `tune2fs -O extents,uninit_bg,dir_index {0}` and `e2fsck -f {0}`",
                path.display()
            );
            return Err(not_ext4(
                path,
                "it is an older ext2 or ext3",
                Some(&convert),
            ));
        }
        if self.size > length {
            let why = format!(
                "the file system has {} bytes, the file only {length}: it was cut off",
                self.size
            );
            return Err(refused(path, &why, "get the whole file"));
        }
        if self.incompat & INCOMPAT_RECOVER != 0 || self.state & STATE_CLEAN == 0 {
            let journal = match self.compat & COMPAT_HAS_JOURNAL {
                0 => "",
                _ => ", and its journal was not written back",
            };
            let why = format!("it was not unmounted cleanly, or is mounted now{journal}");
            return Err(refused(path, &why, &format!("unmount it, or {check}")));
        }
        if self.state != STATE_CLEAN {
            return Err(refused(path, "it has recorded errors", &check));
        }
        Ok(())
    }
}

fn other(file: &File, path: &Path) -> Error {
    let found = OTHERS.iter().find(|(at, magic, _, _)| {
        let mut bytes = vec![0; magic.len()];
        file.read_exact_at(&mut bytes, *at as u64).is_ok() && bytes == *magic
    });
    match found {
        Some((_, _, what, hint)) => not_ext4(path, &format!("it is {what}"), Some(hint)),
        None => not_ext4(path, "it has no superblock of one", None),
    }
}

fn not_ext4(path: &Path, why: &str, hint: Option<&str>) -> Error {
    let message = format!("`{}` is not an ext4 file system: {why}", path.display());
    Error::new(Code::InvalidArgument, message).hint(
        hint.unwrap_or("give a file with an ext4 file system, such as `mke2fs -t ext4 -d` makes"),
    )
}

fn refused(path: &Path, why: &str, hint: &str) -> Error {
    Error::new(
        Code::InvalidArgument,
        format!("`{}` cannot be an image: {why}", path.display()),
    )
    .hint(hint)
}

/// Whether the ext4 file system in the file at `path` has a journal.
///
/// # Errors
/// `invalid_argument` when there is none in it; `io`.
pub fn has_journal(path: &Path) -> Result<bool> {
    let file = File::open(path).at("open", path)?;
    Ok(Superblock::read(&file, path)?.compat & COMPAT_HAS_JOURNAL != 0)
}
