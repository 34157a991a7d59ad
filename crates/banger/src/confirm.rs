//! Asking before something is deleted.

use std::io::{BufRead, IsTerminal};

use banger_model::{Code, Error, Result};

use crate::ui::Ui;

/// Refuses to ask where nobody can answer. `command` is what was typed, such as `vm prune`;
/// `list` the command that shows what would go.
///
/// # Errors
/// `invalid_argument`.
pub(crate) fn check_terminal(command: &str, list: &str) -> Result<()> {
    if std::io::stdin().is_terminal() && std::io::stderr().is_terminal() {
        return Ok(());
    }
    Err(Error::new(
        Code::InvalidArgument,
        format!("`{command}` asks before it deletes, and there is no terminal to ask on"),
    )
    .hint(format!("give `--force`; {list}")))
}

/// Shows the question and reads the answer. Anything but a clear yes is a no.
///
/// # Errors
/// `io` when the answer cannot be read.
pub(crate) fn is_confirmed(ui: &Ui, question: &str) -> Result<bool> {
    ui.ask(question);
    let mut answer = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(|error| Error::new(Code::Io, "cannot read the answer").because(error))?;
    if !answer.ends_with('\n') {
        // The answer was the end of the input, after which the cursor is still on our line.
        ui.ask("\n");
    }
    let answer = answer.trim().to_ascii_lowercase();
    Ok(answer == "y" || answer == "yes")
}
