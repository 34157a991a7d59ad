//! The compressions in which kernels and initial RAM disks come.
//!
//! Whoever compressed it may lie: the result is bounded by the caller, and what decoders may
//! hold beside it is bounded here.

use std::io::{self, BufRead, Read};

/// What a decoder may hold for its dictionary. The kernel's own build uses up to 128 MiB.
const MAX_DICTIONARY: u64 = 160 << 20;
/// The size of a block in the legacy LZ4 format, unpacked.
pub(crate) const LZ4_BLOCK: usize = 8 << 20;
pub(crate) const LZ4_MAGIC: &[u8] = &[0x02, 0x21, 0x4c, 0x18];

/// A compression, recognised by how it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    Gzip,
    Xz,
    Lzma,
    Zstd,
    Lz4,
    /// Known by name, so that an error can say it; nothing here unpacks it.
    Bzip2,
    /// As bzip2.
    Lzo,
}

/// What was compressed, and where that ended.
#[derive(Debug)]
pub(crate) struct Unpacked<'a> {
    pub(crate) content: Vec<u8>,
    /// What comes behind the compressed bytes.
    pub(crate) rest: &'a [u8],
}

impl Compression {
    /// The compression of bytes that begin so.
    pub(crate) fn of(bytes: &[u8]) -> Option<Compression> {
        Some(match bytes {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Xz,
            [0x5d, 0, 0, ..] => Compression::Lzma,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
            [b'B', b'Z', b'h', ..] => Compression::Bzip2,
            [0x89, b'L', b'Z', b'O', ..] => Compression::Lzo,
            _ if bytes.starts_with(LZ4_MAGIC) => Compression::Lz4,
            _ => return None,
        })
    }

    /// Unpacks the one stream that `bytes` begin with, to at most `limit` bytes.
    ///
    /// # Errors
    /// When it is damaged, larger than the limit, or in a compression that is not read here.
    pub(crate) fn unpack(self, bytes: &[u8], limit: usize) -> io::Result<Unpacked<'_>> {
        match self {
            Compression::Gzip => {
                let mut decoder = flate2::bufread::GzDecoder::new(bytes);
                let content = read_all(&mut decoder, limit)?;
                let rest = decoder.into_inner();
                Ok(Unpacked { content, rest })
            }
            Compression::Xz => lzma(
                liblzma::stream::Stream::new_stream_decoder(MAX_DICTIONARY, 0)?,
                bytes,
                limit,
            ),
            Compression::Lzma => lzma(
                liblzma::stream::Stream::new_lzma_decoder(MAX_DICTIONARY)?,
                bytes,
                limit,
            ),
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(bytes)?.single_frame();
                let content = read_all(&mut decoder, limit)?;
                let rest = decoder.finish();
                Ok(Unpacked { content, rest })
            }
            Compression::Lz4 => lz4_legacy(bytes, limit),
            Compression::Bzip2 => Err(unread("bzip2")),
            Compression::Lzo => Err(unread("lzo")),
        }
    }
}

fn unread(name: &str) -> io::Error {
    io::Error::other(format!(
        "it is compressed with {name}, which is not read here; unpack it first"
    ))
}

fn too_large(limit: usize) -> io::Error {
    io::Error::other(format!(
        "it is larger than {} MiB when unpacked",
        limit >> 20
    ))
}

fn lzma(stream: liblzma::stream::Stream, bytes: &[u8], limit: usize) -> io::Result<Unpacked<'_>> {
    let mut decoder = liblzma::bufread::XzDecoder::new_stream(bytes, stream);
    let content = read_all(&mut decoder, limit)?;
    let rest = decoder.into_inner();
    Ok(Unpacked { content, rest })
}

fn read_all(from: impl Read, limit: usize) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    from.take(limit as u64 + 1).read_to_end(&mut content)?;
    if content.len() > limit {
        return Err(too_large(limit));
    }
    Ok(content)
}

