//! A tree of files as both sides of the comparison see it.

use std::collections::BTreeMap;

/// Paths, as bytes and without a slash at the front; the root is empty.
pub(crate) type Tree = BTreeMap<Vec<u8>, Node>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    /// As `ls` and `find` name types: f, d, l, c, b, p.
    pub(crate) kind: char,
    pub(crate) mode: u32,
    /// Owner and group; `None` where the second opinion could not express them.
    pub(crate) owner: Option<(u32, u32)>,
    pub(crate) mtime: (i64, u32),
    pub(crate) size: u64,
    /// The digest of a file.
    pub(crate) hash: String,
    /// A file that is short enough to show.
    pub(crate) text: Option<String>,
    pub(crate) target: Vec<u8>,
    pub(crate) device: (u32, u32),
    pub(crate) attributes: BTreeMap<String, Vec<u8>>,
    /// The same for all names of one file.
    pub(crate) inode: u64,
    /// Blocks of 512 bytes, where it is known.
    pub(crate) blocks: Option<u64>,
}

fn is_lost_and_found(path: &[u8]) -> bool {
    path == b"lost+found"
}

/// One line for every entry but the root and `lost+found`, unless something is special about them.
pub(crate) fn describe(tree: &Tree) -> Vec<String> {
    let mut first: BTreeMap<u64, &[u8]> = BTreeMap::new();
    let mut lines = Vec::new();
    for (path, node) in tree {
        let plain = match &path[..] {
            b"" => 0o755,
            b"lost+found" => 0o700,
            _ => u32::MAX,
        };
        if node.mode == plain && node.owner == Some((0, 0)) && node.attributes.is_empty() {
            continue;
        }
        let (uid, gid) = node.owner.unwrap_or_default();
        let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).escape_debug().to_string();
        let mut line = format!("{} {:o} {uid}:{gid} {}", node.kind, node.mode, shown(path));
        match (node.kind, first.get(&node.inode)) {
            (_, Some(other)) => line += &format!(" same as {}", shown(other)),
            ('f', None) => match &node.text {
                Some(text) => line += &format!(" ={text}"),
                None => line += &format!(" {} bytes", node.size),
            },
            ('l', None) => line += &format!(" -> {}", shown(&node.target)),
            ('c' | 'b', None) => line += &format!(" {}:{}", node.device.0, node.device.1),
            _ => {}
        }
        for (name, value) in &node.attributes {
            line += &format!(" {name}={}", value.escape_ascii());
        }
        first.entry(node.inode).or_insert(path);
        lines.push(line);
    }
    lines
}

/// Compares entry by entry: type, mode, owner, time, size, hash, target, device, attributes, and
/// which names are the same file.
#[track_caller]
pub(crate) fn assert_same(mut ours: Tree, mut theirs: Tree) {
    if !theirs.contains_key(&b"lost+found"[..]) {
        ours.retain(|path, _| !is_lost_and_found(path));
    }
    let groups = |tree: &Tree| -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut first = BTreeMap::new();
        tree.iter()
            .map(|(path, node)| {
                let known = first.entry(node.inode).or_insert_with(|| path.clone());
                (path.clone(), known.clone())
            })
            .collect()
    };
    assert_eq!(groups(&ours), groups(&theirs));
    let now = std::time::UNIX_EPOCH.elapsed().unwrap();
    for (path, node) in &mut ours {
        let other = theirs.get_mut(path).unwrap();
        (node.inode, other.inode) = (0, 0);
        (node.blocks, other.blocks) = (None, None);
        // A directory that no layer describes, or with whiteouts in it: umoci made or changed it
        // a moment ago.
        let recent = i64::try_from(now.as_secs()).unwrap() - 3600;
        if node.kind == 'd' && other.mtime.0 > recent {
            other.mtime = node.mtime;
        }
        if other.owner.is_none() {
            node.owner = None;
        }
        if !rustix::process::geteuid().is_root() {
            node.attributes.retain(|name, _| name.starts_with("user."));
            // An ordinary user's umoci puts empty files where devices belong.
            if matches!(node.kind, 'c' | 'b') {
                assert_eq!((other.kind, other.size), ('f', 0));
                continue;
            }
        }
        assert_eq!(node, other, "{}", path.escape_ascii());
    }
}
