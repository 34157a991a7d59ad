use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

use banger_model::VmmChoice;

use super::probe::BOOT_TIMEOUT;
use super::*;
use crate::testing::Scratch;
use crate::{Demand, Facts, FirecrackerFacts, ProgramFacts};

/// Facts under which only a boot can decide, with a program that does as the script says. The
/// console is the path in the argument after `-chardev`.
struct Bench {
    scratch: Scratch,
    facts: Facts,
}

impl Bench {
    fn new(script: &str) -> Bench {
        let scratch = Scratch::new();
        let program = scratch.path().join("qemu");
        let find_console =
            "for a; do case $a in file,id=console,path=*) c=${a#*path=};; esac; done";
        crate::testing::script(
            &program,
            &format!(
                "{find_console}
{script}"
            ),
        );
        for name in ["kernel", "initramfs"] {
            std::fs::write(scratch.path().join(name), name).unwrap();
        }
        let facts = Facts {
            arch: "x86_64".into(),
            kvm: KvmFacts {
                device: DeviceAccess::Opens { api_version: 12 },
                cpu_flag: Some("vmx".into()),
                live: LiveBoot::NotTried,
            },
            firecracker: crate::testing::no_firecracker(),
            qemu: ProgramFacts::Found(program),
            vsock: ProgramFacts::Found("/x".into()),
        };
        Bench { scratch, facts }
    }

    fn prove(&self) -> LiveBoot {
        self.prove_for(VmmChoice::Auto).kvm.live
    }

    fn prove_for(&self, choice: VmmChoice) -> Facts {
        self.prove_in(self.scratch.path(), choice)
    }

    /// With the kernel, the initramfs and the kept answer of this directory.
    fn prove_in(&self, directory: &Path, choice: VmmChoice) -> Facts {
        let path = |name: &str| directory.join(name);
        let mut facts = self.facts.clone();
        prove(
            choice,
            Demand::default(),
            &mut facts,
            ProbeInputs {
                kernel: &path("kernel"),
                initramfs: &path("initramfs"),
                scratch_dir: self.scratch.path(),
                cache_file: &path("kvm.json"),
            },
        );
        facts
    }

    fn runs(&self) -> usize {
        std::fs::read_to_string(self.scratch.path().join("runs")).map_or(0, |text| text.len())
    }
}

fn count() -> &'static str {
    "printf x >> ${c%/*}/runs\n"
}

#[test]
fn a_kernel_that_speaks_proves_kvm_and_the_answer_is_kept() {
    let bench = Bench::new(&format!(
        "{}echo banger-probe-ok > $c; exec sleep 1000",
        count()
    ));
    assert_eq!(bench.prove(), LiveBoot::Works);
    assert_eq!(bench.prove(), LiveBoot::Works);
    assert_eq!(bench.runs(), 1, "the second answer came from the cache");
    std::fs::write(bench.scratch.path().join("kernel"), "another").unwrap();
    assert_eq!(bench.prove(), LiveBoot::Works);
    assert_eq!(bench.runs(), 2, "a new kernel is tried again");
    for torn in ["", "{", "{\"key\":{}}", "null"] {
        std::fs::write(bench.scratch.path().join("kvm.json"), torn).unwrap();
        assert_eq!(bench.prove(), LiveBoot::Works);
    }
    assert_eq!(bench.runs(), 6, "a torn cache is no answer");
    let left: Vec<_> = std::fs::read_dir(bench.scratch.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("probe") || name.contains("partial"))
        .collect();
    assert_eq!(left, [""; 0]);
}

#[test]
fn the_answer_goes_with_the_files_and_not_with_their_place() {
    let bench = Bench::new(&format!(
        "{}echo banger-probe-ok > $c; exec sleep 1000",
        count()
    ));
    assert_eq!(bench.prove(), LiveBoot::Works);
    let shared = bench.scratch.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::copy(
        bench.scratch.path().join("kvm.json"),
        shared.join("kvm.json"),
    )
    .unwrap();
    for name in ["kernel", "initramfs"] {
        std::fs::hard_link(bench.scratch.path().join(name), shared.join(name)).unwrap();
    }
    let facts = bench.prove_in(&shared, VmmChoice::Auto);
    assert_eq!(facts.kvm.live, LiveBoot::Works);
    assert_eq!(bench.runs(), 1, "the same files");
    // As long and as old as the one before, and another file all the same.
    let kernel = shared.join("kernel");
    let modified = std::fs::metadata(&kernel).unwrap().modified().unwrap();
    std::fs::remove_file(&kernel).unwrap();
    std::fs::write(&kernel, "KERNEL").unwrap();
    let file = std::fs::File::options().write(true).open(&kernel).unwrap();
    file.set_modified(modified).unwrap();
    bench.prove_in(&shared, VmmChoice::Auto);
    assert_eq!(bench.runs(), 2, "another kernel is tried");
}

