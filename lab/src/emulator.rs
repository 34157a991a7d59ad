//! The emulator that the outer machine runs in: Debian's, whatever this machine has.
//!
//! QEMU 7.2, which Debian 12 has, emulates AMD's virtualisation with mistakes: in the lab guests
//! reset, or the whole outer machine stood still, once in ten boots or so. Debian 13 has 10.0,
//! which is better and not perfect (see [`crate::machine`]), and its programs run anywhere with
//! their own loader and libraries.

use std::fs;
use std::path::{Path, PathBuf};

use banger_archive::{Archive, Bootstrap, Variant, Work};
use banger_model::{ByteSize, IoContext, Result};
use tokio::process::Command;

/// The Debian release that has it.
const SUITE: &str = "trixie";
const PACKAGE: &str = "qemu-system-x86";
const KEEP: &str = include_str!("../keep-emulator.sh");
/// All it is made of, for a key.
pub(crate) const RECIPE: [&str; 3] = [SUITE, PACKAGE, KEEP];
/// Where it is beside the files of the outer machine.
pub(crate) const DIRECTORY: &str = "emulator";
/// The most its packages take, packed and unpacked.
const TREE: ByteSize = ByteSize::bytes(600 << 20);

/// QEMU, with all it needs.
pub(crate) struct Emulator {
    directory: PathBuf,
}

impl Emulator {
    pub(crate) fn in_directory(directory: &Path) -> Emulator {
        Emulator {
            directory: directory.to_owned(),
        }
    }

    /// Starts QEMU; its arguments are to be added.
    pub(crate) fn command(&self) -> Command {
        let libraries = self.directory.join("lib");
        let mut command = Command::new(libraries.join("ld-linux-x86-64.so.2"));
        command.arg("--library-path").arg(&libraries);
        command.arg(self.directory.join("qemu-system-x86_64"));
        for firmware in ["qemu", "seabios"] {
            command.arg("-L").arg(self.directory.join(firmware));
        }
        command
    }
}

/// Makes it in `out` of `staging`, the directory of a build.
///
/// # Errors
/// As [`Archive::bootstrap`].
pub(crate) fn build(work: &Work, staging: &Path) -> Result<()> {
    let out = staging.join("out").join(DIRECTORY);
    fs::create_dir(&out).at("create", &out)?;
    Archive::default().bootstrap(
        work,
        &Bootstrap {
            suite: SUITE,
            variant: Variant::Unpacked,
            packages: &[PACKAGE.to_owned()],
            tree: &staging.join("emulator"),
            tree_size: TREE,
            scratch: &staging.join("tmp"),
            prepare: "",
            finish: KEEP,
            variables: &[("LAB_OUT", out.as_os_str())],
        },
        &mut |_| {},
    )
}
