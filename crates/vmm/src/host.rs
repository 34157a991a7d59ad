//! What this host offers to VMs.

use std::path::{Path, PathBuf};

use banger_model::{Check, CheckStatus, Error, Result, VmmChoice, VmmKind};

use crate::firecracker::{FIRECRACKER, Judgement, PASTA, install_hint};
use crate::kvm::{self, Verdict};
use crate::qemu::{QEMU, VSOCK};
use crate::versions::{Versions, ask_version};
use crate::{Demand, FirecrackerFacts, KvmFacts, LiveBoot, Search, choose};

/// The one architecture this release runs on.
const ARCH: &str = "x86_64";
/// The oldest QEMU that was tried, as major and minor number.
const QEMU_TESTED: (u32, u32) = (7, 2);
/// The vsock program is part of this release; another one is told.
const VSOCK_TESTED: (u32, u32) = (0, 1);

/// One program the host should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProgramFacts {
    /// It is there.
    Found(PathBuf),
    /// It is not.
    Missing {
        /// What is missing.
        message: String,
        /// How to get it.
        hint: String,
    },
}

impl ProgramFacts {
    pub(crate) fn new(found: Result<PathBuf>) -> ProgramFacts {
        match found {
            Ok(path) => ProgramFacts::Found(path),
            Err(error) => ProgramFacts::Missing {
                message: error.chain(),
                hint: error.hint_text().unwrap_or_default().to_owned(),
            },
        }
    }

    /// The file.
    ///
    /// # Errors
    /// `missing_program` with how to install it.
    pub fn path(&self) -> Result<&Path> {
        match self {
            ProgramFacts::Found(path) => Ok(path),
            ProgramFacts::Missing { message, hint } => {
                Err(Error::new(banger_model::Code::MissingProgram, message).hint(hint))
            }
        }
    }
}

/// What is known about this host. Gathering it is cheap: only Firecracker is asked for its version,
/// and that once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The processor architecture.
    pub arch: String,
    /// KVM.
    pub kvm: KvmFacts,
    /// Firecracker.
    pub firecracker: FirecrackerFacts,
    /// QEMU.
    pub qemu: ProgramFacts,
    /// The vsock program.
    pub vsock: ProgramFacts,
}

impl Facts {
    /// Looks at this host. What programs said before is taken from `versions`.
    pub fn gather(search: &Search, versions: &Versions) -> Facts {
        Facts {
            arch: std::env::consts::ARCH.to_owned(),
            kvm: kvm::look(),
            firecracker: FirecrackerFacts::gather(search, versions),
            qemu: ProgramFacts::new(search.qemu()),
            vsock: ProgramFacts::new(search.vsock()),
        }
    }

    /// Whether VMs can run on this architecture at all.
    pub(crate) fn arch_is_supported(&self) -> bool {
        self.arch == ARCH
    }
}

/// The facts as `banger doctor` shows them. Asks the programs for their versions.
pub fn checks(facts: &Facts) -> Vec<Check> {
    let cpu = if facts.arch_is_supported() {
        Check::ok("cpu", facts.arch.clone())
    } else {
        Check::fail(
            "cpu",
            format!("{}; this release runs on {ARCH} only", facts.arch),
            format!("use a machine with an {ARCH} processor"),
        )
    };
    let live = match facts.firecracker.live {
        LiveBoot::Works => &facts.firecracker.live,
        _ => &facts.kvm.live,
    };
    let kvm = match facts.kvm.verdict_with(live) {
        Verdict::Works(detail) => Check::ok("kvm", detail),
        Verdict::Unproven(detail) => Check::warn(
            "kvm",
            format!("{detail}; it is tried when the first VM starts"),
            "nothing to do; `banger doctor` shows the result once a VM has been started",
        ),
        // VMs run without it, only slower.
        Verdict::Broken { found, fix } => {
            Check::warn("kvm", format!("{found}; VMs use software emulation"), fix)
        }
    };
    let firecracker = firecracker_check(&facts.firecracker);
    let mut qemu = program_check("qemu", QEMU, &facts.qemu, QEMU_TESTED);
    let choice = choose(VmmChoice::Auto, Demand::default(), facts);
    if qemu.status == CheckStatus::Fail
        && let Ok(choice) = &choice
        && choice.kind == VmmKind::Firecracker
    {
        // It is only the other one.
        qemu.status = CheckStatus::Warn;
    }
    let vmm = match choice {
        Ok(choice) if choice.is_certain => {
            Check::ok("vmm", format!("{}: {}", choice.kind, choice.reason))
        }
        Ok(choice) => Check::ok(
            "vmm",
            format!("chosen when the first VM starts, {} at least", choice.kind),
        ),
        Err(error) => Check::fail(
            "vmm",
            error.chain(),
            error
                .hint_text()
                .unwrap_or("see the checks beside this one"),
        ),
    };
    vec![
        cpu,
        kvm,
        firecracker,
        pasta_check(&facts.firecracker),
        qemu,
        program_check(VSOCK, VSOCK, &facts.vsock, VSOCK_TESTED),
        vmm,
    ]
}

