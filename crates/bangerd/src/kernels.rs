//! What the daemon decides about kernels: which may be imported, and which may go.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use banger_api::ImportKernel;
use banger_kernel::{Import, Kernel};
use banger_model::{Code, Digest, Error, KernelName, Result};

use crate::context::Context;
use crate::failpoint;
use crate::vm::Vms;

/// The kernel called `name`. Blocking.
///
/// # Errors
/// `not_found`.
pub(crate) fn find(context: &Context, name: &KernelName) -> Result<Kernel> {
    context.kernels.find(name)?.ok_or_else(|| {
        Error::new(Code::NotFound, format!("there is no kernel `{name}`")).hint(
            "`banger kernel list` shows the kernels that are here, `banger kernel catalog` those \
             that can be pulled",
        )
    })
}

/// The import that is asked for.
///
/// # Errors
/// `invalid_argument` for a path that means another file in another directory.
pub(crate) fn checked(name: &KernelName, request: &ImportKernel) -> Result<Import> {
    let path = |text: &String| {
        let path = PathBuf::from(text);
        if path.is_absolute() {
            return Ok(path);
        }
        Err(Error::new(
            Code::InvalidArgument,
            format!("the path `{}` is not absolute", text.escape_debug()),
        ))
    };
    Ok(Import {
        name: name.clone(),
        kernel: path(&request.kernel)?,
        modules: request.modules.as_ref().map(path).transpose()?,
        initrd: request.initrd.as_ref().map(path).transpose()?,
        config: request.config.as_ref().map(path).transpose()?,
    })
}

/// The right to import under a name, until it is dropped.
pub(crate) struct Claim {
    context: Arc<Context>,
    name: KernelName,
}

/// Takes the right to import under this name.
///
/// # Errors
/// `conflict` when somebody else has it: of two imports only one can have the name.
pub(crate) fn claim(context: &Arc<Context>, name: &KernelName) -> Result<Claim> {
    let mut importing = context
        .importing
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if !importing.insert(name.clone()) {
        return Err(Error::new(
            Code::Conflict,
            format!("a kernel is being imported as `{name}`"),
        )
        .hint("wait for its end, or choose another name"));
    }
    Ok(Claim {
        context: context.clone(),
        name: name.clone(),
    })
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.context
            .importing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.name);
    }
}

/// Deletes the kernel called `name`, unless something uses it.
///
/// # Errors
/// `not_found`; `conflict`, naming who uses it; `io`.
pub(crate) async fn delete(
    context: &Arc<Context>,
    vms: &Arc<Vms>,
    name: &KernelName,
) -> Result<()> {
    let (vms, name) = (vms.clone(), name.clone());
    context
        .blocking(move |context| {
            // From the look at who uses it until it is gone, no VM that is being made finds it.
            let _closed = context.kernel_gate();
            let kernel = find(context, &name)?;
            refuse_while_used(context, &vms, &kernel)?;
            failpoint::hit("remove the kernel's name")?;
            context.kernels.unlink(&name)?;
            let uses = vms.kernel_uses();
            if uses.iter().any(|(_, _, digests)| digests.is_empty()) {
                // It may be about to use what has no name: the next sweep comes.
                tracing::info!("the kernel's files stay until no VM is being made");
                return Ok(());
            }
            let keep: HashSet<Digest> = uses.into_iter().flat_map(|(_, _, used)| used).collect();
            failpoint::hit("remove the kernel's files")?;
            context.kernels.sweep(&keep)
        })
        .await
}

fn refuse_while_used(context: &Context, vms: &Vms, kernel: &Kernel) -> Result<()> {
    let mut users: Vec<String> = vms
        .kernel_uses()
        .into_iter()
        .filter(|(_, name, digests)| match digests.is_empty() {
            // Not made yet: it will take what has the name.
            true => *name == kernel.name,
            false => digests.contains(&kernel.digest),
        })
        .map(|(vm, _, _)| format!("VM `{vm}`"))
        .collect();
    for image in context.images.list()? {
        if image.kernel == kernel.name {
            users.push(format!("image `{}`", image.name));
        }
    }
    if users.is_empty() {
        return Ok(());
    }
    users.sort();
    Err(Error::new(
        Code::Conflict,
        format!("kernel `{}` is used by {}", kernel.name, users.join(", ")),
    )
    .hint("delete what uses it first"))
}
