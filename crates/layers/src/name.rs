//! Names of entries: made safe to follow, and safe to print.

use banger_model::Result;

use crate::limits::Limits;
use crate::refuse;

/// The longest name of a file that ext4 keeps, in bytes.
const MAX_NAME: usize = 255;
/// How much of a name an error shows, in characters.
const SHOWN: usize = 200;

/// The components of a path in a layer, from the root.
///
/// Read as Docker and umoci do: a leading slash means nothing, `.` and empty components vanish,
/// `..` takes the component before it away, without asking what that one is.
///
/// # Errors
/// When `..` would leave the root, when a name or the whole is too long or too deep.
pub(crate) fn components<'n>(path: &'n [u8], limits: &Limits) -> Result<Vec<&'n [u8]>> {
    if path.len() > limits.path {
        return Err(refuse(format!(
            "its name is longer than {} bytes",
            limits.path
        )));
    }
    let mut found: Vec<&[u8]> = Vec::new();
    for component in path.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                if found.pop().is_none() {
                    return Err(refuse("its name leaves the root"));
                }
            }
            name if name.len() > MAX_NAME => {
                return Err(refuse(format!(
                    "a part of its name is longer than {MAX_NAME} bytes"
                )));
            }
            name if name.contains(&0) => return Err(refuse("its name contains a NUL")),
            name => found.push(name),
        }
    }
    if found.len() > limits.depth {
        return Err(refuse(format!(
            "it is more than {} directories deep",
            limits.depth
        )));
    }
    Ok(found)
}

/// `name` for a message: one line, no control characters, not too long.
pub(crate) fn shown(name: &[u8]) -> String {
    let mut text = String::new();
    for chunk in name.utf8_chunks() {
        text.extend(chunk.valid().chars().flat_map(char::escape_debug));
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
        if text.len() > SHOWN * 4 {
            break;
        }
    }
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(path: &str) -> Option<String> {
        let limits = Limits::default();
        let found = components(path.as_bytes(), &limits).ok()?;
        let found: Vec<&str> = found
            .iter()
            .map(|name| std::str::from_utf8(name).unwrap())
            .collect();
        Some(found.join("/"))
    }

    #[test]
    fn names_stay_below_the_root() {
        for (path, expected) in [
            ("a/b", Some("a/b")),
            ("/a//./b/", Some("a/b")),
            ("./", Some("")),
            ("a/../b", Some("b")),
            ("a/..", Some("")),
            ("..", None),
            ("a/../../b", None),
            ("/..", None),
            ("...", Some("...")),
            ("a\0b", None),
        ] {
            assert_eq!(joined(path).as_deref(), expected, "{path:?}");
        }
        assert_eq!(joined(&"n".repeat(256)), None);
        assert_eq!(joined(&"n/".repeat(513)), None);
        assert_eq!(joined(&"n/".repeat(2048)), None);
        assert!(joined(&"n/".repeat(512)).is_some());
    }

    #[test]
    fn names_are_printed_on_one_line() {
        assert_eq!(shown(b"a\nb\x1b[31m\xff\xc3\xa9"), "a\\nb\\u{1b}[31m\\xffé");
        assert_eq!(shown(&[b'x'; 9000]).chars().count(), SHOWN + 1);
        assert!(shown(&[7; 9000]).chars().count() <= SHOWN + 1);
    }
}
