//! Which scenarios run on which VMM as which user.

use banger_model::{Code, Error, Result};

use crate::settings::Settings;

/// The default set, chosen by what each costs here: see the file.
const DEFAULT: &str = include_str!("../default.plan");

/// The most scenarios that one outer machine runs: a long list is shared out, and a machine that
/// dies takes no more with it.
const MOST: usize = 6;

/// What one outer machine runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    /// The VMM, as `--vmm` takes it.
    pub(crate) vmm: &'static str,
    /// The user inside.
    pub(crate) who: &'static str,
    /// Which part of the scenarios of these two, when they are shared out.
    pub(crate) part: Option<usize>,
    /// The scenarios, or [`BENCH`] alone.
    pub(crate) scenarios: Vec<String>,
}

impl Batch {
    /// A name for files, and for people.
    pub(crate) fn name(&self) -> String {
        let part = self.part.map_or(String::new(), |part| format!("-{part}"));
        format!("{}-{}{part}", self.vmm, self.who)
    }

    /// Whether it is the benchmark.
    pub(crate) fn is_bench(&self) -> bool {
        self.scenarios == [BENCH]
    }
}

/// Instead of scenarios: the benchmark.
pub(crate) const BENCH: &str = "bench";

/// The batches, in their order.
pub(crate) fn make(settings: &Settings) -> Result<Vec<Batch>> {
    let vmms = vmms(settings.firecracker.is_some(), settings.vmm.as_deref())?;
    let users = users(settings.who.as_deref())?;
    let mut batches = Vec::new();
    for vmm in vmms {
        if settings.bench.is_some() {
            // One measurement is enough, of what people do.
            batches.push(Batch {
                vmm,
                who: "lab",
                part: None,
                scenarios: vec![BENCH.to_owned()],
            });
            continue;
        }
        for &who in &users {
            let scenarios = match &settings.only {
                Some(only) => only.split(',').map(str::to_owned).collect(),
                None => defaults(DEFAULT, who)?,
            };
            batches.extend(shared_out(vmm, who, &scenarios));
        }
    }
    Ok(batches)
}

/// As few batches as may be, and as even.
fn shared_out(vmm: &'static str, who: &'static str, scenarios: &[String]) -> Vec<Batch> {
    let count = scenarios.len().div_ceil(MOST);
    let size = scenarios.len().div_ceil(count.max(1)).max(1);
    let chunks = scenarios.chunks(size).enumerate();
    chunks
        .map(|(index, chunk)| Batch {
            vmm,
            who,
            part: (count > 1).then_some(index + 1),
            scenarios: chunk.to_vec(),
        })
        .collect()
}

/// Both users, or the one that is asked for.
fn users(only: Option<&str>) -> Result<Vec<&'static str>> {
    let mut users = vec!["lab", "root"];
    let Some(only) = only else { return Ok(users) };
    users.retain(|who| *who == only);
    if users.is_empty() {
        return Err(Error::new(
            Code::InvalidArgument,
            format!("there is no user `{}` in the lab", only.escape_debug()),
        )
        .hint("set WHO to `lab`, the ordinary user, or to `root`"));
    }
    Ok(users)
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
fn defaults(text: &str, who: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [] => {}
            [name] if who != "root" => names.push(name.to_owned()),
            [_] => {}
            [name, "root"] => names.push(name.to_owned()),
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
    fn a_long_list_is_shared_out_evenly_and_nothing_is_lost() {
        let names = |count: usize| (0..count).map(|n| n.to_string()).collect::<Vec<_>>();
        let sizes = |count| -> Vec<usize> {
            let batches = shared_out("qemu-kvm", "lab", &names(count));
            let all: Vec<String> = batches.iter().flat_map(|b| b.scenarios.clone()).collect();
            assert_eq!(all, names(count));
            batches.iter().map(|batch| batch.scenarios.len()).collect()
        };
        assert_eq!(sizes(0), [0; 0]);
        assert_eq!(sizes(MOST), [MOST]);
        assert_eq!(sizes(MOST + 1), [4, 3]);
        assert_eq!(sizes(20), [5, 5, 5, 5]);
        let parts = shared_out("qemu-kvm", "root", &names(8));
        let parts: Vec<String> = parts.iter().map(Batch::name).collect();
        assert_eq!(parts, ["qemu-kvm-root-1", "qemu-kvm-root-2"]);
        assert_eq!(
            shared_out("firecracker", "lab", &names(1))[0].name(),
            "firecracker-lab"
        );
    }

    #[test]
    fn one_user_runs_when_one_is_named() {
        assert_eq!(users(None).unwrap(), ["lab", "root"]);
        assert_eq!(users(Some("root")).unwrap(), ["root"]);
        assert!(users(Some("toor")).is_err());
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
