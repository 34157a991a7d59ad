use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::*;
use crate::process::{Detached, Process};
use crate::testing::Scratch;

fn inside(script: &str, log: &std::fs::File) -> Result<Process, Error> {
    Detached {
        program: Path::new("/bin/sh"),
        arg0: "sh",
        args: vec!["-c".into(), script.into()],
        stdin: Stdio::null(),
        stdout: None,
        log,
        tied: true,
        namespace: Some(&Namespace::new()),
    }
    .spawn()
}

#[test]
fn a_process_gets_a_network_of_its_own_and_the_host_keeps_its() {
    let scratch = Scratch::new();
    let path = scratch.path().join("log");
    let log = std::fs::File::create(&path).unwrap();
    let of_host = std::fs::read_to_string("/proc/self/net/dev").unwrap();
    let script = "echo
        cut -d: -f1 /proc/self/net/dev | tail -n +3 | tr -d ' ' | sort
        awk '{print $1, $2, $3}' /proc/self/uid_map
        readlink /proc/self/ns/net /proc/self/ns/user";
    let process = inside(script, &log).unwrap();
    let soon = Instant::now() + Duration::from_secs(20);
    assert!(process.wait_until(soon).unwrap());
    assert_eq!(process.reap().unwrap().code(), Some(0));
    let said = std::fs::read_to_string(&path).unwrap();
    let uid = std::fs::metadata("/proc/self").unwrap().uid();
    assert!(
        said.contains(&format!("\nbridge\nguest\nlo\npasta\n{uid} {uid} 1\n")),
        "{said}"
    );
    for kind in ["net", "user"] {
        let own = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        let own = own.to_str().unwrap();
        assert!(
            said.contains(&format!("\n{kind}:[")) && !said.contains(own),
            "{said}"
        );
    }
    let names = |dev: &str| -> Vec<String> {
        let names = dev.lines().filter_map(|line| line.split_once(':'));
        names.map(|(name, _)| name.trim().to_owned()).collect()
    };
    let now = std::fs::read_to_string("/proc/self/net/dev").unwrap();
    assert_eq!(names(&now), names(&of_host), "nothing is made on the host");
}

#[test]
fn a_step_that_fails_is_named() {
    for (number, words) in STEPS.iter().enumerate() {
        let result = step(number, {
            // A call that fails.
            // SAFETY: takes a number, which is no descriptor.
            unsafe { libc::close(-1) }
        });
        let error = explain(&result.unwrap_err()).unwrap();
        assert_eq!(error.code(), Code::VmmUnavailable);
        assert!(error.message().contains(words), "{error}");
        assert!(
            error.chain().contains("Bad file descriptor"),
            "{}",
            error.chain()
        );
        assert!(error.hint_text().unwrap().contains("--vmm qemu"));
    }
    assert!(explain(&io::Error::from_raw_os_error(libc::ENOENT)).is_none());
    assert!(explain(&io::Error::from_raw_os_error(-1)).is_none());
    assert!(explain(&io::ErrorKind::NotFound.into()).is_none());
}
