//! A kernel's own initial RAM disk, made plain.
//!
//! What distributions build is one or more cpio archives, the last of them mostly compressed.
//! It is unpacked when it is imported: so a kernel that cannot read its compression is no
//! trouble, a damaged one is refused before it is used, and every boot spares the work.
//!
//! It comes before ours in the initramfs. Where both have a file the kernel keeps the last, so
//! `/init` is always the agent; the rest, such as microcode and firmware, is there for the
//! kernel.

use std::io;

use banger_model::{Code, Error, Result};

use crate::compression::Compression;

/// No initial RAM disk is larger, unpacked.
const MAX_INITRD: usize = 512 << 20;
/// The magic numbers of cpio headers the kernel reads: without and with checksums.
const NEWC: [&[u8]; 2] = [b"070701", b"070702"];
/// The length of a header.
const HEADER: usize = 110;
/// No path is longer.
const MAX_NAME: usize = 4096;
const TRAILER: &[u8] = b"TRAILER!!!";

/// The cpio archives in `initrd`, one behind the other, uncompressed.
///
/// # Errors
/// `build_failed`, saying what is wrong with it.
pub(crate) fn plain(initrd: &[u8]) -> Result<Vec<u8>> {
    unpack(initrd, MAX_INITRD)
        .map_err(|error| Error::new(Code::BuildFailed, "the initrd cannot be used").because(error))
}

fn unpack(mut rest: &[u8], limit: usize) -> io::Result<Vec<u8>> {
    let mut plain = Vec::new();
    // One level of compression, as the kernel has it.
    while let Some(start) = rest.iter().position(|byte| *byte != 0) {
        rest = &rest[start..];
        if is_cpio(rest) {
            let length = archive_length(rest)?;
            append(&mut plain, &rest[..length], limit)?;
            rest = &rest[length..];
            continue;
        }
        let compression = Compression::of(rest)
            .ok_or_else(|| io::Error::other("it is no cpio archive, compressed or not"))?;
        let unpacked = compression.unpack(rest, limit.saturating_sub(plain.len()))?;
        let mut inner = unpacked.content.as_slice();
        while let Some(start) = inner.iter().position(|byte| *byte != 0) {
            inner = &inner[start..];
            if !is_cpio(inner) {
                return Err(io::Error::other("what it holds is no cpio archive"));
            }
            let length = archive_length(inner)?;
            append(&mut plain, &inner[..length], limit)?;
            inner = &inner[length..];
        }
        rest = unpacked.rest;
    }
    if plain.is_empty() {
        return Err(io::Error::other("it is empty"));
    }
    Ok(plain)
}

fn append(plain: &mut Vec<u8>, archive: &[u8], limit: usize) -> io::Result<()> {
    if plain.len() + archive.len() > limit {
        return Err(io::Error::other("it is too large"));
    }
    plain.extend_from_slice(archive);
    // Whatever follows begins at a multiple of four.
    plain.resize(plain.len().next_multiple_of(4), 0);
    Ok(())
}

fn is_cpio(bytes: &[u8]) -> bool {
    NEWC.iter().any(|magic| bytes.starts_with(magic))
}

/// The length of the archive that `bytes` begin with, its trailer included.
fn archive_length(bytes: &[u8]) -> io::Result<usize> {
    let cut = || io::Error::other("a cpio archive in it is cut off");
    let mut at = 0usize;
    loop {
        let header = at
            .checked_add(HEADER)
            .and_then(|end| bytes.get(at..end))
            .ok_or_else(cut)?;
        if !is_cpio(header) {
            return Err(io::Error::other("a cpio archive in it is damaged"));
        }
        let field = |number: usize| -> io::Result<usize> {
            let text = &header[6 + number * 8..14 + number * 8];
            // Stricter than `from_str_radix`, which takes a sign.
            std::str::from_utf8(text)
                .ok()
                .filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()))
                .and_then(|text| usize::from_str_radix(text, 16).ok())
                .ok_or_else(|| io::Error::other("a cpio archive in it is damaged"))
        };
        let (length, name_length) = (field(6)?, field(11)?);
        if name_length == 0 || name_length > MAX_NAME {
            return Err(io::Error::other(
                "a cpio archive in it has an impossible name",
            ));
        }
        let name_end = at + HEADER + name_length;
        let name = bytes.get(at + HEADER..name_end).ok_or_else(cut)?;
        let content = name_end.next_multiple_of(4);
        at = content
            .checked_add(length)
            .and_then(|end| end.checked_next_multiple_of(4))
            .ok_or_else(cut)?;
        if name.strip_suffix(b"\0") == Some(TRAILER) {
            // The padding behind the last may be left out.
            return Ok(at.min(bytes.len()));
        }
        if at > bytes.len() {
            return Err(cut());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compression::tests::packed;
    use crate::cpio::Cpio;

    fn archive(name: &str) -> Vec<u8> {
        let mut cpio = Cpio::default();
        cpio.directory("kernel");
        cpio.file(name, 0o644, b"content");
        cpio.finish()
    }

    #[test]
    fn early_and_compressed_parts_become_one_plain_file() {
        let (early, main) = (archive("kernel/microcode"), archive("init"));
        let expected = [&early[..], &main].concat();
        assert_eq!(plain(&main).unwrap(), main);
        assert_eq!(
            plain(&[&early[..], &[0; 300], &main].concat()).unwrap(),
            expected
        );
        for (name, packed) in packed(&main) {
            let initrd = [&early[..], &[0; 512], &packed, &[0; 3]].concat();
            assert_eq!(plain(&initrd).unwrap(), expected, "{name}");
        }
        let inner = [&early[..], &[0; 8], &main].concat();
        assert_eq!(
            plain(&zstd::encode_all(&inner[..], 1).unwrap()).unwrap(),
            expected
        );
    }

    #[test]
    fn damage_is_refused() {
        let whole = archive("init");
        for length in 0..whole.len() - 3 {
            assert!(plain(&whole[..length]).is_err(), "{length}");
        }
        for at in 0..whole.len() {
            let mut bent = whole.clone();
            bent[at] = b'f';
            // Either answer will do; what counts is that there is one.
            drop(plain(&bent));
        }
        let twice = zstd::encode_all(&zstd::encode_all(&whole[..], 1).unwrap()[..], 1).unwrap();
        for bad in [&b""[..], &[0; 64], b"#!/bin/sh", b"BZh91AY&SY", &twice] {
            assert_eq!(plain(bad).unwrap_err().code(), Code::BuildFailed);
        }
        let behind = [&whole[..], b"something else"].concat();
        assert!(plain(&behind).is_err());
    }

    #[test]
    fn a_bomb_is_stopped() {
        let mut cpio = Cpio::default();
        cpio.file("zeros", 0o644, &vec![0; 4 << 20]);
        let bomb = zstd::encode_all(&cpio.finish()[..], 1).unwrap();
        assert!(unpack(&bomb, 5 << 20).is_ok());
        assert!(unpack(&bomb, 4 << 20).is_err());
        assert!(unpack(&[&bomb[..], &bomb].concat(), 5 << 20).is_err());
    }
}
