//! Making archives, byte by byte: most of these no tar program would write.

use std::io::{Read, Write};

/// An archive being made. Nothing in it is checked.
#[derive(Clone, Default)]
pub(crate) struct Tar(Vec<u8>);

/// One entry to be.
#[derive(Clone)]
pub(crate) struct Item {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: u8,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) mtime: u64,
    pub(crate) link: Vec<u8>,
    pub(crate) device: (u32, u32),
    pub(crate) data: Vec<u8>,
    /// The size the header states, when it is not that of `data`.
    pub(crate) size: Option<u64>,
    pub(crate) gnu: bool,
}

pub(crate) fn item(kind: u8, path: impl AsRef<[u8]>) -> Item {
    Item {
        path: path.as_ref().to_vec(),
        kind,
        mode: if kind == b'5' { 0o755 } else { 0o644 },
        uid: 0,
        gid: 0,
        mtime: 1_000_000_000,
        link: Vec::new(),
        device: (0, 0),
        data: Vec::new(),
        size: None,
        gnu: false,
    }
}

impl Item {
    pub(crate) fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    pub(crate) fn owner(mut self, uid: u64, gid: u64) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }

    pub(crate) fn link(mut self, link: impl AsRef<[u8]>) -> Self {
        self.link = link.as_ref().to_vec();
        self
    }

    pub(crate) fn data(mut self, data: impl AsRef<[u8]>) -> Self {
        self.data = data.as_ref().to_vec();
        self
    }

    pub(crate) fn device(mut self, major: u32, minor: u32) -> Self {
        self.device = (major, minor);
        self
    }

    pub(crate) fn size(mut self, size: u64) -> Self {
        self.size = Some(size);
        self
    }

    /// With GNU's magic, in which numbers may be binary and prefixes are none.
    pub(crate) fn gnu(mut self) -> Self {
        self.gnu = true;
        self
    }

    pub(crate) fn header(&self) -> [u8; 512] {
        let mut header = [0; 512];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.path[..self.path.len().min(100)]);
        put(100, &number(u64::from(self.mode), 8));
        put(108, &number(self.uid, 8));
        put(116, &number(self.gid, 8));
        put(
            124,
            &number(self.size.unwrap_or(self.data.len() as u64), 12),
        );
        put(136, &number(self.mtime, 12));
        put(156, &[self.kind]);
        put(157, &self.link[..self.link.len().min(100)]);
        put(
            257,
            if self.gnu {
                b"ustar  \0"
            } else {
                b"ustar\x0000"
            },
        );
        put(329, &number(u64::from(self.device.0), 8));
        put(337, &number(u64::from(self.device.1), 8));
        sum(&mut header);
        header
    }
}

/// Sets the checksum of a header.
pub(crate) fn sum(header: &mut [u8; 512]) {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Octal, or binary as GNU does when that is too small.
fn number(value: u64, length: usize) -> Vec<u8> {
    let octal = format!("{value:0width$o}\0", width = length - 1);
    if octal.len() == length {
        return octal.into_bytes();
    }
    let mut bytes = vec![0; length];
    bytes[0] = 0x80;
    bytes[length - 8..]
        .iter_mut()
        .zip(value.to_be_bytes())
        .for_each(|(slot, byte)| *slot |= byte);
    bytes
}

pub(crate) fn tar() -> Tar {
    Tar::default()
}

impl Tar {
    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn pad(mut self) -> Self {
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn add(self, item: Item) -> Self {
        self.raw(&item.header()).raw(&item.data).pad()
    }

    pub(crate) fn file(self, path: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Self {
        self.add(item(b'0', path).data(data))
    }

    pub(crate) fn dir(self, path: impl AsRef<[u8]>) -> Self {
        self.add(item(b'5', path))
    }

    pub(crate) fn symlink(self, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.add(item(b'2', path).link(target))
    }

    pub(crate) fn hard_link(self, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.add(item(b'1', path).link(target))
    }

    /// An entry that hides `path` of the layers below.
    pub(crate) fn whiteout(self, path: &str) -> Self {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let slash = if parent.is_empty() { "" } else { "/" };
        self.file(format!("{parent}{slash}.wh.{name}"), "")
    }

    /// An entry that hides everything in `path` of the layers below.
    pub(crate) fn opaque(self, path: &str) -> Self {
        self.file(format!("{path}/.wh..wh..opq"), "")
    }

    /// pax records for the next entry.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let data: Vec<u8> = records
            .iter()
            .flat_map(|(key, value)| record(key, value))
            .collect();
        self.add(item(b'x', "pax").data(data))
    }

    /// The finished archive.
    pub(crate) fn end(self) -> Vec<u8> {
        self.raw(&[0; 1024]).0
    }

    /// The archive without its end.
    pub(crate) fn open_end(self) -> Vec<u8> {
        self.0
    }
}

pub(crate) fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// What is in a layer, or what can be read of it.
pub(crate) fn unpacked(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    let limit = 64 << 20;
    let read = match bytes {
        [0x1f, 0x8b, ..] => flate2::read::MultiGzDecoder::new(bytes)
            .take(limit)
            .read_to_end(&mut plain),
        [0x28, 0xb5, ..] => zstd::Decoder::new(bytes)
            .unwrap()
            .take(limit)
            .read_to_end(&mut plain),
        _ => return bytes.to_vec(),
    };
    // A damaged layer has no digest that could be right.
    drop(read);
    plain
}
