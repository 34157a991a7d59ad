//! Our lines in a file that is somebody else's: put in at the top, taken out without a trace.
//! No I/O.

use std::ops::Range;

/// What our first line begins with.
const BEGIN: &str = "# banger begin";
/// Our last line.
const END: &str = "# banger end";
/// What our first line says when there was no file before.
const MADE: &str = "# banger begin: made the file, `banger ssh-config --uninstall` removes it";
/// What it says when there was.
const ADDED: &str = "# banger begin: `banger ssh-config --uninstall` takes these lines out";

/// The file has our first line without our last, or the other way round.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Damaged;

/// What a file is without our lines.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Without {
    /// It has none of them.
    Unchanged,
    /// These are the other bytes.
    Rest(Vec<u8>),
    /// There was no file, and nobody has added anything.
    NoFile,
}

/// The file with our line at its top, inside a fence. `None` stands for a file that is not there.
///
/// # Errors
/// When a fence in it is damaged.
pub(super) fn put_in(old: Option<&[u8]>, line: &str) -> Result<Vec<u8>, Damaged> {
    let (rest, was_made) = match old {
        None => (Vec::new(), true),
        Some(old) => {
            let fences = find(old)?;
            let was_made = fences.iter().any(|fence| fence.was_made);
            (outside(old, &fences), was_made)
        }
    };
    let begin = if was_made { MADE } else { ADDED };
    let mut new = format!("{begin}\n{line}\n{END}\n").into_bytes();
    new.extend_from_slice(&rest);
    Ok(new)
}

/// The file without our lines.
///
/// # Errors
/// When a fence in it is damaged.
pub(super) fn take_out(old: &[u8]) -> Result<Without, Damaged> {
    let fences = find(old)?;
    if fences.is_empty() {
        return Ok(Without::Unchanged);
    }
    let rest = outside(old, &fences);
    let was_made = fences.iter().any(|fence| fence.was_made);
    Ok(match rest.is_empty() && was_made {
        true => Without::NoFile,
        false => Without::Rest(rest),
    })
}

struct Fence {
    range: Range<usize>,
    was_made: bool,
}

fn find(text: &[u8]) -> Result<Vec<Fence>, Damaged> {
    let mut fences: Vec<Fence> = Vec::new();
    let mut open: Option<(usize, bool)> = None;
    let mut at = 0;
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let next = at + line.len();
        // An editor may have changed the line ends.
        let bare = line.trim_ascii_end();
        if bare.starts_with(BEGIN.as_bytes()) {
            if open.replace((at, bare == MADE.as_bytes())).is_some() {
                return Err(Damaged);
            }
        } else if bare == END.as_bytes() {
            let (begin, was_made) = open.take().ok_or(Damaged)?;
            fences.push(Fence {
                range: begin..next,
                was_made,
            });
        }
        at = next;
    }
    match open {
        Some(_) => Err(Damaged),
        None => Ok(fences),
    }
}

fn outside(text: &[u8], fences: &[Fence]) -> Vec<u8> {
    let mut rest = Vec::with_capacity(text.len());
    let mut at = 0;
    for fence in fences {
        rest.extend_from_slice(&text[at..fence.range.start]);
        at = fence.range.end;
    }
    rest.extend_from_slice(&text[at..]);
    rest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LINE: &str = "Include \"/x/ssh/config\"";

    /// Files that people have: with and without a last line break, with CR, empty, not UTF-8.
    fn file() -> impl Strategy<Value = Vec<u8>> {
        let line = prop::sample::select(vec![
            &b"Host *"[..],
            b"  User me",
            b"",
            b"# comment",
            b"# banger",
            b"\xff\xfe",
            b"Include other",
            b"\t",
        ]);
        let end = prop::sample::select(vec![&b"\n"[..], b"\r\n", b"\n\n"]);
        (prop::collection::vec((line, end), 0..12), any::<bool>()).prop_map(|(lines, is_cut)| {
            let mut text: Vec<u8> = lines
                .into_iter()
                .flat_map(|(line, end)| [line, end].concat())
                .collect();
            if is_cut {
                text.pop();
            }
            text
        })
    }

    proptest! {
        #[test]
        fn in_and_out_again_is_the_same_file(old in file()) {
            let with = put_in(Some(&old), LINE).unwrap();
            prop_assert!(with.ends_with(&old));
            prop_assert_eq!(take_out(&with).unwrap(), Without::Rest(old.clone()));
            // Twice is once.
            prop_assert_eq!(&put_in(Some(&with), LINE).unwrap(), &with);
            // Another line takes the place of the first.
            let other = put_in(Some(&with), "Include other").unwrap();
            prop_assert_eq!(take_out(&other).unwrap(), Without::Rest(old.clone()));
            prop_assert_eq!(take_out(&old).unwrap(), Without::Unchanged);
        }

        #[test]
        fn what_is_added_later_stays(old in file(), before in file()) {
            let mut text = before.clone();
            if !text.is_empty() && !text.ends_with(b"\n") {
                text.push(b'\n');
            }
            let before = text.clone();
            text.extend(put_in(Some(&old), LINE).unwrap());
            prop_assert_eq!(take_out(&text).unwrap(), Without::Rest([before, old].concat()));
        }
    }

    #[test]
    fn a_file_that_was_not_there_is_not_there_again() {
        let made = put_in(None, LINE).unwrap();
        assert_eq!(take_out(&made).unwrap(), Without::NoFile);
        assert_eq!(put_in(Some(&made), LINE).unwrap(), made);
        let used = [&made[..], b"Host x\n"].concat();
        assert_eq!(
            take_out(&used).unwrap(),
            Without::Rest(b"Host x\n".to_vec())
        );
        // An empty file is a file.
        let added = put_in(Some(b""), LINE).unwrap();
        assert_eq!(take_out(&added).unwrap(), Without::Rest(Vec::new()));
    }

    #[test]
    fn an_editor_may_change_the_line_ends() {
        let with = String::from_utf8(put_in(Some(b"Host *\n"), LINE).unwrap()).unwrap();
        let changed = with.replace('\n', "\r\n");
        assert_eq!(
            take_out(changed.as_bytes()).unwrap(),
            Without::Rest(b"Host *\r\n".to_vec())
        );
    }

    #[test]
    fn half_a_fence_is_not_guessed_at() {
        for text in [
            "# banger begin: x\nHost *\n",
            "Host *\n# banger end\n",
            "# banger begin\n# banger begin\n# banger end\n",
        ] {
            assert_eq!(take_out(text.as_bytes()), Err(Damaged), "{text}");
            assert_eq!(put_in(Some(text.as_bytes()), LINE), Err(Damaged), "{text}");
        }
    }
}
