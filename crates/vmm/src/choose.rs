//! Which VMM runs a VM.

use banger_model::{Code, Error, Result, VmmChoice, VmmKind};

use crate::firecracker::{self, FirecrackerPrograms};
use crate::kvm::Verdict;
use crate::{Accel, Driver, Facts, Firecracker, Programs, Qemu};

/// What of a VM matters for the choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Virtual processors.
    pub vcpus: u32,
    /// Whether it reaches outside networks.
    pub nat: bool,
}

/// The VMM to use, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The VMM.
    pub kind: VmmKind,
    /// Why this one, for people.
    pub reason: String,
    /// Whether it stays so whatever is still to be tried.
    pub is_certain: bool,
}

/// Picks the VMM for what the user asked, from facts alone.
///
/// `auto` is Firecracker where it is installed and has booted a kernel, else QEMU with KVM where
/// that has, else QEMU with software emulation.
///
/// # Errors
/// `vmm_unavailable` when what was asked for does not work here, `missing_program` when a
/// program is not installed, `invalid_argument` when what was asked for cannot run such a VM.
pub fn choose(choice: VmmChoice, demand: Demand, facts: &Facts) -> Result<Choice> {
    if !facts.arch_is_supported() {
        return Err(unavailable(format!(
            "this machine has an {} processor, and this release runs on x86_64 only",
            facts.arch
        ))
        .hint("use an x86_64 machine"));
    }
    match choice {
        VmmChoice::Firecracker => match firecracker::usable(facts, demand) {
            Ok((version, verdict)) => Ok(with_firecracker(version, verdict)),
            Err(error) => Err(or_auto(error)),
        },
        VmmChoice::Auto => auto(demand, facts),
        VmmChoice::Qemu | VmmChoice::QemuKvm | VmmChoice::QemuTcg => qemu(choice, facts),
    }
}

fn auto(demand: Demand, facts: &Facts) -> Result<Choice> {
    let other = qemu(VmmChoice::Auto, facts);
    let why_not = match firecracker::usable(facts, demand) {
        Ok((version, verdict @ Verdict::Works(_))) => {
            return Ok(with_firecracker(version, verdict));
        }
        Ok((version, verdict)) => {
            // Proven or not, it is the only one.
            let Ok(other) = other else {
                return Ok(with_firecracker(version, verdict));
            };
            return Ok(Choice {
                is_certain: false,
                ..other
            });
        }
        Err(error) => error,
    };
    match other {
        Ok(other) => Ok(Choice {
            reason: match why_not.code() {
                // Said already, or no more than that.
                Code::VmmUnavailable if matches!(facts.kvm.verdict(), Verdict::Broken { .. }) => {
                    other.reason
                }
                _ => format!("{}; {}", other.reason, why_not.message()),
            },
            ..other
        }),
        // Neither: the one that is nearer to working says what to do.
        Err(_) if facts.firecracker.program.path().is_ok() => Err(why_not),
        Err(error) => Err(error),
    }
}

fn with_firecracker(version: firecracker::Version, verdict: Verdict) -> Choice {
    let (known, is_certain) = match verdict {
        Verdict::Works(detail) => (detail, true),
        Verdict::Unproven(detail) | Verdict::Broken { found: detail, .. } => (detail, false),
    };
    Choice {
        kind: VmmKind::Firecracker,
        reason: format!("Firecracker {version}; {known}"),
        is_certain,
    }
}

