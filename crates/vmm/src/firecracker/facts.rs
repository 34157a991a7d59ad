//! What is known of Firecracker on this host.

use banger_model::{Code, Error, Result};

use super::{Judgement, Version, config, install, pasta_missing};
use crate::kvm::Verdict;
use crate::{Demand, Facts, LiveBoot, ProgramFacts, Search, Versions};

/// Firecracker and what it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirecrackerFacts {
    /// The program.
    pub program: ProgramFacts,
    /// The first line of what it says of its version, or why it says none.
    pub version: Result<String, String>,
    /// What booting a kernel with it gave.
    pub live: LiveBoot,
    /// pasta, which only a VM with a network needs.
    pub pasta: ProgramFacts,
}

impl FirecrackerFacts {
    /// Looks for the programs, and asks Firecracker for its version.
    pub(crate) fn gather(search: &Search, versions: &Versions) -> FirecrackerFacts {
        let program = ProgramFacts::new(search.firecracker());
        let version = match &program {
            ProgramFacts::Found(path) => versions.ask(path).map_err(|error| error.to_string()),
            ProgramFacts::Missing { message, .. } => Err(message.clone()),
        };
        FirecrackerFacts {
            program,
            version,
            live: LiveBoot::NotTried,
            pasta: ProgramFacts::new(search.pasta()),
        }
    }

    /// What its version is good for; why it cannot be used when it says none.
    pub(crate) fn judge(&self) -> Result<(Version, Judgement), String> {
        let said = self
            .version
            .as_ref()
            .map_err(|why| format!("it does not run: {why}"))?;
        let version = Version::find(said).ok_or_else(|| {
            format!(
                "it says no version of Firecracker: `{}`",
                said.escape_debug()
            )
        })?;
        Ok((version, version.judge()))
    }
}

/// Whether Firecracker can run such a VM here, as far as is known: which release, and what is
/// known of KVM.
///
/// # Errors
/// `missing_program`, `vmm_unavailable` or `invalid_argument`, with what to do about it.
pub(crate) fn usable(facts: &Facts, demand: Demand) -> Result<(Version, Verdict)> {
    let firecracker = &facts.firecracker;
    let path = firecracker.program.path()?;
    let refuse = |why: String| {
        Error::new(
            Code::VmmUnavailable,
            format!("`{}` is not used: {why}", path.display()),
        )
        .hint(install::hint())
    };
    let version = match firecracker.judge().map_err(refuse)? {
        (version, Judgement::Refused(why)) => {
            return Err(refuse(format!("it is Firecracker {version}, and {why}")));
        }
        (version, Judgement::Good | Judgement::Untested(_)) => version,
    };
    let verdict = facts.kvm.verdict_with(&firecracker.live);
    if let Verdict::Broken { found, fix } = verdict {
        return Err(Error::new(
            Code::VmmUnavailable,
            format!("Firecracker needs KVM, which does not work on this machine: {found}"),
        )
        .hint(fix));
    }
    config::check_vcpus(demand.vcpus)?;
    if demand.nat && firecracker.pasta.path().is_err() {
        return Err(pasta_missing());
    }
    facts.vsock.path()?;
    Ok((version, verdict))
}
