use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use super::*;

#[test]
fn a_repository_that_names_tools_needs_a_network() {
    let repo = tempfile::tempdir().unwrap();
    let check = |nat, no_bootstrap| check(repo.path(), nat, no_bootstrap);
    assert_eq!(check(false, false).unwrap(), None);
    fs::create_dir(repo.path().join("mise.toml")).unwrap();
    assert_eq!(check(false, false).unwrap(), None, "no file");
    for file in [".tool-versions", ".mise.toml"] {
        fs::write(repo.path().join(file), "").unwrap();
        let error = check(false, false).unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
        assert!(error.message().contains(file), "{error}");
        let hint = error.hint_text().unwrap();
        assert!(hint.contains("`--nat`") && hint.contains("`--no-bootstrap`"));
        assert_eq!(check(false, true).unwrap(), None);
        assert_eq!(check(true, true).unwrap(), None);
        assert!(check(true, false).unwrap().is_some());
    }
    let both = check(true, false).unwrap().unwrap();
    assert_eq!(both.named(), "`.mise.toml` and `.tool-versions`");
    let error = both.failed("it ended with code 1", "\nlast words");
    assert!(error.hint_text().unwrap().contains("--no-bootstrap"));
    assert!(error.chain().ends_with("it ended with code 1\nlast words"));
}

#[test]
fn only_root_finds_the_tools_and_before_everything_else() {
    let path = |env: &[(&str, &str)], user| {
        let mut env: Vec<(ByteString, ByteString)> = env
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect();
        put_tools_on_path(&mut env, user);
        env.into_iter()
            .find(|(name, _)| *name == "PATH".into())
            .map(|(_, value)| value)
    };
    let default = ByteString::from(format!("{TOOLS}:{DEFAULT_PATH}"));
    for root in [None, Some("root"), Some("0"), Some("root:staff")] {
        assert_eq!(path(&[("A", "b")], root), Some(default.clone()));
    }
    let image = path(&[("PATH", "/opt/bin")], None);
    assert_eq!(image, Some(ByteString::from(format!("{TOOLS}:/opt/bin"))));
    assert_eq!(path(&[], Some("app")), None);
}

/// A guest's home directory, programs and workspace, with a `mise` that only notes what it is
/// told.
struct Guest {
    place: tempfile::TempDir,
}

const NOTES_CALLS: &str = "#!/bin/sh\necho \"$(basename \"$0\") $*\" >> \"$HOME/calls\"\n";

impl Guest {
    fn new() -> Guest {
        let place = tempfile::tempdir().unwrap();
        for dir in ["bin", "home", "repo", "profile.d"] {
            fs::create_dir(place.path().join(dir)).unwrap();
        }
        Guest { place }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.place.path().join(path)
    }

    fn program(&self, name: &str, rest: &str) {
        let file = self.path("bin").join(name);
        banger_testing::write_program(&file, format!("{NOTES_CALLS}{rest}\n"));
    }

    fn run(&self) -> Output {
        Command::new("/bin/sh")
            .args(["-c", SCRIPT, "bootstrap.sh"])
            .arg(self.path("profile.d"))
            .args(FILES)
            .env_clear()
            .env("HOME", self.path("home"))
            .env(
                "PATH",
                format!("{}:/usr/bin:/bin", self.path("bin").display()),
            )
            .current_dir(self.path("repo"))
            .output()
            .unwrap()
    }

    fn calls(&self) -> String {
        fs::read_to_string(self.path("home/calls")).unwrap_or_default()
    }
}

#[test]
fn a_mise_that_is_there_trusts_and_installs() {
    let guest = Guest::new();
    guest.program("mise", "");
    guest.program("curl", "exit 1");
    assert!(guest.run().status.success());
    assert_eq!(guest.calls(), "", "nothing was copied that names tools");
    fs::write(guest.path("repo/mise.toml"), "").unwrap();
    fs::write(guest.path("repo/.tool-versions"), "").unwrap();
    let output = guest.run();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        guest.calls(),
        "mise trust mise.toml\nmise trust .tool-versions\nmise install\n"
    );
    let profile = fs::read_to_string(guest.path("profile.d/banger-tools.sh")).unwrap();
    assert!(
        profile.contains(&format!("PATH={TOOLS}:$PATH")),
        "{profile}"
    );
}

#[test]
fn a_missing_mise_is_installed_and_a_failure_is_one() {
    let guest = Guest::new();
    fs::write(guest.path("repo/.mise.toml"), "").unwrap();
    let installer = "while [ \"$1\" != -o ]; do shift; done\n\
        printf '%s\\n' 'mkdir -p \"$(dirname \"$MISE_INSTALL_PATH\")\"' \
        'cp \"$HOME/../mise\" \"$MISE_INSTALL_PATH\"' > \"$2\"";
    guest.program("curl", installer);
    // Put there by the installer.
    let mise = guest.path("mise");
    fs::write(&mise, NOTES_CALLS).unwrap();
    fs::set_permissions(&mise, fs::Permissions::from_mode(0o755)).unwrap();
    let output = guest.run();
    assert!(output.status.success(), "{output:?}");
    let calls = guest.calls();
    assert!(calls.starts_with("curl -fsSL "), "{calls}");
    assert!(
        calls.ends_with("mise trust .mise.toml\nmise install\n"),
        "{calls}"
    );
    assert!(guest.path("home/.local/bin/mise").exists());

    fs::write(&mise, "#!/bin/sh\nexit 3\n").unwrap();
    fs::copy(&mise, guest.path("home/.local/bin/mise")).unwrap();
    assert_eq!(guest.run().status.code(), Some(3));
    fs::remove_dir_all(guest.path("home/.local")).unwrap();
    guest.program("curl", "exit 22");
    assert_eq!(guest.run().status.code(), Some(22));
}
