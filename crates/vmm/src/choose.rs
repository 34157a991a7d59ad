//! Which VMM runs a VM.

use banger_model::{Code, Error, Result, VmmChoice, VmmKind};

use crate::kvm::Verdict;
use crate::{Driver, Facts, Programs, Qemu};

/// The VMM to use, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The VMM.
    pub kind: VmmKind,
    /// Why this one, for people.
    pub reason: String,
}

/// Picks the VMM for what the user asked, from facts alone.
///
/// # Errors
/// `vmm_unavailable` when what was asked for does not work here, `missing_program` when a
/// program is not installed.
pub fn choose(choice: VmmChoice, facts: &Facts) -> Result<Choice> {
    if !facts.arch_is_supported() {
        return Err(unavailable(format!(
            "this machine has an {} processor, and this release runs on x86_64 only",
            facts.arch
        ))
        .hint("use an x86_64 machine"));
    }
    if choice == VmmChoice::Firecracker {
        return Err(
            unavailable("this release has no Firecracker driver yet".to_owned())
                .hint("use `--vmm auto`, which takes the best VMM that works here"),
        );
    }
    facts.qemu.path()?;
    facts.vsock.path()?;
    let pick = |kind, reason: String| Ok(Choice { kind, reason });
    match (choice, facts.kvm.verdict()) {
        (VmmChoice::QemuTcg, _) => {
            pick(VmmKind::QemuTcg, "software emulation was asked for".into())
        }
        (VmmChoice::QemuKvm, Verdict::Works(_) | Verdict::Unproven(_)) => {
            pick(VmmKind::QemuKvm, "KVM was asked for".into())
        }
        (VmmChoice::QemuKvm, Verdict::Broken { found, fix }) => Err(unavailable(format!(
            "KVM does not work on this machine: {found}"
        ))
        .hint(format!("{fix}; or use `--vmm auto`"))),
        (_, Verdict::Works(detail)) => pick(VmmKind::QemuKvm, detail),
        (_, Verdict::Unproven(detail) | Verdict::Broken { found: detail, .. }) => pick(
            VmmKind::QemuTcg,
            format!("software emulation, because {detail}"),
        ),
    }
}

fn unavailable(message: String) -> Error {
    Error::new(Code::VmmUnavailable, message)
}

/// The driver for a choice made from the same facts.
///
/// # Errors
/// `missing_program` when a program is not installed.
pub fn driver(kind: VmmKind, facts: &Facts) -> Result<Box<dyn Driver>> {
    let programs = Programs {
        qemu: facts.qemu.path()?.to_owned(),
        vsock: facts.vsock.path()?.to_owned(),
    };
    Ok(Box::new(Qemu::new(programs, kind)))
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
            assert_eq!(choose(choice, &works).unwrap().kind, VmmKind::QemuKvm);
            let unproven = facts(OPENS, Some("vmx"), LiveBoot::NotTried);
            assert_eq!(choose(choice, &unproven).unwrap().kind, VmmKind::QemuTcg);
            for (facts, why) in broken() {
                let chosen = choose(choice, &facts).unwrap();
                assert_eq!(chosen.kind, VmmKind::QemuTcg, "{why}");
                assert!(chosen.reason.contains(why), "{why}: {}", chosen.reason);
            }
        }
    }

    #[test]
    fn asking_for_broken_kvm_explains_what_was_found() {
        for (facts, why) in broken() {
            let error = choose(VmmChoice::QemuKvm, &facts).unwrap_err();
            assert_eq!(error.code(), Code::VmmUnavailable);
            assert!(error.message().contains(why), "{why}: {error}");
            assert!(error.hint_text().unwrap().contains("--vmm auto"));
        }
        let works = facts(OPENS, Some("vmx"), LiveBoot::Works);
        assert_eq!(
            choose(VmmChoice::QemuKvm, &works).unwrap().kind,
            VmmKind::QemuKvm
        );
        assert_eq!(
            choose(VmmChoice::QemuTcg, &works).unwrap().kind,
            VmmKind::QemuTcg
        );
    }

    #[test]
    fn what_cannot_run_at_all_is_said_first() {
        let works = facts(OPENS, Some("vmx"), LiveBoot::Works);
        let error = choose(VmmChoice::Firecracker, &works).unwrap_err();
        assert_eq!(error.code(), Code::VmmUnavailable);
        assert!(error.hint_text().unwrap().contains("--vmm auto"));
        let arm = Facts {
            arch: "aarch64".into(),
            ..works.clone()
        };
        for (choice, _) in VmmChoice::ALL {
            let error = choose(choice, &arm).unwrap_err();
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
                let error = choose(choice, &facts).unwrap_err();
                assert_eq!(error.code(), Code::MissingProgram);
                assert_eq!(error.hint_text(), Some("get it"));
            }
            assert!(driver(VmmKind::QemuTcg, &facts).is_err());
        }
    }
}
