//! What a scenario is: a name, what it shows, what it may run beside, and what it does.

use std::fmt;
use std::path::Path;

use crate::{Base, World};

/// One scenario of the suite.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// A valid VM name, and no other scenario's begins with it: the leak check looks for it in
    /// paths.
    pub name: &'static str,
    /// Names it is found by as well, of things it shows besides.
    pub also: &'static [&'static str],
    /// One line on what it shows.
    pub about: &'static str,
    /// What it may run beside.
    pub class: Class,
    /// What it cannot run without.
    pub needs: &'static [Need],
    /// How its world is prepared.
    pub ground: fn(&Base, &str) -> World,
    /// What it does. It fails by panicking.
    pub body: fn(&World),
}

/// What a scenario may run beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Anything: it touches nothing outside its world.
    Pure,
    /// Anything but its like: they use one package repository or registry, and much of the disk.
    SharedRepo,
    /// Nothing: it needs the whole machine, or measures what others would disturb.
    Global,
}

impl Class {
    /// As it is listed.
    pub fn name(self) -> &'static str {
        match self {
            Class::Pure => "pure",
            Class::SharedRepo => "shared-repo",
            Class::Global => "global",
        }
    }
}

/// What a scenario cannot run without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A package archive that can be reached.
    PackageArchive,
    /// QEMU as the VMM: it is about QEMU's processes or programs.
    Qemu,
    /// Root, who may listen on every port.
    Root,
    /// A VMM that uses KVM.
    Kvm,
    /// A processor without virtualisation, where KVM cannot work.
    NoVirtualisation,
    /// Guests that boot in a few seconds, or somebody who asks for it by its name: it boots dozens.
    QuickBoots,
    /// Somebody who asks for it by its name: it takes minutes.
    ToBeNamed,
    /// This program on the host, where none can be installed. Elsewhere it must be there:
    /// `scripts/install-deps` installs it.
    Program(&'static str),
}

/// What the place where the suite runs has.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// The VMM of every VM, or the one banger takes by itself.
    pub vmm: Option<String>,
    /// Nothing beyond this machine can be reached.
    pub offline: bool,
    /// But a package archive can.
    pub archive: bool,
    /// Times are longer by this.
    pub slower: u32,
    /// The scenarios that were asked for by name.
    pub named: Vec<String>,
}

/// A scenario that may run beside anything.
pub const fn pure(name: &'static str, about: &'static str, body: fn(&World)) -> Scenario {
    Scenario {
        name,
        also: &[],
        about,
        class: Class::Pure,
        needs: &[],
        ground: World::new,
        body,
    }
}

/// A scenario that may run beside anything but its like.
pub const fn shared(name: &'static str, about: &'static str, body: fn(&World)) -> Scenario {
    Scenario {
        class: Class::SharedRepo,
        ..pure(name, about, body)
    }
}

/// A scenario that runs alone.
pub const fn global(name: &'static str, about: &'static str, body: fn(&World)) -> Scenario {
    Scenario {
        class: Class::Global,
        ..pure(name, about, body)
    }
}

impl Scenario {
    /// The same under these names, too.
    pub const fn also(self, also: &'static [&'static str]) -> Scenario {
        Scenario { also, ..self }
    }

    /// The same where these needs are met.
    pub const fn needs(self, needs: &'static [Need]) -> Scenario {
        Scenario { needs, ..self }
    }

    /// The same in a world without image and kernel, as on a fresh machine.
    pub const fn on_bare_ground(self) -> Scenario {
        Scenario {
            ground: World::empty,
            ..self
        }
    }

    /// The same with guests without an init system, which are up and down in no time: for what
    /// is not about one. The agent is process 1 there, and a child of the init system elsewhere,
    /// so each kind of session has a scenario with the default image, too.
    pub const fn with_plain_guests(self) -> Scenario {
        Scenario {
            ground: World::plain,
            ..self
        }
    }

    /// Whether it is meant by this name, in which `_` is as good as `-`.
    pub fn is_called(&self, name: &str) -> bool {
        let name = name.replace('_', "-");
        self.name == name || self.also.contains(&name.as_str())
    }

    /// Why it cannot run here, if it cannot.
    pub fn unmet(&self, place: &Place) -> Option<String> {
        let named = place.named.iter().any(|name| self.is_called(name));
        self.needs.iter().find_map(|need| need.unmet(place, named))
    }
}

