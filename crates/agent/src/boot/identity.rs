//! Who this VM is: names, keys and name servers, written at every boot from the host's
//! configuration, so that nothing of it needs to be in the image.

use std::io;

use banger_guest_api::{BootConfig, SshIdentity};

use super::files::Directory;
use super::gitconfig;
use crate::failure::{Failure, Result, Step};
use crate::init::{Init, Kind};

/// The line before what is banger's in a file that others write too.
const FENCE_BEGIN: &str = "# banger: begin, rewritten at every boot";
/// The line after it.
const FENCE_END: &str = "# banger: end";

/// Writes the VM's identity. What every Linux system has, such as `/etc/hosts`, is made in images
/// that lack it, as container runtimes do; what belongs to a part the image lacks is not.
pub(super) fn write(config: &BootConfig, init: Option<&Init>) -> Result<()> {
    rustix::system::sethostname(config.hostname.as_bytes()).step("set the host name")?;
    let step = "open /etc";
    let etc = Directory::open("/etc").step(step)?;
    let etc = etc.ok_or_else(|| Failure::new(step, "there is none"))?;
    write_etc(&etc, config, init)?;
    configure_sshd(config.ssh.as_ref()).step("write the ssh server's configuration")?;
    match &config.ssh {
        Some(ssh) => authorize(&ssh.authorized_keys).step("write root's authorized keys"),
        None => Ok(()),
    }
}

fn write_etc(etc: &Directory, config: &BootConfig, init: Option<&Init>) -> Result<()> {
    let hostname = format!("{}\n", config.hostname);
    etc.write("hostname", hostname.as_bytes(), 0o644)
        .step("write /etc/hostname")?;
    let hosts = etc
        .read("hosts")
        .step("read /etc/hosts")?
        .unwrap_or_default();
    etc.write("hosts", &merge_hosts(&hosts, &config.hostname), 0o644)
        .step("write /etc/hosts")?;
    // systemd and D-Bus identify a machine by it; images that have neither know no such file.
    let is_known = etc.has("machine-id") || init.is_some_and(|init| init.kind == Kind::Systemd);
    if is_known {
        let machine_id = format!("{}\n", config.machine_id);
        etc.write("machine-id", machine_id.as_bytes(), 0o444)
            .step("write /etc/machine-id")?;
    }
    gitconfig::write(etc, config.git.as_ref()).step("write /etc/gitconfig")?;
    let Some(network) = config
        .network
        .as_ref()
        .filter(|network| !network.dns.is_empty())
    else {
        return Ok(());
    };
    let lines = network
        .dns
        .iter()
        .map(|server| format!("nameserver {server}\n"));
    let servers: String = lines.collect();
    // In place of a link, which leads to what some service has not written yet.
    etc.write("resolv.conf", servers.as_bytes(), 0o644)
        .step("write /etc/resolv.conf")
}

/// Keeps what the user added; our own lines are the two of localhost, where they are missing,
/// and the one of 127.0.1.1.
fn merge_hosts(old: &[u8], hostname: &str) -> Vec<u8> {
    let old = String::from_utf8_lossy(old);
    let address = |line: &str| {
        line.split_whitespace()
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    let kept: Vec<&str> = old
        .lines()
        .filter(|line| address(line) != "127.0.1.1")
        .collect();
    let mut text = String::new();
    for (wanted, names) in [
        ("127.0.0.1", "localhost"),
        ("::1", "localhost ip6-localhost"),
    ] {
        if !kept.iter().any(|line| address(line) == wanted) {
            text.push_str(&format!("{wanted}\t{names}\n"));
        }
    }
    text.push_str(&format!("127.0.1.1\t{hostname}\n"));
    for line in kept {
        text.push_str(line);
        text.push('\n');
    }
    text.into_bytes()
}

/// Safe whatever the image's own configuration says: the first value wins in sshd, and its
/// configuration includes this directory first.
fn configure_sshd(identity: Option<&SshIdentity>) -> io::Result<()> {
    let Some(ssh) = Directory::open("/etc/ssh")? else {
        return Ok(());
    };
    let mut host_key_line = "";
    if let Some(identity) = identity {
        ssh.write("ssh_host_ed25519_key", identity.host_key.as_bytes(), 0o600)?;
        let public = format!("{}\n", identity.host_key_public.trim_end());
        ssh.write("ssh_host_ed25519_key.pub", public.as_bytes(), 0o644)?;
        host_key_line = "HostKey /etc/ssh/ssh_host_ed25519_key\n";
    }
    if let Some(drop_ins) = Directory::open("/etc/ssh/sshd_config.d")? {
        let text = format!(
            "# Written by banger at every boot.\n{host_key_line}PermitRootLogin prohibit-password\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nStrictModes yes\n"
        );
        drop_ins.write("10-banger.conf", text.as_bytes(), 0o644)?;
    }
    Ok(())
}

fn authorize(keys: &[String]) -> io::Result<()> {
    let Some(root) = Directory::open("/")? else {
        return Err(io::ErrorKind::NotFound.into());
    };
    let ssh = root
        .subdirectory("root", 0o755)?
        .subdirectory(".ssh", 0o700)?;
    let old = ssh.read("authorized_keys")?.unwrap_or_default();
    ssh.write("authorized_keys", &merge_keys(&old, keys), 0o600)
}

/// Our keys, before what the user added.
fn merge_keys(old: &[u8], keys: &[String]) -> Vec<u8> {
    let ours: String = keys
        .iter()
        .map(|key| format!("{}\n", key.trim_end()))
        .collect();
    [fenced(ours.as_bytes()), outside(old)].concat()
}

/// Lines of ours between the fences.
pub(super) fn fenced(ours: &[u8]) -> Vec<u8> {
    let (begin, end) = (FENCE_BEGIN.as_bytes(), FENCE_END.as_bytes());
    [begin, b"\n", ours, end, b"\n"].concat()
}

/// What others wrote: everything that is not between the fences.
pub(super) fn outside(text: &[u8]) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut inside = false;
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        match line.trim_ascii_end() {
            line if line == FENCE_BEGIN.as_bytes() => inside = true,
            line if line == FENCE_END.as_bytes() => inside = false,
            _ if inside => {}
            _ => kept.extend_from_slice(line),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_keep_what_the_user_added() {
        let first = merge_hosts(b"", "box");
        let text = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n127.0.1.1\tbox\n";
        assert_eq!(first, text.as_bytes());
        let edited = [&first[..], b"10.0.0.1 db # mine\n"].concat();
        let again = merge_hosts(&edited, "renamed");
        assert_eq!(merge_hosts(&again, "renamed"), again, "idempotent");
        let again = String::from_utf8(again).unwrap();
        assert!(again.contains("db # mine\n") && again.contains("127.0.1.1\trenamed\n"));
        assert!(!again.contains("box"));
    }

    #[test]
    fn keys_keep_what_the_user_added() {
        let first = merge_keys(b"ssh-rsa MINE me", &["ssh-ed25519 A a\n".to_owned()]);
        let again = merge_keys(&first, &["ssh-ed25519 B b".to_owned()]);
        let text = String::from_utf8(again.clone()).unwrap();
        assert_eq!(
            text,
            format!("{FENCE_BEGIN}\nssh-ed25519 B b\n{FENCE_END}\nssh-rsa MINE me")
        );
        assert_eq!(merge_keys(&again, &["ssh-ed25519 B b".to_owned()]), again);
    }
}
