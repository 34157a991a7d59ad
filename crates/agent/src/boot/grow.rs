//! Growing a file system to the size of its disk.
//!
//! The host only enlarges the disk. The kernel grows a mounted ext4 by itself when asked to; no
//! tools are needed, and nothing is lost when the power goes meanwhile.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

const SUPERBLOCK: u64 = 1024;
const MAGIC: u16 = 0xef53;
const FEATURE_64BIT: u32 = 0x80;
const SECTOR: u64 = 512;
/// `_IOW('f', 16, __u64)`: the new number of blocks.
const EXT4_IOC_RESIZE_FS: libc::Ioctl = 0x4008_6610;

/// Grows the ext4 mounted from `device` at `mount` when the device has become larger. A failure
/// is said on the console and leaves the file system as it is.
pub(super) fn to_its_disk(device: &str, mount: &str) {
    match grow(device, mount) {
        Ok(None) => {}
        Ok(Some(bytes)) => println!("banger: {device} grew to {} MiB", bytes >> 20),
        Err(error) => eprintln!("banger: GROW THE FILE SYSTEM ON {device}: {error}"),
    }
}

/// Gives the new size when it grew.
fn grow(device: &str, mount: &str) -> io::Result<Option<u64>> {
    let mut superblock = [0; 1024];
    File::open(device)?.read_exact_at(&mut superblock, SUPERBLOCK)?;
    let (blocks, block_size) = parse(&superblock)?;
    let wanted = device_size(device)? / block_size;
    if wanted <= blocks {
        return Ok(None);
    }
    resize(&File::open(mount)?, wanted)?;
    Ok(Some(wanted * block_size))
}

fn device_size(device: &str) -> io::Result<u64> {
    let name = Path::new(device).file_name().unwrap_or_default();
    let path = Path::new("/sys/class/block").join(name).join("size");
    let sectors = std::fs::read_to_string(path)?;
    let sectors: u64 = sectors.trim().parse().map_err(io::Error::other)?;
    Ok(sectors.saturating_mul(SECTOR))
}

/// The number of blocks and their size.
fn parse(superblock: &[u8; 1024]) -> io::Result<(u64, u64)> {
    let u16_at = |at: usize| u16::from_le_bytes([superblock[at], superblock[at + 1]]);
    let u32_at = |at: usize| u32::from(u16_at(at)) | u32::from(u16_at(at + 2)) << 16;
    let scale = u32_at(0x18);
    if u16_at(0x38) != MAGIC || scale > 6 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no ext4"));
    }
    let high = if u32_at(0x60) & FEATURE_64BIT == 0 {
        0
    } else {
        u32_at(0x150)
    };
    Ok((
        u64::from(high) << 32 | u64::from(u32_at(0x4)),
        1024 << scale,
    ))
}

fn resize(mount: &impl AsFd, blocks: u64) -> io::Result<()> {
    let fd = mount.as_fd().as_raw_fd();
    // SAFETY: the request reads one 64-bit number, which outlives the call.
    match unsafe { libc::ioctl(fd, EXT4_IOC_RESIZE_FS, &raw const blocks) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_superblock_says_the_size() {
        let mut superblock = [0; 1024];
        assert!(parse(&superblock).is_err());
        superblock[0x38..0x3a].copy_from_slice(&MAGIC.to_le_bytes());
        superblock[0x4..0x8].copy_from_slice(&5000u32.to_le_bytes());
        superblock[0x18] = 2;
        // Only what the feature says is there.
        superblock[0x150] = 1;
        assert_eq!(parse(&superblock).unwrap(), (5000, 4096));
        superblock[0x60] = 0x80;
        assert_eq!(parse(&superblock).unwrap(), (5000 + (1 << 32), 4096));
        superblock[0x18] = 60;
        assert!(parse(&superblock).is_err());
    }
}
