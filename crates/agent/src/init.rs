//! Which init system an image has, if any, and what each is told.
//!
//! Decided by content, not by name: images call all sorts of programs `init`, and one that is no
//! init system would never reap, never start a service and never go down. An image without one
//! that is known here keeps the agent as PID 1.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};

/// Where init systems live, the conventional name first.
const PLACES: [&str; 7] = [
    "/sbin/init",
    "/usr/sbin/init",
    "/lib/systemd/systemd",
    "/usr/lib/systemd/systemd",
    "/sbin/openrc-init",
    "/bin/init",
    "/etc/init",
];
/// No init system is larger, BusyBox with everything included.
const MAX_PROGRAM: u64 = 8 << 20;
const MAX_TABLE: u64 = 1 << 20;
const ELF: &[u8] = b"\x7fELF";

/// An init system this program knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Systemd,
    /// OpenRC's own init. OpenRC also runs under the two others.
    OpenRc,
    SysV,
    BusyBox,
}

/// The init system of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Init {
    /// Its absolute path.
    pub(crate) path: String,
    pub(crate) kind: Kind,
}

impl Kind {
    const ALL: [Kind; 4] = [Kind::Systemd, Kind::OpenRc, Kind::SysV, Kind::BusyBox];

    /// Text that is in every release of the program and in no other.
    fn mark(self) -> &'static [u8] {
        match self {
            Kind::Systemd => b"systemd.show_status",
            Kind::OpenRc => b"/openrc/init.ctl",
            Kind::SysV => b"INIT_VERSION=sysvinit",
            Kind::BusyBox => b"BusyBox v",
        }
    }

    /// What it is called between our own processes.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Systemd => "systemd",
            Kind::OpenRc => "openrc",
            Kind::SysV => "sysvinit",
            Kind::BusyBox => "busybox",
        }
    }

    /// The inverse of [`Kind::name`].
    pub(crate) fn named(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// Looks for an init system below `root`, in which links stay. What was found and not taken is
/// said on the console.
pub(crate) fn find(root: &Path) -> io::Result<Option<Init>> {
    let root = Root::open(root)?;
    for path in PLACES {
        let Some(program) = root.read_program(path)? else {
            continue;
        };
        let kind = Kind::ALL
            .into_iter()
            .find(|kind| contains(&program, kind.mark()));
        match kind {
            Some(Kind::BusyBox) if !busybox_has_work(&root)? => {
                println!("banger: {path} is BusyBox, and there is nothing for its init to start");
            }
            Some(kind) => {
                let path = path.to_owned();
                return Ok(Some(Init { path, kind }));
            }
            None => println!("banger: {path} is no init system that banger knows"),
        }
    }
    Ok(None)
}

/// Whether BusyBox' init would start a system. Alpine's container images have the program and
/// the table for OpenRC, and no OpenRC: it would only try again and again.
fn busybox_has_work(root: &Root) -> io::Result<bool> {
    let Some(table) = root.read_table("/etc/inittab")? else {
        return root.is_executable("/etc/init.d/rcS");
    };
    let mut has_work = false;
    for (action, program) in entries(&table) {
        let exists = root.is_executable(program)?;
        if action == "sysinit" && !exists {
            return Ok(false);
        }
        has_work |= exists && matches!(action, "sysinit" | "wait" | "once" | "respawn");
    }
    Ok(has_work)
}

/// `(action, program)` of each line of an inittab: `id:runlevels:action:program arguments`.
fn entries(table: &str) -> impl Iterator<Item = (&str, &str)> {
    table.lines().filter_map(|line| {
        let line = line.trim();
        let mut fields = line.splitn(4, ':');
        if line.starts_with('#') {
            return None;
        }
        let action = fields.nth(2)?;
        // A minus asks BusyBox for a login shell.
        let command = fields.next()?.trim_start_matches('-');
        Some((action, command.split_whitespace().next()?))
    })
}

/// A directory that is the root for every path looked up in it.
struct Root(std::os::fd::OwnedFd);

impl Root {
    fn open(path: &Path) -> io::Result<Root> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Root(rustix::fs::open(path, flags, Mode::empty())?))
    }

    /// The regular file at `path`; `None` when there is none, or a link that leads nowhere.
    fn file(&self, path: &str) -> io::Result<Option<File>> {
        use rustix::io::Errno;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let file = match rustix::fs::openat2(&self.0, path, flags, Mode::empty(), resolve) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO | Errno::NODEV) => {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        Ok(file.metadata()?.is_file().then_some(file))
    }

    fn executable(&self, path: &str) -> io::Result<Option<File>> {
        let Some(file) = self.file(path)? else {
            return Ok(None);
        };
        let is_executable = file.metadata()?.permissions().mode() & 0o111 != 0;
        Ok(is_executable.then_some(file))
    }

    fn is_executable(&self, path: &str) -> io::Result<bool> {
        Ok(self.executable(path)?.is_some())
    }

    /// The content of an executable; empty when it is a script.
    fn read_program(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        let Some(file) = self.executable(path)? else {
            return Ok(None);
        };
        let mut file = file.take(MAX_PROGRAM);
        let mut program = Vec::new();
        file.by_ref()
            .take(ELF.len() as u64)
            .read_to_end(&mut program)?;
        if program == ELF {
            file.read_to_end(&mut program)?;
        } else {
            program.clear();
        }
        Ok(Some(program))
    }

    fn read_table(&self, path: &str) -> io::Result<Option<String>> {
        let Some(file) = self.file(path)? else {
            return Ok(None);
        };
        let mut table = Vec::new();
        file.take(MAX_TABLE).read_to_end(&mut table)?;
        Ok(Some(String::from_utf8_lossy(&table).into_owned()))
    }
}

