//! Readable names for VMs that were given none.

use banger_model::{Error, Result, VmName};

use crate::random;

const FIRST: &[&str] = &[
    "amber", "bold", "brave", "bright", "brisk", "calm", "clear", "clever", "cool", "crisp",
    "deep", "eager", "early", "fair", "fast", "fine", "fresh", "gentle", "glad", "golden", "grand",
    "green", "happy", "keen", "kind", "late", "light", "lively", "lucky", "merry", "mild", "neat",
    "noble", "plain", "proud", "quick", "quiet", "rapid", "rare", "ready", "royal", "sharp",
    "silent", "silver", "simple", "smart", "smooth", "solid", "steady", "still", "sunny", "swift",
    "tidy", "true", "vivid", "warm", "wide", "wild", "wise", "young",
];

const SECOND: &[&str] = &[
    "badger", "bear", "beaver", "bison", "cedar", "crane", "dove", "eagle", "elm", "falcon",
    "fern", "finch", "fox", "frog", "goat", "goose", "hare", "hawk", "heron", "horse", "ibis",
    "jay", "koala", "lark", "lemur", "lion", "lotus", "lynx", "maple", "mole", "moose", "moth",
    "newt", "oak", "orca", "osprey", "otter", "owl", "panda", "pine", "plover", "pony", "quail",
    "rabbit", "raven", "robin", "salmon", "seal", "sparrow", "stork", "swan", "tiger", "trout",
    "turtle", "vole", "walrus", "whale", "willow", "wolf", "wren",
];

/// A name such as `calm-otter` that `taken` does not know.
///
/// # Errors
/// `internal` when there are no random bytes.
pub(super) fn generate(taken: impl Fn(&str) -> bool) -> Result<VmName> {
    // With thousands of VMs the plain ones run out; digits always help.
    for attempt in 0..64 {
        let mut name = format!("{}-{}", random::pick(FIRST)?, random::pick(SECOND)?);
        if attempt >= 16 {
            name.push('-');
            name.push_str(&random::hex(2)?);
        }
        if !taken(&name) {
            return name.parse();
        }
    }
    Err(Error::internal("no free name was found"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_makes_a_valid_name() {
        for word in FIRST.iter().chain(SECOND) {
            assert!(word.parse::<VmName>().is_ok(), "{word}");
        }
    }

    #[test]
    fn taken_names_are_left_alone() {
        let name = generate(|name| name.split('-').count() == 2).unwrap();
        assert_eq!(name.as_str().split('-').count(), 3);
        assert!(generate(|_| true).is_err());
    }
}
