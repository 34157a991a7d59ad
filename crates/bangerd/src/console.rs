//! The last lines of a guest's console, made safe to show.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// How many lines are shown.
const LINES: usize = 20;
/// How much of the file is looked at: a guest may write lines without end.
const TAIL: u64 = 16 << 10;
/// How much of one line is shown, in characters.
const LINE_MAX: usize = 200;

/// The last lines of a file that a guest wrote, each indented, with every control character
/// escaped. Empty when there is nothing to show.
pub(crate) fn tail(path: &Path) -> String {
    format_tail(&read_tail(path))
}

/// Why the guest's kernel panicked, when the end of the console says so. The stack trace that
/// follows would push it out of the last lines.
pub(crate) fn panic_reason(path: &Path) -> Option<String> {
    find_panic(&read_tail(path))
}

fn find_panic(bytes: &[u8]) -> Option<String> {
    const MARK: &str = "Kernel panic - not syncing: ";
    let text = String::from_utf8_lossy(bytes);
    let line = text.lines().find(|line| line.contains(MARK))?;
    line.split_once(MARK)
        .map(|(_, reason)| escape(reason.trim()))
}

fn read_tail(path: &Path) -> Vec<u8> {
    try_read_tail(path).unwrap_or_else(|error| {
        tracing::debug!(path = %path.display(), %error, "no console to show");
        Vec::new()
    })
}

fn try_read_tail(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn format_tail(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<String> = text
        .split('\n')
        .map(|line| line.trim_end_matches('\r'))
        .filter(|line| !line.trim().is_empty())
        .map(escape)
        .collect();
    let first = lines.len().saturating_sub(LINES);
    lines[first..]
        .iter()
        .map(|line| format!("\n    {line}"))
        .collect()
}

fn escape(line: &str) -> String {
    let mut escaped = String::new();
    for (index, c) in line.chars().enumerate() {
        if index == LINE_MAX {
            escaped.push('…');
            break;
        }
        match c {
            '\t' => escaped.push(' '),
            // Marks that reorder or hide text are as bad on a terminal as control characters.
            c if c.is_control()
                || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') =>
            {
                escaped.extend(c.escape_unicode());
            }
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_lines_are_shown() {
        let text: String = (0..100).map(|i| format!("line {i}\r\n")).collect();
        let tail = format_tail(text.as_bytes());
        assert_eq!(tail.lines().filter(|line| !line.is_empty()).count(), LINES);
        assert!(tail.starts_with("\n    line 80\n") && tail.ends_with("line 99"));
    }

    #[test]
    fn what_the_guest_writes_cannot_reach_the_terminal() {
        let tail = format_tail(b"\x1b[2Jgone\x07\xff\xe2\x80\xae\tx");
        assert!(
            !tail.chars().any(|c| c.is_control() && c != '\n'),
            "{tail:?}"
        );
        assert!(tail.contains("\\u{1b}[2Jgone\\u{7}"), "{tail}");
        assert!(tail.contains("\\u{202e} x"), "{tail}");
    }

    #[test]
    fn a_panic_is_found_before_its_trace() {
        let text = "[ 0.7] Kernel panic - not syncing: Attempted to kill init! \x1b[1m\r\n[ 0.8] Call Trace:\n";
        assert_eq!(
            find_panic(text.as_bytes()).unwrap(),
            "Attempted to kill init! \\u{1b}[1m"
        );
        assert_eq!(find_panic(b"all is well\n"), None);
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let tail = format_tail(&vec![b'x'; 1 << 20]);
        assert!(tail.len() < 300);
    }

    #[test]
    fn a_missing_file_has_no_tail() {
        assert_eq!(tail(Path::new("/nonexistent/console.log")), "");
    }
}