fn qemu(choice: VmmChoice, facts: &Facts) -> Result<Choice> {
    facts.qemu.path()?;
    facts.vsock.path()?;
    let pick = |kind, reason: String| {
        Ok(Choice {
            kind,
            reason,
            is_certain: true,
        })
    };
    match (choice, facts.kvm.verdict()) {
        (VmmChoice::QemuTcg, _) => {
            pick(VmmKind::QemuTcg, "software emulation was asked for".into())
        }
        (VmmChoice::QemuKvm, Verdict::Works(_) | Verdict::Unproven(_)) => {
            pick(VmmKind::QemuKvm, "KVM was asked for".into())
        }
        (VmmChoice::QemuKvm, Verdict::Broken { found, fix }) => Err(or_auto(
            unavailable(format!("KVM does not work on this machine: {found}")).hint(fix),
        )),
        (_, Verdict::Works(detail)) => pick(VmmKind::QemuKvm, detail),
        (_, Verdict::Broken { found, .. }) => pick(
            VmmKind::QemuTcg,
            format!("software emulation, because {found}"),
        ),
        (_, Verdict::Unproven(detail)) => Ok(Choice {
            kind: VmmKind::QemuTcg,
            reason: format!("software emulation, because {detail}"),
            is_certain: false,
        }),
    }
}

fn unavailable(message: String) -> Error {
    Error::new(Code::VmmUnavailable, message)
}

/// Adds the way out that there always is.
fn or_auto(error: Error) -> Error {
    let hint = match error.hint_text() {
        Some(hint) if hint.contains("--vmm") => return error,
        Some(hint) => format!("{hint}; or use `--vmm auto`"),
        None => "use `--vmm auto`, which takes the best VMM that works here".to_owned(),
    };
    error.hint(hint)
}