impl Need {
    fn unmet(self, place: &Place, named: bool) -> Option<String> {
        match self {
            Need::ToBeNamed => {
                (!named).then(|| "it runs when it is asked for by its name".to_owned())
            }
            Need::QuickBoots => (place.slower > 1 && !named).then(|| {
                let slower = place.slower;
                format!(
                    "this place is {slower} times slower: it runs when it is asked for by its name"
                )
            }),
            Need::PackageArchive => (place.offline && !place.archive)
                .then(|| "no package archive can be reached".to_owned()),
            Need::Qemu => {
                (place.vmm.as_deref() == Some("firecracker")).then(|| "it is about QEMU".to_owned())
            }
            Need::Root => (!rustix::process::geteuid().is_root())
                .then(|| "only root may do what it does".to_owned()),
            Need::Kvm => (!matches!(place.vmm.as_deref(), Some("firecracker" | "qemu-kvm")))
                .then(|| "it is about KVM".to_owned()),
            Need::NoVirtualisation => std::fs::read_to_string("/proc/cpuinfo")
                .expect("read cpuinfo")
                .split_whitespace()
                .any(|flag| flag == "vmx" || flag == "svm")
                .then(|| "this processor has virtualisation".to_owned()),
            Need::Program(name) => {
                let path = crate::world::search_path();
                let found = path
                    .split(':')
                    .any(|dir| Path::new(dir).join(name).exists());
                (place.offline && !found).then(|| format!("`{name}` is not installed"))
            }
        }
    }
}

/// As it is listed. The lab looks for the first in the list.
impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Need::PackageArchive => f.write_str("a package archive"),
            Need::Qemu => f.write_str("QEMU"),
            Need::Root => f.write_str("root"),
            Need::Kvm => f.write_str("KVM"),
            Need::NoVirtualisation => f.write_str("a processor without virtualisation"),
            Need::QuickBoots => f.write_str("quick boots"),
            Need::ToBeNamed => f.write_str("to be named"),
            Need::Program(name) => write!(f, "`{name}`"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_are_met_or_say_why_not() {
        let here = Place {
            slower: 1,
            ..Place::default()
        };
        let lab = Place {
            vmm: Some("firecracker".into()),
            offline: true,
            slower: 6,
            ..Place::default()
        };
        assert_eq!(Need::PackageArchive.to_string(), "a package archive");
        for need in [Need::PackageArchive, Need::Qemu, Need::QuickBoots] {
            assert_eq!(need.unmet(&here, false), None, "{need:?}");
            assert!(need.unmet(&lab, false).is_some(), "{need:?}");
        }
        assert_eq!(Need::QuickBoots.unmet(&lab, true), None);
        assert!(Need::PackageArchive.unmet(&lab, true).is_some());
        let stocked = Place {
            archive: true,
            ..lab.clone()
        };
        assert_eq!(Need::PackageArchive.unmet(&stocked, false), None);
        assert_eq!(Need::Kvm.unmet(&lab, false), None);
        assert!(Need::Kvm.unmet(&here, false).is_some());
        assert_eq!(Need::Program("sh").unmet(&lab, false), None);
        assert_eq!(Need::Program("no-such-program").unmet(&here, false), None);
        let missing = Need::Program("no-such-program").unmet(&lab, false);
        assert_eq!(missing.unwrap(), "`no-such-program` is not installed");
    }

    #[test]
    fn one_that_takes_minutes_waits_to_be_named() {
        let long = pure("takes-long", "", |_| {}).needs(&[Need::ToBeNamed]);
        let named = |name: &str| Place {
            named: vec![name.to_owned()],
            ..Place::default()
        };
        assert!(long.unmet(&named("other")).is_some());
        assert_eq!(long.unmet(&named("takes_long")), None);
    }
}
