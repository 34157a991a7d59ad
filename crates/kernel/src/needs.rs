//! What banger needs of a kernel, and how it is known whether a kernel has it.
//!
//! Its configuration says it best. A kernel that comes without one is asked through its
//! modules, the list of what is built in, and the text that each driver leaves in the kernel
//! file; what none of them can tell is left to the first boot.

use std::collections::{HashMap, HashSet};

use banger_model::{Code, Error, Result};

use crate::modules::Modules;
use crate::vmlinux;

/// Must be built in, for nothing could load it in time: the option, and the text by which it is
/// recognised in a kernel without a configuration, where there is one.
const BUILT_IN: [(&str, Option<&str>); 11] = [
    ("64BIT", None),
    // The guest's devices are found through it.
    ("ACPI", Some("ACPI: Interpreter enabled")),
    ("BLK_DEV_INITRD", Some("unpack rootfs image as initramfs")),
    ("BINFMT_ELF", None),
    ("DEVTMPFS", Some("devtmpfs: initialized")),
    ("PROC_FS", None),
    ("SERIAL_8250", Some("Serial: 8250/16550")),
    ("SERIAL_8250_CONSOLE", None),
    ("SYSFS", None),
    ("TMPFS", None),
    ("UNIX", Some("PF_UNIX")),
];

/// What may be a module, which the initramfs then loads.
struct Part {
    /// The module.
    module: &'static str,
    /// Its option.
    option: &'static str,
    /// What it leaves in the kernel file when it is built in.
    mark: &'static str,
}

const PARTS: [Part; 6] = [
    Part {
        module: "ext4",
        option: "EXT4_FS",
        mark: "EXT4-fs",
    },
    Part {
        module: "overlay",
        option: "OVERLAY_FS",
        mark: "overlayfs: ",
    },
    Part {
        module: "virtio_blk",
        option: "VIRTIO_BLK",
        mark: "virtio_blk",
    },
    Part {
        module: "virtio_mmio",
        option: "VIRTIO_MMIO",
        mark: "virtio-mmio",
    },
    Part {
        module: "virtio_net",
        option: "VIRTIO_NET",
        mark: "VIRTIO_NET_F_CTRL_RX",
    },
    Part {
        module: "vmw_vsock_virtio_transport",
        option: "VIRTIO_VSOCKETS",
        mark: "virtio_vsock",
    },
];

/// What is known about a kernel.
pub(crate) struct Evidence<'a> {
    /// Its configuration and where that is from, such as "its package".
    pub(crate) config: Option<(&'a [u8], &'a str)>,
    /// Its modules.
    pub(crate) modules: &'a Modules,
    /// Whether modules came with it, or at least the list of what is built in.
    pub(crate) has_modules: bool,
    /// The kernel file.
    pub(crate) vmlinux: &'a [u8],
}

/// Refuses a kernel that lacks something, naming everything it lacks and how that is known.
/// Returns the parts that are built in.
///
/// # Errors
/// `build_failed`.
pub(crate) fn check(evidence: &Evidence<'_>) -> Result<HashSet<&'static str>> {
    let mut missing = Vec::new();
    let mut built_in = HashSet::new();
    let options = evidence.config.map(|(text, _)| options(text));
    let places = evidence.places();
    let option = |name: &str| {
        options
            .as_ref()
            .map(|options| options.get(name).map_or("n", String::as_str))
    };
    let mut loads = false;
    for part in &PARTS {
        match find(part, option(part.option), evidence) {
            Found::BuiltIn => {
                built_in.insert(part.module);
            }
            Found::Module => loads = true,
            Found::ModuleElsewhere => missing.push(format!(
                "the module `{}` (`CONFIG_{}=m` in {places}, and no modules directory holds it)",
                part.module, part.option
            )),
            Found::Nowhere => missing.push(match evidence.config {
                Some(_) => format!("`CONFIG_{}` (not set in {places})", part.option),
                None => format!("`CONFIG_{}` (no sign of it in {places})", part.option),
            }),
        }
    }
    let modules = loads.then_some(("MODULES", None));
    for (name, mark) in BUILT_IN.into_iter().chain(modules) {
        match (option(name), mark) {
            (Some("y"), _) | (None, None) => {}
            (Some(_), _) => missing.push(format!("`CONFIG_{name}=y` (not set in {places})")),
            (None, Some(mark)) if vmlinux::says(evidence.vmlinux, mark) => {}
            (None, Some(_)) => {
                missing.push(format!(
                    "`CONFIG_{name}=y` (no sign of it in the kernel file)"
                ));
            }
        }
    }
    if missing.is_empty() {
        return Ok(built_in);
    }
    Err(Error::new(
        Code::BuildFailed,
        format!("it lacks {}", missing.join(", ")),
    )
    .hint(
        "choose another kernel, or build this one with these options; \
             `banger kernel catalog` shows kernels that have them",
    ))
}

enum Found {
    BuiltIn,
    Module,
    /// Said to be a module, but there is no such file.
    ModuleElsewhere,
    Nowhere,
}

fn find(part: &Part, option: Option<&str>, evidence: &Evidence<'_>) -> Found {
    let modules = evidence.modules;
    match option {
        Some("y") => Found::BuiltIn,
        Some("m") if modules.has(part.module) => Found::Module,
        Some("m") => Found::ModuleElsewhere,
        Some(_) => Found::Nowhere,
        None if modules.is_built_in(part.module) => Found::BuiltIn,
        None if modules.has(part.module) => Found::Module,
        None if vmlinux::says(evidence.vmlinux, part.mark) => Found::BuiltIn,
        None => Found::Nowhere,
    }
}

impl Evidence<'_> {
    /// Where was looked, in words.
    fn places(&self) -> String {
        match self.config {
            Some((_, origin)) => format!("the configuration from {origin}"),
            None if self.has_modules => "its modules and the kernel file".to_owned(),
            None => "the kernel file, which came without configuration and modules".to_owned(),
        }
    }
}

