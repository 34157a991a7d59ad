//! `banger image register`

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use banger_api::RegisterImage;
use banger_config::Paths;
use banger_model::{Code, Error, ImageName, IoContext, KernelName, Result};
use clap::{Args, ValueHint};
use clap_complete::engine::ArgValueCandidates;
use serde_json::Value;

use crate::completion::{image_names, kernel_names};
use crate::connect::{connect, warn_of_other_release};
use crate::exit::Exit;
use crate::operation::follow_to_exit;
use crate::signals::Signals;
use crate::ui::Ui;

/// The largest image config that is read: OCI's own are a few KiB.
const CONFIG_MAX: u64 = 1 << 19;

/// Make an image of an ext4 file of your own
///
/// The file is copied and checked; it is not needed afterwards.
#[derive(Args, Debug)]
pub(crate) struct RegisterArgs {
    /// Name of the new image
    #[arg(add = ArgValueCandidates::new(image_names))]
    name: ImageName,

    /// File with the root file system: ext4, not mounted, without partitions
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    rootfs: PathBuf,

    /// Kernel that its machines boot; the default image's when absent
    #[arg(long, add = ArgValueCandidates::new(kernel_names))]
    kernel: Option<KernelName>,

    /// File that says how commands run in it: an image config as OCI defines it, in JSON
    ///
    /// `Env`, `User`, `WorkingDir`, `Entrypoint`, `Cmd` and `Labels` count, as in
    /// `{"config": {"Env": ["A=b"], "Cmd": ["/bin/sh"]}}`.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,

    /// Replace the image that has the name; its machines keep what they have
    #[arg(short, long)]
    force: bool,
}

pub(crate) async fn cmd_register(ui: &Ui, args: RegisterArgs) -> Result<Exit> {
    let request = RegisterImage {
        name: args.name.into(),
        rootfs: absolute(&args.rootfs)?,
        kernel: args.kernel.map(String::from),
        config: args.config.as_deref().map(read_config).transpose()?,
        replace: args.force,
    };
    let paths = Paths::from_env()?;
    let mut signals = Signals::listen()?;
    let client = connect(&paths).await?;
    let operation = client.register_image(&request).await?;
    warn_of_other_release(ui, &client);
    follow_to_exit(ui, &client, &operation, &mut signals).await
}

/// The path from the root, for the daemon is elsewhere. It travels as text.
pub(super) fn absolute(path: &Path) -> Result<String> {
    let absolute = std::path::absolute(path).at("find", path)?;
    absolute.into_os_string().into_string().map_err(|path| {
        Error::new(
            Code::InvalidArgument,
            format!("`{}` is not UTF-8 text", Path::new(&path).display()),
        )
        .hint("rename the file, or give a link to it")
    })
}

fn read_config(path: &Path) -> Result<Value> {
    let mut bytes = Vec::new();
    File::open(path)
        .at("open", path)?
        .take(CONFIG_MAX + 1)
        .read_to_end(&mut bytes)
        .at("read", path)?;
    let refuse = |why: String| {
        Error::new(
            Code::InvalidArgument,
            format!("`{}` is not an image config: {why}", path.display()),
        )
        .hint("write it as `skopeo inspect --config` prints it")
    };
    if bytes.len() as u64 > CONFIG_MAX {
        return Err(refuse(format!("it is larger than {CONFIG_MAX} bytes")));
    }
    serde_json::from_slice(&bytes).map_err(|error| refuse(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configs_are_bounded_and_must_be_json() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, r#"{"config": {"Cmd": ["x"]}}"#).unwrap();
        assert_eq!(read_config(&path).unwrap()["config"]["Cmd"][0], "x");
        for bad in ["", "{", &"x".repeat(1 << 20)] {
            std::fs::write(&path, bad).unwrap();
            let error = read_config(&path).unwrap_err();
            assert!(error.message().contains("config.json"), "{error}");
        }
        assert!(read_config(&dir.path().join("none")).is_err());
    }
}
