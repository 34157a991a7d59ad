//! What a VM gets when nobody says: the configuration, then the host, then built-in values.

use std::fmt;

use banger_model::{ByteSize, Error, ImageName, Result, VmmChoice};

use crate::{Config, LogLevel};

/// Where a value came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// An environment variable.
    Environment,
    /// The configuration file.
    Config,
    /// The size of this host.
    Host,
    /// Built in.
    BuiltIn,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Source::Environment => "environment",
            Source::Config => "config",
            Source::Host => "host",
            Source::BuiltIn => "built-in",
        })
    }
}

/// A value and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value<T> {
    /// The value.
    pub value: T,
    /// Where it came from.
    pub source: Source,
}

/// The size of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host {
    /// Processors this process may use.
    pub cpus: u32,
    /// Memory.
    pub memory: ByteSize,
}

impl Host {
    /// Measures this host. What cannot be read counts as nothing, so the floors apply.
    pub fn measure() -> Host {
        let cpus = std::thread::available_parallelism().map_or(0, |cpus| cpus.get());
        let memory = std::fs::read_to_string("/proc/meminfo")
            .ok()
            .and_then(|text| memory_total(&text));
        Host {
            cpus: u32::try_from(cpus).unwrap_or(u32::MAX),
            memory: memory.unwrap_or(ByteSize::bytes(0)),
        }
    }
}

fn memory_total(meminfo: &str) -> Option<ByteSize> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    kib.checked_mul(1024).map(ByteSize::bytes)
}

/// Every default, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Virtual processors.
    pub vcpus: Value<u32>,
    /// Memory.
    pub memory: Value<ByteSize>,
    /// The work disk.
    pub disk_size: Value<ByteSize>,
    /// The writable layer over the image.
    pub overlay_size: Value<ByteSize>,
    /// Which VMM.
    pub vmm: Value<VmmChoice>,
    /// Whether the guest reaches outside networks.
    pub nat: Value<bool>,
    /// How long a guest may take to come up, in seconds.
    pub boot_timeout: Value<u32>,
    /// The image.
    pub default_image: Value<ImageName>,
    /// How much is logged.
    pub log_level: Value<LogLevel>,
}

/// A VM never gets less memory or more than this unless somebody says so.
const MEMORY_RANGE: (u64, u64) = (512, 8192);
/// A VM never gets fewer virtual processors or more than this unless somebody says so.
const VCPU_RANGE: (u32, u32) = (1, 4);
/// How big disks are. They are sparse: only what is written takes space.
const DISK_SIZE: ByteSize = ByteSize::gib(8);
/// Seconds. A boot takes one or two, but without KVM and among twenty others it may take many.
const BOOT_TIMEOUT: u32 = 120;
/// The image that is built from the distribution's own packages.
const DEFAULT_IMAGE: &str = "debian-bookworm";

impl Resolved {
    /// Resolves every default.
    ///
    /// # Errors
    /// `internal` if a built-in value is not valid.
    pub fn new(
        config: &Config,
        host: Host,
        environment_log_level: Option<LogLevel>,
    ) -> Result<Resolved> {
        let vm = &config.vm_defaults;
        let built_in_image = DEFAULT_IMAGE
            .parse()
            .map_err(|error: Error| Error::internal("the built-in image name").because(error))?;
        Ok(Resolved {
            vcpus: or(vm.vcpu, Source::Host, vcpus_for(host)),
            memory: or(vm.memory, Source::Host, memory_for(host)),
            disk_size: or(vm.disk_size, Source::BuiltIn, DISK_SIZE),
            overlay_size: or(vm.system_overlay_size, Source::BuiltIn, DISK_SIZE),
            vmm: or(vm.vmm, Source::BuiltIn, VmmChoice::Auto),
            nat: or(vm.nat, Source::BuiltIn, false),
            boot_timeout: or(vm.boot_timeout, Source::BuiltIn, BOOT_TIMEOUT),
            default_image: or(
                config.default_image.clone(),
                Source::BuiltIn,
                built_in_image,
            ),
            log_level: match environment_log_level {
                Some(value) => Value {
                    value,
                    source: Source::Environment,
                },
                None => or(config.log_level, Source::BuiltIn, LogLevel::Info),
            },
        })
    }