fn firecracker_check(facts: &FirecrackerFacts) -> Check {
    let path = match &facts.program {
        ProgramFacts::Found(path) => path,
        ProgramFacts::Missing { message, hint } => {
            return Check::warn(
                FIRECRACKER,
                format!("{message}; VMs use QEMU"),
                hint.clone(),
            );
        }
    };
    let at = format!("at `{}`", path.display());
    match facts.judge() {
        Err(why) => Check::warn(
            FIRECRACKER,
            format!("{at}: {why}; VMs use QEMU"),
            install_hint(),
        ),
        Ok((version, Judgement::Refused(why))) => Check::warn(
            FIRECRACKER,
            format!("{version} {at} is not used: {why}; VMs use QEMU"),
            install_hint(),
        ),
        Ok((version, Judgement::Untested(why))) => Check::warn(
            FIRECRACKER,
            format!("{version} {at}, {why}"),
            "if VMs do not start, use the release that was tried, or `--vmm qemu`",
        ),
        Ok((version, Judgement::Good)) => match &facts.live {
            LiveBoot::Failed(why) => Check::warn(
                FIRECRACKER,
                format!("{version} {at} does not work here: {why}; VMs use QEMU"),
                "see what the kernel says: `sudo dmesg | grep -i kvm`",
            ),
            LiveBoot::Works | LiveBoot::NotTried => {
                Check::ok(FIRECRACKER, format!("{version} {at}"))
            }
        },
    }
}

fn pasta_check(facts: &FirecrackerFacts) -> Check {
    match &facts.pasta {
        ProgramFacts::Found(path) => Check::ok(PASTA, format!("at `{}`", path.display())),
        ProgramFacts::Missing { message, hint } => Check::warn(
            PASTA,
            format!("{message}; Firecracker needs it for `--nat`, and VMs with that use QEMU"),
            hint.clone(),
        ),
    }
}

fn program_check(name: &str, program: &str, facts: &ProgramFacts, tested: (u32, u32)) -> Check {
    let path = match facts {
        ProgramFacts::Found(path) => path,
        ProgramFacts::Missing { message, hint } => return Check::fail(name, message, hint),
    };
    match ask_version(path) {
        Ok(version) => version_check(name, path, &version, tested),
        Err(error) => Check::fail(
            name,
            format!("`{}` does not run: {error}", path.display()),
            format!(
                "run `{} --version` and repair or reinstall {program}",
                path.display()
            ),
        ),
    }
}

fn version_check(name: &str, path: &Path, said: &str, tested: (u32, u32)) -> Check {
    let Some((version, number)) = parse_version(said) else {
        return Check::warn(
            name,
            format!(
                "`{}` says no version: `{}`",
                path.display(),
                said.escape_debug()
            ),
            format!("check that it is {name}"),
        );
    };
    let detail = format!("{version} at `{}`", path.display());
    if number < tested {
        return Check::warn(
            name,
            format!(
                "{detail}; older than {}.{}, the oldest tried",
                tested.0, tested.1
            ),
            format!("update {name} if VMs do not start"),
        );
    }
    Check::ok(name, detail)
}

/// The first word that is a version, and its major and minor number.
fn parse_version(said: &str) -> Option<(&str, (u32, u32))> {
    said.split_ascii_whitespace().find_map(|word| {
        let mut parts = word.split('.');
        let major = parts.next()?.parse().ok()?;
        let minor = parts.next()?.parse().ok()?;
        Some((word, (major, minor)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Scratch;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        let cases = [
            (
                "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)",
                Some(("7.2.22", (7, 2))),
            ),
            ("banger-vsock 0.1.0", Some(("0.1.0", (0, 1)))),
            ("QEMU emulator version 10.0.50", Some(("10.0.50", (10, 0)))),
            ("no version here", None),
            ("v1", None),
            ("", None),
        ];
        for (said, expected) in cases {
            assert_eq!(parse_version(said), expected, "{said}");
        }
    }

    #[test]
    fn programs_are_asked_and_judged() {
        let scratch = Scratch::new();
        let check = |script: &str| {
            let path = scratch.path().join("program");
            crate::testing::script(&path, script);
            program_check("qemu", QEMU, &ProgramFacts::Found(path), QEMU_TESTED)
        };
        assert_eq!(
            check("echo QEMU emulator version 8.2.1").status,
            CheckStatus::Ok
        );
        assert_eq!(
            check("echo QEMU emulator version 6.2.0").status,
            CheckStatus::Warn
        );
        assert_eq!(check("echo hello").status, CheckStatus::Warn);
        assert_eq!(check("exit 1").status, CheckStatus::Fail);
        let missing = ProgramFacts::Found("/nonexistent/qemu".into());
        let failed = program_check("qemu", QEMU, &missing, QEMU_TESTED);
        assert_eq!(failed.status, CheckStatus::Fail);
        let missing = ProgramFacts::new(Search::default().qemu());
        let failed = program_check("qemu", QEMU, &missing, QEMU_TESTED);
        assert_eq!(failed.status, CheckStatus::Fail);
        assert!(failed.fix.unwrap().contains("apt-get"));
    }
}
