//! The entries of a tar archive, read in one pass with bounded memory.
//!
//! The `tar` crate knows the header; walking is our own, because the crate reads long names
//! of any length into memory and takes an archive that just stops for a whole one.

use std::io::Read;

use tar::{EntryType, Header};

use super::Fault;
use super::source::reading;
use super::stage::Stage;
use crate::text::shown_bytes;

const BLOCK: usize = 512;
/// The longest name; image archives have none above a hundred.
const MAX_NAME: u64 = 4096;
/// The most that a pax header may hold.
const MAX_PAX: u64 = 1 << 20;
/// More entries than that are in no image archive.
const MAX_ENTRIES: usize = 1 << 14;
/// What may follow the end: writers fill up to a multiple of their block size.
const MAX_PADDING: usize = 1 << 20;

/// What the headers before an entry say about it.
#[derive(Default)]
struct Said {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

/// Gives every file and link in `tar` to `stage` and reads to the very end.
pub(super) fn read_all(mut tar: impl Read, stage: &mut Stage) -> Result<(), Fault> {
    let mut said = Said::default();
    for _ in 0..MAX_ENTRIES {
        let Some(header) = header(&mut tar)? else {
            return finish(&mut tar);
        };
        let size = header.entry_size().map_err(|_| {
            let name = shown_bytes(&header.path_bytes());
            format!("the size of entry `{name}` cannot be understood")
        })?;
        match header.entry_type() {
            EntryType::GNULongName => said.name = Some(text(&mut tar, size, &header)?),
            EntryType::GNULongLink => said.link = Some(text(&mut tar, size, &header)?),
            EntryType::XHeader => said.pax(&small(&mut tar, size, MAX_PAX, &header)?)?,
            EntryType::XGlobalHeader => drop(small(&mut tar, size, MAX_PAX, &header)?),
            kind => entry(
                &mut tar,
                stage,
                &header,
                kind,
                size,
                std::mem::take(&mut said),
            )?,
        }
    }
    Err(Fault::Theirs(format!(
        "it has more than {MAX_ENTRIES} entries"
    )))
}

fn entry(
    tar: &mut impl Read,
    stage: &mut Stage,
    header: &Header,
    kind: EntryType,
    size: u64,
    said: Said,
) -> Result<(), Fault> {
    let raw = said
        .name
        .unwrap_or_else(|| header.path_bytes().into_owned());
    let name = clean(&raw)?;
    let size = said.size.unwrap_or(size);
    match kind {
        EntryType::Regular | EntryType::Continuous => {
            stage.file(&name, size, tar)?;
            padding(tar, size)
        }
        EntryType::Directory => {
            if size > 0 {
                return Err(refuse(&raw, "is a directory with content"));
            }
            Ok(())
        }
        EntryType::Symlink | EntryType::Link => {
            if size > 0 {
                return Err(refuse(&raw, "is a link with content"));
            }
            let target = said
                .link
                .or_else(|| header.link_name_bytes().map(|link| link.into_owned()))
                .unwrap_or_default();
            let target = if kind == EntryType::Symlink {
                beside(&name, &target)
            } else {
                clean(&target).ok()
            };
            let Some(target) = target else {
                return Err(refuse(&raw, "is a link that leads out of the archive"));
            };
            stage.link(&name, target)
        }
        _ => Err(refuse(&raw, "is neither a file nor a directory nor a link")),
    }
}

impl Said {
    /// Takes over the records that matter: `LENGTH KEY=VALUE\n`.
    fn pax(&mut self, records: &[u8]) -> Result<(), Fault> {
        let bad = || Fault::Theirs("a pax header in it cannot be understood".to_owned());
        let mut rest = records;
        while !rest.is_empty() {
            let space = rest.iter().position(|b| *b == b' ').ok_or_else(bad)?;
            let length: usize = std::str::from_utf8(&rest[..space])
                .ok()
                .and_then(|text| text.parse().ok())
                .filter(|length| (space + 2..=rest.len()).contains(length))
                .ok_or_else(bad)?;
            let record = rest[space + 1..length]
                .strip_suffix(b"\n")
                .ok_or_else(bad)?;
            rest = &rest[length..];
            let equals = record.iter().position(|b| *b == b'=').ok_or_else(bad)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"path" => self.name = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => {
                    let text = std::str::from_utf8(value).map_err(|_| bad())?;
                    self.size = Some(text.parse().map_err(|_| bad())?);
                }
                _ if key.starts_with(b"GNU.sparse.") => {
                    return Err(Fault::Theirs("it has a sparse entry".to_owned()));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The next header, or `None` at the mark of the end.
fn header(tar: &mut impl Read) -> Result<Option<Header>, Fault> {
    let mut header = Header::new_old();
    let block = header.as_mut_bytes();
    tar.read_exact(block).map_err(reading)?;
    if block.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    // The sum is over the header with spaces for the sum itself.
    let sum: u32 = block
        .iter()
        .enumerate()
        .map(|(at, byte)| {
            u32::from(if (148..156).contains(&at) {
                b' '
            } else {
                *byte
            })
        })
        .sum();
    if header.cksum().ok() != Some(sum) {
        return Err(Fault::Theirs(
            "it is not a tar archive, or damaged: a header has a wrong checksum".to_owned(),
        ));
    }
    Ok(Some(header))
}

/// Reads what is behind the last entry: a second empty block, then nothing but padding.
fn finish(tar: &mut impl Read) -> Result<(), Fault> {
    let mut block = [0; BLOCK];
    tar.read_exact(&mut block).map_err(reading)?;
    let mut all_zero = block.iter().all(|byte| *byte == 0);
    let mut padding = 0;
    while all_zero {
        let read = match tar.read(&mut block) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) => return Err(reading(error)),
        };
        padding += read;
        all_zero = block[..read].iter().all(|byte| *byte == 0) && padding <= MAX_PADDING;
    }
    Err(Fault::Theirs("it goes on after its end".to_owned()))
}

/// A name in an entry of its own, up to its NUL.
fn text(tar: &mut impl Read, size: u64, header: &Header) -> Result<Vec<u8>, Fault> {
    let mut bytes = small(tar, size, MAX_NAME, header)?;
    bytes.truncate(bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len()));
    Ok(bytes)
}

fn small(tar: &mut impl Read, size: u64, limit: u64, header: &Header) -> Result<Vec<u8>, Fault> {
    if size > limit {
        return Err(refuse(&header.path_bytes(), "is a header of absurd length"));
    }
    let mut bytes = vec![0; size as usize];
    tar.read_exact(&mut bytes).map_err(reading)?;
    padding(tar, size)?;
    Ok(bytes)
}

/// Entries fill whole blocks.
fn padding(tar: &mut impl Read, size: u64) -> Result<(), Fault> {
    let mut block = [0; BLOCK];
    let over = (size % BLOCK as u64) as usize;
    if over > 0 {
        tar.read_exact(&mut block[over..]).map_err(reading)?;
    }
    Ok(())
}

/// The name as the documents in the archive write it; one that leads out of it is refused.
fn clean(raw: &[u8]) -> Result<String, Fault> {
    if raw.len() as u64 > MAX_NAME {
        return Err(refuse(raw, "has an absurdly long name"));
    }
    let Ok(text) = std::str::from_utf8(raw) else {
        return Err(refuse(raw, "has a name that is not text"));
    };
    if text.is_empty() || text.contains('\0') {
        return Err(refuse(raw, "has no proper name"));
    }
    if text.starts_with('/') {
        return Err(refuse(raw, "has an absolute name"));
    }
    let mut parts = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => return Err(refuse(raw, "leads out of the archive")),
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

/// Where a symbolic link in the place of `name` leads, if it stays in the archive.
fn beside(name: &str, target: &[u8]) -> Option<String> {
    let target = std::str::from_utf8(target).ok()?;
    if target.is_empty() || target.starts_with('/') || target.len() as u64 > MAX_NAME {
        return None;
    }
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

fn refuse(name: &[u8], why: &str) -> Fault {
    Fault::Theirs(format!("entry `{}` {why}", shown_bytes(name)))
}
