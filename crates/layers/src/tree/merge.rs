//! Applying a layer to the tree below it.
//!
//! The rules are those of umoci, which are OCI's where OCI says anything:
//!
//! - A symbolic link in the *directory* of a name is followed, inside the root, as if the root
//!   were `/`. The last component never is: links are replaced, not written through.
//! - A directory over a directory takes over its metadata. Everything else replaces what was
//!   there, with all below it.
//! - A whiteout and an opaque marker hide what lower layers have, never what the same layer has,
//!   in whatever order the layer says it.

use banger_model::Result;

use super::{Inode, NONE, ROOT, Ranges, Tree, attributes, implied_directory, mode};
use crate::name::{components, shown};
use crate::refuse;
use crate::tar::{Entry, Kind, Segment};

/// What the names of whiteouts begin with.
const WHITEOUT: &[u8] = b".wh.";
/// The whiteout for everything in a directory.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Bookkeeping of the file system that invented whiteouts, which Docker ignores, too.
const BOOKKEEPING: &[u8] = b".wh..wh.";
/// How many symbolic links the kernel follows in one path.
const MAX_LINKS: usize = 40;
/// How many steps one path may take in all, those of the links on it included.
const MAX_STEPS: usize = 4096;
/// The longest target of a symbolic link, in bytes.
const MAX_TARGET: usize = 4095;
/// ext4 counts blocks of a file in 32 bits.
const MAX_SIZE: u64 = (1 << 44) - 4096;
/// Block ranges of all sparse files.
const MAX_RANGES: usize = 1 << 18;

/// One step on the way to a directory.
#[derive(Clone)]
enum Step {
    /// It exists: its inode, its name's place (none for the root), and the oldest layer whose
    /// entries below it can be seen.
    There(u32, Option<u32>, u16),
    /// It does not.
    Missing(Vec<u8>),
}

