//! `banger kernel import`

use std::path::{Path, PathBuf};

use banger_api::ImportKernel;
use banger_config::Paths;
use banger_model::{Code, Error, IoContext, KernelName, Result};
use clap::{Args, ValueHint};

use crate::connect::{connect, warn_of_other_release};
use crate::exit::Exit;
use crate::operation::follow_to_exit;
use crate::signals::Signals;
use crate::ui::Ui;

/// Make a kernel of your own files known
///
/// It must be able to boot by PVH and have, built in or as modules, what banger needs; one that
/// lacks something is refused with what is missing.
#[derive(Args, Debug)]
pub(crate) struct ImportArgs {
    /// What it will be called; not a name of the catalog
    name: KernelName,

    /// An uncompressed vmlinux, or a bzImage (what distributions call vmlinuz)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    kernel: PathBuf,

    /// A directory that is lib/modules/RELEASE, or holds it
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    modules: Option<PathBuf>,

    /// An initial RAM disk; it is unpacked before banger's own, whose /init runs
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    initrd: Option<PathBuf>,

    /// The kernel's configuration; without it, the one in the kernel or with its modules
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
}

pub(crate) async fn cmd_import(ui: &Ui, args: ImportArgs) -> Result<Exit> {
    let request = ImportKernel {
        kernel: absolute(&args.kernel)?,
        modules: args.modules.as_deref().map(absolute).transpose()?,
        initrd: args.initrd.as_deref().map(absolute).transpose()?,
        config: args.config.as_deref().map(absolute).transpose()?,
    };
    let paths = Paths::from_env()?;
    let mut signals = Signals::listen()?;
    let client = connect(&paths).await?;
    let operation = client.import_kernel(args.name.as_str(), &request).await?;
    warn_of_other_release(ui, &client);
    follow_to_exit(ui, &client, &operation, &mut signals).await
}

/// The path as the daemon, which works elsewhere, understands it; what is not there is refused
/// before anything is asked of it.
fn absolute(path: &Path) -> Result<String> {
    let whole = std::path::absolute(path).at("find", path)?;
    std::fs::metadata(&whole).at("find", path)?;
    match whole.into_os_string().into_string() {
        Ok(text) => Ok(text),
        Err(_) => Err(Error::new(
            Code::InvalidArgument,
            format!("the path `{}` is not text", path.display()),
        )
        .hint("give the file a name in UTF-8")),
    }
}
