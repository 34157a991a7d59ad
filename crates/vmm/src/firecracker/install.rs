//! How to get Firecracker and pasta on this distribution.

use std::path::Path;

use super::version::TESTED;

/// How to get Firecracker here.
pub(crate) fn hint() -> String {
    firecracker_on(&os_release())
}

/// How to get pasta here.
pub(crate) fn pasta_hint() -> String {
    pasta_on(&os_release())
}

fn os_release() -> String {
    let file = Path::new("/etc/os-release");
    // Without it, what holds everywhere is said.
    std::fs::read_to_string(file).unwrap_or_default()
}

fn firecracker_on(os_release: &str) -> String {
    let package = match family(os_release) {
        Some(Family::Alpine) => Some("sudo apk add firecracker"),
        Some(Family::Nix) => Some("nix profile install nixpkgs#firecracker"),
        _ => None,
    };
    match package {
        Some(command) => format!("install it: `{command}`"),
        None => format!(
            "take release {TESTED} from the project's page (firecracker-microvm/firecracker on \
             GitHub), and put its `firecracker-v{TESTED}-x86_64` at `/usr/local/bin/firecracker`; \
             or name it in `firecracker_bin` or BANGER_FIRECRACKER"
        ),
    }
}

fn pasta_on(os_release: &str) -> String {
    let command = match family(os_release) {
        Some(Family::Debian) => "sudo apt-get install passt",
        Some(Family::Fedora) => "sudo dnf install passt",
        Some(Family::Arch) => "sudo pacman -S passt",
        Some(Family::Alpine) => "sudo apk add passt",
        Some(Family::Suse) => "sudo zypper install passt",
        Some(Family::Nix) => "nix profile install nixpkgs#passt",
        None => return "install the package `passt` of your distribution".to_owned(),
    };
    format!("install it: `{command}`")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Debian,
    Fedora,
    Arch,
    Alpine,
    Suse,
    Nix,
}

/// The first of `ID` and `ID_LIKE` that is known.
fn family(os_release: &str) -> Option<Family> {
    let value = |key: &str| {
        os_release.lines().find_map(|line| {
            let value = line.strip_prefix(key)?.strip_prefix('=')?;
            Some(value.trim_matches(['"', '\'']))
        })
    };
    let words = [value("ID"), value("ID_LIKE")];
    let mut words = words.into_iter().flatten().flat_map(str::split_whitespace);
    words.find_map(|word| match word {
        "debian" | "ubuntu" => Some(Family::Debian),
        "fedora" | "rhel" | "centos" => Some(Family::Fedora),
        "arch" => Some(Family::Arch),
        "alpine" => Some(Family::Alpine),
        "suse" | "opensuse" => Some(Family::Suse),
        "nixos" => Some(Family::Nix),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_the_one_of_the_distribution() {
        for (os_release, pasta, firecracker) in [
            (
                "ID=debian\nVERSION_ID=\"12\"\n",
                "apt-get",
                "/usr/local/bin",
            ),
            (
                "ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n",
                "apt-get",
                "1.14.1",
            ),
            (
                "NAME=x\nID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"",
                "dnf",
                "GitHub",
            ),
            ("ID=arch", "pacman", "GitHub"),
            ("ID=alpine", "apk", "apk add firecracker"),
            (
                "ID=\"opensuse-leap\"\nID_LIKE=\"suse opensuse\"",
                "zypper",
                "GitHub",
            ),
            ("ID=nixos", "nixpkgs#passt", "nixpkgs#firecracker"),
            ("ID=gentoo", "`passt`", "BANGER_FIRECRACKER"),
            ("", "`passt`", "firecracker_bin"),
        ] {
            let said = pasta_on(os_release);
            assert!(said.contains(pasta), "{os_release}: {said}");
            let said = firecracker_on(os_release);
            assert!(said.contains(firecracker), "{os_release}: {said}");
        }
    }
}