impl Tree<'_> {
    /// Applies `entry`, the one with the number `number` of all layers, which `layer`, counted
    /// from one, has.
    pub(crate) fn apply(&mut self, entry: &Entry, layer: u16, number: u32) -> Result<()> {
        let path = components(&entry.path, self.limits)?;
        let Some((name, parents)) = path.split_last() else {
            return self.apply_root(entry, number);
        };
        if parents.iter().any(|parent| parent.starts_with(WHITEOUT)) {
            if parents.iter().any(|parent| parent.starts_with(BOOKKEEPING)) {
                return Ok(());
            }
            return Err(refuse("it is below a whiteout, which is no directory"));
        }
        if name.starts_with(WHITEOUT) {
            return self.white_out(parents, name, layer);
        }
        let (parent, floor) = self.make_directories(parents, layer)?;
        let known = self.child(parent, name, floor);
        let inode = match entry.kind {
            Kind::HardLink => {
                if let Some((at, _)) = known {
                    self.names[at as usize].inode = NONE;
                }
                self.link_target(&entry.link)?
            }
            Kind::Directory => {
                let mut made = self.new_inode(entry, number)?;
                match known {
                    Some((_, old)) if self.inode(old).is_directory() => {
                        made.detail = self.inode(old).detail;
                        self.inodes[old as usize] = made;
                        old
                    }
                    _ => self.add_inode(made),
                }
            }
            _ => {
                let made = self.new_inode(entry, number)?;
                let inode = self.add_inode(made);
                self.keep_ranges(entry, inode)?;
                inode
            }
        };
        self.set(parent, name, inode, layer)
    }

    fn apply_root(&mut self, entry: &Entry, number: u32) -> Result<()> {
        if entry.kind != Kind::Directory {
            return Err(refuse("it would replace the root directory"));
        }
        let mut made = self.new_inode(entry, number)?;
        made.detail = self.inode(ROOT).detail;
        self.inodes[ROOT as usize] = made;
        Ok(())
    }

    /// Hides what lower layers have under a name, or in a directory.
    fn white_out(&mut self, parents: &[&[u8]], name: &[u8], layer: u16) -> Result<()> {
        let hidden = &name[WHITEOUT.len()..];
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(refuse("it is a whiteout of a whole directory by no name"));
        }
        if name != OPAQUE && name.starts_with(BOOKKEEPING) {
            return Ok(());
        }
        let Some(Step::There(parent, _, floor)) = self.walk(parents)?.pop() else {
            return Ok(());
        };
        if name == OPAQUE {
            self.hide_below(parent, layer);
            return Ok(());
        }
        let Some((at, inode)) = self.child(parent, hidden, floor) else {
            return Ok(());
        };
        let known = &mut self.names[at as usize];
        if known.layer < layer {
            known.inode = NONE;
        } else if self.inode(inode).is_directory() {
            self.hide_below(inode, layer);
        }
        Ok(())
    }

    fn hide_below(&mut self, directory: u32, layer: u16) {
        self.inodes[directory as usize].detail.0 = u32::from(layer);
    }

    /// What can be seen under `name` in a directory: the place of the name, and the inode.
    fn child(&self, parent: u32, name: &[u8], floor: u16) -> Option<(u32, u32)> {
        let at = self.find(parent, name)?;
        let known = &self.names[at as usize];
        (known.inode != NONE && known.layer >= floor).then_some((at, known.inode))
    }

    /// The directory at `path`, made where it is missing; marks the way as part of `layer`.
    /// Returns its inode and the oldest layer whose entries in it can be seen.
    fn make_directories(&mut self, path: &[&[u8]], layer: u16) -> Result<(u32, u16)> {
        let (mut parent, mut floor) = (ROOT, 0);
        for step in self.walk(path)? {
            match step {
                Step::There(inode, at, oldest) => {
                    (parent, floor) = (inode, oldest);
                    if let Some(at) = at {
                        self.names[at as usize].layer = layer;
                    }
                }
                Step::Missing(name) => {
                    let made = self.add_inode(implied_directory());
                    self.set(parent, &name, made, layer)?;
                    parent = made;
                }
            }
        }
        Ok((parent, floor))
    }

    /// Follows a path to a directory, symbolic links included, without ever leaving the root.
    fn walk(&self, path: &[&[u8]]) -> Result<Vec<Step>> {
        let mut steps = vec![Step::There(ROOT, None, self.inode(ROOT).opaque())];
        let mut rest: Vec<&[u8]> = path.iter().rev().copied().collect();
        let (mut links, mut taken) = (0, 0);
        while let Some(name) = rest.pop() {
            taken += 1;
            if taken > MAX_STEPS {
                return Err(refuse("the symbolic links on its way are too long"));
            }
            match name {
                b"" | b"." => continue,
                b".." => {
                    if steps.len() > 1 {
                        steps.pop();
                    }
                    continue;
                }
                _ => {}
            }
            let found = match steps.last() {
                Some(Step::There(parent, _, floor)) => self
                    .child(*parent, name, *floor)
                    .map(|(at, inode)| (at, inode, *floor)),
                _ => None,
            };
            let Some((at, number, floor)) = found else {
                if name.len() > 255 || steps.len() > self.limits.depth {
                    return Err(refuse("a symbolic link on its way leads nowhere"));
                }
                steps.push(Step::Missing(name.to_vec()));
                continue;
            };
            let inode = self.inode(number);
            match inode.kind() {
                mode::DIRECTORY => {
                    steps.push(Step::There(number, Some(at), floor.max(inode.opaque())));
                }
                mode::SYMLINK => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(refuse("there are too many symbolic links on its way"));
                    }
                    let target = self.target(inode);
                    if target.starts_with(b"/") {
                        steps.truncate(1);
                    }
                    rest.extend(target.rsplit(|byte| *byte == b'/'));
                }
                _ => {
                    return Err(refuse(format!(
                        "`{}` on its way is not a directory",
                        shown(name)
                    )));
                }
            }
        }
        Ok(steps)
    }

    /// The inode that a hard link is to, which must exist and be no directory.
    fn link_target(&self, link: &[u8]) -> Result<u32> {
        let path = components(link, self.limits).map_err(|error| {
            refuse(format!("its target `{}` cannot be used", shown(link))).because(error)
        })?;
        let found = match path.split_last() {
            None => Some(ROOT),
            Some((name, parents)) => match self.walk(parents)?.pop() {
                Some(Step::There(parent, _, floor)) => {
                    self.child(parent, name, floor).map(|(_, inode)| inode)
                }
                _ => None,
            },
        };
        match found {
            Some(inode) if !self.inode(inode).is_directory() => Ok(inode),
            Some(_) => Err(refuse(format!(
                "its target `{}` is a directory",
                shown(link)
            ))),
            None => Err(refuse(format!(
                "its target `{}` does not exist",
                shown(link)
            ))),
        }
    }

    fn new_inode(&mut self, entry: &Entry, number: u32) -> Result<Inode> {
        let (kind, detail) = match entry.kind {
            Kind::File | Kind::HardLink => {
                if entry.size > MAX_SIZE {
                    return Err(refuse("it is longer than ext4 lets a file be"));
                }
                let size = (entry.size as u32, (entry.size >> 32) as u32);
                (mode::FILE, size)
            }
            Kind::Directory => (mode::DIRECTORY, (0, 0)),
            Kind::Fifo => (mode::FIFO, (0, 0)),
            Kind::CharDevice => (mode::CHAR, entry.device),
            Kind::BlockDevice => (mode::BLOCK, entry.device),
            Kind::Symlink => {
                let target = &entry.link;
                if target.is_empty() || target.len() > MAX_TARGET || target.contains(&0) {
                    return Err(refuse("the target of the symbolic link is not valid"));
                }
                let at = self.add_text(&[target])?;
                (mode::SYMLINK, (at, target.len() as u32))
            }
        };
        let permissions = match kind {
            mode::SYMLINK => 0o777,
            _ => entry.mode,
        };
        let room = (self.limits.text as usize).saturating_sub(self.text.len());
        let set = attributes::encode(&entry.attributes)?;
        Ok(Inode {
            mode: kind | permissions,
            links: 0,
            entry: number,
            uid: entry.uid,
            gid: entry.gid,
            modified: crate::ext4::time(entry.modified),
            attributes: match set {
                Some(set) => self
                    .attributes
                    .add(&set, room)
                    .ok_or_else(|| super::too_much_text(self.limits))?,
                None => NONE,
            },
            detail,
            first: 0,
        })
    }

    /// Remembers which blocks of a sparse file there are.
    fn keep_ranges(&mut self, entry: &Entry, inode: u32) -> Result<()> {
        let Some(segments) = &entry.sparse else {
            return Ok(());
        };
        let ranges = block_ranges(segments);
        self.ranges += ranges.len();
        if self.ranges > MAX_RANGES {
            return Err(refuse(format!(
                "with it there are sparse files of more than {MAX_RANGES} pieces"
            )));
        }
        self.sparse.push((inode, ranges));
        Ok(())
    }

    fn target(&self, inode: &Inode) -> &[u8] {
        let (at, length) = inode.detail;
        &self.text[at as usize..][..length as usize]
    }
}

/// The blocks that the segments touch: first and count, in rising order, apart from each other.
fn block_ranges(segments: &[Segment]) -> Ranges {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for segment in segments {
        let start = (segment.offset / crate::ext4::BLOCK) as u32;
        let end = (segment.offset + segment.length).div_ceil(crate::ext4::BLOCK) as u32;
        match ranges.last_mut() {
            Some((first, count)) if start <= *first + *count => *count = end - *first,
            _ => ranges.push((start, end - start)),
        }
    }
    ranges.into()
}
