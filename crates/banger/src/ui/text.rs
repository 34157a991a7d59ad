//! Words, numbers and text that others wrote.

use banger_model::{ByteSize, Error, Result};
use jiff::Timestamp;
use serde::Serialize;

/// Makes text harmless to a terminal: control characters, and those that change the direction
/// of writing, become visible escapes.
pub(crate) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match is_harmless(c) {
            true => safe.push(c),
            false => safe.extend(c.escape_debug()),
        }
    }
    safe
}

/// Like [`escape`], keeping line breaks; lines after the first begin with `indent`.
pub(crate) fn escape_lines(text: &str, indent: &str) -> String {
    let lines: Vec<_> = text.trim_end().split('\n').map(escape).collect();
    lines.join(&format!("\n{indent}"))
}

pub(super) fn is_harmless(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// JSON for people and programs. Control characters beyond those that JSON itself escapes are
/// escaped as well: the reader may be a terminal.
pub(crate) fn json(value: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Error::internal("cannot write JSON").because(error))?;
    Ok(escape_json(&text))
}

/// The same on one line.
pub(crate) fn json_line(value: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string(value)
        .map_err(|error| Error::internal("cannot write JSON").because(error))?;
    Ok(escape_json(&text))
}

fn escape_json(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c == '\n' || is_harmless(c) {
            true => safe.push(c),
            // All of them are in the first plane, and all of them are inside strings.
            false => safe.push_str(&format!("\\u{:04x}", u32::from(c))),
        }
    }
    safe
}

/// A size for people: exact when it is a round number, else to one decimal.
pub(crate) fn human_size(size: ByteSize) -> String {
    let exact = size.to_string();
    if exact.len() <= 5 {
        return exact;
    }
    let bytes = size.as_bytes() as f64;
    let (unit, factor) = [("T", 40), ("G", 30), ("M", 20)]
        .into_iter()
        .find(|(_, shift)| size.as_bytes() >= 1 << shift)
        .map_or(("K", 1024.0), |(unit, shift)| {
            (unit, (1u64 << shift) as f64)
        });
    format!("{:.1}{unit}", bytes / factor)
}

/// How long ago an RFC 3339 time was, in its largest unit.
pub(crate) fn age(created_at: &str, now: Timestamp) -> String {
    let Ok(then) = created_at.parse::<Timestamp>() else {
        return "?".into();
    };
    let seconds = (now.as_second() - then.as_second()).max(0);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_the_terminal_that_could_move_its_cursor() {
        assert_eq!(
            escape("a\x1b[2Jb\u{9b}c\u{202e}d\te"),
            "a\\u{1b}[2Jb\\u{9b}c\\u{202e}d\\te"
        );
        assert_eq!(escape("zwölf 日本"), "zwölf 日本");
    }

    #[test]
    fn json_stays_json_when_escaped() {
        let text = json(&"a\u{9b}\u{7f}\u{202e}\n").unwrap();
        assert_eq!(text, r#""a\u009b\u007f\u202e\n""#);
        assert_eq!(
            serde_json::from_str::<String>(&text).unwrap(),
            "a\u{9b}\u{7f}\u{202e}\n"
        );
    }

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in [
            (0, "0"),
            (1 << 30, "1G"),
            (1536 << 20, "1536M"),
            (734_003_200 + 1, "700.0M"),
            (123_456, "120.6K"),
            (3_333_333_333, "3.1G"),
        ] {
            assert_eq!(human_size(ByteSize::bytes(bytes)), text);
        }
    }

    #[test]
    fn ages_have_one_unit_and_never_go_below_zero() {
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        for (then, text) in [
            ("2026-01-01T23:59:55Z", "5s"),
            ("2026-01-01T23:00:00Z", "1h"),
            ("2026-01-01T23:30:00.5Z", "30m"),
            ("2025-12-01T00:00:00Z", "32d"),
            ("2027-01-01T00:00:00Z", "0s"),
            ("yesterday", "?"),
        ] {
            assert_eq!(age(then, now), text, "{then}");
        }
    }
}
