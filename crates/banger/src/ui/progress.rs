//! Where long work is: a bar on a terminal, one plain line a stage elsewhere, nothing when
//! quiet. It goes to standard error.

use std::time::Duration;

use banger_api::Stage;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::caret::HiddenCarets;
use super::{Ui, escape, print_line};

/// The progress of one piece of work. Dropping it clears the line it occupies.
pub(crate) struct Progress {
    sink: Sink,
    utf8: bool,
    /// The name and message of the current stage.
    current: Option<(String, String)>,
}

enum Sink {
    None,
    Lines,
    Bar(Box<Bar>),
}

/// A line that is redrawn: a spinner, and a bar while it is known how much is done.
struct Bar {
    bar: ProgressBar,
    spinner: ProgressStyle,
    measured: ProgressStyle,
    is_measured: bool,
    carets: Option<HiddenCarets>,
}

impl Progress {
    /// Nothing is shown before the first stage.
    pub(crate) fn new(ui: &Ui) -> Progress {
        let sink = match (ui.quiet, ui.stderr_is_terminal) {
            (true, _) => Sink::None,
            (false, false) => Sink::Lines,
            (false, true) => Sink::Bar(Box::new(Bar::new(ui.utf8))),
        };
        Progress {
            sink,
            utf8: ui.utf8,
            current: None,
        }
    }

    /// Shows nothing: for the deletion after a session, whose output a line that is redrawn
    /// would spoil wherever it does not end in a line break.
    pub(crate) fn none() -> Progress {
        Progress {
            sink: Sink::None,
            utf8: false,
            current: None,
        }
    }

    /// Shows a stage that the daemon reports.
    pub(crate) fn stage(&mut self, stage: &Stage) {
        let key = (stage.name.clone(), stage.message.clone());
        let is_new = self.current.as_ref() != Some(&key);
        match &mut self.sink {
            Sink::None => {}
            Sink::Lines => {
                if is_new {
                    print_line(&escape(&stage.message));
                }
            }
            Sink::Bar(line) => line.show(stage, is_new),
        }
        self.current = Some(key);
    }

    /// Shows a stage of our own.
    pub(crate) fn say(&mut self, message: &str) {
        self.stage(&Stage {
            name: String::new(),
            message: message.to_owned(),
            fraction: None,
        });
    }

    /// Clears the line, so that something else can be printed.
    pub(crate) fn clear(&mut self) {
        if let Sink::Bar(line) = &mut self.sink {
            line.bar.disable_steady_tick();
            line.bar.finish_and_clear();
            // A finished bar draws nothing any more; later stages need another one.
            **line = Bar::new(self.utf8);
        }
        self.current = None;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

fn permille(fraction: f32) -> u64 {
    (fraction.clamp(0.0, 1.0) * 1000.0) as u64
}

impl Bar {
    fn new(utf8: bool) -> Bar {
        let (ticks, fill) = match utf8 {
            true => ("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏ ", "━╸─"),
            false => ("-\\|/ ", "#>-"),
        };
        let style = |template: &str| {
            ProgressStyle::with_template(template)
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .tick_chars(ticks)
                .progress_chars(fill)
        };
        let target = ProgressDrawTarget::stderr_with_hz(20);
        Bar {
            bar: ProgressBar::with_draw_target(Some(1000), target),
            spinner: style(SPINNER),
            measured: style(MEASURED),
            is_measured: false,
            carets: None,
        }
    }

    fn show(&mut self, stage: &Stage, is_new: bool) {
        let is_measured = stage.fraction.is_some();
        if self.carets.is_none() {
            self.carets = HiddenCarets::hide();
        }
        if is_new || self.is_measured != is_measured {
            self.is_measured = is_measured;
            let style = if is_measured {
                &self.measured
            } else {
                &self.spinner
            };
            self.bar.set_style(style.clone());
            self.bar.set_message(escape(&stage.message));
            self.bar.enable_steady_tick(Duration::from_millis(100));
        }
        if let Some(fraction) = stage.fraction {
            self.bar.set_position(permille(fraction));
        }
    }
}

const SPINNER: &str = "{spinner:.cyan} {wide_msg}";
const MEASURED: &str = "{spinner:.cyan} {msg} {bar:24.cyan} {percent:>3}%";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fraction_from_elsewhere_stays_within_the_bar() {
        for (fraction, expected) in [
            (0.5, 500),
            (-1.0, 0),
            (7.0, 1000),
            (f32::NAN, 0),
            (f32::INFINITY, 1000),
        ] {
            assert_eq!(permille(fraction), expected);
        }
    }

    #[test]
    fn the_templates_are_valid() {
        for template in [
            "{spinner:.cyan} {wide_msg}",
            "{spinner:.cyan} {msg} {bar:24.cyan} {percent:>3}%",
        ] {
            assert!(ProgressStyle::with_template(template).is_ok());
        }
    }
}
