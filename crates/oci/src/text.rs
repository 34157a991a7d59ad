//! Words of others, made fit to print.

/// How much of a foreign text an error shows.
const SHOWN: usize = 200;

/// `text` without anything that a terminal would act on, and not longer than a line or two.
pub(crate) fn shown(text: &str) -> String {
    let mut escaped: String = text
        .chars()
        .take(SHOWN)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().nth(SHOWN).is_some() {
        escaped.push('…');
    }
    escaped
}

/// The same for bytes that should be text.
pub(crate) fn shown_bytes(bytes: &[u8]) -> String {
    shown(&String::from_utf8_lossy(
        &bytes[..bytes.len().min(4 * SHOWN)],
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_short_and_harmless() {
        assert_eq!(shown("a\u{1b}[2Jb\n"), "a\\u{1b}[2Jb\\n");
        assert_eq!(shown(&"x".repeat(1000)).chars().count(), SHOWN + 1);
        assert!(shown_bytes(&[0xff; 10_000]).chars().count() <= SHOWN + 1);
    }
}
