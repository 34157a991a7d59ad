//! The default image without its init system.
//!
//! In the default image systemd starts services long after a guest is ready, and takes its time to
//! stop them. Under software emulation that is most of what a scenario costs, and most scenarios
//! are not about it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::World;

/// What it is called.
pub const IMAGE: &str = "debian-plain";
/// The world that makes it.
pub(crate) const WORLD: &str = "plain";
/// What makes it an image with an init system.
const INIT: [&str; 2] = ["/usr/sbin/init", "/usr/lib/systemd/systemd"];

/// Replaces the default image of a world by the plain one.
pub(crate) fn make(world: &World) {
    let shown = world.banger(["image", "list", "--output", "json"]).ok();
    let images = shown.json();
    assert_eq!(images.as_array().map(Vec::len), Some(1), "{images}");
    let full = images[0]["name"].as_str().expect("a name");
    let copy = world.root().join("plain.ext4");
    run(Command::new("cp")
        .args(["--sparse=always", "--reflink=auto", "--no-preserve=mode"])
        .arg(rootfs(&world.state()))
        .arg(&copy));
    for path in INIT {
        run(Command::new("debugfs")
            .args(["-w", "-R", &format!("rm {path}")])
            .arg(&copy));
        let left = run(Command::new("debugfs")
            .args(["-R", &format!("stat {path}")])
            .arg(&copy));
        assert!(left.contains("File not found"), "{path} stays: {left}");
    }
    let config = world.root().join("plain.json");
    fs::write(&config, r#"{"config": {"Env": ["LANG=C.UTF-8"]}}"#).expect("write a config");
    let files = [copy.as_os_str(), config.as_os_str()];
    let mut register = world.banger_command(["image", "register", IMAGE, "--rootfs"]);
    register.arg(files[0]).arg("--config").arg(files[1]);
    crate::Running::start(register, None).finish().ok();
    world.banger(["image", "delete", full]).ok();
    for file in files {
        fs::remove_file(file).expect("remove what the image was made of");
    }
}

/// The root file system of the only image in a state directory.
fn rootfs(state: &Path) -> PathBuf {
    let objects = fs::read_dir(state.join("images/objects")).expect("list images");
    let found: Vec<_> = objects
        .map(|entry| entry.expect("list images").path().join("rootfs.ext4"))
        .collect();
    let [only] = &found[..] else {
        panic!("not one image: {found:?}");
    };
    only.clone()
}

/// What a program says, on both of its outputs.
fn run(command: &mut Command) -> String {
    let done = command
        .env("PATH", crate::world::search_path())
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = [done.stdout, done.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(done.status.success(), "{command:?}: {said}");
    said
}
