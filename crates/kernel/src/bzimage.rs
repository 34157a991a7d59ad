//! Taking the ELF kernel out of a bzImage.
//!
//! The boot protocol's setup header says where the payload is (Linux
//! `Documentation/arch/x86/boot.rst`); there is no scan for magic numbers, which finds the
//! wrong ones. Behind every payload but gzip's the build puts four bytes with the length.

use std::io::{self, Read};

use banger_model::{Code, Error, Result};

/// No kernel is larger, unpacked.
const MAX_KERNEL: u64 = 512 << 20;
/// The size of a block in the legacy LZ4 format, unpacked.
const LZ4_BLOCK: usize = 8 << 20;
/// The first boot protocol with `payload_offset`.
const MIN_PROTOCOL: u16 = 0x0208;

const ELF_MAGIC: &[u8] = b"\x7fELF";
const LZ4_MAGIC: &[u8] = &[0x02, 0x21, 0x4c, 0x18];

/// The ELF kernel in `image`, which is a bzImage or an ELF kernel already.
pub(crate) fn unpack(image: &[u8]) -> Result<Vec<u8>> {
    if image.starts_with(ELF_MAGIC) {
        return Ok(image.to_vec());
    }
    let payload = payload(image).ok_or_else(|| {
        Error::new(
            Code::BuildFailed,
            "the file is neither a bzImage nor an ELF kernel",
        )
    })?;
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
fn payload(image: &[u8]) -> Option<&[u8]> {
    let u32_at = |at: usize| Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?));
    if image.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let version = u16::from_le_bytes(image.get(0x206..0x208)?.try_into().ok()?);
    if version < MIN_PROTOCOL {
        return None;
    }
    // For reasons of history, 0 means 4; the boot sector itself is one more.
    let setup_sectors = match *image.get(0x1f1)? {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = (setup_sectors + 1) * 512 + usize::try_from(u32_at(0x248)?).ok()?;
    let length = usize::try_from(u32_at(0x24c)?).ok()?;
    image.get(start..start.checked_add(length)?)
}

fn decompress(payload: &[u8]) -> io::Result<Vec<u8>> {
    match payload {
        [0x1f, 0x8b, ..] => read_all(flate2::read::GzDecoder::new(payload)),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            // One stream: behind it comes the length, which is no second stream.
            read_all(liblzma::read::XzDecoder::new(payload))
        }
        [0x5d, 0, 0, ..] => {
            let stream = liblzma::stream::Stream::new_lzma_decoder(u64::MAX)?;
            read_all(liblzma::read::XzDecoder::new_stream(payload, stream))
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            read_all(zstd::stream::read::Decoder::with_buffer(payload)?.single_frame())
        }
        _ if payload.starts_with(LZ4_MAGIC) => lz4_legacy(&payload[LZ4_MAGIC.len()..]),
        _ if payload.starts_with(ELF_MAGIC) => Ok(payload.to_vec()),
        _ => Err(io::Error::other("its compression is not known here")),
    }
}

fn read_all(from: impl Read) -> io::Result<Vec<u8>> {
    let mut kernel = Vec::new();
    from.take(MAX_KERNEL + 1).read_to_end(&mut kernel)?;
    if kernel.len() as u64 > MAX_KERNEL {
        return Err(io::Error::other("it is too large"));
    }
    Ok(kernel)
}

/// The legacy format is a length and a block, again and again, without an end mark.
fn lz4_legacy(mut blocks: &[u8]) -> io::Result<Vec<u8>> {
    let mut kernel = Vec::new();
    let mut block = vec![0; LZ4_BLOCK];
    // Four bytes alone are the length of the kernel.
    while blocks.len() > 4 {
        let (length, rest) = blocks.split_at(4);
        let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]);
        let length = usize::try_from(length).map_err(io::Error::other)?;
        let compressed = rest
            .get(..length)
            .filter(|_| length > 0)
            .ok_or_else(|| io::Error::other("a block is cut off"))?;
        let written =
            lz4_flex::block::decompress_into(compressed, &mut block).map_err(io::Error::other)?;
        kernel.extend_from_slice(&block[..written]);
        if kernel.len() as u64 > MAX_KERNEL {
            return Err(io::Error::other("it is too large"));
        }
        blocks = &rest[length..];
    }
    if let Ok(length) = <[u8; 4]>::try_from(blocks)
        && u64::from(u32::from_le_bytes(length)) != kernel.len() as u64
    {
        return Err(io::Error::other("it is cut off"));
    }
    Ok(kernel)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

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

    fn lz4(kernel: &[u8]) -> Vec<u8> {
        let mut payload = LZ4_MAGIC.to_vec();
        for block in kernel.chunks(LZ4_BLOCK) {
            let compressed = lz4_flex::block::compress(block);
            payload.extend_from_slice(&(compressed.len() as u32).to_le_bytes());
            payload.extend_from_slice(&compressed);
        }
        payload
    }

    fn lzma(kernel: &[u8]) -> Vec<u8> {
        let options = liblzma::stream::LzmaOptions::new_preset(1).unwrap();
        let stream = liblzma::stream::Stream::new_lzma_encoder(&options).unwrap();
        let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
        encoder.write_all(kernel).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn every_compression_is_unpacked() {
        let kernel = kernel();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&kernel).unwrap();
        let payloads = [
            ("gzip", gzip.finish().unwrap()),
            (
                "xz",
                with_length(liblzma::encode_all(kernel.as_slice(), 1).unwrap(), &kernel),
            ),
            ("lzma", with_length(lzma(&kernel), &kernel)),
            (
                "zstd",
                with_length(zstd::encode_all(kernel.as_slice(), 1).unwrap(), &kernel),
            ),
            ("lz4", with_length(lz4(&kernel), &kernel)),
            ("lz4 without a length", lz4(&kernel)),
            ("none", kernel.clone()),
        ];
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
}
