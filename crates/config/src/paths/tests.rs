use super::*;
use std::os::unix::fs::{PermissionsExt, symlink};

fn resolve(variables: &[(&str, &str)]) -> Result<Paths> {
    resolve_with(variables, true)
}

fn resolve_with(variables: &[(&str, &str)], has_run_user: bool) -> Result<Paths> {
    let find = |name: &str| {
        let found = variables.iter().find(|(known, _)| *known == name)?;
        Some(OsString::from(found.1))
    };
    Paths::resolve(find, 1000, has_run_user)
}

#[test]
fn directories_follow_the_xdg_rules() {
    let paths = resolve(&[("HOME", "/home/u")]).unwrap();
    assert_eq!(
        paths.config_file,
        Path::new("/home/u/.config/banger/config.toml")
    );
    assert_eq!(paths.state_dir, Path::new("/home/u/.local/state/banger"));
    assert_eq!(paths.runtime_dir, Path::new("/run/user/1000/banger"));
    assert_eq!(
        paths.daemon_socket(),
        Path::new("/run/user/1000/banger/bangerd.sock")
    );
    assert_eq!(paths.log_level, None);

    let without = resolve_with(&[("HOME", "/home/u")], false).unwrap();
    assert_eq!(without.runtime_dir, Path::new("/tmp/banger-1000"));

    // Complete without a home directory.
    let xdg = resolve(&[
        ("XDG_CONFIG_HOME", "/c"),
        ("XDG_STATE_HOME", "/s"),
        ("XDG_RUNTIME_DIR", "/r"),
        ("CARGO_HOME", "/cargo"),
        ("PATH", "/bin"),
        ("BANGER_LOG", "debug"),
    ])
    .unwrap();
    assert_eq!(xdg.config_file, Path::new("/c/banger/config.toml"));
    assert_eq!(xdg.state_dir, Path::new("/s/banger"));
    assert_eq!(xdg.runtime_dir, Path::new("/r/banger"));
    assert_eq!(xdg.search_path.as_deref(), Some(OsStr::new("/bin")));
    assert_eq!(xdg.log_level, Some(LogLevel::Debug));

    // Relative and empty ones do not count.
    let relative = resolve(&[
        ("HOME", "/h"),
        ("XDG_STATE_HOME", "s"),
        ("XDG_RUNTIME_DIR", ""),
    ]);
    let relative = relative.unwrap();
    assert_eq!(relative.state_dir, Path::new("/h/.local/state/banger"));
    assert_eq!(relative.runtime_dir, Path::new("/run/user/1000/banger"));

    let file = resolve(&[("HOME", "/h"), ("BANGER_CONFIG", "/etc/b.toml")]).unwrap();
    assert_eq!(file.config_file, Path::new("/etc/b.toml"));
}

#[test]
fn an_environment_that_does_not_say_is_refused() {
    for variables in [
        &[][..],
        &[("HOME", "home")],
        &[("HOME", "/h"), ("BANGER_LOG", "loud")],
    ] {
        let error = resolve(variables).unwrap_err();
        assert_eq!(error.code(), Code::InvalidConfig, "{variables:?}");
        assert!(error.hint_text().is_some(), "{variables:?}");
    }
}

#[test]
fn a_runtime_directory_too_long_for_sockets_is_refused() {
    let with = |length: usize| {
        let dir = format!("/{}", "r".repeat(length - 1));
        resolve(&[("HOME", "/h"), ("XDG_RUNTIME_DIR", &dir)])
    };
    // `/banger/vm/000000000000/agent.sock_1023` has 39 bytes.
    assert!(with(107 - 39).is_ok());
    let error = with(107 - 39 + 1).unwrap_err();
    assert!(error.message().contains("108 bytes"), "{error}");
    assert!(error.hint_text().unwrap().contains("XDG_RUNTIME_DIR"));
}

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let name = format!("banger-config-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("cannot remove {}: {error}", self.0.display());
        }
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path)
        .unwrap()
        .permissions()
        .mode()
        & 0o7777
}

#[test]
fn a_directory_is_made_private_with_its_parents() {
    let scratch = Scratch::new("make");
    let dir = scratch.0.join("a/b/c");
    ensure_private_dir(&dir).unwrap();
    ensure_private_dir(&dir).unwrap();
    for made in ["a", "a/b", "a/b/c"] {
        assert_eq!(mode(&scratch.0.join(made)), 0o700, "{made}");
    }
}

#[test]
fn what_is_there_is_checked_and_never_changed() {
    let scratch = Scratch::new("check");
    let dir = scratch.0.join("dir");
    ensure_private_dir(&dir).unwrap();
    for open in [0o755, 0o750, 0o701, 0o720, 0o1777] {
        std::fs::set_permissions(&dir, PermissionsExt::from_mode(open)).unwrap();
        let error = ensure_private_dir(&dir).unwrap_err();
        assert_eq!(error.code(), Code::Unsafe, "{open:o}");
        assert!(error.hint_text().unwrap().contains("chmod 700"));
        assert_eq!(mode(&dir), open);
    }
    std::fs::set_permissions(&dir, PermissionsExt::from_mode(0o700)).unwrap();

    let link = scratch.0.join("link");
    symlink(&dir, &link).unwrap();
    let dangling = scratch.0.join("dangling");
    symlink("nowhere", &dangling).unwrap();
    let file = scratch.0.join("file");
    std::fs::write(&file, "").unwrap();
    let slash = scratch.0.join("link/");
    for bad in [&link, &slash, &dangling, &file] {
        let error = ensure_private_dir(bad).unwrap_err();
        assert_eq!(error.code(), Code::Unsafe, "{}: {error}", bad.display());
    }
    assert!(
        !scratch.0.join("nowhere").exists(),
        "a dangling link is not followed"
    );

    let stranger = rustix::process::geteuid().as_raw() + 1;
    let error = check_private_dir(&dir, stranger).unwrap_err();
    assert_eq!(error.code(), Code::Unsafe);
    assert!(error.message().contains("belongs to"), "{error}");
}

#[test]
fn a_directory_of_another_user_is_refused() {
    // Only root can give a directory away; the rule itself is tested above for everybody.
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let scratch = Scratch::new("foreign");
    let dir = scratch.0.join("dir");
    ensure_private_dir(&dir).unwrap();
    std::os::unix::fs::chown(&dir, Some(12345), None).unwrap();
    let error = ensure_private_dir(&dir).unwrap_err();
    assert_eq!(error.code(), Code::Unsafe);
    assert!(error.message().contains("12345"), "{error}");
}
