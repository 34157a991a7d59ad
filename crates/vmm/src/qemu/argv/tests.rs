//! Golden command lines: one file per machine definition, under `snapshots/`.

use banger_model::ByteSize;

use super::*;
use crate::testing;

const STEADY: Counter = Counter {
    khz: 2_596_120,
    steady: true,
};

fn machine() -> Machine {
    testing::machine(Path::new("/run/user/1000/banger/vm"), "0a1b2c3d4e5f")
}

/// One option per line, with its value.
fn text(args: &[OsString]) -> String {
    let mut text = String::new();
    for arg in args {
        let arg = arg.as_bytes().escape_ascii().to_string();
        let separator = match (text.is_empty(), arg.starts_with('-')) {
            (true, _) => "",
            (false, true) => "\n",
            (false, false) => " ",
        };
        text.push_str(separator);
        text.push_str(&arg);
    }
    text
}

fn golden(name: &str, machine: &Machine, accel: Accel) {
    insta::assert_snapshot!(name, text(&argv(machine, accel, Some(STEADY))));
}

fn disk(path: &str, read_only: bool) -> Disk {
    Disk {
        path: path.into(),
        read_only,
    }
}

#[test]
fn golden_command_lines() {
    use Accel::{Kvm, Tcg};
    golden("emulated", &machine(), Tcg);
    golden("kvm", &machine(), Kvm);
    golden(
        "nat",
        &Machine {
            nat: true,
            ..machine()
        },
        Tcg,
    );
    golden(
        "nat_kvm",
        &Machine {
            nat: true,
            ..machine()
        },
        Kvm,
    );
    golden(
        "many_vcpus",
        &Machine {
            vcpus: 64,
            ..machine()
        },
        Tcg,
    );
    golden(
        "big_memory",
        &Machine {
            memory: ByteSize::gib(1024),
            ..machine()
        },
        Tcg,
    );
    golden(
        "memory_that_is_not_whole_mebibytes",
        &Machine {
            memory: ByteSize::bytes((300 << 20) + 4096),
            ..machine()
        },
        Tcg,
    );
    golden(
        "no_disks",
        &Machine {
            disks: Vec::new(),
            ..machine()
        },
        Tcg,
    );
    golden(
        "three_disks_in_order",
        &Machine {
            disks: vec![disk("/z", true), disk("/a", false), disk("/m", false)],
            ..machine()
        },
        Tcg,
    );
    golden(
        "most_disks",
        &Machine {
            disks: (0..22)
                .map(|n| disk(&format!("/disk/{n}"), n % 2 == 0))
                .collect(),
            ..machine()
        },
        Tcg,
    );
    golden(
        "commas_are_doubled_where_qemu_parses",
        &Machine {
            runtime_dir: "/run/a,b/vm/0a1b2c3d4e5f".into(),
            console_log: "/state/a,b/,,/console.log".into(),
            kernel: "/state/a,b/vmlinux".into(),
            initramfs: "/state/a,b/initramfs".into(),
            disks: vec![disk("/state/a,b/,disk,", false)],
            ..machine()
        },
        Tcg,
    );
    golden(
        "odd_paths",
        &Machine {
            console_log: "/state/with space/\u{e4}\u{f6}/console.log".into(),
            kernel: "/state/-kernel=on".into(),
            disks: vec![
                disk("/state/nbd:host:1", false),
                disk("/state/id=x", true),
                disk("/state/\"quotes\"'\\$(x)\n", false),
                Disk {
                    path: OsStr::from_bytes(b"/state/\xff\xfe").into(),
                    read_only: false,
                },
            ],
            ..machine()
        },
        Tcg,
    );
    let unsteady = Counter {
        steady: false,
        ..STEADY
    };
    insta::assert_snapshot!(
        "unsteady_clock",
        text(&argv(&machine(), Tcg, Some(unsteady)))
    );
    insta::assert_snapshot!("no_clock", text(&argv(&machine(), Tcg, None)));
    insta::assert_snapshot!(
        "probe",
        text(&probe_argv(
            Path::new("/k"),
            Path::new("/i,j"),
            Path::new("/c,d")
        ))
    );
}

#[test]
fn a_command_line_is_read_back_exactly() {
    for dir in ["/run/x/0a1b2c3d4e5f", "/run/a,b,,c/0a1b2c3d4e5f", "/,"] {
        for kind in [Accel::Kvm, Accel::Tcg] {
            let machine = Machine {
                runtime_dir: dir.into(),
                ..machine()
            };
            let args = argv(&machine, kind, None);
            let mut args: Vec<&OsStr> = args.iter().map(OsString::as_os_str).collect();
            args.insert(0, OsStr::new("qemu-system-x86_64"));
            let claim = claim(&args).unwrap();
            assert_eq!(claim.runtime_dir, Path::new(dir));
            assert_eq!(claim.vmm, Some(super::super::makeup(kind)));
            assert_eq!(claim.part, Part::Vmm);
        }
    }
}

#[test]
fn foreign_command_lines_say_nothing() {
    let said = |line: &str| {
        let args: Vec<&OsStr> = line.split(' ').map(OsStr::new).collect();
        claim(&args)
    };
    for line in [
        "",
        "-name",
        "-name guest=/x",
        "-name /x -accel kvm",
        "-name guest=/x,debug-threads=on -accel kvm",
        "-name guest=/x, -accel kvm",
    ] {
        assert_eq!(said(line), None, "{line}");
    }
    assert!(said("-name guest=/x -accel kvm").is_some());
}
