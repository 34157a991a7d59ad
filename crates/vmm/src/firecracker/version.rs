//! Which releases of Firecracker are used.
//!
//! | release                          | what happens                    |
//! |----------------------------------|---------------------------------|
//! | older than [`FLOOR`]             | refused                         |
//! | one of [`KNOWN_BAD`]             | refused, with the reason        |
//! | a minor release above [`TESTED`] | used, with a warning in doctor  |
//! | anything else                    | used                            |

use std::fmt;

/// Older ones do not describe their devices through ACPI, which is the only way in which the
/// kernels of distributions find them.
const FLOOR: Version = Version(1, 8, 0);
/// The release everything was tried with.
pub(super) const TESTED: Version = Version(1, 14, 1);
/// Releases that lose work, and how.
const KNOWN_BAD: [(Version, &str); 1] = [(
    Version(1, 16, 0),
    "it loses the connection to the guest's agent when a snapshot is restored",
)];

/// A release: major, minor and patch number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(pub(crate) u32, pub(crate) u32, pub(crate) u32);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// What a release is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// It is used.
    Good,
    /// It is used, and this is worth knowing.
    Untested(String),
    /// It is not used, for this reason.
    Refused(String),
}

impl Version {
    /// The version in what `firecracker --version` prints: `Firecracker v1.14.1`. What follows
    /// the numbers, such as `-dev`, does not count.
    pub(crate) fn find(said: &str) -> Option<Version> {
        let rest = said.trim().strip_prefix("Firecracker v")?;
        let word = rest.split_ascii_whitespace().next()?;
        let mut parts = word.splitn(3, '.');
        let major = parts.next()?.parse().ok()?;
        let minor = parts.next()?.parse().ok()?;
        let patch = parts.next()?;
        let end = patch
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(patch.len());
        Some(Version(major, minor, patch[..end].parse().ok()?))
    }

    pub(crate) fn judge(self) -> Judgement {
        if self < FLOOR {
            return Judgement::Refused(format!(
                "it is older than {FLOOR}, the first whose devices the kernels of distributions \
                 find"
            ));
        }
        if let Some((_, why)) = KNOWN_BAD.iter().find(|(bad, _)| *bad == self) {
            return Judgement::Refused((*why).to_owned());
        }
        if (self.0, self.1) > (TESTED.0, TESTED.1) {
            return Judgement::Untested(format!("newer than {TESTED}, the release that was tried"));
        }
        Judgement::Good
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_found_in_what_the_program_says() {
        for (said, expected) in [
            ("Firecracker v1.14.1", Some(Version(1, 14, 1))),
            ("Firecracker v1.16.0-dev\n", Some(Version(1, 16, 0))),
            ("Firecracker v1.8.0 (x)", Some(Version(1, 8, 0))),
            ("Firecracker v1.8", None),
            ("Firecracker v1.8.", None),
            ("Firecracker v99999999999.1.1", None),
            ("firecracker 1.14.1", None),
            ("QEMU emulator version 7.2.22", None),
            ("", None),
        ] {
            assert_eq!(Version::find(said), expected, "{said}");
        }
    }

    #[test]
    fn releases_are_refused_warned_of_or_used() {
        let refused = |version: Version| match version.judge() {
            Judgement::Refused(why) => why,
            other => panic!("{version}: {other:?}"),
        };
        assert!(refused(Version(1, 7, 99)).contains("1.8.0"));
        assert!(refused(Version(0, 25, 0)).contains("1.8.0"));
        assert!(refused(Version(1, 16, 0)).contains("snapshot"));
        for good in [FLOOR, Version(1, 13, 2), TESTED, Version(1, 14, 4)] {
            assert_eq!(good.judge(), Judgement::Good, "{good}");
        }
        for newer in [
            Version(1, 15, 0),
            Version(1, 16, 1),
            Version(1, 100, 0),
            Version(2, 0, 0),
        ] {
            assert!(matches!(newer.judge(), Judgement::Untested(_)), "{newer}");
        }
    }
}