    /// Key, value and source of each, as `banger config show` prints them.
    pub fn rows(&self) -> Vec<(&'static str, String, Source)> {
        fn row<T: fmt::Display>(
            key: &'static str,
            found: &Value<T>,
        ) -> (&'static str, String, Source) {
            (key, found.value.to_string(), found.source)
        }
        vec![
            row("default_image", &self.default_image),
            row("log_level", &self.log_level),
            row("vm_defaults.vcpu", &self.vcpus),
            row("vm_defaults.memory", &self.memory),
            row("vm_defaults.disk_size", &self.disk_size),
            row("vm_defaults.system_overlay_size", &self.overlay_size),
            row("vm_defaults.vmm", &self.vmm),
            row("vm_defaults.nat", &self.nat),
            row("vm_defaults.boot_timeout", &self.boot_timeout),
        ]
    }
}

fn or<T>(configured: Option<T>, otherwise: Source, value: T) -> Value<T> {
    match configured {
        Some(value) => Value {
            value,
            source: Source::Config,
        },
        None => Value {
            value,
            source: otherwise,
        },
    }
}

fn vcpus_for(host: Host) -> u32 {
    (host.cpus / 4).clamp(VCPU_RANGE.0, VCPU_RANGE.1)
}

/// Whole MiB, so that no guest is given part of a page it cannot use.
fn memory_for(host: Host) -> ByteSize {
    ByteSize::mib((host.memory.as_mib() / 8).clamp(MEMORY_RANGE.0, MEMORY_RANGE.1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::VmDefaults;

    fn host(cpus: u32, memory_mib: u64) -> Host {
        Host {
            cpus,
            memory: ByteSize::mib(memory_mib),
        }
    }

    #[test]
    fn the_host_decides_between_floor_and_ceiling() {
        for (cpus, expected) in [(0, 1), (1, 1), (4, 1), (8, 2), (16, 4), (256, 4)] {
            assert_eq!(vcpus_for(host(cpus, 0)), expected, "{cpus}");
        }
        for (mib, expected) in [
            (0, 512),
            (2048, 512),
            (24105, 3013),
            (65536, 8192),
            (1 << 20, 8192),
        ] {
            assert_eq!(memory_for(host(0, mib)), ByteSize::mib(expected), "{mib}");
        }
    }

    #[test]
    fn every_value_says_where_it_came_from() {
        let plain = Resolved::new(&Config::default(), host(8, 16384), None).unwrap();
        let sources = |resolved: &Resolved| -> Vec<String> {
            let rows = resolved.rows();
            rows.iter()
                .map(|(key, value, source)| format!("{key}={value} {source}"))
                .collect()
        };
        assert_eq!(
            sources(&plain),
            [
                "default_image=debian-bookworm built-in",
                "log_level=info built-in",
                "vm_defaults.vcpu=2 host",
                "vm_defaults.memory=2G host",
                "vm_defaults.disk_size=8G built-in",
                "vm_defaults.system_overlay_size=8G built-in",
                "vm_defaults.vmm=auto built-in",
                "vm_defaults.nat=false built-in",
                "vm_defaults.boot_timeout=120 built-in",
            ]
        );
        let config = Config {
            vm_defaults: VmDefaults {
                vcpu: Some(7),
                memory: Some(ByteSize::gib(3)),
                disk_size: Some(ByteSize::gib(1)),
                system_overlay_size: Some(ByteSize::gib(2)),
                vmm: Some(VmmChoice::QemuTcg),
                nat: Some(true),
                boot_timeout: Some(5),
            },
            default_image: Some("mine".parse().unwrap()),
            log_level: Some(LogLevel::Warn),
            ..Config::default()
        };
        let all = Resolved::new(&config, host(8, 16384), None).unwrap();
        assert_eq!(
            sources(&all),
            [
                "default_image=mine config",
                "log_level=warn config",
                "vm_defaults.vcpu=7 config",
                "vm_defaults.memory=3G config",
                "vm_defaults.disk_size=1G config",
                "vm_defaults.system_overlay_size=2G config",
                "vm_defaults.vmm=qemu-tcg config",
                "vm_defaults.nat=true config",
                "vm_defaults.boot_timeout=5 config",
            ]
        );
        let loud = Resolved::new(&config, host(8, 16384), Some(LogLevel::Trace)).unwrap();
        assert_eq!(loud.log_level.source, Source::Environment);
        assert_eq!(loud.log_level.value, LogLevel::Trace);
    }

    #[test]
    fn the_host_is_measured() {
        let meminfo = "MemTotal:       24683888 kB\nMemFree:  1 kB\n";
        assert_eq!(
            memory_total(meminfo),
            Some(ByteSize::bytes(24_683_888 * 1024))
        );
        assert_eq!(memory_total("MemTotal: x kB\n"), None);
        assert_eq!(memory_total(""), None);
        assert!(Host::measure().cpus > 0);
    }
}
