//! Reading an image back with debugfs, by inode numbers, so that no name is ever in a script.
//! Directories are dumped like files; their blocks are simple enough to read here.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use super::digest;
use super::tree::{Node, Tree};

/// What debugfs says when it runs a script.
pub(crate) fn debugfs(disk: &Path, script: &str) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), script).unwrap();
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap());
    let output = Command::new("debugfs")
        .env("PATH", path)
        .arg("-f")
        .args([file.path(), disk])
        .stdin(Stdio::null())
        .output()
        .expect("debugfs is missing; run scripts/install-deps");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said.lines().count(), 1, "{said}");
    output.stdout
}

/// The output of every command of a script, without the lines that repeat the commands.
fn sections(output: &[u8], commands: &[String]) -> Vec<Vec<u8>> {
    let mut rest = output;
    let mut found = Vec::new();
    for (number, command) in commands.iter().enumerate() {
        let head = format!("debugfs: {command}\n");
        rest = rest.strip_prefix(head.as_bytes()).unwrap();
        let next = commands
            .get(number + 1)
            .map(|next| format!("\ndebugfs: {next}\n"));
        let end = next
            .and_then(|next| find(rest, next.as_bytes()))
            .map_or(rest.len(), |at| at + 1);
        found.push(rest[..end].to_vec());
        rest = &rest[end..];
    }
    found
}

fn find(text: &[u8], word: &[u8]) -> Option<usize> {
    text.windows(word.len()).position(|window| window == word)
}

