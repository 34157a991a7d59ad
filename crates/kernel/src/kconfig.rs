//! Whether a kernel's configuration has what banger needs.

use std::collections::HashMap;

use banger_model::{Code, Error, Result};

/// Options that must be built in: nothing could load them in time.
const BUILT_IN: [&str; 12] = [
    "64BIT",
    "PVH",
    "ACPI",
    "BLK_DEV_INITRD",
    "BINFMT_ELF",
    "DEVTMPFS",
    "MODULES",
    "PROC_FS",
    "SERIAL_8250_CONSOLE",
    "SYSFS",
    "TMPFS",
    "UNIX",
];

/// Options that may be modules: the initramfs loads them.
const AVAILABLE: [&str; 6] = [
    "EXT4_FS",
    "OVERLAY_FS",
    "VIRTIO_BLK",
    "VIRTIO_MMIO",
    "VIRTIO_NET",
    "VIRTIO_VSOCKETS",
];

/// Refuses a configuration that lacks something, naming everything it lacks.
///
/// # Errors
/// `build_failed`.
pub(crate) fn check(config: &[u8]) -> Result<()> {
    let text = String::from_utf8_lossy(config);
    let options: HashMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("CONFIG_")?.split_once('='))
        .collect();
    let missing: Vec<String> = BUILT_IN
        .iter()
        .filter(|name| options.get(*name) != Some(&"y"))
        .map(|name| format!("CONFIG_{name}=y"))
        .chain(
            AVAILABLE
                .iter()
                .filter(|name| !matches!(options.get(*name), Some(&("y" | "m"))))
                .map(|name| format!("CONFIG_{name}=m")),
        )
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        Code::BuildFailed,
        format!("its configuration lacks {}", missing.join(", ")),
    )
    .hint("choose another kernel, or build this one with these options"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(without: &str, built_in: bool) -> String {
        let mut text = String::from("# a comment\nCONFIG_CC=\"gcc = 12\"\n");
        for name in BUILT_IN.iter().filter(|name| **name != without) {
            text.push_str(&format!("CONFIG_{name}=y\n"));
        }
        for name in AVAILABLE.iter().filter(|name| **name != without) {
            text.push_str(&format!(
                "CONFIG_{name}={}\n",
                if built_in { "y" } else { "m" }
            ));
        }
        text
    }

    #[test]
    fn modules_do_where_they_can_be_loaded() {
        assert!(check(config("", false).as_bytes()).is_ok());
        assert!(check(config("", true).as_bytes()).is_ok());
        let no_pvh = config("PVH", false) + "CONFIG_PVH=m\n";
        assert!(check(no_pvh.as_bytes()).is_err());
    }

    #[test]
    fn everything_missing_is_named() {
        for name in BUILT_IN.iter().chain(&AVAILABLE) {
            let text = format!("{}# CONFIG_{name} is not set\n", config(name, false));
            let error = check(text.as_bytes()).unwrap_err();
            assert!(
                error.message().contains(&format!("CONFIG_{name}=")),
                "{error}"
            );
        }
        let error = check(b"").unwrap_err();
        assert!(error.message().contains("CONFIG_PVH=y, CONFIG_ACPI=y"));
    }
}
