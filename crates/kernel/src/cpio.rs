//! Writing the `newc` cpio format, which the kernel unpacks as its initramfs
//! (Linux `Documentation/driver-api/early-userspace/buffer-format.rst`).

/// A cpio archive in the making. Everything belongs to root; times are zero, so the same
/// content makes the same bytes.
#[derive(Default)]
pub(crate) struct Cpio {
    bytes: Vec<u8>,
    entries: u32,
}

const DIRECTORY: u32 = 0o040000;
const REGULAR: u32 = 0o100000;
const CHARACTER: u32 = 0o020000;

impl Cpio {
    /// An archive behind others: the kernel reads one after the other.
    pub(crate) fn after(mut archives: Vec<u8>) -> Cpio {
        archives.resize(archives.len().next_multiple_of(4), 0);
        Cpio {
            bytes: archives,
            entries: 0,
        }
    }

    /// A directory with mode 0755.
    pub(crate) fn directory(&mut self, path: &str) {
        self.entry(path, DIRECTORY | 0o755, (0, 0), &[]);
    }

    /// A file with these permissions.
    pub(crate) fn file(&mut self, path: &str, permissions: u32, content: &[u8]) {
        self.entry(path, REGULAR | permissions, (0, 0), content);
    }

    /// A character device with these permissions.
    pub(crate) fn character_device(&mut self, path: &str, permissions: u32, device: (u32, u32)) {
        self.entry(path, CHARACTER | permissions, device, &[]);
    }

    /// The archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entries = 0;
        self.header("TRAILER!!!", 0, 1, (0, 0), 0);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        debug_assert!(!path.starts_with('/') && content.len() <= u32::MAX as usize);
        self.entries += 1;
        // A directory's count is that of itself and its own `.`.
        let links = if mode & 0o170000 == DIRECTORY { 2 } else { 1 };
        self.header(path, mode, links, device, content.len());
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn header(&mut self, path: &str, mode: u32, links: u32, device: (u32, u32), length: usize) {
        // Magic; then inode, mode, uid, gid, links, mtime, length, device of the file system,
        // the device itself, length of the name with its NUL, checksum: each eight hex digits.
        let header = format!(
            "070701{:08X}{mode:08X}{:08X}{:08X}{links:08X}{:08X}{length:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}",
            self.entries,
            0,
            0,
            0,
            0,
            0,
            device.0,
            device.1,
            path.len() + 1,
            0,
        );
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
    }

    /// Headers and contents begin at multiples of four.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests;
