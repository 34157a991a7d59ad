//! What an ELF kernel says about itself: its release, and its configuration where it was built
//! with `CONFIG_IKCONFIG`.

use crate::compression::Compression;

const BANNER: &[u8] = b"Linux version ";
/// As long as the kernel's own limit, `__NEW_UTS_LEN`.
const MAX_RELEASE: usize = 64;
const CONFIG_BEGINS: &[u8] = b"IKCFG_ST";
/// No configuration is larger.
pub(crate) const MAX_CONFIG: usize = 4 << 20;

/// The kernel's release, as `uname -r` prints it.
pub(crate) fn release(vmlinux: &[u8]) -> Option<String> {
    let mut rest = vmlinux;
    // The banner is there twice, and once more as a format, without a number.
    while let Some(at) = find(rest, BANNER) {
        rest = &rest[at + BANNER.len()..];
        let length = rest.iter().position(|byte| *byte == b' ')?;
        if length <= MAX_RELEASE
            && let Ok(release) = std::str::from_utf8(&rest[..length])
            && is_release(release)
        {
            return Some(release.to_owned());
        }
    }
    None
}

/// Whether this can be a release: it becomes the name of a directory.
pub(crate) fn is_release(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_digit())
        && text.len() <= MAX_RELEASE
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._+~-".contains(&byte))
}

/// The configuration in the kernel, as `/proc/config.gz` would show it.
pub(crate) fn config(vmlinux: &[u8]) -> Option<Vec<u8>> {
    let mut rest = vmlinux;
    while let Some(at) = find(rest, CONFIG_BEGINS) {
        rest = &rest[at + CONFIG_BEGINS.len()..];
        if Compression::of(rest) == Some(Compression::Gzip)
            && let Ok(unpacked) = Compression::Gzip.unpack(rest, MAX_CONFIG)
        {
            return Some(unpacked.content);
        }
    }
    None
}

/// Whether the kernel holds this text.
pub(crate) fn says(vmlinux: &[u8], text: &str) -> bool {
    find(vmlinux, text.as_bytes()).is_some()
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|at| at == wanted)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn the_release_is_found_behind_lookalikes() {
        let kernel = b"\0Linux version %s (%s)\0Linux version 6.1.0-1+x~y (me@here)\0";
        assert_eq!(release(kernel).as_deref(), Some("6.1.0-1+x~y"));
        for bad in [
            "",
            "Linux version ",
            "Linux version 6.1",
            "Linux version ../x ",
            "Linux version 6/../x ",
            "Linux version 6\n ",
        ] {
            assert_eq!(release(bad.as_bytes()), None, "{bad:?}");
        }
        let long = format!("Linux version 6{} ", ".".repeat(MAX_RELEASE));
        assert_eq!(release(long.as_bytes()), None);
    }

    #[test]
    fn the_configuration_is_unpacked_and_bounded() {
        let gzip = |content: &[u8]| {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(content).unwrap();
            gzip.finish().unwrap()
        };
        let kernel = |packed: &[u8]| {
            [
                &b"x IKCFG_ST not this\0"[..],
                CONFIG_BEGINS,
                packed,
                b"IKCFG_ED",
            ]
            .concat()
        };
        let whole = kernel(&gzip(b"CONFIG_PVH=y\n"));
        assert_eq!(config(&whole).unwrap(), b"CONFIG_PVH=y\n");
        assert_eq!(config(&whole[..whole.len() - 20]), None);
        assert_eq!(config(&kernel(&gzip(&vec![b'#'; MAX_CONFIG + 1]))), None);
        assert_eq!(config(b"IKCFG_ST"), None);
    }
}
