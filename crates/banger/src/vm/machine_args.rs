//! Flags that say what machine to make, the same for `vm run` and `vm create`.

use banger_api::CreateVm;
use banger_model::{
    ByteSize, Code, Error, ImageName, KernelName, MIN_DISK, MIN_MEMORY, Result, VmName, VmSpec,
    VmmChoice,
};
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap_complete::engine::ArgValueCandidates;

use crate::completion::{image_names, kernel_names};

/// What machine to make. What is not said comes from the configuration, then from this host.
#[derive(Args, Debug, Default)]
pub(crate) struct MachineArgs {
    /// Name of the machine: letters, digits and `-`; made up when absent
    #[arg(long, help_heading = "Machine options")]
    pub(crate) name: Option<VmName>,

    /// Image to start from; pulled first when it is not here
    #[arg(long, help_heading = "Machine options", add = ArgValueCandidates::new(image_names))]
    pub(crate) image: Option<ImageName>,

    /// Kernel to boot; the image's own when absent
    #[arg(long, help_heading = "Machine options", add = ArgValueCandidates::new(kernel_names))]
    pub(crate) kernel: Option<KernelName>,

    /// Virtual processors
    #[arg(long, value_name = "N", value_parser = vcpus, help_heading = "Machine options")]
    pub(crate) vcpu: Option<u32>,

    /// Memory, such as `512M` or `2G`
    #[arg(long, value_name = "SIZE", value_parser = memory, help_heading = "Machine options")]
    pub(crate) memory: Option<ByteSize>,

    /// Size of the disk on `/root`, which survives stop and start
    #[arg(long, value_name = "SIZE", value_parser = disk_size, help_heading = "Machine options")]
    pub(crate) disk_size: Option<ByteSize>,

    /// Let the guest reach outside networks
    #[arg(
        long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true",
        require_equals = true, help_heading = "Machine options"
    )]
    pub(crate) nat: Option<bool>,

    /// Which program runs the machine
    #[arg(long, value_parser = vmm_parser(), help_heading = "Machine options")]
    pub(crate) vmm: Option<VmmChoice>,
}

impl MachineArgs {
    /// The request to the daemon.
    pub(crate) fn request(self) -> CreateVm {
        CreateVm {
            name: self.name.map(String::from),
            image: self.image.map(String::from),
            kernel: self.kernel.map(String::from),
            vcpus: self.vcpu,
            memory: self.memory,
            disk_size: self.disk_size,
            nat: self.nat,
            vmm: self.vmm,
            start: true,
            ephemeral: false,
        }
    }
}

fn vmm_parser() -> impl TypedValueParser<Value = VmmChoice> {
    PossibleValuesParser::new(VmmChoice::ALL.map(|(_, word)| word))
        .try_map(|word| word.parse::<VmmChoice>())
}

pub(super) fn vcpus(text: &str) -> Result<u32> {
    let vcpus = text.parse().map_err(|_| {
        Error::new(
            Code::InvalidArgument,
            format!("`{}` is not a number", text.escape_debug()),
        )
        .hint("write a whole number of virtual processors, such as `2`")
    })?;
    within_limits(VmSpec {
        vcpus,
        ..valid_spec()?
    })?;
    Ok(vcpus)
}

pub(super) fn memory(text: &str) -> Result<ByteSize> {
    let memory = text.parse()?;
    within_limits(VmSpec {
        memory,
        ..valid_spec()?
    })?;
    Ok(memory)
}

pub(super) fn disk_size(text: &str) -> Result<ByteSize> {
    let disk_size = text.parse()?;
    within_limits(VmSpec {
        disk_size,
        ..valid_spec()?
    })?;
    Ok(disk_size)
}

fn within_limits(spec: VmSpec) -> Result<()> {
    spec.validate()
}

/// A spec in which everything is within its limits, so that one value at a time can be checked
/// by the same rules as the daemon's.
fn valid_spec() -> Result<VmSpec> {
    Ok(VmSpec {
        image: "image".parse()?,
        kernel: "kernel".parse()?,
        vcpus: 1,
        memory: MIN_MEMORY,
        disk_size: MIN_DISK,
        overlay_size: MIN_DISK,
        nat: false,
        vmm: VmmChoice::Auto,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_checked_one_at_a_time_by_the_common_rules() {
        assert_eq!(vcpus("2").unwrap(), 2);
        assert_eq!(memory("2G").unwrap(), ByteSize::gib(2));
        assert_eq!(disk_size("64M").unwrap(), ByteSize::mib(64));
        for refused in [
            vcpus("0").unwrap_err(),
            vcpus("65").unwrap_err(),
            vcpus("-1").unwrap_err(),
            vcpus("two").unwrap_err(),
            memory("1M").unwrap_err(),
            memory("2000G").unwrap_err(),
            memory("lots").unwrap_err(),
            disk_size("0").unwrap_err(),
            disk_size("17T").unwrap_err(),
        ] {
            assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
            assert!(refused.hint_text().is_some(), "{refused}");
        }
    }
}
