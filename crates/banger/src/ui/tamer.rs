//! A guest's output made harmless to a terminal, as it streams by.

/// Takes bytes as they come and gives text that moves no cursor: control sequences that are
/// well formed are left out, every other control character becomes visible, bytes that are not
/// UTF-8 become U+FFFD. Line breaks and tabs stay. Keeps a few bytes at most between calls.
#[derive(Debug, Default)]
pub(crate) struct Tamer {
    state: State,
    /// The beginning of a character whose other bytes have not come yet.
    partial: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Text,
    /// After ESC.
    Escape,
    /// After ESC and an intermediate byte: one more follows, or more of the kind.
    Intermediate,
    /// Inside `ESC [ … letter`.
    Sequence,
    /// Inside `ESC ] … BEL`, or another string that ends with `ESC \`.
    String,
    /// After ESC inside a string.
    StringEscape,
    /// After a carriage return, which only counts when no line break follows.
    Return,
}

impl Tamer {
    /// What of these bytes, and of those before, may be shown now.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> String {
        let mut shown = String::with_capacity(bytes.len());
        let joined;
        let mut rest = match self.partial.is_empty() {
            true => bytes,
            false => {
                self.partial.extend_from_slice(bytes);
                joined = std::mem::take(&mut self.partial);
                &joined
            }
        };
        loop {
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    self.text(text, &mut shown);
                    return shown;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    self.text(&String::from_utf8_lossy(valid), &mut shown);
                    let Some(bad) = error.error_len() else {
                        self.partial = after.to_vec();
                        return shown;
                    };
                    self.character('\u{fffd}', &mut shown);
                    rest = &after[bad..];
                }
            }
        }
    }

    fn text(&mut self, text: &str, shown: &mut String) {
        for c in text.chars() {
            self.character(c, shown);
        }
    }

    fn character(&mut self, c: char, shown: &mut String) {
        self.state = match (self.state, c) {
            // No sequence goes over a line break: the rest of the output cannot be swallowed.
            (_, '\n') => {
                shown.push('\n');
                State::Text
            }
            (State::Escape, '[') => State::Sequence,
            (State::Escape, ']' | 'P' | 'X' | '^' | '_') => State::String,
            (State::Escape | State::Intermediate, ' '..='/') => State::Intermediate,
            (State::Escape | State::Intermediate, '0'..='~') => State::Text,
            (State::Sequence, ' '..='?') => State::Sequence,
            (State::Sequence, '@'..='~') => State::Text,
            (State::String, '\x07') | (State::StringEscape, '\\') => State::Text,
            (State::String, '\x1b') => State::StringEscape,
            (State::String | State::StringEscape, _) => State::String,
            (State::Return, c) => {
                shown.push('\n');
                self.plain(c, shown)
            }
            (State::Text | State::Escape | State::Intermediate | State::Sequence, c) => {
                self.plain(c, shown)
            }
        };
    }

    fn plain(&self, c: char, shown: &mut String) -> State {
        match c {
            '\x1b' => return State::Escape,
            '\r' => return State::Return,
            '\t' => shown.push(c),
            c if super::text::is_harmless(c) => shown.push(c),
            c => shown.extend(c.escape_debug()),
        }
        State::Text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tame(bytes: &[u8]) -> String {
        Tamer::default().push(bytes)
    }

    #[test]
    fn what_a_terminal_would_obey_is_gone_and_what_a_person_reads_is_not() {
        for (bytes, shown) in [
            (
                &b"[  \x1b[0;32mOK\x1b[0m  ] Started\r\n"[..],
                "[  OK  ] Started\n",
            ),
            (b"a\x1b[2J\x1b[1;1Hb", "ab"),
            (b"\x1b]0;title\x07x", "x"),
            (b"\x1b]52;c;ZXZpbA==\x1b\\x", "x"),
            (b"\x1bPq\x1b\\x\x1bcy\x1b(Bz", "xyz"),
            (b"10%\r20%\r\n", "10%\n20%\n"),
            (b"a\x07b\x00c\x08d\t", "a\\u{7}b\\0c\\u{8}d\t"),
            (b"a\xc2\x9b2Jb\xe2\x80\xae", "a\\u{9b}2Jb\\u{202e}"),
            (b"\xff\xc3(", "\u{fffd}\u{fffd}("),
            ("zwölf 日本".as_bytes(), "zwölf 日本"),
            // A string that never ends takes its line along and no more.
            (b"\x1b]0;never\nnext", "\nnext"),
        ] {
            assert_eq!(tame(bytes), shown, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_get_a_control_character_through(bytes: Vec<u8>) {
            let shown = tame(&bytes);
            prop_assert!(!shown.chars().any(|c| c.is_control() && c != '\n' && c != '\t'));
        }

        #[test]
        fn where_the_bytes_are_cut_makes_no_difference(
            // Mostly what the states are about.
            bytes in prop::collection::vec(
                prop::sample::select(b"\x1b\x1b[]P\\;0mA\r\n\x07\xc3\xb6\xe2\x82\xac\xff x".to_vec()), 0..60),
            cut in 0..60usize,
        ) {
            let cut = cut.min(bytes.len());
            let mut tamer = Tamer::default();
            let mut parts = tamer.push(&bytes[..cut]);
            parts.push_str(&tamer.push(&bytes[cut..]));
            prop_assert_eq!(parts, tame(&bytes));
        }
    }
}
