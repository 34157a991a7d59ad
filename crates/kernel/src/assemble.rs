//! The last steps of every kernel, wherever it came from: check it, make its modules' drive,
//! and leave in the stage what is to be published.

use std::fs;
use std::path::Path;

use banger_archive::Work;
use banger_model::{Code, Error, IoContext, Progress, Result};

use crate::kernels::{CONFIG, ConfigSource, DRIVE, INITRD, MODULES, VMLINUX};
use crate::modules::{self, Modules};
use crate::needs::{self, Evidence};
use crate::{drive, elf, initramfs};

/// A kernel that is not checked yet. Its modules, when it has any, are below [`MODULES`] in the
/// stage.
pub(crate) struct Parts {
    pub(crate) release: String,
    pub(crate) vmlinux: Vec<u8>,
    pub(crate) config: Option<(Vec<u8>, ConfigSource)>,
    /// Plain cpio archives.
    pub(crate) initrd: Option<Vec<u8>>,
    pub(crate) has_modules: bool,
}

/// Checks the kernel and writes it to `stage`, whose modules become a drive. `scratch` is for
/// temporary files.
///
/// # Errors
/// `build_failed`, naming everything the kernel lacks; `no_space`, `cancelled`, `io`.
pub(crate) fn assemble(work: &Work, stage: &Path, scratch: &Path, parts: &Parts) -> Result<()> {
    work.stage("verify", &format!("checking the kernel {}", parts.release));
    let tree = stage.join(MODULES).join(&parts.release);
    fs::create_dir_all(&tree).at("create", &tree)?;
    modules::index(&tree)?;
    work.check()?;
    let (modules, needed) = check(&tree, parts).map_err(|error| {
        let outer = Error::new(
            error.code(),
            format!("the kernel {} cannot be used", parts.release),
        );
        let outer = match error.hint_text() {
            Some(hint) => outer.hint(hint),
            None => outer,
        };
        outer.because(error)
    })?;
    let config = parts.config.as_ref().map(|(text, _)| text);
    for (name, content) in [
        (VMLINUX, Some(&parts.vmlinux)),
        (CONFIG, config),
        (INITRD, parts.initrd.as_ref()),
    ] {
        if let Some(content) = content {
            let path = stage.join(name);
            fs::write(&path, content).at("write", &path)?;
        }
    }
    if parts.has_modules {
        work.check()?;
        work.stage("make-drive", "making the drive of the kernel's modules");
        drive::make(work, stage, &parts.release, &stage.join(DRIVE), scratch)?;
    }
    modules.keep_only(&needed)
}

/// The modules, knowing what is built in, and those the initramfs needs.
fn check(tree: &Path, parts: &Parts) -> Result<(Modules, Vec<String>)> {
    elf::check_pvh(&parts.vmlinux)?;
    let mut modules = Modules::open(tree)?;
    let config = parts.config.as_ref();
    let built_in = needs::check(&Evidence {
        config: config.map(|(text, source)| (text.as_slice(), source.words())),
        modules: &modules,
        has_modules: parts.has_modules,
        vmlinux: &parts.vmlinux,
    })?;
    modules.know_built_in(&built_in);
    let needed = initramfs::modules_for(&modules)?;
    modules.check_release(&needed, &parts.release)?;
    if needed.is_empty() || parts.has_modules {
        return Ok((modules, needed));
    }
    Err(Error::new(
        Code::BuildFailed,
        "it needs modules and came without any",
    ))
}
