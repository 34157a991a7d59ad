use std::sync::Mutex;

use super::*;

#[derive(Default)]
struct Recorder(Mutex<Vec<String>>);

impl Progress for Recorder {
    fn stage(&self, name: &str, message: &str) {
        self.0.lock().unwrap().push(format!("{name}: {message}"));
    }
    fn fraction(&self, done: f32) {
        self.0.lock().unwrap().push(format!("{:.0}%", done * 100.0));
    }
}

fn follow(output: &str) -> Vec<String> {
    let recorder = Recorder::default();
    let mut tracker = Tracker::new(&recorder);
    for line in output.lines() {
        tracker.line(line);
    }
    recorder.0.into_inner().unwrap()
}

/// Recorded with mmdebstrap 1.3.5 and shortened to two packages each; hosts' names changed.
const BOOTSTRAP: &str = "\
I: chroot architecture amd64 is equal to the host's architecture
I: finding correct signed-by value...
I: running apt-get update...
Get:1 http://mirror.example/debian bookworm InRelease [151 kB]
Fetched 9415 kB in 1s (11.2 MB/s)
Reading package lists...
I: downloading packages with apt...
The following NEW packages will be installed:
  gcc-12-base libc6
0 upgraded, 2 newly installed, 0 to remove and 0 not upgraded.
Need to get 4.0 MB of archives.
After this operation, 164 MB of additional disk space will be used.
Get:1 http://mirror.example/debian bookworm/main amd64 gcc-12-base amd64 12.2.0-14+deb12u1 [1000 kB]
Get:2 http://mirror.example/debian bookworm/main amd64 libc6 amd64 2.36-9+deb12u14 [3.0 MB]
/usr/bin/dpkg --status-fd 11 --no-triggers --unpack --auto-deconfigure /x/gcc-12-base.deb
Fetched 4.0 MB in 0s (254 MB/s)
I: extracting archives...
mount: /x/sys: permission denied.
I: installing essential packages...
(Reading database ... 0 files and directories currently installed.)
Unpacking gcc-12-base:amd64 (12.2.0-14+deb12u1) ...
Unpacking libc6:amd64 (2.36-9+deb12u14) ...
Setting up gcc-12-base:amd64 (12.2.0-14+deb12u1) ...
Setting up libc6:amd64 (2.36-9+deb12u14) ...
I: installing remaining packages inside the chroot...
0 upgraded, 1 newly installed, 0 to remove and 0 not upgraded.
Need to get 500 B/1000 kB of archives.
Get:1 http://mirror.example/debian bookworm/main amd64 git amd64 1:2.39.5-0+deb12u3 [500 B]
Fetched 500 B in 0s (234 MB/s)
Chrooting into /x/
Selecting previously unselected package git.
Unpacking git (1:2.39.5-0+deb12u3) ...
Setting up git (1:2.39.5-0+deb12u3) ...
Processing triggers for libc-bin (2.36-9+deb12u14) ...
I: cleaning package lists and apt cache...
I: success in 22.7082 seconds
I: making the disk";

#[test]
fn a_bootstrap_is_followed_step_by_step() {
    assert_eq!(
        follow(BOOTSTRAP),
        [
            "fetch-lists: fetching the package lists",
            "100%",
            "download: downloading the base system (4.0 MB)",
            "0%",
            "25%",
            "100%",
            "extract: extracting the base system",
            "install: installing the base system",
            "25%",
            "50%",
            "75%",
            "100%",
            "download: downloading 1 packages (500 B)",
            "0%",
            "100%",
            "install: installing 1 packages",
            "50%",
            "100%",
            "make-disk: making the disk",
        ]
    );
}

#[test]
fn a_single_download_reports_apts_own_percentage() {
    let output = "\
I: running apt-get update...
Fetched 9415 kB in 1s (12.1 MB/s)
Need to get 26713 kB of archives.
dlstatus:1:0.0000:Retrieving file 1 of 1
Get:1 http://mirror.example/debian-security bookworm-security/main amd64 linux-image-6.1 amd64 6.1.192-2 [26.7 MB]
dlstatus:1:45.3:Retrieving file 1 of 1 (3s remaining)
dlstatus:1:nonsense:x
Fetched 26.7 MB in 0s (524 MB/s)";
    assert_eq!(
        follow(output),
        [
            "fetch-lists: fetching the package lists",
            "100%",
            "download: downloading the package (26713 kB)",
            "0%",
            "0%",
            "45%",
            "100%",
        ]
    );
}

#[test]
fn nonsense_moves_nothing() {
    let output = "\
Need to get nothing of archives.
Get:1 something without a size
Get:2 [
0 upgraded, many newly installed
newly installed
dlstatus:
I: something new";
    assert_eq!(
        follow(output),
        ["download: downloading the package (nothing)"]
    );
}

#[test]
fn complaints_survive_a_long_output() {
    let mut tail = Tail::default();
    tail.push("E: the reason");
    for number in 0..1000 {
        tail.push(&format!("line {number}"));
    }
    let lines = tail.lines();
    assert_eq!(lines.first(), Some(&"E: the reason"));
    assert_eq!(lines.last(), Some(&"line 999"));
    assert_eq!(lines.len(), 1 + TAIL);
}
