use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};

use banger_guest_api::archive::{Owner, Unpack, unpack};

use super::*;

/// A host's home directory and a guest's.
struct Homes {
    place: tempfile::TempDir,
}

impl Homes {
    fn new() -> Homes {
        let place = tempfile::tempdir().unwrap();
        for home in ["host", "guest"] {
            fs::create_dir(place.path().join(home)).unwrap();
        }
        fs::set_permissions(
            place.path().join("guest"),
            fs::Permissions::from_mode(0o755),
        )
        .unwrap();
        Homes { place }
    }

    fn host(&self, path: &str) -> PathBuf {
        self.place.path().join("host").join(path)
    }

    fn guest(&self, path: &str) -> PathBuf {
        self.place.path().join("guest").join(path)
    }

    fn write(&self, path: &str, content: &[u8], mode: u32) {
        let path = self.host(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Does on one machine what the host and the guest do; says what is left out.
    fn sync(&self, host: &str, guest: &str, mode: Option<u32>) -> Result<Option<String>> {
        let mut archive = Vec::new();
        let tree = Tree::find(&self.host(host), guest, mode)?;
        let (_, left_out) = tree.write(&mut archive).unwrap();
        let home = self.guest("");
        let parent = File::open(&home).unwrap();
        let to = Unpack {
            parent: parent.as_fd(),
            name: ".".as_ref(),
            shown: &home,
            owner: Owner::Caller,
            only_directory: false,
        };
        unpack(archive.as_slice(), &to).unwrap();
        Ok(left_out)
    }

    fn mode(&self, path: &str) -> u32 {
        fs::symlink_metadata(self.guest(path)).unwrap().mode() & 0o7777
    }
}

#[test]
fn a_file_gets_its_place_and_its_mode_and_no_other_mode_changes() {
    let homes = Homes::new();
    homes.write("script", b"one", 0o755);
    assert_eq!(homes.sync("script", ".config/tool/x", None).unwrap(), None);
    assert_eq!(fs::read(homes.guest(".config/tool/x")).unwrap(), b"one");
    let modes = [".config/tool/x", ".config/tool", ".config", ""].map(|path| homes.mode(path));
    assert_eq!(modes, [0o600, 0o700, 0o700, 0o755]);

    fs::set_permissions(homes.guest(".config"), fs::Permissions::from_mode(0o750)).unwrap();
    homes.write("script", b"two", 0o755);
    homes.sync("script", ".config/tool/x", Some(0o644)).unwrap();
    assert_eq!(fs::read(homes.guest(".config/tool/x")).unwrap(), b"two");
    assert_eq!(homes.mode(".config/tool/x"), 0o644);
    assert_eq!(homes.mode(".config"), 0o750, "one that is there stays so");
}

#[test]
fn a_tree_keeps_its_links_and_what_can_be_executed() {
    let homes = Homes::new();
    homes.write("t/plain", b"x", 0o644);
    homes.write("t/bin/tool", b"#!", 0o755);
    homes.write("t/empty", b"", 0o444);
    symlink("../nowhere", homes.host("t/bin/link")).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(homes.host("t/socket")).unwrap();
    // The path itself may be a link.
    symlink("t", homes.host("also-t")).unwrap();
    fs::create_dir_all(homes.guest("t/bin")).unwrap();
    fs::write(homes.guest("t/own"), "guest").unwrap();
    fs::write(homes.guest("t/bin/link"), "in the way").unwrap();

    assert_eq!(homes.sync("also-t", "t", None).unwrap(), None);
    drop(socket);
    let modes = ["t/plain", "t/bin/tool", "t/empty"].map(|path| homes.mode(path));
    assert_eq!(modes, [0o600, 0o700, 0o600]);
    assert_eq!(
        fs::read_link(homes.guest("t/bin/link")).unwrap(),
        Path::new("../nowhere")
    );
    assert!(!homes.guest("t/socket").exists());
    assert_eq!(fs::read(homes.guest("t/own")).unwrap(), b"guest");

    homes.sync("t", "again", Some(0o640)).unwrap();
    let modes = ["again", "again/bin", "again/plain", "again/bin/tool"];
    let modes = modes.map(|path| homes.mode(path));
    assert_eq!(modes, [0o700, 0o700, 0o640, 0o640]);
}

#[test]
fn the_keys_that_let_the_user_in_are_never_replaced() {
    let homes = Homes::new();
    homes.write(".ssh/authorized_keys", b"host", 0o600);
    homes.write(".ssh/config", b"Host *", 0o600);
    homes.sync(".ssh", ".ssh", None).unwrap();
    assert!(!homes.guest(".ssh/authorized_keys").exists());
    assert_eq!(fs::read(homes.guest(".ssh/config")).unwrap(), b"Host *");
    homes.sync(".ssh", "other", None).unwrap();
    assert!(homes.guest("other/authorized_keys").exists());
}

#[test]
fn what_cannot_be_copied_is_refused_by_name() {
    let homes = Homes::new();
    let refused = |host: &str| Tree::find(&homes.host(host), "x", None).unwrap_err();
    assert_eq!(refused("absent").code(), Code::NotFound);
    assert!(
        refused("absent")
            .message()
            .contains("absent` does not exist")
    );
    symlink("absent", homes.host("dangling")).unwrap();
    assert_eq!(refused("dangling").code(), Code::NotFound);
    rustix::fs::mkfifoat(
        rustix::fs::CWD,
        homes.host("pipe"),
        rustix::fs::Mode::from_raw_mode(0o600),
    )
    .unwrap();
    assert!(refused("pipe").message().contains("neither a file"));

    homes.write("big/a", b"x", 0o600);
    let file = File::options()
        .write(true)
        .open(homes.host("big/a"))
        .unwrap();
    file.set_len(MAX_BYTES + 1).unwrap();
    for host in ["big", "big/a"] {
        let error = refused(host);
        assert!(error.message().contains("more than the 256M"), "{error}");
    }
    file.set_len(MAX_BYTES).unwrap();
    Tree::find(&homes.host("big"), "x", None).unwrap();
}

#[test]
fn what_cannot_be_read_is_left_out_and_said() {
    let homes = Homes::new();
    homes.write("t/a", b"a", 0o600);
    homes.write("t/b", b"b", 0o600);
    homes.write("t/c", b"c", 0o600);
    let tree = Tree::find(&homes.host("t"), "t", None).unwrap();
    fs::remove_file(homes.host("t/a")).unwrap();
    fs::remove_file(homes.host("t/b")).unwrap();
    fs::create_dir(homes.host("t/b")).unwrap();
    let (copied, left_out) = tree.write(io::sink()).unwrap();
    assert_eq!((copied.entries, copied.bytes), (3, 1));
    let left_out = left_out.unwrap();
    assert!(left_out.contains("/t/a`"), "{left_out}");
    assert!(left_out.ends_with(", and 1 more"), "{left_out}");
}
