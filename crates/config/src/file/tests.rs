use super::*;

fn parse(text: &str) -> Result<Config> {
    Config::parse(text, Path::new("/c/config.toml"))
}

#[test]
fn every_key_is_optional_and_read() {
    assert_eq!(parse("").unwrap(), Config::default());
    assert_eq!(
        parse("[vm_defaults]\n[images]\n").unwrap(),
        Config::default()
    );
    let config = parse(
        r#"
        default_image = "debian-bookworm"
        firecracker_bin = "/opt/firecracker"
        qemu_bin = "/opt/qemu"
        log_level = "debug"

        [vm_defaults]
        vcpu = 0x2
        memory = "2G"
        disk_size = "16 GiB"
        system_overlay_size = "64M"
        vmm = "qemu-tcg"
        nat = true
        boot_timeout = 90

        [images]
        mirror = "http://localhost/debian"
        catalogs = ["/etc/images.toml"]
        insecure_registries = ["localhost:5000"]
        certificate_authorities = ["/etc/ca.pem"]
        "#,
    )
    .unwrap();
    let expected = Config {
        vm_defaults: VmDefaults {
            vcpu: Some(2),
            memory: Some(ByteSize::gib(2)),
            disk_size: Some(ByteSize::gib(16)),
            system_overlay_size: Some(ByteSize::mib(64)),
            vmm: Some(VmmChoice::QemuTcg),
            nat: Some(true),
            boot_timeout: Some(90),
        },
        default_image: Some("debian-bookworm".parse().unwrap()),
        firecracker_bin: Some("/opt/firecracker".into()),
        qemu_bin: Some("/opt/qemu".into()),
        log_level: Some(LogLevel::Debug),
        images: ImagesConfig {
            mirror: Some("http://localhost/debian".into()),
            catalogs: vec!["/etc/images.toml".into()],
            insecure_registries: vec!["localhost:5000".into()],
            certificate_authorities: vec!["/etc/ca.pem".into()],
        },
        file_sync: Vec::new(),
    };
    assert_eq!(config, expected);
}

#[test]
fn every_mistake_is_named_with_file_line_and_key() {
    // What is written on line 3, and what the error must name.
    let top = [
        ("defualt_image = \"x\"", "defualt_image"),
        ("\"\\u001b[31m\" = 1", "\\u{1b}[31m"),
        ("default_image = \"A B\"", "default_image"),
        ("default_image = \"../x\"", "default_image"),
        ("default_image = 3", "default_image"),
        ("default_image = [\"x\"]", "default_image"),
        ("firecracker_bin = \"firecracker\"", "firecracker_bin"),
        ("qemu_bin = \"qemu\"", "qemu_bin"),
        ("qemu_bin = \"~/qemu\"", "qemu_bin"),
        ("qemu_bin = \"\"", "qemu_bin"),
        ("qemu_bin = true", "qemu_bin"),
        ("qemu_bin = 1.5", "qemu_bin"),
        ("log_level = \"loud\"", "log_level"),
        ("log_level = 3", "log_level"),
        ("vm_defaults = 3", "vm_defaults"),
        ("vm_defaults.vcpus = 3", "vm_defaults.vcpus"),
        ("images = []", "images"),
        ("[image]", "image"),
        ("[vm_defaults.more]", "vm_defaults.more"),
        ("[[vm_defaults]]", "vm_defaults"),
    ];
    let vm = [
        ("vcpu = 0", "vcpu"),
        ("vcpu = -1", "vcpu"),
        ("vcpu = 65", "vcpu"),
        ("vcpu = 4294967297", "vcpu"),
        ("vcpu = 99999999999999999999", "vcpu"),
        ("vcpu = 1.0", "vcpu"),
        ("vcpu = \"2\"", "vcpu"),
        ("vcpus = 2", "vcpus"),
        ("memory = 2048", "memory"),
        ("memory = \"2X\"", "memory"),
        ("memory = \"127M\"", "memory"),
        ("memory = \"1025G\"", "memory"),
        ("memory = \"\"", "memory"),
        ("memory = false", "memory"),
        ("disk_size = \"63M\"", "disk_size"),
        ("disk_size = \"17T\"", "disk_size"),
        ("disk_size = 8", "disk_size"),
        ("system_overlay_size = \"1M\"", "system_overlay_size"),
        ("system_overlay_size = {}", "system_overlay_size"),
        ("vmm = \"xen\"", "vmm"),
        ("vmm = true", "vmm"),
        ("nat = \"yes\"", "nat"),
        ("nat = 1", "nat"),
    ];
    let images = [
        ("mirror = \"ftp://x\"", "mirror"),
        ("mirror = \"http://\"", "mirror"),
        ("mirror = \"http://a b\"", "mirror"),
        ("mirror = \"http://a\\nb\"", "mirror"),
        ("mirror = \"x\"", "mirror"),
        ("mirror = 1", "mirror"),
        ("mirrors = \"http://x\"", "mirrors"),
    ];
    let cases = top
        .map(|(line, key)| (format!("# one\n\n{line}\n"), key.to_owned()))
        .into_iter()
        .chain(vm.map(|(line, key)| {
            (
                format!("# one\n[vm_defaults]\n{line}\n"),
                format!("vm_defaults.{key}"),
            )
        }))
        .chain(images.map(|(line, key)| {
            (
                format!("# one\n[images]\n{line}\n"),
                format!("images.{key}"),
            )
        }));
    for (text, key) in cases {
        let error = parse(&text).expect_err(&text);
        assert_eq!(error.code(), Code::InvalidConfig, "{text}");
        let prefix = "`/c/config.toml`, line 3: ";
        assert!(error.message().starts_with(prefix), "{text}: {error}");
        assert!(
            error.message().contains(&format!("`{key}`")),
            "{text}: {error}"
        );
        assert!(error.hint_text().is_some(), "{text}");
        assert!(!error.chain().contains('\u{1b}'), "{text}");
    }
}

