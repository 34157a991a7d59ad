//! What programs expect to find in a running system, before any init has run: `/run`, terminals,
//! shared memory. For an image without an init system also the little that one would do, and
//! what container runtimes give such images.

use std::ffi::CStr;
use std::fs;
use std::io;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};

use super::root::mount_point;
use crate::failure::{Failure, Result, Step};

/// Prepares the VM's root, which is already this process's.
pub(super) fn prepare(has_init: bool) -> Result<()> {
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .step("open the VM's root")?;
    if has_init {
        drop(mount_point(&root, "run", 0o755)?);
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount_on(c"tmpfs", c"/run", flags, c"mode=0755,size=25%")?;
    } else if !is_directory("/run") {
        // Otherwise what is there is the image's, such as the directory of a server's socket.
        drop(mount_point(&root, "run", 0o755)?);
    }
    // A link that leads nowhere is as good as nothing.
    for (path, name, mode) in [("/tmp", "tmp", 0o1777), ("/etc", "etc", 0o755)] {
        if !is_directory(path) {
            drop(mount_point(&root, name, mode)?);
        }
    }
    for directory in ["/dev/pts", "/dev/shm"] {
        make_directory(directory)?;
    }
    let guarded = MountFlags::NOSUID | MountFlags::NODEV;
    mount_on(c"tmpfs", c"/dev/shm", guarded, c"mode=1777")?;
    let terminals = MountFlags::NOSUID | MountFlags::NOEXEC;
    let options = c"gid=5,mode=0620,ptmxmode=0666";
    mount_on(c"devpts", c"/dev/pts", terminals, options)?;
    for (target, link) in [
        ("/proc/self/fd", "/dev/fd"),
        ("/proc/self/fd/0", "/dev/stdin"),
        ("/proc/self/fd/1", "/dev/stdout"),
        ("/proc/self/fd/2", "/dev/stderr"),
    ] {
        make_link(target, link)?;
    }
    match has_init {
        true => leave_tmp_alone()?,
        false => without_init(),
    }
    Ok(())
}

/// Commands run, and files are copied in, before systemd has set up the rest: what they leave in
/// `/tmp` stays. By itself systemd would empty it, or mount another over it.
fn leave_tmp_alone() -> Result<()> {
    for directory in ["/run/tmpfiles.d", "/run/systemd", "/run/systemd/system"] {
        make_directory(directory)?;
    }
    // Instead of the image's file of this name.
    let rules = "q /tmp 1777 root root\nq /var/tmp 1777 root root\n";
    fs::write("/run/tmpfiles.d/tmp.conf", rules).step("write /run/tmpfiles.d/tmp.conf")?;
    make_link("/dev/null", "/run/systemd/system/tmp.mount")
}

/// What is missing afterwards is missed by few, and said on the console.
pub(super) fn without_init() {
    let guarded = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let cgroups = mount_on(c"cgroup2", c"/sys/fs/cgroup", guarded, c"nsdelegate");
    let queues = make_directory("/dev/mqueue")
        .and_then(|()| mount_on(c"mqueue", c"/dev/mqueue", guarded, c""));
    let mounts = make_link("/proc/mounts", "/etc/mtab");
    for result in [cgroups, queues, mounts] {
        if let Err(failure) = result {
            eprintln!("banger: {failure}");
        }
    }
}

/// Links followed, inside the VM's root.
fn is_directory(path: &str) -> bool {
    fs::metadata(path).is_ok_and(|file| file.is_dir())
}

fn mount_on(kind: &CStr, path: &CStr, flags: MountFlags, options: &CStr) -> Result<()> {
    mount(kind, path, kind, flags, options).step_with(|| format!("mount {path:?}"))
}

fn make_directory(path: &str) -> Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(Failure::new(format!("create {path}"), error))
        }
        _ => Ok(()),
    }
}

fn make_link(target: &str, link: &str) -> Result<()> {
    match rustix::fs::symlink(target, link) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(Failure::new(format!("create {link}"), error)),
    }
}
