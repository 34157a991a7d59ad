//! What came out of an outer machine, line by line, and the table at the end.
//!
//! Lines that begin with `lab:` are the inside script's, `PASS`, `FAIL` and `SKIP` are the
//! scenarios'. A scenario that was planned and of which nothing was heard counts as lost, and
//! one that was lost counts as failed: the machine may end at any moment.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::plan::Batch;

/// How a scenario ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Ending {
    /// Passed, with its time.
    Pass(String),
    /// Failed, with its time.
    Fail(String),
    /// Not run, with the reason.
    Skip(String),
}

/// Everything heard so far of one machine.
pub(crate) struct Results {
    batch: Batch,
    endings: BTreeMap<String, Ending>,
    code: Option<i32>,
    trouble: Option<String>,
    /// It is of a second machine, after the first had died.
    second: bool,
}

impl Results {
    /// Of a batch, before anything was heard.
    pub(crate) fn new(batch: Batch) -> Results {
        Results {
            batch,
            endings: BTreeMap::new(),
            code: None,
            trouble: None,
            second: false,
        }
    }

    /// Takes a line; returns what a person may see of it. It comes from a machine that runs
    /// hostile guests: nothing in it reaches a terminal as it is.
    pub(crate) fn line(&mut self, line: &str) -> Option<String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["lab:", "end", code] => self.code = code.parse().ok(),
            ["PASS", name, ..] => self.ended(name, Ending::Pass(rest(line))),
            ["FAIL", name, ..] => self.ended(name, Ending::Fail(rest(line))),
            ["SKIP", name, ..] => self.ended(name, Ending::Skip(rest(line))),
            _ => {}
        }
        (!line.is_empty()).then(|| harmless(line))
    }

    /// Notes that the machine itself failed.
    pub(crate) fn trouble(&mut self, words: String) {
        self.trouble = Some(words);
    }

    /// Notes that these are of a second machine.
    pub(crate) fn second_try(&mut self) {
        self.second = true;
    }

    /// Whether the machine went down by itself before its scenarios were through, and none of
    /// them had failed.
    pub(crate) fn died(&self) -> bool {
        self.trouble.is_none() && self.code.is_none() && self.failed() == 0
    }

    fn ended(&mut self, name: &str, ending: Ending) {
        self.endings.insert(name.to_owned(), ending);
    }

    /// Why the batch as a whole is no success, beside what its scenarios say.
    fn whole(&self) -> Option<String> {
        if let Some(words) = &self.trouble {
            return Some(words.clone());
        }
        match self.code {
            // 77: everything was skipped, each with its reason.
            Some(0 | 77) => None,
            Some(1) if self.failed() > 0 => None,
            Some(1) => Some("it left something behind".to_owned()),
            Some(code) => Some(format!("exit code {code}")),
            None => Some("the machine ended early".to_owned()),
        }
    }

    fn failed(&self) -> usize {
        let failed = |ending: &&Ending| matches!(ending, Ending::Fail(_));
        self.endings.values().filter(failed).count()
    }

    fn lost(&self) -> impl Iterator<Item = &str> {
        let planned = match self.batch.is_bench() {
            true => &[],
            false => &self.batch.scenarios[..],
        };
        let heard = |name: &&String| self.endings.contains_key(*name);
        let lost = planned.iter().filter(move |name| !heard(name));
        lost.map(String::as_str)
    }
}

/// The table of all batches with the line that counts, and whether everything passed.
pub(crate) fn table(all: &[Results]) -> (String, bool) {
    let mut text = String::from("\n");
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for results in all {
        let on = format!("{} as {}", results.batch.vmm, results.batch.who);
        let mut add = |result: &str, name: &str, words: &str| {
            let (name, words) = (harmless(name), harmless(words));
            writeln!(text, "{result:<5} {on:<20} {name:<40} {words}").ok();
        };
        for (name, ending) in &results.endings {
            let (count, result, words) = match ending {
                Ending::Pass(words) => (&mut passed, "pass", words),
                Ending::Fail(words) => (&mut failed, "FAIL", words),
                Ending::Skip(words) => (&mut skipped, "skip", words),
            };
            *count += 1;
            add(result, name, words);
        }
        if results.second {
            add(
                "note",
                "(the whole run)",
                "on a second machine: the first died",
            );
        }
        for name in results.lost() {
            failed += 1;
            add("LOST", name, "nothing was heard of it");
        }
        if let Some(words) = results.whole() {
            failed += 1;
            add("FAIL", "(the whole run)", &words);
        }
    }
    writeln!(
        text,
        "\n{skipped} skipped\n{passed} passed, {failed} failed"
    )
    .ok();
    (text, failed == 0)
}

