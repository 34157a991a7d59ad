//! Standard output for text that others wrote and we do not change, unless a person reads it.

use std::io::{self, IsTerminal, Write};

use banger_model::{Code, Error, Result};
use serde::Serialize;

use crate::ui::{Format, Tamer, Ui};

/// A line that never ends is cut here when it has to be kept, as JSON needs it whole.
const LINE_MAX: usize = 64 << 10;

/// Where lines go: as they are into files and pipes, made harmless on a terminal, one object a
/// line as JSON.
pub(crate) struct Sink<'a> {
    ui: &'a Ui,
    mode: Mode,
}

enum Mode {
    Raw,
    Tame(Tamer),
    Json(Vec<u8>),
}

/// One line, as JSON.
#[derive(Serialize)]
struct Line<'a> {
    line: &'a str,
}

impl<'a> Sink<'a> {
    /// Looks at the flags and the terminal.
    pub(crate) fn new(ui: &'a Ui) -> Sink<'a> {
        let mode = match ui.format() {
            Format::Json => Mode::Json(Vec::new()),
            Format::Table if io::stdout().is_terminal() => Mode::Tame(Tamer::default()),
            Format::Table => Mode::Raw,
        };
        Sink { ui, mode }
    }

    /// Prints. `false` when nobody reads it any more.
    ///
    /// # Errors
    /// `io` when standard output fails otherwise.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<bool> {
        match &mut self.mode {
            Mode::Raw => write(self.ui, bytes),
            Mode::Tame(tamer) => write(self.ui, tamer.push(bytes).as_bytes()),
            Mode::Json(partial) => {
                let text = as_objects(partial, bytes)?;
                write(self.ui, text.as_bytes())
            }
        }
    }

    /// Prints what was kept of an unfinished line.
    ///
    /// # Errors
    /// As [`Sink::push`].
    pub(crate) fn finish(mut self) -> Result<()> {
        if let Mode::Json(partial) = &mut self.mode
            && !partial.is_empty()
        {
            self.push(b"\n")?;
        }
        Ok(())
    }
}

fn as_objects(partial: &mut Vec<u8>, mut bytes: &[u8]) -> Result<String> {
    let mut text = String::new();
    loop {
        let room = LINE_MAX - partial.len();
        let reach = &bytes[..bytes.len().min(room)];
        let line_break = reach.iter().position(|byte| *byte == b'\n');
        match line_break {
            Some(at) => {
                partial.extend_from_slice(&reach[..at]);
                bytes = &bytes[at + 1..];
            }
            None => {
                partial.extend_from_slice(reach);
                bytes = &bytes[reach.len()..];
                if partial.len() < LINE_MAX {
                    return Ok(text);
                }
            }
        }
        let line = String::from_utf8_lossy(partial);
        text.push_str(&crate::ui::json_line(&Line {
            line: line.strip_suffix('\r').unwrap_or(&line),
        })?);
        text.push('\n');
        partial.clear();
    }
}

fn write(ui: &Ui, bytes: &[u8]) -> Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            ui.output_was_closed();
            Ok(false)
        }
        Err(error) => Err(Error::new(Code::Io, "cannot write to standard output").because(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_objects_wherever_they_are_cut() {
        let mut partial = Vec::new();
        let mut text = as_objects(&mut partial, b"a\x1b[0mb\r\nhal").unwrap();
        text += &as_objects(&mut partial, b"f\xff\n\n").unwrap();
        assert_eq!(
            text,
            "{\"line\":\"a\\u001b[0mb\"}\n{\"line\":\"half\u{fffd}\"}\n{\"line\":\"\"}\n"
        );
        assert!(partial.is_empty());
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let mut partial = Vec::new();
        let text = as_objects(&mut partial, &vec![b'x'; 2 * LINE_MAX + 5]).unwrap();
        assert_eq!(text.lines().count(), 2);
        assert_eq!(partial.len(), 5);
    }
}
