//! The two things banger needs to know about an ELF file.

use std::path::Path;

use banger_model::{Code, Error, Result};

const PT_NOTE: u32 = 4;
const PT_INTERP: u32 = 3;
const EM_X86_64: u16 = 62;
const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
/// `XEN_ELFNOTE_PHYS32_ENTRY`: where a PVH boot enters the kernel.
const PHYS32_ENTRY: u32 = 18;

/// A little-endian 64-bit x86 ELF file.
struct Elf<'a> {
    bytes: &'a [u8],
    kind: u16,
}

/// A program header.
struct Segment<'a> {
    kind: u32,
    content: &'a [u8],
}

impl<'a> Elf<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        // Magic, 64 bits, little endian.
        if bytes.get(..6)? != b"\x7fELF\x02\x01" || u16_at(bytes, 18)? != EM_X86_64 {
            return None;
        }
        Some(Elf {
            bytes,
            kind: u16_at(bytes, 16)?,
        })
    }

    /// The program headers, or none when the table is not whole.
    fn segments(&self) -> Option<Vec<Segment<'a>>> {
        let table = usize::try_from(u64_at(self.bytes, 32)?).ok()?;
        let size = usize::from(u16_at(self.bytes, 54)?);
        let count = usize::from(u16_at(self.bytes, 56)?);
        if size < 56 {
            return None;
        }
        (0..count)
            .map(|index| {
                let start = table.checked_add(index * size)?;
                let header = self.bytes.get(start..start.checked_add(size)?)?;
                let kind = u32_at(header, 0)?;
                let from = usize::try_from(u64_at(header, 8)?).ok()?;
                let length = usize::try_from(u64_at(header, 32)?).ok()?;
                let content = self.bytes.get(from..from.checked_add(length)?)?;
                Some(Segment { kind, content })
            })
            .collect()
    }
}

/// Refuses a kernel that cannot be entered by the PVH boot protocol.
///
/// # Errors
/// `build_failed`, saying what is missing.
pub(crate) fn check_pvh(vmlinux: &[u8]) -> Result<()> {
    let segments = Elf::parse(vmlinux)
        .and_then(|elf| elf.segments())
        .ok_or_else(|| {
            Error::new(
                Code::BuildFailed,
                "it is not a whole ELF kernel for 64-bit x86",
            )
        })?;
    let entry = segments
        .iter()
        .filter(|segment| segment.kind == PT_NOTE)
        .any(|segment| has_note(segment.content, b"Xen\0", PHYS32_ENTRY));
    if entry {
        return Ok(());
    }
    Err(Error::new(Code::BuildFailed, "it has no PVH entry point")
        .hint("use a kernel built with `CONFIG_PVH=y`"))
}

fn has_note(mut notes: &[u8], name: &[u8], kind: u32) -> bool {
    while let Some((note, rest)) = split_note(notes) {
        if note.name == name && note.kind == kind {
            return true;
        }
        notes = rest;
    }
    false
}

struct Note<'a> {
    name: &'a [u8],
    kind: u32,
}

fn split_note(bytes: &[u8]) -> Option<(Note<'_>, &[u8])> {
    let name_length = usize::try_from(u32_at(bytes, 0)?).ok()?;
    let content_length = usize::try_from(u32_at(bytes, 4)?).ok()?;
    let kind = u32_at(bytes, 8)?;
    let name = bytes.get(12..12usize.checked_add(name_length)?)?;
    let next = 12usize
        .checked_add(name_length.checked_next_multiple_of(4)?)?
        .checked_add(content_length.checked_next_multiple_of(4)?)?;
    // The padding behind the last note may be left out.
    let rest = bytes.get(next..).unwrap_or_default();
    Some((Note { name, kind }, rest))
}

/// Where the last segment of an ELF kernel ends, from the beginning of its file: what comes
/// behind are section tables and what debuggers read, which can be ten times the kernel.
pub(crate) fn end_of_segments(head: &[u8]) -> Option<u64> {
    let elf = Elf::parse(head)?;
    let table = usize::try_from(u64_at(elf.bytes, 32)?).ok()?;
    let size = usize::from(u16_at(elf.bytes, 54)?);
    let count = usize::from(u16_at(elf.bytes, 56)?);
    if size < 56 {
        return None;
    }
    let mut end = table.checked_add(count.checked_mul(size)?)? as u64;
    for index in 0..count {
        let start = table.checked_add(index * size)?;
        let header = elf.bytes.get(start..start.checked_add(size)?)?;
        end = end.max(u64_at(header, 8)?.checked_add(u64_at(header, 32)?)?);
    }
    Some(end)
}

/// Takes the section table out of the header of a kernel that was cut behind its segments.
pub(crate) fn forget_sections(kernel: &mut [u8]) {
    if let Some(header) = kernel.get_mut(..64) {
        header[40..48].fill(0);
        header[58..64].fill(0);
    }
}