/// The driver for a choice made from the same facts.
///
/// # Errors
/// `missing_program` when a program is not installed.
pub fn driver(kind: VmmKind, facts: &Facts) -> Result<Box<dyn Driver>> {
    let vsock = facts.vsock.path()?.to_owned();
    let qemu_programs = || {
        Ok::<_, Error>(Programs {
            qemu: facts.qemu.path()?.to_owned(),
            vsock: vsock.clone(),
        })
    };
    Ok(match kind {
        VmmKind::Firecracker => Box::new(Firecracker::new(FirecrackerPrograms {
            firecracker: facts.firecracker.program.path()?.to_owned(),
            keeper: vsock.clone(),
            pasta: facts.firecracker.pasta.path().ok().map(Into::into),
        })),
        VmmKind::QemuKvm => Box::new(Qemu::new(qemu_programs()?, Accel::Kvm)),
        VmmKind::QemuTcg => Box::new(Qemu::new(qemu_programs()?, Accel::Tcg)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DeviceAccess, KvmFacts, LiveBoot, ProgramFacts};

    fn facts(device: DeviceAccess, cpu_flag: Option<&str>, live: LiveBoot) -> Facts {
        Facts {
            arch: "x86_64".into(),
            kvm: KvmFacts {
                device,
                cpu_flag: cpu_flag.map(str::to_owned),
                live,
            },
            firecracker: crate::testing::no_firecracker(),
            qemu: ProgramFacts::Found("/usr/bin/qemu-system-x86_64".into()),
            vsock: ProgramFacts::Found("/usr/lib/banger/banger-vsock".into()),
        }
    }

    const OPENS: DeviceAccess = DeviceAccess::Opens { api_version: 12 };

    fn broken() -> Vec<(Facts, &'static str)> {
        let none = LiveBoot::NotTried;
        let denied = DeviceAccess::Denied {
            group: "kvm".into(),
        };
        vec![
            (
                facts(DeviceAccess::Absent, Some("vmx"), none.clone()),
                "no `/dev/kvm`",
            ),
            (facts(denied, Some("vmx"), none.clone()), "group `kvm`"),
            (
                facts(
                    DeviceAccess::Failed("EIO".into()),
                    Some("vmx"),
                    none.clone(),
                ),
                "EIO",
            ),
            (
                facts(
                    DeviceAccess::Opens { api_version: 3 },
                    Some("svm"),
                    none.clone(),
                ),
                "version 3",
            ),
            (facts(OPENS, None, none), "neither vmx nor svm"),
            (
                facts(OPENS, Some("svm"), LiveBoot::Failed("it hung".into())),
                "it hung",
            ),
        ]
    }

    #[test]
    fn kvm_is_used_only_when_proven() {
        for choice in [VmmChoice::Auto, VmmChoice::Qemu] {
            let works = facts(OPENS, Some("vmx"), LiveBoot::Works);
            assert_eq!(
                choose(choice, Demand::default(), &works).unwrap().kind,
                VmmKind::QemuKvm
            );
            let unproven = facts(OPENS, Some("vmx"), LiveBoot::NotTried);
            assert_eq!(
                choose(choice, Demand::default(), &unproven).unwrap().kind,
                VmmKind::QemuTcg
            );
            for (facts, why) in broken() {
                let chosen = choose(choice, Demand::default(), &facts).unwrap();
                assert_eq!(chosen.kind, VmmKind::QemuTcg, "{why}");
                assert!(chosen.reason.contains(why), "{why}: {}", chosen.reason);
            }
        }
    }

    #[test]
    fn asking_for_broken_kvm_explains_what_was_found() {
        for (facts, why) in broken() {
            let error = choose(VmmChoice::QemuKvm, Demand::default(), &facts).unwrap_err();
            assert_eq!(error.code(), Code::VmmUnavailable);
            assert!(error.message().contains(why), "{why}: {error}");
            assert!(error.hint_text().unwrap().contains("--vmm auto"));
        }
        let works = facts(OPENS, Some("vmx"), LiveBoot::Works);
        assert_eq!(
            choose(VmmChoice::QemuKvm, Demand::default(), &works)
                .unwrap()
                .kind,
            VmmKind::QemuKvm
        );
        assert_eq!(
            choose(VmmChoice::QemuTcg, Demand::default(), &works)
                .unwrap()
                .kind,
            VmmKind::QemuTcg
        );
    }

    #[test]
    fn what_cannot_run_at_all_is_said_first() {
        let works = facts(OPENS, Some("vmx"), LiveBoot::Works);
        let error = choose(VmmChoice::Firecracker, Demand::default(), &works).unwrap_err();
        assert_eq!(error.code(), Code::MissingProgram);
        assert!(error.hint_text().unwrap().contains("--vmm auto"));
        let arm = Facts {
            arch: "aarch64".into(),
            ..works.clone()
        };
        for (choice, _) in VmmChoice::ALL {
            let error = choose(choice, Demand::default(), &arm).unwrap_err();
            assert_eq!(error.code(), Code::VmmUnavailable);
            assert!(error.message().contains("aarch64"), "{error}");
        }
        let missing = ProgramFacts::Missing {
            message: "gone".into(),
            hint: "get it".into(),
        };
        let no_qemu = Facts {
            qemu: missing.clone(),
            ..works.clone()
        };
        let no_vsock = Facts {
            vsock: missing,
            ..works
        };
        for facts in [no_qemu, no_vsock] {
            for choice in [VmmChoice::Auto, VmmChoice::QemuTcg, VmmChoice::QemuKvm] {
                let error = choose(choice, Demand::default(), &facts).unwrap_err();
                assert_eq!(error.code(), Code::MissingProgram);
                assert_eq!(error.hint_text(), Some("get it"));
            }
            assert!(driver(VmmKind::QemuTcg, &facts).is_err());
        }
    }

    /// Facts under which Firecracker is used.
    fn with_firecracker() -> Facts {
        let mut facts = facts(OPENS, Some("svm"), LiveBoot::NotTried);
        facts.firecracker = crate::FirecrackerFacts {
            program: ProgramFacts::Found("/usr/bin/firecracker".into()),
            version: Ok("Firecracker v1.14.1".into()),
            live: LiveBoot::Works,
            pasta: ProgramFacts::Found("/usr/bin/pasta".into()),
        };
        facts
    }

    #[test]
    fn firecracker_comes_first_where_it_has_booted_a_kernel() {
        let good = with_firecracker();
        let plain = Demand::default();
        for choice in [VmmChoice::Auto, VmmChoice::Firecracker] {
            let chosen = choose(choice, plain, &good).unwrap();
            assert_eq!(chosen.kind, VmmKind::Firecracker);
            assert!(chosen.reason.contains("1.14.1"), "{}", chosen.reason);
            assert!(chosen.is_certain);
        }
        assert_eq!(
            choose(VmmChoice::Qemu, plain, &good).unwrap().kind,
            VmmKind::QemuTcg
        );
        let mut untried = good.clone();
        untried.firecracker.live = LiveBoot::NotTried;
        let chosen = choose(VmmChoice::Auto, plain, &untried).unwrap();
        assert_eq!((chosen.kind, chosen.is_certain), (VmmKind::QemuTcg, false));
        untried.qemu = crate::testing::missing("gone");
        let chosen = choose(VmmChoice::Auto, plain, &untried).unwrap();
        assert_eq!(chosen.kind, VmmKind::Firecracker, "the only one there is");
    }

    /// Each thing that speaks against Firecracker, and the word by which it is told.
    fn against() -> Vec<(Facts, Demand, Code, &'static str)> {
        let plain = Demand::default();
        let nat = Demand { nat: true, ..plain };
        let with = |change: &dyn Fn(&mut crate::FirecrackerFacts)| {
            let mut facts = with_firecracker();
            change(&mut facts.firecracker);
            facts
        };
        let said = |text: &str| {
            let version = Ok(text.to_owned());
            with(&|facts| facts.version = version.clone())
        };
        let hung = LiveBoot::Failed("the guest hung".into());
        vec![
            (
                with(&|facts| facts.program = crate::testing::missing("`firecracker` is gone")),
                plain,
                Code::MissingProgram,
                "is gone",
            ),
            (
                said("Firecracker v1.7.0"),
                plain,
                Code::VmmUnavailable,
                "older than 1.8.0",
            ),
            (
                said("Firecracker v1.16.0"),
                plain,
                Code::VmmUnavailable,
                "snapshot",
            ),
            (
                said("Firewall 3"),
                plain,
                Code::VmmUnavailable,
                "no version",
            ),
            (
                with(&|facts| facts.version = Err("Permission denied".into())),
                plain,
                Code::VmmUnavailable,
                "Permission denied",
            ),
            (
                with(&|facts| facts.live = hung.clone()),
                plain,
                Code::VmmUnavailable,
                "the guest hung",
            ),
            (
                with_firecracker(),
                Demand { vcpus: 33, ..plain },
                Code::InvalidArgument,
                "at most 32",
            ),
            (
                with(&|facts| facts.pasta = crate::testing::missing("no pasta")),
                nat,
                Code::MissingProgram,
                "`--nat` under Firecracker needs it",
            ),
        ]
    }

    #[test]
    fn what_speaks_against_firecracker_is_told_and_something_else_is_used() {
        for (mut facts, demand, code, why) in against() {
            let error = choose(VmmChoice::Firecracker, demand, &facts).unwrap_err();
            assert_eq!(error.code(), code, "{why}");
            assert!(error.message().contains(why), "{why}: {error}");
            assert!(error.hint_text().unwrap().contains("--vmm"), "{error:?}");
            let chosen = choose(VmmChoice::Auto, demand, &facts).unwrap();
            assert_eq!(chosen.kind, VmmKind::QemuTcg, "{why}");
            assert!(chosen.reason.contains(why), "{why}: {}", chosen.reason);
            facts.qemu = crate::testing::missing("no QEMU");
            let error = choose(VmmChoice::Auto, demand, &facts).unwrap_err();
            let neither = facts.firecracker.program.path().is_err();
            let expected = if neither { "no QEMU" } else { why };
            assert!(error.message().contains(expected), "{why}: {error}");
        }
        for (facts, why) in broken() {
            let with = Facts {
                firecracker: with_firecracker().firecracker,
                ..facts
            };
            if with.kvm.live == LiveBoot::NotTried {
                let plain = Demand::default();
                let error = choose(VmmChoice::Firecracker, plain, &with).unwrap_err();
                assert!(error.message().contains(why), "{why}: {error}");
                let chosen = choose(VmmChoice::Auto, plain, &with).unwrap();
                assert_eq!(chosen.kind, VmmKind::QemuTcg, "{why}");
                assert_eq!(chosen.reason.matches(why).count(), 1, "{}", chosen.reason);
            }
        }
    }
}