#[test]
fn an_end_without_the_words_is_noticed_at_once() {
    let bench = Bench::new(&format!("{}echo no such accelerator >&2; exit 1", count()));
    let before = Instant::now();
    let LiveBoot::Failed(why) = bench.prove() else {
        panic!("it cannot work");
    };
    assert!(before.elapsed() < BOOT_TIMEOUT);
    assert!(why.contains("no such accelerator"), "{why}");
    assert!(matches!(bench.prove(), LiveBoot::Failed(_)));
    assert_eq!(bench.runs(), 1, "a failure is kept as well");
}

#[test]
fn facts_that_decide_are_not_tried() {
    let mut bench = Bench::new(count());
    bench.facts.kvm.cpu_flag = None;
    assert_eq!(bench.prove(), LiveBoot::NotTried);
    bench.facts.kvm.cpu_flag = Some("svm".into());
    bench.facts.kvm.device = DeviceAccess::Absent;
    assert_eq!(bench.prove(), LiveBoot::NotTried);
    assert_eq!(bench.runs(), 0);
}

#[test]
fn a_program_that_cannot_run_says_nothing_about_kvm_and_is_not_remembered() {
    let bench = Bench::new("exit 0");
    let program = bench.facts.qemu.path().unwrap();
    std::fs::set_permissions(program, PermissionsExt::from_mode(0o644)).unwrap();
    assert!(matches!(bench.prove(), LiveBoot::Failed(_)));
    assert!(!bench.scratch.path().join("kvm.json").exists());
}

#[test]
fn the_device_is_looked_at_not_trusted() {
    let scratch = Scratch::new();
    assert_eq!(
        open_device(&scratch.path().join("kvm")),
        DeviceAccess::Absent
    );
    // Something that opens and is not KVM.
    let file = scratch.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(matches!(open_device(&file), DeviceAccess::Failed(_)));
    assert!(matches!(
        open_device(scratch.path()),
        DeviceAccess::Failed(_)
    ));
}

#[test]
fn flags_and_groups_are_read() {
    let flag = |text: &str| virtualisation_flag(text);
    assert_eq!(
        flag("flags\t: fpu vmx sse\nvmx flags : ept\n").as_deref(),
        Some("vmx")
    );
    assert_eq!(flag("flags : fpu svm\n").as_deref(), Some("svm"));
    assert_eq!(flag("flags : fpu svm_lock xvmx\n"), None);
    assert_eq!(flag("vmx flags : vmx\nflags : fpu\n"), None);
    assert_eq!(flag(""), None);
    let groups = "root:x:0:\nkvm:x:104:a,b\nbroken\n";
    assert_eq!(group_name(groups, 104).as_deref(), Some("kvm"));
    assert_eq!(group_name(groups, 7), None);
}

/// A Firecracker that does as the script says.
fn firecracker(bench: &mut Bench, script: &str) {
    let program = bench.scratch.path().join("firecracker");
    crate::testing::script(&program, script);
    bench.facts.firecracker = FirecrackerFacts {
        program: ProgramFacts::Found(program),
        version: Ok("Firecracker v1.14.1".into()),
        live: LiveBoot::NotTried,
        pasta: crate::testing::missing("gone"),
    };
}

#[test]
fn firecracker_is_tried_first_and_qemu_only_when_it_fails() {
    let mut bench = Bench::new(&format!(
        "{}echo banger-probe-ok > $c; exec sleep 1000",
        count()
    ));
    firecracker(&mut bench, "echo banger-probe-ok; exec sleep 1000");
    let facts = bench.prove_for(VmmChoice::Auto);
    assert_eq!(facts.firecracker.live, LiveBoot::Works);
    assert_eq!(facts.kvm.live, LiveBoot::NotTried);
    assert_eq!(bench.runs(), 0, "QEMU was not asked");
    let mut later = bench.facts.clone();
    recall(&mut later, &bench.scratch.path().join("kvm.json"));
    assert_eq!(
        later.firecracker.live,
        LiveBoot::Works,
        "the answer is kept"
    );
    assert_eq!(bench.prove_for(VmmChoice::Qemu).kvm.live, LiveBoot::Works);

    firecracker(&mut bench, "echo no such thing >&2; exit 1");
    let mut later = bench.facts.clone();
    recall(&mut later, &bench.scratch.path().join("kvm.json"));
    assert_eq!(
        later.firecracker.live,
        LiveBoot::NotTried,
        "another program"
    );
    assert_eq!(later.kvm.live, LiveBoot::Works);
    let facts = bench.prove_for(VmmChoice::Auto);
    let LiveBoot::Failed(why) = &facts.firecracker.live else {
        panic!("it cannot work");
    };
    assert!(
        why.contains("Firecracker ended") && why.contains("no such thing"),
        "{why}"
    );
    assert_eq!(facts.kvm.live, LiveBoot::Works);
    let facts = bench.prove_for(VmmChoice::QemuTcg);
    assert_eq!(facts.kvm.live, LiveBoot::NotTried, "nobody needs to know");
}
