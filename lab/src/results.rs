//! What came out of the outer machine, line by line, and the table at the end.
//!
//! Lines that begin with `lab:` are the inside script's, `PASS`, `FAIL` and `SKIP` are the
//! scenarios'. A scenario that was planned and of which nothing was heard counts as lost, and
//! one that was lost counts as failed: the machine may end at any moment.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::plan::{BENCH, Half};

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

/// One run of the suite.
struct Run {
    vmm: String,
    who: String,
    planned: Vec<String>,
    endings: BTreeMap<String, Ending>,
    code: Option<i32>,
}

/// Everything heard so far.
pub(crate) struct Results {
    runs: Vec<Run>,
    current: Option<usize>,
    done: bool,
}

impl Results {
    /// Of a plan, before anything was heard.
    pub(crate) fn new(plan: &[Half]) -> Results {
        let runs = plan
            .iter()
            .map(|half| Run {
                vmm: half.vmm.to_owned(),
                who: half.who.to_owned(),
                planned: match half.scenarios.as_str() {
                    BENCH => Vec::new(),
                    names => names.split(',').map(str::to_owned).collect(),
                },
                endings: BTreeMap::new(),
                code: None,
            })
            .collect();
        Results {
            runs,
            current: None,
            done: false,
        }
    }

    /// Takes a line; returns what a person may see of it. It comes from a machine that runs
    /// hostile guests: nothing in it reaches a terminal as it is.
    pub(crate) fn line(&mut self, line: &str) -> Option<String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["lab:", "begin", vmm, who] => {
                self.current = self
                    .runs
                    .iter()
                    .position(|run| run.vmm == vmm && run.who == who);
            }
            ["lab:", "end", _, _, code] => {
                if let Some(run) = self.current() {
                    run.code = code.parse().ok();
                }
            }
            ["lab:", "done"] => self.done = true,
            ["PASS", name, ..] => self.ended(name, Ending::Pass(rest(line))),
            ["FAIL", name, ..] => self.ended(name, Ending::Fail(rest(line))),
            ["SKIP", name, ..] => self.ended(name, Ending::Skip(rest(line))),
            _ => {}
        }
        (!line.is_empty()).then(|| harmless(line))
    }

    fn current(&mut self) -> Option<&mut Run> {
        self.current.map(|index| &mut self.runs[index])
    }

    fn ended(&mut self, name: &str, ending: Ending) {
        if let Some(run) = self.current() {
            run.endings.insert(name.to_owned(), ending);
        }
    }

    /// Whether everything ran to its end and nothing failed.
    pub(crate) fn passed(&self) -> bool {
        self.done
            && self.runs.iter().all(|run| {
                // 77: everything was skipped, each with its reason.
                matches!(run.code, Some(0 | 77)) && run.failed() == 0 && run.lost().is_empty()
            })
    }

    /// The table, and the line that counts.
    pub(crate) fn table(&self) -> String {
        let mut text = String::from("\n");
        let (mut passed, mut failed, mut skipped) = (0, 0, 0);
        let mut add = |result: &str, run: &Run, name: &str, words: &str| {
            let (name, words) = (harmless(name), harmless(words));
            let on = format!("{} as {}", run.vmm, run.who);
            writeln!(text, "{result:<5} {on:<20} {name:<40} {words}").ok();
        };
        for run in &self.runs {
            for (name, ending) in &run.endings {
                match ending {
                    Ending::Pass(words) => {
                        passed += 1;
                        add("pass", run, name, words);
                    }
                    Ending::Fail(words) => {
                        failed += 1;
                        add("FAIL", run, name, words);
                    }
                    Ending::Skip(words) => {
                        skipped += 1;
                        add("skip", run, name, words);
                    }
                }
            }
            for name in run.lost() {
                failed += 1;
                add("LOST", run, name, "nothing was heard of it");
            }
            if !matches!(run.code, Some(0 | 1 | 77)) {
                failed += 1;
                let code = run.code.map_or("none".to_owned(), |code| code.to_string());
                add("FAIL", run, "(the whole run)", &format!("exit code {code}"));
            } else if run.code == Some(1) && run.failed() == 0 {
                failed += 1;
                add("FAIL", run, "(the whole run)", "it left something behind");
            }
        }
        writeln!(
            text,
            "\n{skipped} skipped\n{passed} passed, {failed} failed"
        )
        .ok();
        text
    }
}

impl Run {
    fn failed(&self) -> usize {
        let failed = |ending: &&Ending| matches!(ending, Ending::Fail(_));
        self.endings.values().filter(failed).count()
    }

    fn lost(&self) -> Vec<&str> {
        self.planned
            .iter()
            .filter(|name| !self.endings.contains_key(*name))
            .map(String::as_str)
            .collect()
    }
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

    fn plan() -> Vec<Half> {
        ["lab", "root"]
            .map(|who| Half {
                vmm: "qemu-kvm",
                who,
                scenarios: "one,two".into(),
            })
            .into()
    }

    fn heard(lines: &[&str]) -> Results {
        let mut results = Results::new(&plan());
        for line in lines {
            results.line(line);
        }
        results
    }

    const GOOD: [&str; 10] = [
        "lab: up 30.1",
        "lab: begin qemu-kvm lab",
        "PASS one (12.0 s)",
        "SKIP two (no package archive)",
        "lab: end qemu-kvm lab 0",
        "lab: begin qemu-kvm root",
        "PASS one (2.0 s)",
        "PASS two (3.0 s)",
        "lab: end qemu-kvm root 0",
        "lab: done",
    ];

    #[test]
    fn everything_well() {
        let results = heard(&GOOD);
        assert!(results.passed());
        let table = results.table();
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
            (2, "FAIL one (3.0 s)", "2 passed, 1 failed"),
            (2, "noise", "2 passed, 1 failed"),
            (4, "lab: end qemu-kvm lab 1", "3 passed, 1 failed"),
            (4, "lab: end qemu-kvm lab 101", "3 passed, 1 failed"),
            (4, "noise", "3 passed, 1 failed"),
        ] {
            let mut lines = GOOD;
            lines[at] = instead;
            let results = heard(&lines);
            assert!(!results.passed(), "{instead}");
            let table = results.table();
            assert!(table.contains(count), "{instead}: {table}");
        }
        assert!(!heard(&GOOD[..9]).passed(), "the machine ended early");
    }

    #[test]
    fn nothing_reaches_a_terminal_as_it_is() {
        let mut results = heard(&GOOD[..2]);
        let shown = results.line("PASS \x1b[31mred (1 s)").unwrap();
        assert!(!shown.contains('\x1b'), "{shown}");
        assert!(!results.table().contains('\x1b'));
    }
}