/// Refuses a guest agent that needs a loader or libraries: the initramfs has none.
///
/// # Errors
/// `build_failed`, naming the file and how to build it.
pub(crate) fn check_static(path: &Path, program: &[u8]) -> Result<()> {
    let fail = |why: &str| {
        Err(Error::new(
            Code::BuildFailed,
            format!("the guest agent `{}` {why}", path.display()),
        )
        .hint(
            "build it with `RUSTFLAGS='-C target-feature=+crt-static' cargo build \
             -p banger-agent --profile agent --target x86_64-unknown-linux-gnu`",
        ))
    };
    let Some(elf) = Elf::parse(program) else {
        return fail("is not a program for 64-bit x86");
    };
    if !matches!(elf.kind, ET_EXEC | ET_DYN) {
        return fail("is not a program");
    }
    let Some(segments) = elf.segments() else {
        return fail("is cut off");
    };
    if segments.iter().any(|segment| segment.kind == PT_INTERP) {
        return fail("is linked dynamically");
    }
    Ok(())
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An ELF file of type `kind` with one segment.
    pub(crate) fn elf(kind: u16, segment: u32, content: &[u8]) -> Vec<u8> {
        let mut file = vec![0; 64 + 56];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[16..18].copy_from_slice(&kind.to_le_bytes());
        file[18..20].copy_from_slice(&EM_X86_64.to_le_bytes());
        file[32..40].copy_from_slice(&64u64.to_le_bytes());
        file[54..56].copy_from_slice(&56u16.to_le_bytes());
        file[56..58].copy_from_slice(&1u16.to_le_bytes());
        file[64..68].copy_from_slice(&segment.to_le_bytes());
        file[72..80].copy_from_slice(&120u64.to_le_bytes());
        file[96..104].copy_from_slice(&(content.len() as u64).to_le_bytes());
        file.extend_from_slice(content);
        file
    }

    /// A static program.
    pub(crate) fn static_program() -> Vec<u8> {
        elf(ET_DYN, 1, b"code")
    }

    /// A kernel with a PVH entry and this content.
    pub(crate) fn kernel_with(content: &[u8]) -> Vec<u8> {
        let mut notes = note(b"Xen\0", PHYS32_ENTRY, &[0; 8]);
        notes.extend_from_slice(content);
        elf(ET_EXEC, PT_NOTE, &notes)
    }

    fn note(name: &[u8], kind: u32, content: &[u8]) -> Vec<u8> {
        let mut note = Vec::new();
        note.extend_from_slice(&(name.len() as u32).to_le_bytes());
        note.extend_from_slice(&(content.len() as u32).to_le_bytes());
        note.extend_from_slice(&kind.to_le_bytes());
        for part in [name, content] {
            note.extend_from_slice(part);
            note.resize(note.len().next_multiple_of(4), 0);
        }
        note
    }

    #[test]
    fn the_pvh_note_is_found_among_others() {
        let mut notes = note(b"GNU\0", 3, b"build-id-of-odd-len");
        notes.extend(note(b"Xen\0", 6, b"linux"));
        assert!(check_pvh(&elf(ET_EXEC, PT_NOTE, &notes)).is_err());
        notes.extend(note(b"Xen\0", PHYS32_ENTRY, &[0; 8]));
        assert!(check_pvh(&elf(ET_EXEC, PT_NOTE, &notes)).is_ok());
        let error = check_pvh(&elf(ET_EXEC, 1, &notes)).unwrap_err();
        assert!(error.hint_text().unwrap().contains("CONFIG_PVH"));
    }

    #[test]
    fn no_cut_makes_the_parser_stumble() {
        let notes = note(b"Xen\0", PHYS32_ENTRY, &[0; 8]);
        let whole = elf(ET_EXEC, PT_NOTE, &notes);
        for length in 0..whole.len() {
            assert!(check_pvh(&whole[..length]).is_err(), "{length}");
        }
        for at in 0..whole.len() {
            let mut bent = whole.clone();
            bent[at] = 0xff;
            // Either answer will do; what counts is that there is one.
            drop(check_pvh(&bent));
            drop(check_static(Path::new("/agent"), &bent));
        }
    }

    #[test]
    fn a_kernel_needs_nothing_behind_its_segments() {
        let notes = note(b"Xen\0", PHYS32_ENTRY, &[0; 8]);
        let mut file = elf(ET_EXEC, PT_NOTE, &notes);
        let whole = file.len();
        file.extend_from_slice(&[7; 5000]);
        assert_eq!(end_of_segments(&file), Some(whole as u64));
        file.truncate(whole);
        forget_sections(&mut file);
        assert!(check_pvh(&file).is_ok());
        for length in 0..120 {
            assert_eq!(end_of_segments(&file[..length]), None, "{length}");
        }
        file[72..80].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(end_of_segments(&file), None);
    }

    #[test]
    fn a_dynamic_agent_is_refused() {
        let path = Path::new("/agent");
        assert!(check_static(path, &static_program()).is_ok());
        let dynamic = elf(ET_DYN, PT_INTERP, b"/lib64/ld-linux-x86-64.so.2\0");
        let error = check_static(path, &dynamic).unwrap_err();
        assert!(error.message().contains("linked dynamically"));
        assert!(error.hint_text().unwrap().contains("crt-static"));
        assert!(check_static(path, b"#!/bin/sh\n").is_err());
        assert!(check_static(path, &elf(1, 1, b"")).is_err());
    }
}
