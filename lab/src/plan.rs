//! Which scenarios run on which VMM as which user.

use banger_model::{Code, Error, Result};

use crate::settings::Settings;

/// The default set, chosen by what each costs here: see the file.
const DEFAULT: &str = include_str!("../default.plan");

/// One run of the suite inside the outer machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Half {
    /// The VMM, as `--vmm` takes it.
    pub(crate) vmm: &'static str,
    /// The user inside.
    pub(crate) who: &'static str,
    /// The scenarios, separated by commas, or [`BENCH`].
    pub(crate) scenarios: String,
}

/// Instead of scenarios: the benchmark.
pub(crate) const BENCH: &str = "bench";

/// The runs, in their order.
pub(crate) fn make(settings: &Settings) -> Result<Vec<Half>> {
    let vmms = vmms(settings.firecracker.is_some(), settings.vmm.as_deref())?;
    let mut halves = Vec::new();
    for vmm in vmms {
        for who in ["lab", "root"] {
            let scenarios = match &settings.only {
                // One measurement is enough, of what people do.
                _ if settings.bench.is_some() && who == "root" => continue,
                _ if settings.bench.is_some() => BENCH.to_owned(),
                Some(only) => only.clone(),
                None => defaults(DEFAULT, who)?.join(","),
            };
            halves.push(Half {
                vmm,
                who,
                scenarios,
            });
        }
    }
    Ok(halves)
}

/// The VMMs that are there, or the one that is asked for.
fn vmms(firecracker: bool, only: Option<&str>) -> Result<Vec<&'static str>> {
    let mut vmms = vec!["qemu-kvm"];
    if firecracker {
        vmms.push("firecracker");
    }
    let Some(only) = only else { return Ok(vmms) };
    // `qemu` means the same to people.
    vmms.retain(|vmm| *vmm == only || vmm.strip_suffix("-kvm") == Some(only));
    if vmms.is_empty() {
        return Err(Error::new(
            Code::InvalidArgument,
            format!("there is no VMM `{}` for the lab", only.escape_debug()),
        )
        .hint("it runs `qemu`, and `firecracker` where BANGER_FIRECRACKER or PATH names one"));
    }
    Ok(vmms)
}

/// The scenarios that `who` runs: a line of the file is a name, and `root` when it is root's
/// as well.
fn defaults<'a>(text: &'a str, who: &str) -> Result<Vec<&'a str>> {
    let mut names = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [] => {}
            [name] if who != "root" => names.push(name),
            [_] => {}
            [name, "root"] => names.push(name),
            _ => {
                return Err(Error::new(
                    Code::InvalidConfig,
                    format!("`lab/default.plan` has the line `{line}`"),
                ));
            }
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_runs_the_marked_ones_and_the_user_all() {
        let text = "# a remark\none\ntwo root # why\n\n";
        assert_eq!(defaults(text, "lab").unwrap(), ["one", "two"]);
        assert_eq!(defaults(text, "root").unwrap(), ["two"]);
        assert!(defaults("one two\n", "lab").is_err());
    }

    #[test]
    fn firecracker_runs_where_it_is_and_one_vmm_when_it_is_named() {
        assert_eq!(vmms(false, None).unwrap(), ["qemu-kvm"]);
        assert_eq!(vmms(true, None).unwrap(), ["qemu-kvm", "firecracker"]);
        assert_eq!(vmms(true, Some("firecracker")).unwrap(), ["firecracker"]);
        assert_eq!(vmms(true, Some("qemu")).unwrap(), ["qemu-kvm"]);
        assert!(vmms(false, Some("firecracker")).is_err());
    }

    #[test]
    fn the_default_set_is_there_for_both() {
        assert!(defaults(DEFAULT, "lab").unwrap().len() >= 8);
        assert!(defaults(DEFAULT, "root").unwrap().len() >= 3);
        let scenarios = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/scenarios");
        let mut source = String::new();
        for entry in std::fs::read_dir(scenarios).unwrap().flatten() {
            if entry.path().is_file() {
                source += &std::fs::read_to_string(entry.path()).unwrap();
            }
        }
        for name in defaults(DEFAULT, "lab").unwrap() {
            assert!(source.contains(&format!("\"{name}\"")), "{name}");
        }
    }
}