#[test]
fn what_is_not_toml_is_refused_with_its_line() {
    for text in [
        "\n\nqemu_bin =\n",
        "\n\n[vm_defaults\n",
        "\n\nnat = tru\n",
        "\n\na b c\n",
    ] {
        let error = parse(text).unwrap_err();
        assert_eq!(error.code(), Code::InvalidConfig);
        assert!(error.message().contains("line 3"), "{text}: {error}");
    }
    let twice = parse("log_level = \"info\"\nlog_level = \"warn\"\n").unwrap_err();
    assert!(twice.message().contains("line 2"), "{twice}");
}

#[test]
fn the_first_mistake_in_the_file_is_reported() {
    let error = parse("zzz = 1\naaa = 1\n").unwrap_err();
    assert!(error.message().contains("`zzz`"), "{error}");
    assert!(error.hint_text().unwrap().contains("vm_defaults"));
}

#[test]
fn files_that_are_not_there_or_not_text() {
    let dir = std::env::temp_dir().join(format!("banger-config-file-{}", std::process::id()));
    std::fs::create_dir(&dir).unwrap();
    let path = dir.join("config.toml");
    assert_eq!(Config::load(&path).unwrap(), Config::default());
    std::fs::write(&path, "log_level = \"warn\"\n").unwrap();
    assert_eq!(Config::load(&path).unwrap().log_level, Some(LogLevel::Warn));
    std::fs::write(&path, b"log_level = \"\xff\"\n").unwrap();
    assert_eq!(Config::load(&path).unwrap_err().code(), Code::InvalidConfig);
    std::fs::File::create(&path)
        .unwrap()
        .set_len(2 << 20)
        .unwrap();
    assert_eq!(Config::load(&path).unwrap_err().code(), Code::InvalidConfig);
    assert_eq!(Config::load(&dir).unwrap_err().code(), Code::Io);
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn every_log_level_parses_back() {
    for (level, word) in LogLevel::ALL {
        assert_eq!(word.parse::<LogLevel>().unwrap(), level);
        assert_eq!(level.to_string(), word);
    }
}
