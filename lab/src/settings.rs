//! What a run is asked to do: all of it comes from the environment, as `make lab` sets it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use banger_model::{Code, Error, IoContext, Result};

/// How long a run may take, unless `LAB_MINUTES` says otherwise.
const MINUTES: u64 = 30;
/// How many outer machines run side by side, each with a processor of its own.
const JOBS: u64 = 2;

/// What a run is asked to do.
pub(crate) struct Settings {
    /// Where the outer machine is kept.
    pub(crate) cache: PathBuf,
    /// Firecracker, when there is one.
    pub(crate) firecracker: Option<PathBuf>,
    /// The only VMM to run them on.
    pub(crate) vmm: Option<String>,
    /// The only user inside to run them as.
    pub(crate) who: Option<String>,
    /// The scenarios to run instead of the default set, separated by commas.
    pub(crate) only: Option<String>,
    /// Measure this many starts instead of running scenarios.
    pub(crate) bench: Option<u64>,
    /// How long the whole run may take.
    pub(crate) limit: Duration,
    /// How many outer machines run side by side.
    pub(crate) jobs: usize,
}

impl Settings {
    /// Reads the environment.
    pub(crate) fn read() -> Result<Settings> {
        let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let cache = match (set("XDG_CACHE_HOME"), set("HOME")) {
            (Some(cache), _) => PathBuf::from(cache),
            (None, Some(home)) => PathBuf::from(home).join(".cache"),
            (None, None) => {
                return Err(
                    Error::new(Code::InvalidArgument, "the variable HOME is not set")
                        .hint("set it, or XDG_CACHE_HOME: the outer machine is kept there"),
                );
            }
        };
        let path = set("PATH").unwrap_or_default();
        let bench = set("LAB_BENCH").map(|_| number("LAB_BENCH", 10, set));
        let bench = bench.transpose()?;
        Ok(Settings {
            bench,
            firecracker: firecracker(set("BANGER_FIRECRACKER"), &path)?,
            cache: cache.join("banger-lab"),
            vmm: set("VMM"),
            who: set("WHO"),
            only: set("SCENARIO"),
            limit: Duration::from_secs(60 * number("LAB_MINUTES", MINUTES, set)?),
            // What is measured is measured alone.
            jobs: match bench {
                None => number("JOBS", JOBS, set)? as usize,
                Some(_) => 1,
            },
        })
    }
}

fn number(name: &str, default: u64, set: impl Fn(&str) -> Option<String>) -> Result<u64> {
    let Some(text) = set(name) else {
        return Ok(default);
    };
    match text.parse() {
        Ok(number) if (1..=600).contains(&number) => Ok(number),
        _ => Err(Error::new(
            Code::InvalidArgument,
            format!("{name} is `{}`", text.escape_debug()),
        )
        .hint("give a number from 1 to 600")),
    }
}

/// The named one, which must be there, or the first on the search path.
fn firecracker(named: Option<String>, path: &str) -> Result<Option<PathBuf>> {
    if let Some(named) = named {
        let named = PathBuf::from(named);
        fs::metadata(&named)
            .at("find", &named)
            .map_err(|error| error.hint("BANGER_FIRECRACKER names this file"))?;
        return Ok(Some(named));
    }
    Ok(path
        .split(':')
        .map(|dir| Path::new(dir).join("firecracker"))
        .find(|program| program.is_file()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn firecracker_is_the_named_one_or_the_one_on_the_path() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("firecracker");
        let path = format!("/nonexistent:{}", dir.path().display());
        assert_eq!(firecracker(None, &path).unwrap(), None);
        fs::write(&program, "").unwrap();
        assert_eq!(firecracker(None, &path).unwrap(), Some(program.clone()));
        let named = program.to_str().unwrap().to_owned();
        assert_eq!(firecracker(Some(named), "").unwrap(), Some(program));
        let error = firecracker(Some("/nonexistent/fc".into()), &path).unwrap_err();
        assert!(error.message().contains("/nonexistent/fc"), "{error}");
    }

    #[test]
    fn numbers_are_checked() {
        let set = |text: &'static str| move |_: &str| Some(text.to_owned());
        assert_eq!(number("JOBS", 2, |_| None).unwrap(), 2);
        assert_eq!(number("JOBS", 2, set("5")).unwrap(), 5);
        for bad in ["0", "-1", "x", "601"] {
            assert!(number("JOBS", 2, set(bad)).is_err(), "{bad}");
        }
    }
}
