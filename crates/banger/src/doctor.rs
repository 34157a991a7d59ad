//! `banger doctor`: what this host offers, and what to do about what it lacks.
//!
//! It needs no daemon and starts none; it makes and changes nothing.

use std::io;
use std::path::Path;

use banger_config::{Paths, ensure_private_dir};
use banger_model::{ByteSize, Check, CheckStatus, Error, Result};
use banger_vmm::{Facts, Search, Versions};
use clap::Args;

use crate::connect::connect_to_running;
use crate::exit::Exit;
use crate::ui::{BAD, DIM, Format, GOOD, Ui, WARNING, escape, human_size};
use crate::version::VERSION;

/// Check what this host needs to run machines
///
/// Every check that is not well comes with what to do about it. Ends with 0 when machines can
/// run, 1 when something is missing.
#[derive(Args, Debug)]
pub(crate) struct DoctorArgs {}

/// The longest path of a unix socket, without the terminating zero.
const SOCKET_PATH_MAX: usize = 107;
/// The longest path below the runtime directory: a machine's sockets.
const LONGEST_SOCKET: &str = "vm/0123456789ab/agent.sock_1023";
/// Less free space than this is worth knowing: an image and a few machines.
const SPACE_WANTED: ByteSize = ByteSize::gib(8);
/// With less than this the default image cannot even be made.
const SPACE_NEEDED: ByteSize = ByteSize::gib(2);

pub(crate) async fn cmd_doctor(ui: &Ui, _args: DoctorArgs) -> Result<Exit> {
    let paths = Paths::from_env()?;
    let mut checks = vec![configuration(&paths)];
    checks.extend(file_syncs(&paths));
    checks.extend(vmm(&paths));
    checks.extend(banger_archive::probe());
    checks.push(private_dir("state directory", &paths.state_dir));
    checks.push(private_dir("runtime directory", &paths.runtime_dir));
    checks.push(socket_path(&paths.runtime_dir));
    checks.push(disk_space(&paths.state_dir));
    checks.push(daemon(&paths).await);
    match ui.format() {
        Format::Json => ui.json(&checks)?,
        Format::Table => ui.data(&as_text(&checks))?,
    }
    Ok(
        match checks.iter().any(|check| check.status == CheckStatus::Fail) {
            true => Exit::FAILURE,
            false => Exit::SUCCESS,
        },
    )
}

fn as_text(checks: &[Check]) -> String {
    let width = checks
        .iter()
        .map(|check| check.name.chars().count())
        .max()
        .unwrap_or(0);
    let mut lines = Vec::new();
    for check in checks {
        let (style, word) = match check.status {
            CheckStatus::Ok => (GOOD, "ok"),
            CheckStatus::Warn => (WARNING, "warn"),
            CheckStatus::Fail => (BAD, "FAIL"),
        };
        let (name, detail) = (escape(&check.name), escape(&check.detail));
        lines.push(format!(
            "{style}{word:<4}{style:#}   {name:<width$}   {detail}"
        ));
        if let Some(fix) = &check.fix {
            let indent = " ".repeat(width + 10);
            lines.push(format!("{indent}{DIM}fix: {}{DIM:#}", escape(fix)));
        }
    }
    lines.join("\n")
}

/// A check that failed with an error of ours.
fn failed(name: &str, error: &Error) -> Check {
    let fix = error.hint_text().unwrap_or("see the message").to_owned();
    Check::fail(name, error.chain(), fix)
}

fn configuration(paths: &Paths) -> Check {
    let file = paths.config_file.display();
    match crate::config::resolve(paths) {
        Err(error) => failed("configuration", &error),
        Ok(_) if paths.config_file.exists() => Check::ok("configuration", format!("`{file}`")),
        Ok(_) => Check::ok(
            "configuration",
            format!("built-in; `{file}` does not exist"),
        ),
    }
}

/// Whether what is to be copied into every guest is there; nothing where that is nothing.
fn file_syncs(paths: &Paths) -> Option<Check> {
    // That it cannot be read is said already.
    let config = banger_config::Config::load(&paths.config_file).unwrap_or_default();
    let missing: Vec<String> = config
        .file_sync
        .iter()
        .filter(|sync| {
            let host = sync.host.resolve(paths.home.as_deref());
            !host.is_some_and(|host| host.exists())
        })
        .map(|sync| format!("`{}`", sync.host))
        .collect();
    match (config.file_sync.len(), missing.is_empty()) {
        (0, _) => None,
        (count, true) => Some(Check::ok("file syncs", format!("{count}, all there"))),
        (_, false) => Some(Check::warn(
            "file syncs",
            format!("missing: {}", missing.join(", ")),
            format!(
                "make them, or remove them from `{}`",
                paths.config_file.display()
            ),
        )),
    }
}

