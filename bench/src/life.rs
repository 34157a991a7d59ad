//! The verbs of a VM's life: one by one, with many records, and many at once.

use std::thread;
use std::time::Instant;

use crate::stats::{Row, Series};
use crate::subject::Subject;

/// How many VMs are created at once, and how often that is measured.
const AT_ONCE: [(usize, usize); 3] = [(1, 10), (5, 4), (20, 2)];
/// With how many records the list is measured.
const RECORDS: [usize; 3] = [1, 100, 1000];

fn seconds(work: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    work();
    begun.elapsed().as_secs_f64()
}

/// Every measurement of this module.
pub(crate) fn measure(subject: &Subject, n: usize) -> Vec<Row> {
    let mut rows = verbs(subject, n);
    rows.extend(lists(subject, n));
    rows.extend(AT_ONCE.map(|(count, times)| at_once(subject, count, times)));
    rows
}

/// Each verb by itself.
fn verbs(subject: &Subject, n: usize) -> Vec<Row> {
    eprintln!("create --no-start, start, stop, delete ({n} each)");
    let mut series: [Series; 4] = Default::default();
    for _ in 0..n {
        let commands: [&[&str]; 4] = [
            &["vm", "create", "--no-start", "--name", "life"],
            &["vm", "start", "life"],
            &["vm", "stop", "life"],
            &["vm", "delete", "life"],
        ];
        for (command, series) in commands.iter().zip(&mut series) {
            series.push(seconds(|| drop(subject.banger(command))) * 1e3);
        }
    }
    ["vm create --no-start", "vm start", "vm stop", "vm delete"]
        .iter()
        .zip(&series)
        .map(|(what, series)| Row::figure(what, "ms", series))
        .collect()
}

/// The list, as there are more and more records.
fn lists(subject: &Subject, n: usize) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut there = 0;
    for records in RECORDS {
        eprintln!("vm list with {records} records ({n})");
        while there < records {
            subject.banger(&[
                "vm",
                "create",
                "--no-start",
                "--name",
                &format!("r-{there}"),
            ]);
            there += 1;
        }
        let mut series = Series::default();
        for _ in 0..n {
            series.push(seconds(|| drop(subject.banger(&["vm", "list"]))) * 1e3);
        }
        let what = format!("vm list, {records} records");
        rows.push(Row::absolute(&what, "ms", &series, 50.0));
    }
    subject.banger(&["vm", "prune", "-f"]);
    rows
}

/// So many creates at once, against as many one after the other; all machines stay until the
/// end, so both do the same work.
fn at_once(subject: &Subject, count: usize, times: usize) -> Row {
    eprintln!("{count} creates, at once and in turn ({times} each)");
    let names: Vec<String> = (0..count).map(|number| format!("many-{number}")).collect();
    let create = |name: &str| {
        subject.banger(&["vm", "create", "--memory", "256M", "--name", name]);
    };
    let delete = || {
        let mut command = vec!["vm", "delete"];
        command.extend(names.iter().map(String::as_str));
        subject.banger(&command);
    };
    let (mut together, mut in_turn) = (Series::default(), Series::default());
    for _ in 0..times {
        in_turn.push(seconds(|| names.iter().for_each(|name| create(name))));
        delete();
        together.push(seconds(|| {
            thread::scope(|scope| {
                for name in &names {
                    scope.spawn(|| create(name));
                }
            });
        }));
        delete();
    }
    Row::ratio(
        &format!("{count} x vm create at once"),
        "in turn",
        "s",
        &together,
        &in_turn,
        1.20,
    )
}
