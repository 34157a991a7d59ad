//! `banger daemon logs`

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use banger_config::Paths;
use banger_model::{Code, Error, IoContext, Result};
use clap::Args;

use crate::exit::Exit;
use crate::logs::{Follower, Sink, follow};
use crate::ui::Ui;

/// Print the daemon's log, whether it runs or not
///
/// An error that carries an operation's id is explained by the lines of that operation.
#[derive(Args, Debug)]
pub(crate) struct LogsArgs {
    /// Go on with what comes
    #[arg(short, long)]
    follow: bool,

    /// Begin with the last N lines
    #[arg(short = 'n', long, value_name = "N")]
    lines: Option<usize>,

    /// Only what belongs to this operation
    #[arg(long, value_name = "ID", value_parser = operation_id)]
    op: Option<String>,
}

/// Set-aside files that are looked for: more than the daemon keeps.
const SET_ASIDE_MAX: usize = 9;

pub(crate) fn cmd_logs(ui: &Ui, args: LogsArgs) -> Result<Exit> {
    let paths = Paths::from_env()?;
    let path = paths.state_dir.join("bangerd.log");
    if !paths.state_dir.is_dir() {
        ui.say("there is no log: no daemon has run yet");
        return Ok(Exit::SUCCESS);
    }
    let mut filter = Filter::new(args.op);
    let mut sink = Sink::new(ui);
    // Watched before the older files are read, so that nothing falls in between.
    let mut follower = Follower::new(&path)?;
    let older = set_aside(&path);
    let mut last = LastLines::new(args.lines);
    let mut open = true;
    for file in &older {
        open = open && copy(file, |line| last.take(&mut filter, line, &mut sink))?;
    }
    let mut lines = Lines::default();
    if open {
        open = follower
            .read(&mut |bytes| lines.push(bytes, |line| last.take(&mut filter, line, &mut sink)))?;
    }
    if open && !args.follow {
        // A daemon that died may not have finished its last line.
        open = lines.finish(|line| last.take(&mut filter, line, &mut sink))?;
    }
    if open && last.flush(&mut sink)? && args.follow {
        follow(ui, follower, |bytes| {
            lines.push(bytes, |line| match filter.wants(line) {
                true => sink.push(line),
                false => Ok(true),
            })
        })?;
    }
    sink.finish()?;
    Ok(Exit::SUCCESS)
}

/// The files that were set aside, oldest first.
fn set_aside(path: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = (1..=SET_ASIDE_MAX)
        .map(|number| path.with_added_extension(number.to_string()))
        .take_while(|path| path.exists())
        .collect();
    found.reverse();
    found
}

/// Hands on the lines of a file, each with its line break.
fn copy(path: &Path, mut take: impl FnMut(&[u8]) -> Result<bool>) -> Result<bool> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error).at("open", path),
    };
    let mut reader = BufReader::with_capacity(64 << 10, file);
    let mut lines = Lines::default();
    loop {
        let bytes = reader.fill_buf().at("read", path)?;
        let count = bytes.len();
        if count == 0 {
            return lines.finish(take);
        }
        if !lines.push(bytes, &mut take)? {
            return Ok(false);
        }
        reader.consume(count);
    }
}

