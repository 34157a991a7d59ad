//! Taking the ELF kernel out of a bzImage.
//!
//! The boot protocol's setup header says where the payload is (Linux
//! `Documentation/arch/x86/boot.rst`); there is no scan for magic numbers, which finds the
//! wrong ones. Behind every payload but gzip's the build puts four bytes with the length.

use std::io;

use banger_model::{Code, Error, Result};

use crate::compression::Compression;

/// No kernel is larger, unpacked.
pub(crate) const MAX_KERNEL: usize = 256 << 20;
/// The first boot protocol with `payload_offset`.
const MIN_PROTOCOL: u16 = 0x0208;

pub(crate) const ELF_MAGIC: &[u8] = b"\x7fELF";

/// The ELF kernel in `image`, which is a bzImage or an ELF kernel already.
///
/// # Errors
/// `build_failed`, saying what is wrong with it.
pub(crate) fn unpack(image: &[u8]) -> Result<Vec<u8>> {
    if image.starts_with(ELF_MAGIC) {
        return Ok(image.to_vec());
    }
    let payload = payload(image)?;
    let kernel = decompress(payload).map_err(|error| {
        Error::new(Code::BuildFailed, "the bzImage cannot be unpacked").because(error)
    })?;
    if !kernel.starts_with(ELF_MAGIC) {
        return Err(Error::new(
            Code::BuildFailed,
            "the bzImage does not hold an ELF kernel",
        ));
    }
    Ok(kernel)
}

/// Where the setup header says the compressed kernel is.
fn payload(image: &[u8]) -> Result<&[u8]> {
    let fail = |why: &str| Error::new(Code::BuildFailed, why);
    let u32_at = |at: usize| Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?));
    if image.get(0x202..0x206) != Some(b"HdrS") {
        return Err(fail("the file is neither a bzImage nor an ELF kernel"));
    }
    let header = || -> Option<(u16, usize, usize)> {
        let version = u16::from_le_bytes(image.get(0x206..0x208)?.try_into().ok()?);
        // For reasons of history, 0 means 4; the boot sector itself is one more.
        let setup_sectors = match *image.get(0x1f1)? {
            0 => 4,
            sectors => usize::from(sectors),
        };
        let start = (setup_sectors + 1) * 512 + usize::try_from(u32_at(0x248)?).ok()?;
        Some((version, start, usize::try_from(u32_at(0x24c)?).ok()?))
    };
    let (version, start, length) = header().ok_or_else(|| fail("the bzImage is cut off"))?;
    if version < MIN_PROTOCOL {
        return Err(fail("the bzImage is older than Linux 2.6.24"));
    }
    start
        .checked_add(length)
        .and_then(|end| image.get(start..end))
        .ok_or_else(|| fail("the bzImage is cut off: its payload lies beyond its end"))
}