/// Everything in the image.
pub(crate) fn read(disk: &Path) -> Tree {
    let free = |field: &str, text: &str| -> u64 {
        let line = text.lines().find(|line| line.starts_with(field)).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let stats = String::from_utf8(debugfs(disk, "stats -h\n")).unwrap();
    let last = free("Inode count:", &stats) - free("Free inodes:", &stats);
    let directory = tempfile::tempdir().unwrap();
    let numbers: Vec<u64> = std::iter::once(2).chain(11..=last).collect();
    let commands: Vec<String> = numbers
        .iter()
        .map(|number| format!("stat <{number}>"))
        .collect();
    let output = debugfs(disk, &format!("{}\n", commands.join("\n")));
    let mut nodes: BTreeMap<u64, Node> = numbers
        .iter()
        .zip(sections(&output, &commands))
        .map(|(number, text)| (*number, parse(*number, &text)))
        .collect();

    let name = |number: &u64| directory.path().join(number.to_string());
    let dumps: String = nodes
        .iter()
        // Sparse giants are for the tests that know them.
        .filter(|(_, node)| node.size <= 16 << 20)
        .filter(|(_, node)| matches!(node.kind, 'f' | 'd') || node.kind == 'l' && node.size >= 60)
        .map(|(number, _)| format!("dump <{number}> {}\n", name(number).display()))
        .collect();
    debugfs(disk, &dumps);
    read_attributes(disk, &mut nodes);
    for (number, node) in &mut nodes {
        let Ok(bytes) = std::fs::read(name(number)) else {
            continue;
        };
        match node.kind {
            'f' => node.take_bytes(&bytes),
            'l' => node.target = bytes[..node.size as usize].to_vec(),
            _ => {}
        }
    }

    let mut tree = Tree::new();
    let mut todo = vec![(Vec::new(), 2)];
    while let Some((path, number)) = todo.pop() {
        let mut node = nodes[&number].clone();
        if node.kind == 'd' {
            let block = std::fs::read(name(&number)).unwrap();
            todo.extend(children(&block).map(|(child, number)| {
                let slash: &[u8] = if path.is_empty() { b"" } else { b"/" };
                ([&path[..], slash, &child].concat(), number)
            }));
            node.size = 0;
        }
        tree.insert(path, node);
    }
    tree
}

impl Node {
    /// Remembers what is in a file.
    pub(crate) fn take_bytes(&mut self, bytes: &[u8]) {
        assert_eq!(self.size, bytes.len() as u64);
        self.hash = digest(bytes).to_string();
        self.text = String::from_utf8(bytes.to_vec())
            .ok()
            .filter(|text| text.len() < 40 && !text.contains('\0'));
    }
}

/// Names and inodes in the blocks of a directory, `.` and `..` apart.
fn children(mut blocks: &[u8]) -> impl Iterator<Item = (Vec<u8>, u64)> {
    std::iter::from_fn(move || {
        while blocks.len() >= 8 {
            let inode = u32::from_le_bytes(blocks[..4].try_into().unwrap());
            let length = usize::from(u16::from_le_bytes([blocks[4], blocks[5]]));
            let name = blocks[8..8 + usize::from(blocks[6])].to_vec();
            blocks = &blocks[length..];
            if inode != 0 && name != b"." && name != b".." {
                return Some((name, u64::from(inode)));
            }
        }
        None
    })
}

/// What debugfs's `stat` says.
fn parse(number: u64, bytes: &[u8]) -> Node {
    let text = String::from_utf8_lossy(bytes);
    let after = |word: &str| {
        let at = text
            .find(word)
            .unwrap_or_else(|| panic!("{word} in {text}"));
        text[at + word.len()..].trim_start()
    };
    let word = |name: &str| after(name).split_whitespace().next().unwrap();
    let id = |name: &str| word(name).parse::<i64>().unwrap() as u32;
    let kind = match word("Type:") {
        "regular" => 'f',
        "directory" => 'd',
        "symlink" => 'l',
        "character" => 'c',
        "block" => 'b',
        "FIFO" => 'p',
        other => panic!("{other}"),
    };
    let (low, high) = word("mtime: 0x").split_once(':').unwrap();
    let low = u32::from_str_radix(low, 16).unwrap();
    let high = u32::from_str_radix(high, 16).unwrap();
    let seconds = i64::from(low as i32) + (i64::from(high & 3) << 32);
    let mut target = Vec::new();
    let size: u64 = word("Size:").parse().unwrap();
    if let Some(at) = find(bytes, b"Fast link dest: \"") {
        target = bytes[at + 17..][..size as usize].to_vec();
    }
    let device = text.find("Device major/minor number:").map(|_| {
        let (major, minor) = word("Device major/minor number:").split_once(':').unwrap();
        (major.parse().unwrap(), minor.parse().unwrap())
    });
    let names = text
        .split_once("Extended attributes:\n")
        .map_or("", |(_, rest)| rest);
    let attributes = names
        .lines()
        .take_while(|line| line.starts_with("  "))
        .map(|line| {
            let (name, _) = line.trim_start().rsplit_once(" (").unwrap();
            let name = name.split_once(" (").map_or(name, |(name, _)| name);
            (name.to_owned(), Vec::new())
        })
        .collect();
    Node {
        kind,
        mode: u32::from_str_radix(word("Mode:"), 8).unwrap(),
        owner: Some((id("User:"), id("Group:"))),
        mtime: (seconds, high >> 2),
        size,
        hash: String::new(),
        text: None,
        target,
        device: device.unwrap_or_default(),
        attributes,
        inode: number,
        blocks: Some(word("Blockcount:").parse().unwrap()),
    }
}

fn read_attributes(disk: &Path, nodes: &mut BTreeMap<u64, Node>) {
    let wanted: Vec<(u64, String)> = nodes
        .iter()
        .flat_map(|(number, node)| node.attributes.keys().map(|name| (*number, name.clone())))
        .collect();
    let commands: Vec<String> = wanted
        .iter()
        .map(|(number, name)| format!("ea_get -x <{number}> {name}"))
        .collect();
    if commands.is_empty() {
        return;
    }
    let output = debugfs(disk, &format!("{}\n", commands.join("\n")));
    for ((number, name), said) in wanted.iter().zip(sections(&output, &commands)) {
        let said = String::from_utf8(said).unwrap();
        let (_, hex) = said.split_once(" = ").unwrap_or(("", ""));
        let mut value: Vec<u8> = hex
            .split_whitespace()
            .map(|byte| u8::from_str_radix(byte, 16).unwrap())
            .collect();
        if name.starts_with("system.posix_acl") {
            // debugfs shows zero where the kernel shows "no id".
            for entry in value[4..].chunks_exact_mut(8) {
                if !matches!(entry[0], 0x02 | 0x08) {
                    entry[4..].fill(0xff);
                }
            }
        }
        let node = nodes.get_mut(number).unwrap();
        node.attributes.insert(name.clone(), value);
    }
}