/// Cuts bytes into lines.
#[derive(Default)]
struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    fn push(&mut self, bytes: &[u8], mut take: impl FnMut(&[u8]) -> Result<bool>) -> Result<bool> {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.partial.extend_from_slice(part);
            if part.ends_with(b"\n") {
                let line = std::mem::take(&mut self.partial);
                if !take(&line)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Hands on what has no line break.
    fn finish(&mut self, mut take: impl FnMut(&[u8]) -> Result<bool>) -> Result<bool> {
        let mut line = std::mem::take(&mut self.partial);
        if line.is_empty() {
            return Ok(true);
        }
        line.push(b'\n');
        take(&line)
    }
}

/// Keeps the last lines, or none when all are wanted.
struct LastLines {
    kept: VecDeque<Vec<u8>>,
    max: Option<usize>,
}

impl LastLines {
    fn new(max: Option<usize>) -> LastLines {
        LastLines {
            kept: VecDeque::new(),
            max,
        }
    }

    fn take(&mut self, filter: &mut Filter, line: &[u8], sink: &mut Sink) -> Result<bool> {
        if !filter.wants(line) {
            return Ok(true);
        }
        let Some(max) = self.max else {
            return sink.push(line);
        };
        self.kept.push_back(line.to_vec());
        if self.kept.len() > max {
            self.kept.pop_front();
        }
        Ok(true)
    }

    fn flush(&mut self, sink: &mut Sink) -> Result<bool> {
        for line in self.kept.drain(..) {
            if !sink.push(&line)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Chooses the lines of one operation. A record may have several lines: those that do not begin
/// with a time belong to the one before.
struct Filter {
    wanted: Option<Vec<u8>>,
    in_wanted: bool,
}

impl Filter {
    fn new(op: Option<String>) -> Filter {
        Filter {
            wanted: op.map(|id| format!("op={id}").into_bytes()),
            in_wanted: false,
        }
    }

    fn wants(&mut self, line: &[u8]) -> bool {
        let Some(wanted) = &self.wanted else {
            return true;
        };
        if begins_record(line) {
            self.in_wanted = names(line, wanted);
        }
        self.in_wanted
    }
}

/// Whether the line begins with a time such as `2026-01-01T00:00:00`.
fn begins_record(line: &[u8]) -> bool {
    line.first_chunk::<11>().is_some_and(|head| {
        head[..4].iter().all(u8::is_ascii_digit) && head[4] == b'-' && head[10] == b'T'
    })
}

/// Whether the field is in the line, whole.
fn names(line: &[u8], field: &[u8]) -> bool {
    let is_word =
        |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    line.windows(field.len()).enumerate().any(|(at, window)| {
        window == field
            && !is_word(at.checked_sub(1).and_then(|before| line.get(before)))
            && !is_word(line.get(at + field.len()))
    })
}

/// The id of an operation, as errors carry it.
fn operation_id(text: &str) -> Result<String> {
    let could_be_one = (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if could_be_one {
        return Ok(text.to_owned());
    }
    Err(Error::new(
        Code::InvalidArgument,
        format!("`{}` cannot be the id of an operation", text.escape_debug()),
    )
    .hint("take it from the error it is about, where it stands after `operation`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(op: Option<&str>, log: &str) -> String {
        let mut filter = Filter::new(op.map(str::to_owned));
        log.split_inclusive('\n')
            .filter(|line| filter.wants(line.as_bytes()))
            .collect()
    }

    const LOG: &str = "\
2026-01-01T00:00:00.1Z  INFO op{op=abc}: bangerd: one
2026-01-01T00:00:00.2Z  INFO bangerd: cancelled op=abc
2026-01-01T00:00:00.3Z ERROR op{op=abcd}: bangerd: another
2026-01-01T00:00:00.4Z ERROR op{op=abc}: bangerd: the console ends with:
  op=other panic
2026-01-01T00:00:00.5Z  INFO bangerd: stop=abc
";

    #[test]
    fn the_lines_of_an_operation_are_chosen_whole() {
        assert_eq!(chosen(None, LOG), LOG);
        let expected: String = [0, 1, 3, 4]
            .map(|index| LOG.split_inclusive('\n').nth(index).unwrap())
            .concat();
        assert_eq!(chosen(Some("abc"), LOG), expected);
        assert_eq!(chosen(Some("nothing"), LOG), "");
    }

    #[test]
    fn older_files_come_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bangerd.log");
        assert!(set_aside(&path).is_empty());
        for name in ["bangerd.log.1", "bangerd.log.2", "bangerd.log.4"] {
            std::fs::write(dir.path().join(name), "x").unwrap();
        }
        let names: Vec<_> = set_aside(&path)
            .iter()
            .map(|path| path.extension().unwrap().to_str().unwrap().to_owned())
            .collect();
        assert_eq!(names, ["2", "1"]);
    }

    #[test]
    fn operation_ids_are_checked() {
        assert!(operation_id("0123abcd").is_ok());
        for bad in ["", "a b", "x\n", "a}", &"a".repeat(65)] {
            assert!(operation_id(bad).is_err(), "{bad:?}");
        }
    }
}