fn decompress(payload: &[u8]) -> io::Result<Vec<u8>> {
    if payload.starts_with(ELF_MAGIC) {
        return Ok(payload.to_vec());
    }
    let compression = Compression::of(payload)
        .ok_or_else(|| io::Error::other("its compression is not known here"))?;
    let unpacked = compression.unpack(payload, MAX_KERNEL)?;
    // The low 32 bits of the length, as far as it is there.
    if let Ok(length) = <[u8; 4]>::try_from(unpacked.rest)
        && u32::from_le_bytes(length) != unpacked.content.len() as u32
    {
        return Err(io::Error::other("it is cut off"));
    }
    Ok(unpacked.content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compression::LZ4_BLOCK;
    use crate::compression::tests::{lz4, packed};

    /// Something that looks like an ELF kernel and spans several LZ4 blocks.
    fn kernel() -> Vec<u8> {
        let mut kernel = ELF_MAGIC.to_vec();
        kernel.extend((0..LZ4_BLOCK as u32 / 2).flat_map(|n| (n / 7).to_le_bytes()));
        kernel
    }

    fn bzimage(payload: &[u8], setup_sectors: u8) -> Vec<u8> {
        let offset = 0x40;
        let sectors = match setup_sectors {
            0 => 4,
            n => usize::from(n),
        };
        let mut image = vec![0; (sectors + 1) * 512 + offset];
        image[0x1f1] = setup_sectors;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
        image[0x248..0x24c].copy_from_slice(&(offset as u32).to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        image.extend_from_slice(payload);
        image.extend_from_slice(&[0xaa; 100]);
        image
    }

    fn with_length(mut payload: Vec<u8>, kernel: &[u8]) -> Vec<u8> {
        payload.extend_from_slice(&(kernel.len() as u32).to_le_bytes());
        payload
    }

    #[test]
    fn every_compression_is_unpacked() {
        let kernel = kernel();
        let mut payloads = vec![
            ("none", kernel.clone()),
            ("lz4 without a length", lz4(&kernel)),
        ];
        for (name, payload) in packed(&kernel) {
            let payload = match name {
                "gzip" => payload,
                _ => with_length(payload, &kernel),
            };
            payloads.push((name, payload));
        }
        for (name, payload) in payloads {
            for setup_sectors in [0, 4, 27] {
                let unpacked = unpack(&bzimage(&payload, setup_sectors)).unwrap();
                assert!(unpacked == kernel, "{name}, {setup_sectors} sectors");
            }
        }
        assert!(unpack(&kernel).unwrap() == kernel);
    }

    #[test]
    fn anything_else_is_refused() {
        let kernel = kernel();
        let good = bzimage(&lz4(&kernel), 4);
        let mut old = good.clone();
        old[0x206..0x208].copy_from_slice(&0x0207_u16.to_le_bytes());
        let mut beyond = good.clone();
        beyond[0x24c..0x250].copy_from_slice(&u32::MAX.to_le_bytes());
        let cut = with_length(lz4(&kernel[..LZ4_BLOCK]), &kernel);
        for (name, bad) in [
            ("empty", Vec::new()),
            ("text", b"#!/bin/sh\n".to_vec()),
            ("old protocol", old),
            ("payload beyond the end", beyond),
            ("cut at a block", bzimage(&cut, 4)),
            ("cut in a block", bzimage(&lz4(&kernel)[..1000], 4)),
            ("unknown compression", bzimage(b"BZh9xxxxxxx", 4)),
            (
                "not a kernel",
                bzimage(&zstd::encode_all(&b"hello"[..], 1).unwrap(), 4),
            ),
            ("broken gzip", bzimage(&[0x1f, 0x8b, 8, 0, 0, 0], 4)),
        ] {
            let error = unpack(&bad).expect_err(name);
            assert_eq!(error.code(), Code::BuildFailed, "{name}");
        }
    }

    #[test]
    fn a_header_that_lies_or_ends_is_refused() {
        let good = bzimage(&zstd::encode_all(&kernel()[..4096], 1).unwrap(), 4);
        // Wherever it is cut before the end of the payload.
        for length in (0..good.len() - 100).step_by(7) {
            assert!(unpack(&good[..length]).is_err(), "{length}");
        }
        for value in [0, 1, 0x7fff_ffff, u32::MAX - 3, u32::MAX] {
            for at in [0x248, 0x24c] {
                let mut lie = good.clone();
                lie[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
                let error = unpack(&lie).expect_err("a lie");
                assert_eq!(error.code(), Code::BuildFailed, "{at:#x} {value}");
            }
        }
    }

    #[test]
    fn a_bomb_is_refused() {
        let bomb = zstd::encode_all(io::Read::take(io::repeat(0), MAX_KERNEL as u64 + 1), 1);
        let error = unpack(&bzimage(&bomb.unwrap(), 4)).unwrap_err();
        assert!(error.chain().contains("larger than 256 MiB"), "{error}");
    }
}
