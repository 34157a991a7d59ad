//! The merged tree of all layers, in memory: names and metadata, no contents.
//!
//! Made for a million entries: 16 bytes a name, 40 bytes an inode, 5 to 9 bytes in the table that
//! finds a name, and the text of the names itself. Nothing is ever taken out while layers are
//! applied; what a layer hides is left behind and dropped by [`Tree::finish`].
//!
//! ```text
//! layers ──apply──▶ Tree { names ─▶ inodes } ──finish──▶ Finished: only what is left, sorted
//! ```

mod attributes;
mod finish;
mod merge;

use std::hash::{BuildHasher, RandomState};

use banger_model::Result;
use hashbrown::HashTable;

pub(crate) use attributes::{Attributes, Set};
pub(crate) use finish::Finished;

use crate::limits::Limits;
use crate::refuse;

/// The inode of the root directory.
pub(crate) const ROOT: u32 = 0;
/// Instead of the number of an inode or of a set of attributes.
const NONE: u32 = u32::MAX;

/// The blocks that a sparse file has: first and count, in rising order.
type Ranges = Box<[(u32, u32)]>;

/// The type bits of a mode, as in `stat`.
pub(crate) mod mode {
    pub(crate) const TYPE: u16 = 0o170_000;
    pub(crate) const FIFO: u16 = 0o010_000;
    pub(crate) const CHAR: u16 = 0o020_000;
    pub(crate) const DIRECTORY: u16 = 0o040_000;
    pub(crate) const BLOCK: u16 = 0o060_000;
    pub(crate) const FILE: u16 = 0o100_000;
    pub(crate) const SYMLINK: u16 = 0o120_000;
}

/// A name in a directory.
struct Name {
    /// The inode of the directory. A directory that is removed and made again is another inode,
    /// so what was in it does not come back.
    parent: u32,
    /// Where the text is.
    text: u32,
    /// What has the name; [`NONE`] when it was removed.
    inode: u32,
    /// The last layer, from one, with an entry for it or for something below it.
    layer: u16,
}

/// A file, directory, link or device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inode {
    /// Type and permissions, as in `stat`.
    pub(crate) mode: u16,
    pub(crate) links: u16,
    /// Which entry of all layers it came from, which is where its bytes are.
    pub(crate) entry: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The low half and the high half of the time, as ext4 stores it.
    pub(crate) modified: (u32, u32),
    /// The set of extended attributes, or [`NONE`].
    attributes: u32,
    /// What the type needs, see the methods.
    detail: (u32, u32),
    /// Where its blocks begin, in the order of free blocks. Filled in when the disk is planned.
    pub(crate) first: u32,
}

impl Inode {
    pub(crate) fn kind(&self) -> u16 {
        self.mode & mode::TYPE
    }

    pub(crate) fn is_directory(&self) -> bool {
        self.kind() == mode::DIRECTORY
    }

    /// The length of a file in bytes.
    pub(crate) fn size(&self) -> u64 {
        u64::from(self.detail.1) << 32 | u64::from(self.detail.0)
    }

    /// The major and minor number of a device.
    pub(crate) fn device(&self) -> (u32, u32) {
        self.detail
    }

    /// The directory that a directory is in, once the tree is finished.
    pub(crate) fn parent(&self) -> u32 {
        self.detail.1
    }

    /// How many blocks a directory takes, once that has been counted.
    pub(crate) fn directory_blocks(&self) -> u32 {
        self.detail.0
    }

    pub(crate) fn set_directory_blocks(&mut self, blocks: u32) {
        self.detail.0 = blocks;
    }

    /// The layer that hid everything older in a directory; zero for none.
    fn opaque(&self) -> u16 {
        self.detail.0 as u16
    }
}

/// The tree while layers are applied to it.
pub(crate) struct Tree<'l> {
    limits: &'l Limits,
    names: Vec<Name>,
    inodes: Vec<Inode>,
    /// Names, each behind its length, and targets of symbolic links.
    text: Vec<u8>,
    table: HashTable<u32>,
    hasher: RandomState,
    attributes: Attributes,
    /// The blocks of the sparse files, by inode.
    sparse: Vec<(u32, Ranges)>,
    ranges: usize,
}

impl<'l> Tree<'l> {
    /// A tree that has only its root: 0755, root's.
    pub(crate) fn new(limits: &'l Limits) -> Self {
        Tree {
            limits,
            names: Vec::new(),
            inodes: vec![implied_directory()],
            text: Vec::new(),
            table: HashTable::new(),
            hasher: RandomState::new(),
            attributes: Attributes::default(),
            sparse: Vec::new(),
            ranges: 0,
        }
    }

    fn inode(&self, number: u32) -> &Inode {
        &self.inodes[number as usize]
    }

    fn add_inode(&mut self, inode: Inode) -> u32 {
        self.inodes.push(inode);
        (self.inodes.len() - 1) as u32
    }

    /// The place of a name, whether or not anything has it now.
    fn find(&self, parent: u32, name: &[u8]) -> Option<u32> {
        let hash = self.hasher.hash_one((parent, name));
        self.table
            .find(hash, |at| {
                let known = &self.names[*at as usize];
                known.parent == parent && name_at(&self.text, known.text) == name
            })
            .copied()
    }

    /// Gives `name` in the directory `parent` to `inode`.
    fn set(&mut self, parent: u32, name: &[u8], inode: u32, layer: u16) -> Result<()> {
        if let Some(at) = self.find(parent, name) {
            let known = &mut self.names[at as usize];
            (known.inode, known.layer) = (inode, layer);
            return Ok(());
        }
        let text = self.add_text(&[&[name.len() as u8], name])?;
        let at = self.names.len() as u32;
        self.names.push(Name {
            parent,
            text,
            inode,
            layer,
        });
        let (names, text, hasher) = (&self.names, &self.text, &self.hasher);
        self.table
            .insert_unique(hasher.hash_one((parent, name)), at, |at| {
                let name = &names[*at as usize];
                hasher.hash_one((name.parent, name_at(text, name.text)))
            });
        Ok(())
    }

    /// Keeps `pieces`, one behind the other; returns where.
    fn add_text(&mut self, pieces: &[&[u8]]) -> Result<u32> {
        let start = self.text.len();
        for piece in pieces {
            self.text.extend_from_slice(piece);
        }
        if self.text.len() + self.attributes.size() > self.limits.text as usize {
            return Err(too_much_text(self.limits));
        }
        Ok(start as u32)
    }
}

/// The name at `at`, behind its length.
fn name_at(text: &[u8], at: u32) -> &[u8] {
    let at = at as usize;
    &text[at + 1..at + 1 + usize::from(text[at])]
}

/// A directory that no layer describes.
fn implied_directory() -> Inode {
    Inode {
        mode: mode::DIRECTORY | 0o755,
        links: 0,
        entry: NONE,
        uid: 0,
        gid: 0,
        modified: (0, 0),
        attributes: NONE,
        detail: (0, 0),
        first: 0,
    }
}

fn too_much_text(limits: &Limits) -> banger_model::Error {
    refuse(format!(
        "the names and attributes in it take more than {} KiB, which is the limit",
        limits.text >> 10
    ))
}