fn vmm(paths: &Paths) -> Vec<Check> {
    banger_vmm::checks(&host_facts(paths))
}

/// What this host offers to machines, as far as has been tried. Starts no machine.
pub(crate) fn host_facts(paths: &Paths) -> Facts {
    // With a broken configuration, what is installed is still worth knowing.
    let config = banger_config::Config::load(&paths.config_file).unwrap_or_default();
    let search = Search {
        firecracker_env: paths.firecracker.clone(),
        firecracker_bin: config.firecracker_bin,
        qemu_bin: config.qemu_bin,
        path: paths.search_path.clone(),
        exe_dir: std::env::current_exe()
            .ok()
            .and_then(|exe| exe.parent().map(Path::to_owned)),
    };
    let mut facts = Facts::gather(&search, &Versions::default());
    banger_vmm::recall(&mut facts, &paths.kvm_cache());
    facts
}

fn private_dir(name: &str, path: &Path) -> Check {
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Check::ok(name, format!("`{}`, made when needed", path.display()))
        }
        _ => match ensure_private_dir(path) {
            Ok(()) => Check::ok(name, format!("`{}`", path.display())),
            Err(error) => failed(name, &error),
        },
    }
}

fn socket_path(runtime_dir: &Path) -> Check {
    let longest = runtime_dir.join(LONGEST_SOCKET).as_os_str().len();
    match longest <= SOCKET_PATH_MAX {
        true => Check::ok(
            "socket paths",
            format!("{longest} of {SOCKET_PATH_MAX} bytes"),
        ),
        false => Check::fail(
            "socket paths",
            format!("{longest} bytes, and Linux allows {SOCKET_PATH_MAX}"),
            "set `XDG_RUNTIME_DIR` to a directory with a shorter path",
        ),
    }
}

fn disk_space(state_dir: &Path) -> Check {
    // Where it will be made, when it is not there yet.
    let Some(place) = state_dir.ancestors().find(|dir| dir.exists()) else {
        return Check::warn("disk space", "cannot be read", "check the state directory");
    };
    let free = match rustix::fs::statvfs(place) {
        Ok(stat) => ByteSize::bytes(stat.f_bavail.saturating_mul(stat.f_frsize)),
        Err(error) => {
            let error = Error::io("read the free space of", place, error.into());
            return failed("disk space", &error);
        }
    };
    let detail = format!("{} free at `{}`", human_size(free), place.display());
    let fix = format!(
        "free some space there; {} are plenty",
        human_size(SPACE_WANTED)
    );
    match free {
        free if free < SPACE_NEEDED => Check::fail("disk space", detail, fix),
        free if free < SPACE_WANTED => Check::warn("disk space", detail, fix),
        _ => Check::ok("disk space", detail),
    }
}

async fn daemon(paths: &Paths) -> Check {
    let running = match connect_to_running(paths) {
        Ok(running) => running,
        Err(error) => return failed("daemon", &error),
    };
    let Some(client) = running else {
        return Check::ok("daemon", "not running; started when needed");
    };
    match client.daemon().await {
        Err(error) => failed("daemon", &error),
        Ok(daemon) if daemon.version == VERSION => Check::ok(
            "daemon",
            format!("running, release {VERSION}, pid {}", daemon.pid),
        ),
        Ok(daemon) => Check::warn(
            "daemon",
            format!(
                "running, release {}, but this program is {VERSION}",
                daemon.version
            ),
            "run `banger daemon stop`; machines keep running",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_finding_has_its_fix_below_it() {
        let checks = [
            Check::ok("qemu", "7.2"),
            Check::warn("kvm", "absent", "enable it"),
            Check::fail(
                "mmdebstrap",
                "not installed\x1b[2J",
                "apt install mmdebstrap",
            ),
        ];
        let text = anstream::adapter::strip_str(&as_text(&checks)).to_string();
        insta::assert_snapshot!(text, @r"
        ok     qemu         7.2
        warn   kvm          absent
                            fix: enable it
        FAIL   mmdebstrap   not installed\u{1b}[2J
                            fix: apt install mmdebstrap
        ");
    }

    #[test]
    fn a_long_runtime_directory_fails_plainly() {
        assert_eq!(
            socket_path(Path::new("/run/user/1000/banger")).status,
            CheckStatus::Ok
        );
        let long = format!("/{}", "x".repeat(100));
        assert_eq!(socket_path(Path::new(&long)).status, CheckStatus::Fail);
    }

    #[test]
    fn a_directory_that_others_may_enter_fails() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(private_dir("x", dir.path()).status, CheckStatus::Fail);
        let absent = dir.path().join("absent");
        assert_eq!(private_dir("x", &absent).status, CheckStatus::Ok);
        assert!(!absent.exists());
    }
}
