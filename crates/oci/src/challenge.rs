//! `WWW-Authenticate`: how a registry asks for credentials (RFC 9110, section 11).

use std::collections::BTreeMap;

/// Longer headers are not read.
const MAX_HEADER: usize = 8 << 10;

/// One way to authenticate that a server offers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Challenge {
    /// In lower case.
    pub(crate) scheme: String,
    /// The names are in lower case.
    pub(crate) parameters: BTreeMap<String, String>,
}

/// The challenges in one header; what cannot be understood is left out.
pub(crate) fn parse(header: &str) -> Vec<Challenge> {
    if header.len() > MAX_HEADER {
        return Vec::new();
    }
    let mut challenges: Vec<Challenge> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find(|c: char| !is_token(c)).unwrap_or(rest.len());
        if end == 0 {
            return challenges;
        }
        let (word, after) = rest.split_at(end);
        let behind = after.trim_start_matches([' ', '\t']);
        // `word = value` belongs to the challenge before; any other word begins a new one.
        if let Some(value) = behind.strip_prefix('=') {
            let Some((value, after)) = value_of(value.trim_start_matches([' ', '\t'])) else {
                return challenges;
            };
            if let Some(challenge) = challenges.last_mut() {
                challenge
                    .parameters
                    .entry(word.to_ascii_lowercase())
                    .or_insert(value);
            }
            rest = after;
        } else {
            challenges.push(Challenge {
                scheme: word.to_ascii_lowercase(),
                parameters: BTreeMap::new(),
            });
            rest = behind;
        }
    }
}

/// A token or a quoted string at the start of `text`, and what follows it.
fn value_of(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t', '"']).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut escaped = false;
    for (at, c) in quoted.char_indices() {
        match c {
            _ if escaped => {
                value.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return Some((value, &quoted[at + 1..])),
            _ => value.push(c),
        }
    }
    None
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_challenges_in_one_header_are_told_apart() {
        let read = parse(
            "Basic realm=\"a, b\", BEARER Realm=\"https://x/t?a=1\" , service=s,scope=\"r:a\\\"b:pull\"",
        );
        assert_eq!(read.len(), 2);
        assert_eq!(read[0].scheme, "basic");
        assert_eq!(read[0].parameters["realm"], "a, b");
        assert_eq!(read[1].scheme, "bearer");
        assert_eq!(read[1].parameters["realm"], "https://x/t?a=1");
        assert_eq!(read[1].parameters["service"], "s");
        assert_eq!(read[1].parameters["scope"], "r:a\"b:pull");
    }

    #[test]
    fn bad_headers_give_what_can_be_understood() {
        assert!(parse("").is_empty());
        assert!(parse("=,=,").is_empty());
        assert!(parse(&"x ".repeat(10_000)).is_empty());
        assert_eq!(parse("Negotiate").len(), 1);
        assert!(
            parse("Bearer realm=\"unterminated")[0]
                .parameters
                .is_empty()
        );
        assert!(parse("Bearer realm=")[0].parameters["realm"].is_empty());
        assert_eq!(parse("Bearer realm=\"é\"")[0].parameters["realm"], "é");
        assert_eq!(parse("Bearer realm=a,realm=b")[0].parameters["realm"], "a");
    }
}
