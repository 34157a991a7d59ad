//! What mmdebstrap, apt and dpkg say, turned into stages with true fractions.
//!
//! `--verbose` passes on apt's and dpkg's own lines. Downloads are measured in bytes against
//! apt's own total, installation in packages unpacked and set up. Where nothing is known, no
//! fraction is reported.

use std::collections::VecDeque;

use banger_model::Progress;

/// How many lines of output an error keeps.
const TAIL: usize = 20;
/// How many lines that look like errors are kept from before the tail.
const COMPLAINTS: usize = 20;

/// The last lines of an output, and earlier ones that look like errors.
#[derive(Default)]
pub(crate) struct Tail {
    complaints: VecDeque<String>,
    last: VecDeque<String>,
}

impl Tail {
    pub(crate) fn push(&mut self, line: &str) {
        tracing::debug!(target: "banger_archive::output", "{line}");
        self.last.push_back(line.to_owned());
        if self.last.len() > TAIL
            && let Some(line) = self.last.pop_front()
            && is_complaint(&line)
        {
            self.complaints.push_back(line);
            if self.complaints.len() > COMPLAINTS {
                self.complaints.pop_front();
            }
        }
    }

    /// All kept lines, oldest first.
    pub(crate) fn lines(&self) -> Vec<&str> {
        self.complaints
            .iter()
            .chain(self.last.iter())
            .map(String::as_str)
            .collect()
    }
}

/// Whether a line says that something is wrong.
pub(crate) fn is_complaint(line: &str) -> bool {
    [
        "E: ",
        "W: ",
        "Err:",
        "dpkg: error",
        "mke2fs: ",
        "unshare: ",
        "newuidmap: ",
        "newgidmap: ",
    ]
    .iter()
    .any(|start| line.starts_with(start))
        || line.contains("No space left on device")
        || line.starts_with("Ign:") && line.contains("Could not")
}

/// Follows an output and reports where the work is.
pub(crate) struct Tracker<'a> {
    progress: &'a dyn Progress,
    part: Part,
    /// Packages of this part, from apt's summary.
    packages: u32,
    /// Packages unpacked plus packages set up.
    steps: u32,
    /// Bytes to download in this part.
    total: f64,
    /// Bytes of the downloads that have ended.
    done: f64,
    /// Bytes of the download that began last: apt names a file when it begins.
    current: f64,
    installing: bool,
}

/// mmdebstrap installs twice: first what every system has, then what was asked for.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    /// One package, not installed.
    Single,
    Base,
    Rest,
}

impl<'a> Tracker<'a> {
    pub(crate) fn new(progress: &'a dyn Progress) -> Self {
        Tracker {
            progress,
            part: Part::Single,
            packages: 0,
            steps: 0,
            total: 0.0,
            done: 0.0,
            current: 0.0,
            installing: false,
        }
    }

    pub(crate) fn line(&mut self, line: &str) {
        if let Some(step) = line.strip_prefix("I: ") {
            self.step(step);
        } else if let Some(total) = line.strip_prefix("Need to get ") {
            self.downloads(total);
        } else if line.starts_with("Get:") {
            self.download_begins(line);
        } else if let Some(status) = line.strip_prefix("dlstatus:") {
            self.status(status);
        } else if line.starts_with("Fetched ") {
            self.progress.fraction(1.0);
        } else if line.starts_with("Unpacking ") || line.starts_with("Setting up ") {
            self.package_step();
        } else if let Some(packages) = newly_installed(line) {
            self.packages = packages;
        }
    }

    fn step(&mut self, step: &str) {
        if step.starts_with("running apt-get update") {
            self.progress
                .stage("fetch-lists", "fetching the package lists");
        } else if step.starts_with("downloading packages with apt") {
            self.begin(Part::Base);
        } else if step.starts_with("extracting archives") {
            self.progress.stage("extract", "extracting the base system");
        } else if step.starts_with("installing essential packages") {
            self.install();
        } else if step.starts_with("installing remaining packages") {
            self.begin(Part::Rest);
        } else if step.starts_with("making the disk") {
            self.progress.stage("make-disk", "making the disk");
        }
    }

    fn begin(&mut self, part: Part) {
        self.part = part;
        self.packages = 0;
        self.steps = 0;
        self.total = 0.0;
        self.done = 0.0;
        self.current = 0.0;
        self.installing = false;
    }

    /// `38.0 MB of archives.`, or `12.3 MB/38.0 MB of archives.` when a part is there already.
    fn downloads(&mut self, text: &str) {
        let Some((amount, _)) = text.split_once(" of archives") else {
            return;
        };
        let needed = amount.split('/').next().unwrap_or(amount);
        self.total = size(needed).unwrap_or(0.0);
        let what = self.what();
        self.progress
            .stage("download", &format!("downloading {what} ({needed})"));
    }

    /// `Get:1 http://… bookworm/main amd64 bash amd64 5.2 [1491 kB]`
    fn download_begins(&mut self, line: &str) {
        let bytes = line
            .rsplit_once('[')
            .and_then(|(_, rest)| size(rest.strip_suffix(']')?));
        self.done += self.current;
        self.current = bytes.unwrap_or(0.0);
        if self.total > 0.0 {
            self.progress
                .fraction((self.done / self.total).min(1.0) as f32);
        }
    }

    fn what(&self) -> String {
        match self.part {
            Part::Single => "the package".to_owned(),
            Part::Base => "the base system".to_owned(),
            Part::Rest => format!("{} packages", self.packages),
        }
    }

    /// `1:45.3:Retrieving file 1 of 1 (3s remaining)`
    fn status(&mut self, status: &str) {
        let percent = status.split(':').nth(1).and_then(|p| p.parse::<f32>().ok());
        if let Some(percent) = percent
            && (0.0..=100.0).contains(&percent)
        {
            self.progress.fraction(percent / 100.0);
        }
    }

    fn install(&mut self) {
        self.installing = true;
        let what = self.what();
        self.progress
            .stage("install", &format!("installing {what}"));
    }

    fn package_step(&mut self) {
        if !self.installing {
            self.install();
        }
        self.steps += 1;
        if self.packages > 0 {
            let all = 2.0 * self.packages as f32;
            self.progress.fraction((self.steps as f32 / all).min(1.0));
        }
    }
}

/// `0 upgraded, 89 newly installed, 0 to remove and 0 not upgraded.`
fn newly_installed(line: &str) -> Option<u32> {
    let (before, _) = line.split_once(" newly installed")?;
    before.rsplit(' ').next()?.parse().ok()
}

/// A size as apt writes it: `38.0 MB`, `1491 kB`, `9900 B`.
fn size(text: &str) -> Option<f64> {
    let (number, unit) = text.trim().split_once(' ')?;
    let scale = match unit {
        "B" => 1.0,
        "kB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * scale)
}

#[cfg(test)]
mod tests;
