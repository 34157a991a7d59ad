//! How errors look.

use std::io::Write;

use banger_api::{ErrorBody, ErrorResponse, SavedWork};
use banger_model::Error;
use serde::Serialize;

use super::text::{escape, escape_lines, json};
use super::{BAD, DIM, print_line};
use crate::exit::Owner;

/// An error in JSON that belongs to one of several names, or to none.
#[derive(Serialize)]
pub(crate) struct ErrorReport {
    /// The name it is about.
    pub(crate) name: String,
    /// Work that was saved before it was deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) saved: Option<SavedWork>,
    /// The error; absent when all went well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<ErrorBody>,
    /// What is not as asked although nothing failed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) warnings: Vec<String>,
}

/// Prints an error: its chain, its hint and its operation.
pub(crate) fn print_error(error: &Error, as_json: bool, owner: Owner) {
    if !as_json {
        return print_line(&as_text(error));
    }
    let response = ErrorResponse {
        error: ErrorBody::from(error),
    };
    match (json(&response), owner) {
        (Ok(text), Owner::Banger) => {
            let mut out = std::io::stdout().lock();
            writeln!(out, "{text}").and_then(|()| out.flush()).ok();
        }
        (Ok(text), Owner::Guest | Owner::Ssh | Owner::Text) => print_line(&text),
        (Err(_), _) => print_line(&as_text(error)),
    }
}

fn as_text(error: &Error) -> String {
    // A message may have several lines: the end of a console, the output of a program.
    let mut text = format!(
        "{BAD}banger{BAD:#}: {}",
        escape_lines(&error.chain(), "  | ")
    );
    if let Some(hint) = error.hint_text() {
        text.push_str(&format!(
            "\n{DIM}  hint: {}{DIM:#}",
            escape_lines(hint, "        ")
        ));
    }
    if let Some(op_id) = error.op_id() {
        text.push_str(&format!("\n{DIM}  (operation {}){DIM:#}", escape(op_id)));
    }
    text
}

#[cfg(test)]
mod tests {
    use banger_model::Code;

    use super::*;

    fn plain(error: &Error) -> String {
        anstream::adapter::strip_str(&as_text(error)).to_string()
    }

    fn full() -> Error {
        Error::new(Code::BootFailed, "`box` did not come up")
            .because(std::io::Error::other(
                "the console ends with:\n\x1b[31mpanic\x07\r\nbye",
            ))
            .hint("run `banger doctor`")
            .operation("op-1")
    }

    #[test]
    fn text_has_the_chain_the_hint_and_the_operation() {
        insta::assert_snapshot!(plain(&full()), @r"
        banger: `box` did not come up: the console ends with:
          | \u{1b}[31mpanic\u{7}\r
          | bye
          hint: run `banger doctor`
          (operation op-1)
        ");
        insta::assert_snapshot!(plain(&Error::new(Code::NotFound, "no VM is called `x`")), @"banger: no VM is called `x`");
    }

    #[test]
    fn json_has_the_documented_fields_and_no_control_characters() {
        let response = ErrorResponse {
            error: ErrorBody::from(&full()),
        };
        insta::assert_snapshot!(json(&response).unwrap(), @r#"
        {
          "error": {
            "code": "boot_failed",
            "message": "`box` did not come up: the console ends with:\n\u001b[31mpanic\u0007\r\nbye",
            "hint": "run `banger doctor`",
            "op_id": "op-1"
          }
        }
        "#);
    }
}
