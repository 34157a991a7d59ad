//! Changes what a VM is: `vm set`.
//!
//! The row is written first. The work disk's file is enlarged after that, and again before each
//! boot where it is shorter than the row says, so a daemon that ends in between loses nothing.
//! The guest grows the file system itself when it boots.

use std::sync::Arc;

use banger_api::SetVm;
use banger_model::{Code, Error, Result, VmName, VmSpec};
use banger_store::VmRow;

use super::create;
use crate::context::Context;
use crate::{disks, failpoint};

/// What the VM would be.
///
/// # Errors
/// `invalid_argument` for values that cannot be, a smaller disk among them.
pub(super) fn changed(name: &VmName, spec: &VmSpec, change: &SetVm) -> Result<VmSpec> {
    let new = VmSpec {
        vcpus: change.vcpus.unwrap_or(spec.vcpus),
        memory: change.memory.unwrap_or(spec.memory),
        disk_size: change.disk_size.unwrap_or(spec.disk_size),
        nat: change.nat.unwrap_or(spec.nat),
        ..spec.clone()
    };
    if new.disk_size < spec.disk_size {
        return Err(Error::new(
            Code::InvalidArgument,
            format!(
                "the disk of VM `{name}` has {} and cannot shrink to {}",
                spec.disk_size, new.disk_size
            ),
        )
        .hint("disks only grow: choose a larger size, or make another VM"));
    }
    new.validate()?;
    Ok(new)
}

/// The answer to a change of a VM that runs: what changes nothing is fine, anything else has to
/// wait for its end.
///
/// # Errors
/// `conflict`; those of [`changed`].
pub(super) fn while_running(name: &VmName, spec: &VmSpec, change: &SetVm) -> Result<()> {
    let new = changed(name, spec, change)?;
    if new == *spec {
        return Ok(());
    }
    let why = if new.nat != spec.nat {
        "its VMM cannot plug a network into a running guest, or pull it out"
    } else {
        "its VMM cannot change a running guest"
    };
    Err(
        Error::new(Code::Conflict, format!("VM `{name}` runs, and {why}"))
            .hint(format!("stop it first: `banger vm stop {name}`")),
    )
}

/// Changes a VM that is stopped. When that fails it is as it was.
///
/// # Errors
/// Those of [`changed`]; `no_space`; those of the database.
pub(super) async fn apply(context: &Arc<Context>, row: &mut VmRow, change: &SetVm) -> Result<()> {
    let (old, new) = (row.spec.clone(), changed(&row.name, &row.spec, change)?);
    if new == old {
        return Ok(());
    }
    let (id, written) = (row.id.clone(), new.clone());
    let grows = new.disk_size > old.disk_size;
    context
        .blocking(move |context| {
            if grows {
                create::check_room(context)?;
            }
            failpoint::hit("write the new values")?;
            context.store.set_spec(&id, &written)?;
            let dir = context.layout.vm(&id).dir;
            let Err(error) = disks::grow(&dir, written.disk_size) else {
                return Ok(());
            };
            let undone = failpoint::hit("write the old values")
                .and_then(|()| context.store.set_spec(&id, &old));
            if let Err(undo) = undone {
                // The disk is then enlarged by the next start, or that says why it cannot be.
                tracing::error!("the old values are not restored: {}", undo.chain());
            }
            Err(error)
        })
        .await?;
    row.spec = new;
    Ok(())
}

#[cfg(test)]
mod tests {
    use banger_model::{ByteSize, VmmChoice};

    use super::*;

    fn spec() -> VmSpec {
        VmSpec {
            image: "debian-bookworm".parse().unwrap(),
            kernel: "debian-bookworm".parse().unwrap(),
            vcpus: 2,
            memory: ByteSize::mib(512),
            disk_size: ByteSize::gib(8),
            overlay_size: ByteSize::gib(8),
            nat: false,
            vmm: VmmChoice::Auto,
        }
    }

    fn name() -> VmName {
        "box".parse().unwrap()
    }

    #[test]
    fn only_what_is_named_changes() {
        let change = SetVm {
            vcpus: Some(4),
            ..SetVm::default()
        };
        let new = changed(&name(), &spec(), &change).unwrap();
        assert_eq!(new, VmSpec { vcpus: 4, ..spec() });
        assert_eq!(
            changed(&name(), &spec(), &SetVm::default()).unwrap(),
            spec()
        );
    }

    #[test]
    fn a_disk_that_would_shrink_and_impossible_values_are_refused() {
        let shrink = SetVm {
            disk_size: Some(ByteSize::gib(4)),
            ..SetVm::default()
        };
        let error = changed(&name(), &spec(), &shrink).unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
        for size in [ByteSize::gib(4), ByteSize::gib(8)] {
            assert!(error.message().contains(&size.to_string()), "{error}");
        }
        let many = SetVm {
            vcpus: Some(1000),
            ..SetVm::default()
        };
        let error = changed(&name(), &spec(), &many).unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
    }

    #[test]
    fn a_vm_that_runs_takes_only_what_it_is_already() {
        let same = SetVm {
            vcpus: Some(2),
            nat: Some(false),
            ..SetVm::default()
        };
        while_running(&name(), &spec(), &same).unwrap();
        let nat = SetVm {
            nat: Some(true),
            ..SetVm::default()
        };
        let error = while_running(&name(), &spec(), &nat).unwrap_err();
        assert_eq!(error.code(), Code::Conflict);
        assert!(error.message().contains("network"), "{error}");
        assert!(error.hint_text().unwrap().contains("banger vm stop box"));
        let memory = SetVm {
            memory: Some(ByteSize::gib(1)),
            ..SetVm::default()
        };
        let error = while_running(&name(), &spec(), &memory).unwrap_err();
        assert_eq!(error.code(), Code::Conflict);
    }
}
