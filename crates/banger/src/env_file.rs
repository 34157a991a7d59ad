//! `--env-file`: variables from a file, in the format of `docker run --env-file`.
//!
//! One `NAME=VALUE` or `NAME` a line; a `NAME` alone copies the value from here. Blank lines and
//! lines that begin with `#` say nothing. A value is everything after the first `=`, as it is:
//! no quotes, no escapes, no comment at its end. Values may be secrets, so no error repeats one.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use banger_model::{Code, Error, IoContext, Result};

use crate::guest_command::EnvEntry;

/// More than any command could be given.
const MAX_FILE: u64 = 1 << 20;
/// What some editors begin a file with.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads a file.
///
/// # Errors
/// `io` when it cannot be read; `invalid_argument` naming the file and the line.
pub(crate) fn read(path: &Path) -> Result<Vec<EnvEntry>> {
    let mut bytes = Vec::new();
    File::open(path)
        .at("read", path)?
        .take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .at("read", path)?;
    if bytes.len() as u64 > MAX_FILE {
        let message = format!("`{}` is larger than 1 MiB", path.display());
        return Err(Error::new(Code::InvalidArgument, message)
            .hint("an environment file has one `NAME=VALUE` or `NAME` a line"));
    }
    parse(path, &bytes)
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Vec<EnvEntry>> {
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    let mut entries = Vec::new();
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let refuse = |why: &str| {
            let line = index + 1;
            let message = format!("`{}`, line {line}: {why}", path.display());
            Error::new(Code::InvalidArgument, message)
                .hint("write one `NAME=VALUE` or `NAME` a line; `#` begins a comment line")
        };
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line = std::str::from_utf8(line).map_err(|_| refuse("it is not UTF-8 text"))?;
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let entry = EnvEntry::parse(OsStr::new(line));
        entries.push(entry.map_err(|error| refuse(error.message()))?);
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(bytes: &[u8]) -> Vec<(String, String)> {
        let here = |name: &OsStr| (name == "HERE").then(|| "from here".into());
        let text = |text: std::ffi::OsString| text.into_string().unwrap();
        parse(Path::new("vars"), bytes)
            .unwrap()
            .into_iter()
            .filter_map(|entry| entry.resolve(&here))
            .map(|(name, value)| (text(name), text(value)))
            .collect()
    }

    #[test]
    fn lines_mean_what_they_mean_to_docker() {
        for (line, expected) in [
            ("A=1", Some(("A", "1"))),
            ("A=1\r", Some(("A", "1"))),
            ("A=1\r\r", Some(("A", "1\r"))),
            ("A=", Some(("A", ""))),
            ("A==b=c", Some(("A", "=b=c"))),
            ("A= x # y ", Some(("A", " x # y "))),
            ("A=\"q\" 'r' $HOME \\n", Some(("A", "\"q\" 'r' $HOME \\n"))),
            (" \t\u{a0}A=1", Some(("A", "1"))),
            ("export=1", Some(("export", "1"))),
            ("A-b.c=1", Some(("A-b.c", "1"))),
            ("HERE", Some(("HERE", "from here"))),
            ("HERE=", Some(("HERE", ""))),
            ("NOT_HERE", None),
            ("# A=1", None),
            ("  # A=1", None),
            ("", None),
            (" \t ", None),
        ] {
            let expected: Vec<_> = expected
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into_iter()
                .collect();
            for text in [
                line.to_owned(),
                format!("{line}\n"),
                format!("\u{feff}{line}\n"),
            ] {
                assert_eq!(variables(text.as_bytes()), expected, "{text:?}");
            }
        }
        let several = variables(b"A=1\n\n# c\nB=2\nA=3");
        let names: Vec<_> = several.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["A", "B", "A"]);
    }

    #[test]
    fn mistakes_have_their_line_and_no_value() {
        for (line, why) in [
            (&b"=hunter2"[..], "has no name"),
            (b"A B=hunter2", "white space"),
            (b"A =hunter2", "white space"),
            (b"export A=hunter2", "white space"),
            (b"HERE ", "white space"),
            (b"A=hunter2\0", "zero byte"),
            (b"A=hunter2\xff", "UTF-8"),
        ] {
            let bytes = [b"OK=1\n", line].concat();
            let error = parse(Path::new("vars"), &bytes).unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument);
            let message = error.chain();
            assert!(message.starts_with("`vars`, line 2: "), "{message}");
            assert!(message.contains(why), "{message}");
            assert!(!message.contains("hunter2"), "{message}");
            assert!(error.hint_text().is_some());
        }
    }

    #[test]
    fn files_that_are_none_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vars");
        assert_eq!(read(&path).unwrap_err().code(), Code::Io);
        assert_eq!(read(dir.path()).unwrap_err().code(), Code::Io);
        std::fs::write(&path, "A=1\n").unwrap();
        assert_eq!(read(&path).unwrap().len(), 1);
        std::fs::write(&path, vec![b'#'; MAX_FILE as usize + 1]).unwrap();
        let error = read(&path).unwrap_err();
        assert!(error.message().contains("larger than 1 MiB"), "{error}");
    }
}
