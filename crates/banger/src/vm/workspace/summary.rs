//! What a patch changes, for people.

use std::fmt::Write as _;

use banger_workspace::Change;

use crate::ui::escape;

/// More files than this are only counted.
const SHOWN: usize = 20;
/// More of a name than this is left out.
const NAME: usize = 60;

/// A line that counts, and a line a file.
pub(super) fn summary(changes: &[Change], vm_name: &str) -> String {
    let files = match changes.len() {
        1 => "1 file".to_owned(),
        count => format!("{count} files"),
    };
    let lines = changes.iter().filter_map(|change| change.lines);
    let (added, removed) = lines.fold((0u64, 0u64), |(added, removed), (more, less)| {
        (added.saturating_add(more), removed.saturating_add(less))
    });
    let mut text = format!("{files} changed in `{vm_name}`, +{added} -{removed}");
    let few = &changes[..changes.len().min(SHOWN)];
    let names: Vec<_> = few.iter().map(|change| short(&change.path)).collect();
    let width = names.iter().map(|name| name.chars().count()).max();
    let width = width.unwrap_or_default();
    for (change, name) in few.iter().zip(&names) {
        let how = match change.lines {
            Some((added, removed)) => format!("+{added} -{removed}"),
            None => "binary".to_owned(),
        };
        let written = write!(text, "\n  {name:<width$}  {how}");
        debug_assert!(written.is_ok(), "a string takes everything");
    }
    if let Some(more) = changes.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        text.push_str(&format!("\n  and {more} more"));
    }
    text
}

/// A name with its end, which says more than its beginning.
fn short(path: &[u8]) -> String {
    let name = escape(&String::from_utf8_lossy(path));
    match name.chars().count().checked_sub(NAME) {
        None | Some(0) => name,
        Some(over) => format!("...{}", name.chars().skip(over + 3).collect::<String>()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_short_and_harmless() {
        let mut changes = vec![
            Change {
                path: b"src/main.rs".into(),
                lines: Some((10, 3)),
            },
            Change {
                path: b"a\x1b[2J\n\xff".into(),
                lines: None,
            },
            Change {
                path: [b"x/".repeat(50).as_slice(), b"end"].concat(),
                lines: Some((1, 0)),
            },
        ];
        insta::assert_snapshot!(summary(&changes, "box"), @r"
        3 files changed in `box`, +11 -3
          src/main.rs                                                   +10 -3
          a\u{1b}[2J\n�                                                 binary
          ...x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/end  +1 -0
        ");
        changes.resize_with(25, || Change {
            path: b"f".into(),
            lines: Some((1, u64::MAX)),
        });
        let text = summary(&changes, "box");
        assert_eq!(text.lines().count(), 22);
        assert!(text.ends_with("\n  and 5 more"), "{text}");
    }
}