/// The legacy format is a length and a block, again and again, without an end mark: it ends
/// where no block can begin.
fn lz4_legacy(bytes: &[u8], limit: usize) -> io::Result<Unpacked<'_>> {
    let mut rest = bytes;
    rest.consume(LZ4_MAGIC.len());
    let mut content = Vec::new();
    let mut block = vec![0; LZ4_BLOCK];
    while let Some((length, blocks)) = rest.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        // Four bytes alone are the length of a kernel; a length of nothing is padding.
        if blocks.is_empty() || length == 0 {
            break;
        }
        let compressed = blocks
            .get(..length)
            .ok_or_else(|| io::Error::other("a block is cut off"))?;
        let written =
            lz4_flex::block::decompress_into(compressed, &mut block).map_err(io::Error::other)?;
        if content.len() + written > limit {
            return Err(too_large(limit));
        }
        content.extend_from_slice(&block[..written]);
        rest = &blocks[length..];
    }
    Ok(Unpacked { content, rest })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write;

    use super::*;

    /// `content` in every compression that is read here.
    pub(crate) fn packed(content: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(content).unwrap();
        vec![
            ("gzip", gzip.finish().unwrap()),
            ("xz", liblzma::encode_all(content, 1).unwrap()),
            ("lzma", lzma_alone(content)),
            ("zstd", zstd::encode_all(content, 1).unwrap()),
            ("lz4", lz4(content)),
        ]
    }

    pub(crate) fn lz4(content: &[u8]) -> Vec<u8> {
        let mut packed = LZ4_MAGIC.to_vec();
        for block in content.chunks(LZ4_BLOCK) {
            let compressed = lz4_flex::block::compress(block);
            packed.extend_from_slice(&(compressed.len() as u32).to_le_bytes());
            packed.extend_from_slice(&compressed);
        }
        packed
    }

    fn lzma_alone(content: &[u8]) -> Vec<u8> {
        let options = liblzma::stream::LzmaOptions::new_preset(1).unwrap();
        let stream = liblzma::stream::Stream::new_lzma_encoder(&options).unwrap();
        let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn unpack(bytes: &[u8], limit: usize) -> io::Result<(Vec<u8>, usize)> {
        let unpacked = Compression::of(bytes).unwrap().unpack(bytes, limit)?;
        Ok((unpacked.content, unpacked.rest.len()))
    }

    #[test]
    fn each_says_where_it_ends() {
        let content: Vec<u8> = (0..LZ4_BLOCK as u32 / 3)
            .flat_map(u32::to_le_bytes)
            .collect();
        for (name, packed) in packed(&content) {
            let (unpacked, rest) = unpack(&packed, content.len()).unwrap();
            assert!(unpacked == content && rest == 0, "{name}");
            let padded = [&packed[..], &[0; 512]].concat();
            let (unpacked, rest) = unpack(&padded, content.len()).unwrap();
            assert!(unpacked == content && rest == 512, "{name}");
        }
    }

    #[test]
    fn a_bomb_is_stopped_at_the_limit() {
        let zeros = vec![0; 40 << 20];
        for (name, packed) in packed(&zeros) {
            assert!(packed.len() < 1 << 20, "{name} is no bomb");
            let error = unpack(&packed, 1 << 20).unwrap_err();
            assert!(
                error.to_string().contains("larger than 1 MiB"),
                "{name}: {error}"
            );
        }
    }

    #[test]
    fn a_dictionary_that_no_kernel_needs_is_refused() {
        // Properties, then the size of the dictionary: 2 GiB; then an unknown length.
        let mut lzma = vec![0x5d, 0, 0, 0, 0x80];
        lzma.extend_from_slice(&[0xff; 8]);
        lzma.extend_from_slice(&[0; 64]);
        assert!(unpack(&lzma, 1 << 20).is_err());
        // A window of 2 GiB, by the descriptor that follows the magic number.
        let zstd = [0x28, 0xb5, 0x2f, 0xfd, 0, 21 << 3, 1, 0, 0];
        assert!(unpack(&zstd, 1 << 20).is_err());
    }

    #[test]
    fn no_cut_and_no_bent_byte_makes_a_decoder_stumble() {
        let content: Vec<u8> = (0..400_u32).flat_map(|n| (n * n).to_le_bytes()).collect();
        for (name, packed) in packed(&content) {
            for length in 6..packed.len() {
                // Only the legacy LZ4 format has no end mark to miss.
                if let Ok((unpacked, _)) = unpack(&packed[..length], 1 << 20) {
                    assert!(
                        name == "lz4" || name == "lzma" || unpacked == content,
                        "{name} cut to {length}"
                    );
                }
            }
            for at in 6..packed.len() {
                let mut bent = packed.clone();
                bent[at] ^= 0x55;
                // Either answer will do; what counts is that there is one, and its size.
                if let Ok((unpacked, _)) = unpack(&bent, 1 << 20) {
                    assert!(unpacked.len() <= 1 << 20);
                }
            }
        }
    }

    #[test]
    fn what_is_not_read_is_named() {
        for (bytes, name) in [(&b"BZh91AY"[..], "bzip2"), (b"\x89LZO\0\r\n", "lzo")] {
            let error = unpack(bytes, 1 << 20).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
