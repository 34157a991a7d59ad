//! The leak oracle: what is on the machine that should not be.
//!
//! [`world_leaks`] looks at one world after its end; [`Snapshot`] compares the whole machine
//! before and after the suite, for equality both ways.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::process::ends_within;

/// A process and its command line, arguments joined by spaces.
fn processes() -> Vec<(Pid, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("read /proc").flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        // The process may end at any moment; then it is not a leak.
        let Ok(mut line) = fs::read(entry.path().join("cmdline")) else {
            continue;
        };
        for byte in &mut line {
            if *byte == 0 {
                *byte = b' ';
            }
        }
        if let Some(pid) = Pid::from_raw(pid) {
            found.push((pid, line));
        }
    }
    found
}

/// Whether a line names one of these paths or something below it. A path that only begins like
/// one is another scenario's.
fn mentions(line: &[u8], paths: &[&Path]) -> bool {
    let goes_on = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
    paths.iter().any(|path| {
        let path = path.as_os_str().as_bytes();
        line.windows(path.len())
            .enumerate()
            .any(|(at, window)| window == path && !line.get(at + path.len()).is_some_and(goes_on))
    })
}

/// Kills every process whose command line names one of these paths, and waits for its end.
pub fn end_processes_of(paths: &[&Path]) {
    for (pid, line) in processes() {
        if mentions(&line, paths) {
            // It may have ended by itself since.
            kill_process(pid, Signal::KILL).ok();
            ends_within(pid, Duration::from_secs(10));
        }
    }
}

/// The processes whose command lines, arguments joined by spaces, are such ones.
pub fn find_processes(is_it: impl Fn(&str) -> bool) -> Vec<Pid> {
    let such = |(pid, line): (Pid, Vec<u8>)| is_it(&String::from_utf8_lossy(&line)).then_some(pid);
    processes().into_iter().filter_map(such).collect()
}

/// Everything a finished world left behind, in words.
pub fn world_leaks(root: &Path, runtime: &Path) -> Vec<String> {
    let mut leaks = Vec::new();
    for (pid, line) in processes() {
        if mentions(&line, &[root, runtime]) {
            leaks.push(format!(
                "process {}: {}",
                pid.as_raw_nonzero(),
                String::from_utf8_lossy(&line)
            ));
        }
    }
    let mounts = fs::read("/proc/self/mountinfo").expect("read mountinfo");
    for line in mounts.split(|byte| *byte == b'\n') {
        if mentions(line, &[root, runtime]) {
            leaks.push(format!("mount: {}", String::from_utf8_lossy(line)));
        }
    }
    walk(runtime, &mut |path| {
        leaks.push(format!("runtime file: {}", path.display()))
    });
    // What a daemon keeps without any VM, and nothing else.
    let state = root.join("state/banger");
    for dir in ["vms", "images/staging", "kernels/staging"] {
        walk(&state.join(dir), &mut |path| {
            leaks.push(format!("state file: {}", path.display()))
        });
    }
    walk(&root.join("state"), &mut |path| {
        let is_socket = fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
        if is_socket {
            leaks.push(format!("socket: {}", path.display()));
        }
    });
    leaks
}

/// Calls `visit` for everything below `dir` that is not a directory, and for directories that
/// cannot be read.
fn walk(dir: &Path, visit: &mut dyn FnMut(&Path)) {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
        Err(_) => return visit(dir),
    };
    for entry in entries.flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => walk(&path, visit),
            _ => visit(&path),
        }
    }
}

/// What the suite could change on the machine outside its worlds.
#[derive(Debug, PartialEq, Eq)]
pub struct Snapshot(BTreeSet<String>);

impl Snapshot {
    /// Looks at the machine now.
    pub fn take() -> Snapshot {
        let mut items = BTreeSet::new();
        const OURS: [&str; 6] = [
            "bangerd",
            "qemu-system",
            "banger-vsock",
            "mmdebstrap",
            "unshare",
            "mke2fs",
        ];
        for (pid, line) in processes() {
            let program = line.split(|byte| *byte == b' ').next().unwrap_or_default();
            let program = Path::new(std::ffi::OsStr::from_bytes(program));
            let name = program
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if OURS.iter().any(|ours| name.starts_with(ours)) {
                items.insert(format!("process {} {name}", pid.as_raw_nonzero()));
            }
        }
        let mounts = fs::read_to_string("/proc/self/mounts").expect("read mounts");
        items.extend(mounts.lines().map(|line| format!("mount {line}")));
        for entry in fs::read_dir("/tmp").expect("read /tmp").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("banger") || name.starts_with("mmdebstrap") {
                items.insert(format!(
                    "file {}",
                    PathBuf::from("/tmp").join(name).display()
                ));
            }
        }
        for entry in fs::read_dir("/sys/class/net")
            .expect("read network links")
            .flatten()
        {
            items.insert(format!("link {}", entry.file_name().to_string_lossy()));
        }
        for entry in fs::read_dir("/sys/block")
            .expect("read block devices")
            .flatten()
        {
            let backing = entry.path().join("loop/backing_file");
            if let Ok(file) = fs::read_to_string(&backing) {
                items.insert(format!("loop {}", file.trim()));
            }
        }
        Snapshot(items)
    }

    /// The differences to a later snapshot, in words; empty when equal both ways.
    pub fn differences(&self, later: &Snapshot) -> Vec<String> {
        let gone = self
            .0
            .difference(&later.0)
            .map(|item| format!("gone: {item}"));
        let new = later
            .0
            .difference(&self.0)
            .map(|item| format!("new: {item}"));
        gone.chain(new).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_begins_like_another_is_another() {
        let ssh = [Path::new("/ground/ssh")];
        for ours in [
            "qemu -name guest=/ground/ssh/state",
            "/ground/ssh",
            "a /ground/ssh-config b /ground/ssh",
            "file=/ground/ssh,format=raw",
        ] {
            assert!(mentions(ours.as_bytes(), &ssh), "{ours}");
        }
        for other in ["/ground/ssh-config/state", "/ground/ssh2", "/ground/ss"] {
            assert!(!mentions(other.as_bytes(), &ssh), "{other}");
        }
    }
}