/// The options that are set, without `CONFIG_`.
fn options(config: &[u8]) -> HashMap<String, String> {
    String::from_utf8_lossy(config)
        .lines()
        .filter_map(|line| line.strip_prefix("CONFIG_")?.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.trim_end().to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(without: &str, value: &str) -> String {
        let mut text = String::from("# a comment\nCONFIG_CC=\"gcc = 12\"\nCONFIG_MODULES=y\n");
        for (name, _) in BUILT_IN.iter().filter(|(name, _)| *name != without) {
            text.push_str(&format!("CONFIG_{name}=y\n"));
        }
        for part in PARTS.iter().filter(|part| part.option != without) {
            text.push_str(&format!("CONFIG_{}={value}\n", part.option));
        }
        text
    }

    fn ask(config: Option<&str>, modules: &[&str], vmlinux: &str) -> Result<HashSet<&'static str>> {
        let dir = tempfile::tempdir().unwrap();
        let lines: String = modules.iter().map(|name| format!("{name}.ko:\n")).collect();
        std::fs::write(dir.path().join("modules.dep"), lines).unwrap();
        std::fs::write(dir.path().join("modules.softdep.dep"), "").unwrap();
        check(&Evidence {
            config: config.map(|text| (text.as_bytes(), "its package")),
            modules: &Modules::open(dir.path()).unwrap(),
            has_modules: !modules.is_empty(),
            vmlinux: vmlinux.as_bytes(),
        })
    }

    fn all_modules() -> Vec<&'static str> {
        PARTS.iter().map(|part| part.module).collect()
    }

    #[test]
    fn modules_do_where_they_can_be_loaded() {
        let built_in = ask(Some(&config("", "y")), &[], "").unwrap();
        assert_eq!(built_in.len(), PARTS.len());
        let loaded = ask(Some(&config("", "m")), &all_modules(), "").unwrap();
        assert!(loaded.is_empty());
        let acpi = config("ACPI", "y") + "CONFIG_ACPI=m\n";
        assert!(ask(Some(&acpi), &[], "").is_err());
    }

    #[test]
    fn everything_missing_is_named_with_how_it_is_known() {
        let names = BUILT_IN.iter().map(|(name, _)| *name);
        for name in names.chain(PARTS.iter().map(|part| part.option)) {
            let text = format!("{}# CONFIG_{name} is not set\n", config(name, "y"));
            let error = ask(Some(&text), &all_modules(), "").unwrap_err();
            let said = error.message();
            assert!(said.contains(&format!("`CONFIG_{name}")), "{said}");
            assert!(
                said.contains("not set in the configuration from its package"),
                "{said}"
            );
            assert_eq!(said.matches("CONFIG_").count(), 1, "{said}");
        }
    }

    #[test]
    fn a_module_that_did_not_come_along_is_missing() {
        let modules: Vec<_> = all_modules().into_iter().skip(1).collect();
        let error = ask(Some(&config("", "m")), &modules, "").unwrap_err();
        assert!(error.message().contains("the module `ext4`"), "{error}");
        let unloadable = config("", "m").replace("CONFIG_MODULES=y\n", "");
        let error = ask(Some(&unloadable), &all_modules(), "").unwrap_err();
        assert!(error.message().contains("CONFIG_MODULES=y"), "{error}");
    }

    #[test]
    fn without_a_configuration_the_kernel_itself_is_asked() {
        let marks = |without: &str| -> String {
            let built_in = BUILT_IN.iter().filter_map(|(_, mark)| *mark);
            let all = built_in.chain(PARTS.iter().map(|part| part.mark));
            all.filter(|mark| *mark != without)
                .flat_map(|mark| [mark, "\0"])
                .collect()
        };
        assert_eq!(ask(None, &[], &marks("")).unwrap().len(), PARTS.len());
        assert!(ask(None, &["virtio_blk"], &marks("virtio_blk")).is_ok());
        let error = ask(None, &["other"], &marks("virtio_blk")).unwrap_err();
        assert!(
            error
                .message()
                .contains("`CONFIG_VIRTIO_BLK` (no sign of it in its modules and the kernel file)"),
            "{error}"
        );
        let error = ask(None, &[], &marks("ACPI: Interpreter enabled")).unwrap_err();
        assert!(error.message().contains("CONFIG_ACPI=y"), "{error}");
    }
}
