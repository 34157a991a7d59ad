//! The disks that go into the outer machine and come out of it.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use banger_model::{Code, Error, IoContext, Result};

use crate::plan::Batch;
use crate::settings::Settings;
use crate::suite::Suite;

const INSIDE: &str = include_str!("../inside.sh");
/// Times are longer inside by this: everything is emulated there, and what banger runs is
/// emulated by what is emulated.
const TIME_FACTOR: u32 = 6;
/// The room for worlds beside what is carried in; the file is sparse.
const ROOM_MIB: u64 = 8 << 10;
/// The most the logs may take.
const RESULTS: u64 = 512 << 20;

/// Programs in the build directory that go in where they are: some are made for the tests only.
const PROGRAMS: [&str; 6] = [
    "debug/banger",
    "debug/bangerd",
    "lib/banger/banger-agent",
    "lib/banger/banger-vsock",
    "x86_64-unknown-linux-gnu/agent/banger-bad-agent",
    "x86_64-unknown-linux-gnu/agent/banger-agent-protocol-1",
];

/// The same for the benchmark.
const BENCHMARK: [&str; 3] = ["release/banger", "release/bangerd", "release/banger-bench"];

/// What of the suite's base world goes in.
const BASE: [&str; 3] = ["images", "kernels", "templates"];

/// Two disks as files.
pub(crate) struct Disks {
    /// What is carried in, and where the scenarios work.
    pub(crate) inside: PathBuf,
    /// A tar archive of logs at the end.
    pub(crate) results: PathBuf,
}

/// Makes the disks in `scratch`.
///
/// # Errors
/// `not_found` and the like, naming what is missing and how it is made.
pub(crate) fn pack(
    settings: &Settings,
    suite: &Suite,
    batch: &Batch,
    archive: Option<&Path>,
    scratch: &Path,
) -> Result<Disks> {
    let tree = scratch.join("lab");
    let target = tree.join("target");
    for name in PROGRAMS {
        copy(&suite.target.join(name), &target.join(name))
            .map_err(|error| error.hint("run `make all`"))?;
    }
    copy(&suite.program, &tree.join("scenarios"))?;
    if let Some(firecracker) = &settings.firecracker {
        let inside = tree.join("bin/firecracker");
        copy(firecracker, &inside)?;
        fs::set_permissions(&inside, fs::Permissions::from_mode(0o755)).at("change", &inside)?;
    }
    state(&suite.target, "base", &BASE, &target.join("tmp/base"))?;
    state(
        &suite.target,
        "plain",
        &["images"],
        &target.join("tmp/plain"),
    )?;
    if settings.bench.is_some() {
        for name in BENCHMARK {
            copy(&suite.target.join(name), &target.join(name))
                .map_err(|error| error.hint("run `make lab-bench`, which builds it"))?;
        }
        state(&suite.target, "base", &BASE, &target.join("bench"))?;
    }
    if let Some(archive) = archive {
        run(Command::new("cp")
            .args(["--recursive", "--link"])
            .arg(archive)
            .arg(tree.join("archive")))?;
    }
    write(&tree.join("inside.sh"), INSIDE)?;
    write(&tree.join("settings"), &words(settings, batch))?;
    let disks = Disks {
        inside: scratch.join("inside.ext4"),
        results: scratch.join("results.tar"),
    };
    make_disk(&tree, &disks.inside)?;
    fs::remove_dir_all(&tree).at("remove", &tree)?;
    fs::File::create(&disks.results)
        .and_then(|file| file.set_len(RESULTS))
        .at("make", &disks.results)?;
    Ok(disks)
}

/// What the script inside is told, as assignments of a shell.
fn words(settings: &Settings, batch: &Batch) -> String {
    format!(
        "LAB_VMM={}\nLAB_WHO={}\nLAB_SCENARIOS={}\nLAB_BENCH={}\n\
         BANGER_TEST_TIME_FACTOR={TIME_FACTOR}\n",
        batch.vmm,
        batch.who,
        batch.scenarios.join(","),
        settings.bench.unwrap_or_default()
    )
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).at("write", path)
}

/// A link where that is possible: the files are large and only read.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let parent = to.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent).at("create", parent)?;
    if fs::hard_link(from, to).is_err() {
        fs::copy(from, to).at("copy", from)?;
    }
    Ok(())
}

/// What worlds start with, pulled or made by an earlier run of the suite.
fn state(target: &Path, world: &str, dirs: &[&str], to: &Path) -> Result<()> {
    let from = target.join("tmp").join(world).join("state/banger");
    let to = to.join("state/banger");
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&to)
        .at("create", &to)?;
    for dir in dirs {
        let dir = from.join(dir);
        run(Command::new("cp")
            .args(["--archive", "--sparse=always", "--reflink=auto"])
            .arg(&dir)
            .arg(&to))?;
    }
    Ok(())
}

fn make_disk(tree: &Path, disk: &Path) -> Result<()> {
    let mut command = Command::new("mke2fs");
    command
        .args(["-q", "-t", "ext4", "-m", "0", "-L", "banger-lab-in"])
        .args(["-O", "^has_journal", "-d"])
        .arg(tree)
        .arg(disk)
        .arg(format!("{ROOM_MIB}M"));
    run(&mut command)
}

/// Runs a program to its end; what it prints is in the error.
fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let path = std::env::var("PATH").unwrap_or_default();
    let output = command
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .output()
        .map_err(|error| {
            Error::new(Code::MissingProgram, format!("cannot run `{program}`"))
                .because(error)
                .hint("run `make deps`")
        })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::new(
        Code::BuildFailed,
        format!("`{program}` failed ({}): {}", output.status, said.trim()),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_fails_is_named_with_what_it_said() {
        let error = run(Command::new("cp")
            .arg("/nonexistent/x")
            .arg("/nonexistent/y"));
        let error = error.unwrap_err();
        assert!(error.message().contains("/nonexistent/x"), "{error}");
        let error = run(&mut Command::new("no-such-program")).unwrap_err();
        assert_eq!(error.code(), Code::MissingProgram);
    }
}
