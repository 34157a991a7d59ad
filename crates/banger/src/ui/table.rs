//! Tables: columns apart by spaces, without lines, so that `awk` can read them.

use tabled::builder::Builder;
use tabled::settings::object::{Columns, Object, Segment};
use tabled::settings::{Padding, Style};

use super::escape;

/// A table with a header.
pub(crate) fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut builder = Builder::default();
    builder.push_record(header.iter().map(|cell| (*cell).to_owned()));
    for row in rows {
        builder.push_record(row.iter().map(|cell| escape(cell)));
    }
    render(builder)
}

/// Names and values, one pair a line.
pub(crate) fn key_values(pairs: Vec<(&str, String)>) -> String {
    let mut builder = Builder::default();
    for (key, value) in pairs {
        builder.push_record([format!("{key}:"), escape(&value)]);
    }
    render(builder)
}

fn render(builder: Builder) -> String {
    let mut table = builder.build();
    table
        .with(Style::empty())
        .modify(Segment::all(), Padding::new(0, 3, 0, 0))
        .modify(Segment::all().intersect(Columns::last()), Padding::zero());
    let text = table.to_string();
    let lines: Vec<_> = text.lines().map(str::trim_end).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_foreign_text_is_escaped() {
        let rows = vec![
            vec!["box".into(), "running".into()],
            vec!["a-longer-name".into(), "x\x1b[2J".into()],
        ];
        insta::assert_snapshot!(table(&["NAME", "STATE"], rows), @r"
        NAME            STATE
        box             running
        a-longer-name   x\u{1b}[2J
        ");
        insta::assert_snapshot!(table(&["NAME", "STATE"], Vec::new()), @"NAME   STATE");
        insta::assert_snapshot!(key_values(vec![("name", "box".into()), ("state", "up".into())]), @r"
        name:    box
        state:   up
        ");
    }
}
