//! From the tree with everything that was ever in it to what is left at the end.

use banger_model::Result;
use hashbrown::HashTable;

use super::{
    Attributes, Inode, NONE, Name, ROOT, Ranges, Set, Tree, implied_directory, mode, name_at,
};
use crate::refuse;

/// The directory that e2fsck wants in every ext4, and `mke2fs` makes.
const LOST_AND_FOUND: &[u8] = b"lost+found";
/// More hard links than ext4 counts.
const MAX_LINKS: u32 = 65_000;

/// The tree that goes to disk. Inodes are numbered from zero: first the root, then
/// `lost+found`, then the others in the order of the entries that they came from.
pub(crate) struct Finished {
    pub(crate) inodes: Vec<Inode>,
    /// Sorted by directory and name.
    names: Vec<Name>,
    text: Vec<u8>,
    attributes: Attributes,
    sparse: Vec<(u32, Ranges)>,
}

impl Tree<'_> {
    /// Drops what later layers hid, counts links, and numbers what is left.
    ///
    /// # Errors
    /// When the root has a `lost+found` that is no directory, or a file has too many names.
    pub(crate) fn finish(mut self) -> Result<Finished> {
        self.table = HashTable::new();
        self.add_lost_and_found()?;
        let mut names = std::mem::take(&mut self.names);
        names.retain(|name| name.inode != NONE);
        names.sort_unstable_by(|a, b| {
            (a.parent, name_at(&self.text, a.text)).cmp(&(b.parent, name_at(&self.text, b.text)))
        });
        self.mark_visible(&mut names)?;
        names.retain(|name| name.inode != NONE);

        // New numbers in the old order; the old inodes without links are gone.
        let lost_and_found = (self.inodes.len() - 1) as u32;
        let lost_and_found = names
            .iter()
            .find(|name| name.parent == ROOT && name_at(&self.text, name.text) == LOST_AND_FOUND)
            .map_or(lost_and_found, |name| name.inode);
        let mut numbers = vec![NONE; self.inodes.len()];
        (numbers[ROOT as usize], numbers[lost_and_found as usize]) = (0, 1);
        let mut next = 2;
        for (number, inode) in numbers.iter_mut().zip(&self.inodes) {
            if *number == NONE && inode.links > 0 {
                *number = next;
                next += 1;
            }
        }
        let (root, found) = (
            self.inodes[ROOT as usize],
            self.inodes[lost_and_found as usize],
        );
        let mut old = 0_u32;
        self.inodes.retain(|inode| {
            let keep = inode.links > 0 && old != ROOT && old != lost_and_found;
            old += 1;
            keep
        });
        self.inodes.splice(0..0, [root, found]);
        for name in &mut names {
            name.parent = numbers[name.parent as usize];
            name.inode = numbers[name.inode as usize];
            let inode = &mut self.inodes[name.inode as usize];
            if inode.is_directory() {
                inode.detail = (0, name.parent);
            }
        }
        self.inodes[ROOT as usize].detail = (0, ROOT);
        // Directories got new numbers in the same order, but for `lost+found`.
        names.sort_by_key(|name| name.parent);
        self.sparse.retain_mut(|(inode, _)| {
            *inode = numbers[*inode as usize];
            *inode != NONE
        });
        self.sparse.sort_unstable_by_key(|(inode, _)| *inode);
        Ok(Finished {
            inodes: self.inodes,
            names,
            text: self.text,
            attributes: self.attributes,
            sparse: self.sparse,
        })
    }

    fn add_lost_and_found(&mut self) -> Result<()> {
        let floor = self.inode(ROOT).opaque();
        let known = self.names.iter().position(|name| {
            name.parent == ROOT && name_at(&self.text, name.text) == LOST_AND_FOUND
        });
        if let Some(at) = known {
            let name = &self.names[at];
            if name.inode != NONE && name.layer >= floor {
                if self.inode(name.inode).is_directory() {
                    return Ok(());
                }
                return Err(refuse(
                    "`/lost+found` is not a directory, as it must be on ext4",
                ));
            }
        }
        let inode = self.add_inode(Inode {
            mode: mode::DIRECTORY | 0o700,
            ..implied_directory()
        });
        match known {
            Some(at) => {
                self.names[at].inode = inode;
                self.names[at].layer = u16::MAX;
            }
            None => {
                let text = self.add_text(&[&[LOST_AND_FOUND.len() as u8], LOST_AND_FOUND])?;
                self.names.push(Name {
                    parent: ROOT,
                    text,
                    inode,
                    layer: u16::MAX,
                });
            }
        }
        Ok(())
    }

    /// Counts the links of everything that can be reached from the root, and takes the inode from
    /// every name that cannot.
    fn mark_visible(&mut self, names: &mut [Name]) -> Result<()> {
        let mut seen = vec![false; names.len()];
        let mut directories = vec![(ROOT, self.inode(ROOT).opaque())];
        self.inodes[ROOT as usize].links = 2;
        while let Some((directory, floor)) = directories.pop() {
            let start = names.partition_point(|name| name.parent < directory);
            let children = names[start..]
                .iter()
                .take_while(|name| name.parent == directory);
            for (at, name) in (start..).zip(children) {
                if name.layer < floor {
                    continue;
                }
                seen[at] = true;
                let inode = &mut self.inodes[name.inode as usize];
                if inode.is_directory() {
                    // Its name and its `.`; and its `..` counts for the directory it is in. Beyond
                    // what ext4 counts the number is one, which says "many".
                    inode.links = add_directory(inode.links, 2);
                    directories.push((name.inode, floor.max(inode.opaque())));
                    let parent = &mut self.inodes[directory as usize];
                    parent.links = add_directory(parent.links, 1);
                } else if u32::from(inode.links) == MAX_LINKS {
                    return Err(refuse(format!(
                        "the file with the name `{}` has more than {MAX_LINKS} names",
                        crate::name::shown(name_at(&self.text, name.text))
                    )));
                } else {
                    inode.links += 1;
                }
            }
        }
        for (name, seen) in names.iter_mut().zip(seen) {
            if !seen {
                name.inode = NONE;
            }
        }
        Ok(())
    }
}

fn add_directory(links: u16, more: u16) -> u16 {
    match links {
        1 => 1,
        _ if u32::from(links) + u32::from(more) >= MAX_LINKS => 1,
        _ => links + more,
    }
}

impl Finished {
    /// Every directory with its names, by number of inode.
    pub(crate) fn directories(
        &self,
    ) -> impl Iterator<Item = (u32, impl Iterator<Item = (&[u8], u32)> + Clone)> {
        let mut rest = &self.names[..];
        let directories = self.inodes.iter().zip(0_u32..);
        directories
            .filter(|(inode, _)| inode.is_directory())
            .map(move |(_, number)| {
                let count = rest.partition_point(|name| name.parent <= number);
                let (children, others) = rest.split_at(count);
                rest = others;
                let children = children
                    .iter()
                    .map(|name| (name_at(&self.text, name.text), name.inode));
                (number, children)
            })
    }

    pub(crate) fn target(&self, inode: &Inode) -> &[u8] {
        let (at, length) = inode.detail;
        &self.text[at as usize..][..length as usize]
    }

    pub(crate) fn attributes(&self, inode: &Inode) -> Set<'_> {
        self.attributes.get(inode.attributes)
    }

    /// The block ranges of a sparse file; `None` for a file without holes.
    pub(crate) fn ranges(&self, number: u32) -> Option<&[(u32, u32)]> {
        let at = self
            .sparse
            .binary_search_by_key(&number, |(inode, _)| *inode)
            .ok()?;
        Some(&self.sparse[at].1)
    }
}
