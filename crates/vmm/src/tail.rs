//! The end of a log file, safe to show to a person.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use banger_model::{IoContext, Result};

/// The last `lines` lines within the last 16 KiB of a console or VMM log.
///
/// What a guest wrote is hostile: control characters are taken out, so that showing it cannot
/// drive a terminal. A file that does not exist is empty.
///
/// # Errors
/// `io` when the file is there and cannot be read.
pub fn log_tail(path: &Path, lines: usize) -> Result<String> {
    const LIMIT: u64 = 16 << 10;
    let mut file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(String::new()),
        opened => opened.at("open", path)?,
    };
    let length = file.metadata().at("read", path)?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LIMIT)))
        .at("read", path)?;
    let mut bytes = Vec::new();
    file.take(LIMIT).read_to_end(&mut bytes).at("read", path)?;
    Ok(clean(&bytes, lines))
}

fn clean(bytes: &[u8], lines: usize) -> String {
    let text = String::from_utf8_lossy(bytes);
    let kept: Vec<String> = text
        .lines()
        .map(|line| {
            let line = line.trim_end();
            line.chars()
                .filter(|c| !c.is_control() || *c == '\t')
                .collect::<String>()
        })
        .filter(|line| !line.is_empty())
        .collect();
    kept[kept.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Scratch;

    #[test]
    fn the_tail_is_short_and_harmless() {
        assert_eq!(clean(b"a\r\nb\r\n\r\nc", 2), "b\nc");
        assert_eq!(clean(b"\x1b[31mred\x07\x00\xff", 9), "[31mred\u{fffd}");
        assert_eq!(
            clean(b"\xc2\x9b2J", 9),
            "2J",
            "the eight-bit CSI is a control character"
        );
        assert_eq!(clean(b"", 9), "");
    }

    #[test]
    fn only_the_end_of_a_flood_is_read() {
        let scratch = Scratch::new();
        let path = scratch.path().join("console.log");
        assert_eq!(log_tail(&path, 3).unwrap(), "");
        let file = File::create(&path).unwrap();
        file.set_len(1 << 40).unwrap();
        assert_eq!(log_tail(&path, 3).unwrap(), "");
        assert!(log_tail(scratch.path(), 3).is_err());
    }
}