/// A text without control characters.
fn harmless(text: &str) -> String {
    text.chars()
        .flat_map(|c| match c.is_control() {
            true => c.escape_debug().collect::<Vec<_>>(),
            false => vec![c],
        })
        .collect()
}

/// What follows the first two words, without the brackets around it.
fn rest(line: &str) -> String {
    let mut words = line.splitn(3, ' ');
    let rest = words.nth(2).unwrap_or_default().trim();
    rest.strip_prefix('(')
        .and_then(|rest| rest.strip_suffix(')'))
        .unwrap_or(rest)
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(lines: &[&str]) -> Results {
        let mut results = Results::new(Batch {
            vmm: "qemu-kvm",
            who: "lab",
            part: None,
            scenarios: vec!["one".into(), "two".into()],
        });
        for line in lines {
            results.line(line);
        }
        results
    }

    const GOOD: [&str; 4] = [
        "lab: up 30.1 kvm root:kvm 660",
        "PASS one (12.0 s)",
        "SKIP two (no package archive)",
        "lab: end 0",
    ];

    #[test]
    fn everything_well() {
        let other = heard(&["PASS one (2.0 s)", "PASS two (3.0 s)", "lab: end 0"]);
        let (table, passed) = table(&[heard(&GOOD), other]);
        assert!(passed, "{table}");
        assert!(
            table.ends_with("\n1 skipped\n3 passed, 0 failed\n"),
            "{table}"
        );
        assert!(table.contains("no package archive"), "{table}");
        assert!(table.contains("12.0 s"), "{table}");
    }

    #[test]
    fn a_failure_a_loss_and_a_bad_code_are_no_success() {
        for (at, instead, count) in [
            (1, "FAIL one (3.0 s)", "0 passed, 1 failed"),
            (1, "noise", "0 passed, 1 failed"),
            (3, "lab: end 1", "1 passed, 1 failed"),
            (3, "lab: end 101", "1 passed, 1 failed"),
            (3, "noise", "1 passed, 1 failed"),
        ] {
            let mut lines = GOOD;
            lines[at] = instead;
            let (table, passed) = table(&[heard(&lines)]);
            assert!(!passed, "{instead}");
            assert!(table.contains(count), "{instead}: {table}");
        }
        let mut results = heard(&GOOD);
        results.trouble("it stood still".into());
        let (table, passed) = table(&[heard(&GOOD), results]);
        assert!(!passed);
        assert!(table.contains("it stood still"), "{table}");
    }

    #[test]
    fn only_a_machine_that_died_by_itself_is_tried_again_and_that_is_said() {
        assert!(heard(&GOOD[..2]).died());
        assert!(!heard(&GOOD).died());
        assert!(!heard(&["FAIL one (1 s)"]).died(), "a failure is a failure");
        let mut results = heard(&GOOD[..2]);
        results.trouble("the time is up".into());
        assert!(!results.died());
        let mut second = heard(&GOOD);
        second.second_try();
        let (table, passed) = table(&[second]);
        assert!(passed && table.contains("the first died"), "{table}");
    }

    #[test]
    fn nothing_reaches_a_terminal_as_it_is() {
        let mut results = heard(&GOOD[..1]);
        let shown = results.line("PASS \x1b[31mred (1 s)").unwrap();
        assert!(!shown.contains('\x1b'), "{shown}");
        assert!(!table(&[results]).0.contains('\x1b'));
    }
}
