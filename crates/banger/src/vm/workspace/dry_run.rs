//! What would be copied, as a list.

use std::fmt::Write as _;

use banger_model::{ByteSize, Result};
use banger_workspace::{Entry, Kind, Plan};
use serde::Serialize;

use super::copy::quantity;
use super::guest_path::GuestPath;
use super::prepare::say_left_out;
use crate::ui::{Format, Ui, escape, human_size};

/// What would be copied, as JSON.
#[derive(Serialize)]
struct Report<'a> {
    repository: String,
    guest_path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    base: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    branch: Option<String>,
    files: Vec<File>,
    bytes: u64,
    untracked_left_out: u64,
}

#[derive(Serialize)]
struct File {
    path: String,
    /// The bytes of a path that is not UTF-8, as hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
    kind: &'static str,
    size: u64,
}

impl From<&Entry> for File {
    fn from(entry: &Entry) -> File {
        let is_text = std::str::from_utf8(&entry.path).is_ok();
        let hex = || entry.path.iter().map(|byte| format!("{byte:02x}"));
        File {
            path: String::from_utf8_lossy(&entry.path).into_owned(),
            path_hex: (!is_text).then(|| hex().collect()),
            kind: match entry.kind {
                Kind::File => "file",
                Kind::Executable => "executable",
                Kind::Symlink => "symlink",
            },
            size: entry.size,
        }
    }
}

/// Prints what would be copied.
///
/// # Errors
/// When standard output cannot be written.
pub(in crate::vm) fn list(ui: &Ui, plan: &Plan, guest_path: &GuestPath) -> Result<()> {
    say_left_out(ui, plan);
    if ui.format() == Format::Json {
        return ui.json(&Report {
            repository: plan.repository().top().to_string_lossy().into_owned(),
            guest_path: guest_path.as_str(),
            base: plan.base(),
            branch: plan.branch(),
            files: plan.entries().iter().map(File::from).collect(),
            bytes: plan.bytes(),
            untracked_left_out: plan.untracked_left_out(),
        });
    }
    if !plan.entries().is_empty() {
        let text = as_text(plan.entries(), ui.is_quiet());
        ui.data(text.trim_end_matches('\n'))?;
    }
    ui.say(&format!(
        "{} would go to {guest_path}, and git's own data besides",
        quantity(plan)
    ));
    Ok(())
}

/// A file a line: its size and its path, or only the path.
fn as_text(entries: &[Entry], only_names: bool) -> String {
    let mut text = String::new();
    for entry in entries {
        let path = escape(&String::from_utf8_lossy(&entry.path));
        let written = match only_names {
            true => writeln!(text, "{path}"),
            false => {
                let size = human_size(ByteSize::bytes(entry.size));
                writeln!(text, "{size:>8}  {path}")
            }
        };
        debug_assert!(written.is_ok(), "a string takes everything");
    }
    text
}
