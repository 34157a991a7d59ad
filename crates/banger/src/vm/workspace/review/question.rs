//! The question what becomes of the changes.

use banger_model::{Code, Error, Result};

use crate::session::{Input, read_stdin};
use crate::signals::{Signal, Signals};
use crate::ui::Ui;

/// What a person wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Apply,
    Keep,
    View,
    Discard,
}

/// A question on the terminal.
pub(super) struct Question<'a> {
    ui: &'a Ui,
    repository: &'a str,
    input: Input,
}

impl<'a> Question<'a> {
    pub(super) fn new(ui: &'a Ui, repository: &'a str) -> Result<Question<'a>> {
        let input = read_stdin()
            .map_err(|error| Error::new(Code::Io, "cannot read an answer").because(error))?;
        Ok(Question {
            ui,
            repository,
            input,
        })
    }

    /// Asks until there is an answer. Ctrl-C and the end of the input are one: keep. The inner
    /// error is a signal that says that nobody is there any more.
    pub(super) async fn ask(&mut self, signals: &mut Signals) -> Result<Result<Answer, Signal>> {
        loop {
            self.ui.ask(&format!(
                "[a]pply to `{}`, [k]eep as a patch, [v]iew, [d]iscard? [k] ",
                self.repository
            ));
            let line = tokio::select! {
                line = self.input.next() => line,
                signal = signals.next_to_end() => {
                    self.ui.ask("\n");
                    return Ok(match signal {
                        Signal::Interrupt => Ok(Answer::Keep),
                        signal => Err(signal),
                    });
                }
            };
            match line {
                Some(Ok(line)) => {
                    if !line.ends_with(b"\n") {
                        self.ui.ask("\n");
                    }
                    if let Some(answer) = read(&line) {
                        return Ok(Ok(answer));
                    }
                }
                Some(Err(_)) | None => {
                    self.ui.ask("\n");
                    return Ok(Ok(Answer::Keep));
                }
            }
        }
    }
}

/// The answer in a line; none when it is not clear.
fn read(line: &[u8]) -> Option<Answer> {
    let word = line.trim_ascii().to_ascii_lowercase();
    match word.as_slice() {
        b"" | b"k" | b"keep" => Some(Answer::Keep),
        b"a" | b"apply" => Some(Answer::Apply),
        b"v" | b"view" => Some(Answer::View),
        b"d" | b"discard" => Some(Answer::Discard),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_answer_is_one() {
        for (line, answer) in [
            (b"\n".as_slice(), Some(Answer::Keep)),
            (b"k\n", Some(Answer::Keep)),
            (b" Apply \n", Some(Answer::Apply)),
            (b"v\n", Some(Answer::View)),
            (b"discard\n", Some(Answer::Discard)),
            (b"da\n", None),
            (b"y\n", None),
            (b"d\nk\n", None),
        ] {
            assert_eq!(read(line), answer, "{line:?}");
        }
    }
}
