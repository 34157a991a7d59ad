//! `banger kernel show`

use banger_api::Kernel;
use banger_config::Paths;
use banger_model::{KernelName, Result};
use clap::Args;
use clap_complete::engine::ArgValueCandidates;

use crate::completion::kernel_names;
use crate::connect::{connect_and_ask, warn_of_other_release};
use crate::exit::Exit;
use crate::ui::{Format, Ui, human_size, key_values};

/// Show everything about a kernel
#[derive(Args, Debug)]
pub(crate) struct ShowArgs {
    /// Name
    #[arg(add = ArgValueCandidates::new(kernel_names))]
    name: KernelName,
}

pub(crate) async fn cmd_show(ui: &Ui, args: ShowArgs) -> Result<Exit> {
    let (client, kernel) = connect_and_ask(&Paths::from_env()?, async |client| {
        client.kernel(args.name.as_str()).await
    })
    .await?;
    warn_of_other_release(ui, &client);
    match ui.format() {
        Format::Table => ui.data(&as_table(kernel))?,
        Format::Json => ui.json(&kernel)?,
    }
    Ok(Exit::SUCCESS)
}

fn as_table(kernel: Kernel) -> String {
    let config = match kernel.config.as_deref() {
        Some("package") => "from its package",
        Some("kernel") => "from the kernel itself",
        Some("file") => "from the file named at its import",
        Some("modules") => "from its modules directory",
        _ => "not known",
    };
    let modules = match kernel.modules {
        true => "in the guest's /lib/modules",
        false => "not in the guest",
    };
    let initrd = match kernel.initrd {
        true => "of its own, before banger's",
        false => "banger's only",
    };
    key_values(vec![
        ("name", kernel.name),
        ("digest", kernel.digest),
        ("release", kernel.release),
        ("source", kernel.source),
        ("config", config.to_owned()),
        ("modules", modules.to_owned()),
        ("initrd", initrd.to_owned()),
        ("on disk", human_size(kernel.disk_usage)),
        ("created", kernel.created_at),
        ("used by", machines(kernel.used_by)),
    ])
}

fn machines(count: u32) -> String {
    match count {
        1 => "1 machine".to_owned(),
        count => format!("{count} machines"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::example;

    #[test]
    fn everything_is_said_in_words() {
        insta::assert_snapshot!(as_table(example()), @r"
        name:      debian-6.1
        digest:    sha256:0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a
        release:   6.1.0-40-cloud-amd64
        source:    linux-image-cloud-amd64
        config:    from its package
        modules:   in the guest's /lib/modules
        initrd:    banger's only
        on disk:   60M
        created:   2026-01-01T00:00:00Z
        used by:   0 machines
        ");
    }
}