/// The C library's search: a program is megabytes, and this is on the way of every boot.
fn contains(program: &[u8], mark: &[u8]) -> bool {
    // SAFETY: two slices with their own lengths; nothing is written.
    let found = unsafe {
        libc::memmem(
            program.as_ptr().cast(),
            program.len(),
            mark.as_ptr().cast(),
            mark.len(),
        )
    };
    !found.is_null()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// A tree with these files; a name that ends in `*` is executable, a content that begins with
    /// `->` is a link.
    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = root.path().join(name.trim_end_matches('*'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            if let Some(target) = content.strip_prefix("->") {
                symlink(target, &path).unwrap();
                continue;
            }
            fs::write(&path, content).unwrap();
            let mode = if name.ends_with('*') { 0o755 } else { 0o644 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        root
    }

    fn found(files: &[(&str, &str)]) -> Option<(String, Kind)> {
        let root = tree(files);
        find(root.path())
            .unwrap()
            .map(|init| (init.path, init.kind))
    }

    const SYSTEMD: &str = "\x7fELF....systemd.show_status....";
    const BUSYBOX: &str = "\x7fELF....BusyBox v1.36.1....";
    const ALPINE: &str = "# /etc/inittab\n::sysinit:/sbin/openrc sysinit\n\
        ::sysinit:/sbin/openrc boot\n::wait:/sbin/openrc default\n\
        tty1::respawn:/sbin/getty 38400 tty1\n::shutdown:/sbin/openrc shutdown\n";

    #[test]
    fn known_ones_are_found_through_links_that_stay_in_the_image() {
        let merged = [("lib", "->/usr/lib"), ("sbin", "->usr/sbin")];
        let files = [
            ("usr/sbin/init", "->/lib/systemd/systemd"),
            ("usr/lib/systemd/systemd*", SYSTEMD),
        ];
        let systemd = Some(("/sbin/init".to_owned(), Kind::Systemd));
        assert_eq!(found(&[&files[..], &merged].concat()), systemd);
        // Without the merge, the link leads nowhere.
        let systemd = Some(("/usr/lib/systemd/systemd".to_owned(), Kind::Systemd));
        assert_eq!(found(&files), systemd);
    }

    #[test]
    fn what_only_has_the_name_is_not_started() {
        for files in [
            &[][..],
            &[("sbin/init", "->/no/where")],
            &[("sbin/init", "->init")],
            &[("sbin/init/file", "")],
            &[(
                "sbin/init*",
                "#!/bin/sh\n# systemd.show_status\nexec /app\n",
            )],
            &[("sbin/init", SYSTEMD)],
            &[("sbin/init*", "\x7fELF tini version")],
            &[("sbin/init*", "")],
            &[
                ("sbin/init*", "->/usr/bin/tini"),
                ("usr/bin/tini*", "\x7fELF tini"),
            ],
        ] {
            assert_eq!(found(files), None, "{files:?}");
        }
    }

    #[test]
    fn a_later_place_counts_when_an_earlier_one_is_no_init() {
        let files = [
            ("sbin/init*", "#!/bin/sh"),
            ("lib/systemd/systemd*", SYSTEMD),
        ];
        let systemd = Some(("/lib/systemd/systemd".to_owned(), Kind::Systemd));
        assert_eq!(found(&files), systemd);
    }

    #[test]
    fn busybox_is_an_init_only_with_something_to_start() {
        let busybox = [("bin/busybox*", BUSYBOX), ("sbin/init", "->/bin/busybox")];
        let with = |more: &[(&str, &str)]| found(&[&busybox, more].concat());
        let init = Some(("/sbin/init".to_owned(), Kind::BusyBox));
        assert_eq!(with(&[]), None, "a container's");
        assert_eq!(with(&[("etc/inittab", ALPINE)]), None, "Alpine's container");
        assert_eq!(
            with(&[("etc/inittab", ALPINE), ("sbin/getty*", "")]),
            None,
            "a console is no system"
        );
        let alpine = [("etc/inittab", ALPINE), ("sbin/openrc*", "")];
        assert_eq!(with(&alpine), init);
        assert_eq!(with(&[("etc/init.d/rcS*", "#!/bin/sh")]), init);
        let respawn = [("etc/inittab", "::respawn:-/app -v\n"), ("app*", "")];
        assert_eq!(with(&respawn), init);
    }

    #[test]
    fn kinds_have_names() {
        for kind in Kind::ALL {
            assert_eq!(Kind::named(kind.name()), Some(kind));
        }
        assert_eq!(Kind::named("tini"), None);
    }
}
