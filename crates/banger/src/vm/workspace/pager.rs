//! Looking at a patch.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read};
use std::path::Path;
use std::process::Stdio;

use anstream::ColorChoice;
use anstyle::{AnsiColor, Style};
use banger_model::{Code, Error, IoContext, Result};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use crate::environment;
use crate::signals::{Signal, Signals};
use crate::ui::Tamer;

/// A longer line is shown in pieces.
const LINE: u64 = 64 << 10;

/// Shows a patch on the terminal behind standard error, in the user's pager or `less`, without
/// anything that a terminal would obey but colours of our own. Returns the signal that ended it
/// other than from the keyboard, which is the pager's.
///
/// # Errors
/// When the patch cannot be read or shown.
pub(super) async fn show(patch: &Path, signals: &mut Signals) -> Result<Option<Signal>> {
    let file = File::open(patch).at("open", patch)?;
    let lines = Lines::new(BufReader::new(file));
    let Some(mut child) = start()? else {
        return print(lines, patch).map(|()| None);
    };
    let shown = feed(&mut child, lines, patch);
    tokio::pin!(shown);
    loop {
        tokio::select! {
            shown = &mut shown => return shown.map(|()| None),
            signal = signals.next() => match signal {
                Signal::Hangup | Signal::Terminate => return Ok(Some(signal)),
                Signal::Interrupt | Signal::Quit | Signal::User1 | Signal::User2 => {}
            },
        }
    }
}

/// The pager; none when there is none.
fn start() -> Result<Option<Child>> {
    let mut command = match environment::pager() {
        Some(pager) => {
            let mut command = Command::new("sh");
            command.arg("-c").arg(pager);
            command
        }
        None => {
            let mut command = Command::new("less");
            command.arg("-FRX");
            command
        }
    };
    // Standard output may be a file.
    let terminal = rustix::io::dup(rustix::stdio::stderr()).map_err(|error| {
        Error::new(Code::Io, "cannot use the terminal").because(io::Error::from(error))
    })?;
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::from(terminal))
        .kill_on_drop(true);
    match command.spawn() {
        Ok(child) => Ok(Some(child)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::new(Code::Io, "cannot start the pager").because(error)),
    }
}

/// Gives the pager the patch, until it has had enough, and waits for its end.
async fn feed(child: &mut Child, mut lines: Lines, patch: &Path) -> Result<()> {
    if let Some(mut input) = child.stdin.take() {
        while let Some(line) = lines.next().at("read", patch)? {
            if input.write_all(line.as_bytes()).await.is_err() {
                break;
            }
        }
    }
    let ended = child.wait().await;
    ended.map_err(|error| Error::new(Code::Io, "cannot wait for the pager").because(error))?;
    Ok(())
}

fn print(mut lines: Lines, patch: &Path) -> Result<()> {
    let mut out = io::stderr().lock();
    while let Some(line) = lines.next().at("read", patch)? {
        // When that fails there is nobody who looks.
        io::Write::write_all(&mut out, line.as_bytes()).ok();
    }
    Ok(())
}

/// A patch, line by line, fit for a terminal.
struct Lines {
    patch: BufReader<File>,
    tamer: Tamer,
    colours: bool,
    /// The colour of the line that a piece belongs to.
    style: Style,
    at_start: bool,
}

impl Lines {
    fn new(patch: BufReader<File>) -> Lines {
        let colours = io::stderr().is_terminal()
            && anstream::AutoStream::choice(&io::stderr()) != ColorChoice::Never;
        Lines {
            patch,
            tamer: Tamer::default(),
            colours,
            style: Style::new(),
            at_start: true,
        }
    }

    fn next(&mut self) -> io::Result<Option<String>> {
        let mut bytes = Vec::new();
        (&mut self.patch).take(LINE).read_until(b'\n', &mut bytes)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        if self.at_start {
            self.style = style(&bytes);
        }
        self.at_start = bytes.ends_with(b"\n");
        let text = self.tamer.push(&bytes);
        if !self.colours {
            return Ok(Some(text));
        }
        let style = self.style;
        Ok(Some(match text.strip_suffix('\n') {
            Some(line) => format!("{style}{line}{style:#}\n"),
            None => format!("{style}{text}{style:#}"),
        }))
    }
}

/// As git colours it.
fn style(line: &[u8]) -> Style {
    match line {
        [b'+', ..] => AnsiColor::Green.on_default(),
        [b'-', ..] => AnsiColor::Red.on_default(),
        [b'@', b'@', ..] => AnsiColor::Cyan.on_default(),
        [b'd', b'i', b'f', b'f', ..] => Style::new().bold(),
        _ => Style::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_gets_our_colours_and_keeps_none_of_its_own() {
        let place = tempfile::tempdir().unwrap();
        let patch = place.path().join("patch");
        std::fs::write(&patch, b"@@ -1 +1 @@\n-\x1b[2Jold\n+new\x07\n same").unwrap();
        let lines = |colours| {
            let file = BufReader::new(File::open(&patch).unwrap());
            let mut lines = Lines {
                colours,
                ..Lines::new(file)
            };
            std::iter::from_fn(|| lines.next().unwrap()).collect::<String>()
        };
        assert_eq!(lines(false), "@@ -1 +1 @@\n-old\n+new\\u{7}\n same");
        assert_eq!(
            lines(true),
            "\x1b[36m@@ -1 +1 @@\x1b[0m\n\x1b[31m-old\x1b[0m\n\x1b[32m+new\\u{7}\x1b[0m\n same"
        );
    }
}
