use std::os::unix::process::ExitStatusExt;

use super::*;

/// Recorded output, with the hosts' names changed.
fn verdict_of(output: &str) -> Error {
    let lines: Vec<&str> = output.lines().collect();
    classify("mmdebstrap", ExitStatus::from_raw(25 << 8), &lines)
}

const REFUSED: &str = "\
I: running apt-get update...
Ign:1 http://mirror.example/debian bookworm InRelease
Err:1 http://mirror.example/debian bookworm InRelease
  Could not connect to mirror.example:80 (127.0.0.1). - connect (111: Connection refused)
Reading package lists...
E: Failed to fetch http://mirror.example/debian/dists/bookworm/InRelease  Could not connect to mirror.example:80 (127.0.0.1). - connect (111: Connection refused)
E: Some index files failed to download. They have been ignored, or old ones used instead.
E: apt-get update --error-on=any -oAPT::Status-Fd=<$fd> -oDpkg::Use-Pty=false failed
I: main() received signal PIPE: waiting for setup...
I: removing tempdir /state/tmp/mmdebstrap.lxPn4ijeCi...
E: mmdebstrap failed to run";

const UNRESOLVED: &str = "\
Err:1 http://mirror.invalid/debian bookworm InRelease
  Could not resolve 'mirror.invalid'
E: Failed to fetch http://mirror.invalid/debian/dists/bookworm/InRelease  Could not resolve 'mirror.invalid'
E: mmdebstrap failed to run";

const NO_RELEASE: &str = "\
Ign:1 http://mirror.example/debian bookworm InRelease
Err:2 http://mirror.example/debian bookworm Release
  404  File not found [IP: 127.0.0.1 8765]
Reading package lists...
E: The repository 'http://mirror.example/debian bookworm Release' does not have a Release file.
E: mmdebstrap failed to run";

const NO_SPACE_IN_TAR: &str = "\
I: extracting archives...
tar: ./usr/lib/x86_64-linux-gnu/libstdc++.so.6.0.30: Wrote only 2560 of 10240 bytes
tar: ./usr/share/gcc/python/libstdcxx/__init__.py: Cannot write: No space left on device
tar: Exiting with failure status due to previous errors
E: tar --extract failed: 512
I: main() received signal PIPE: waiting for setup...
E: mmdebstrap failed to run";

const NO_SPACE_IN_APT: &str = "\
Reading package lists...
E: Write error - write (28: No space left on device)
E: IO Error saving source cache
E: The package lists or status file could not be parsed or opened.
E: apt-get update --error-on=any -oAPT::Status-Fd=<$fd> -oDpkg::Use-Pty=false failed
E: mmdebstrap failed to run";

const NO_PACKAGE: &str = "\
I: installing remaining packages inside the chroot...
Reading package lists...
Building dependency tree...
E: Unable to locate package no-such-package
E: setup failed: E: apt-get -o Dir::Bin::dpkg=env --yes install no-such-package failed
E: mmdebstrap failed to run";

const NO_KEY: &str = "\
Err:1 http://mirror.example/debian bookworm InRelease
  The following signatures couldn't be verified because the public key is not available: NO_PUBKEY 0E98404D386FA1D9
W: GPG error: http://mirror.example/debian bookworm InRelease: The following signatures couldn't be verified because the public key is not available: NO_PUBKEY 0E98404D386FA1D9
E: The repository 'http://mirror.example/debian bookworm InRelease' is not signed.
E: mmdebstrap failed to run";

#[test]
fn recorded_failures_get_their_code_and_a_hint() {
    for (name, output, code, hint) in [
        ("refused", REFUSED, Code::FetchFailed, "mirror"),
        ("unresolved", UNRESOLVED, Code::FetchFailed, "proxy"),
        ("no release", NO_RELEASE, Code::FetchFailed, "mirror"),
        (
            "no key",
            NO_KEY,
            Code::FetchFailed,
            "debian-archive-keyring",
        ),
        ("no package", NO_PACKAGE, Code::BuildFailed, "incomplete"),
        (
            "no ids",
            "unshare: no line matching user \"dev\" in /etc/subuid: Success",
            Code::MissingProgram,
            "sudo usermod --add-subuids",
        ),
        (
            "no namespaces",
            "unshare: unshare failed: Operation not permitted",
            Code::MissingProgram,
            "user namespaces",
        ),
    ] {
        let error = verdict_of(output);
        assert_eq!(error.code(), code, "{name}: {error:?}");
        assert!(
            error.hint_text().unwrap().contains(hint),
            "{name}: {error:?}"
        );
    }
    for output in [NO_SPACE_IN_TAR, NO_SPACE_IN_APT] {
        assert_eq!(verdict_of(output).code(), Code::NoSpace);
    }
}

#[test]
fn the_cause_shows_the_lines_that_matter() {
    let chain = verdict_of(REFUSED).chain();
    assert!(chain.contains("Connection refused"), "{chain}");
    assert!(!chain.contains("I: running"), "{chain}");
    let quiet = verdict_of("one\ntwo");
    assert_eq!(quiet.code(), Code::BuildFailed);
    assert!(quiet.chain().ends_with("one\ntwo"), "{}", quiet.chain());
    assert!(verdict_of("").message().contains("exit status: 25"));
}

#[test]
fn warnings_of_good_builds_are_no_reason() {
    let output = "\
W: Download is performed unsandboxed as root as file '/x' couldn't be accessed by user '_apt'. - pkgAcquire::Run (13: Permission denied)
W: skipping mounting of sysfs because the /sys directory is missing in the target
something else went wrong";
    let error = verdict_of(output);
    assert_eq!(error.code(), Code::BuildFailed);
    assert!(
        error.chain().ends_with("something else went wrong"),
        "{}",
        error.chain()
    );
    assert!(!error.chain().contains("unsandboxed"), "{}", error.chain());
}
