//! `banger vm forward`

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use banger_api::{Client, Vm};
use banger_config::Paths;
use banger_model::{Code, Error, Result, VmState};
use clap::Args;
use clap_complete::engine::ArgValueCandidates;
use serde::Serialize;

use super::{agent_socket, reference};
use crate::completion::vm_names;
use crate::connect::{connect_and_ask, warn_of_other_release};
use crate::exit::Exit;
use crate::forwarding::{Listening, process_end, serve};
use crate::signals::Signals;
use crate::ui::{Format, Ui};

/// Make ports of a running machine reachable on this host
///
/// Needs no network in the guest. Listens on this host's loopback unless told otherwise, and
/// prints a line such as `127.0.0.1:8080 -> box:80` for each port once all of them are open.
/// Goes on until Ctrl-C, or until the machine stops.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    banger vm forward box 8080            this host's 8080 is the guest's\n  \
    banger vm forward box 8080:80 0:5432  this host's 8080 is the guest's 80; any free port is 5432\n  \
    banger vm forward box 0.0.0.0:80:80   for everybody who reaches this host")]
pub(crate) struct ForwardArgs {
    /// Name, id, or a unique beginning of either
    #[arg(value_parser = reference, add = ArgValueCandidates::new(vm_names))]
    name: String,

    /// Guest port, with a host port before it when it is another (0 is any free one), with an
    /// address of this host before that when it is not 127.0.0.1
    #[arg(required = true, value_name = "[[BIND:]HOST_PORT:]GUEST_PORT", value_parser = spec)]
    ports: Vec<Spec>,
}

/// One port to forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Spec {
    listen: SocketAddr,
    guest: u16,
}

/// One forwarded port, as JSON.
#[derive(Serialize)]
struct Forward<'a> {
    listen: String,
    vm: &'a str,
    port: u16,
}

pub(crate) async fn cmd_forward(ui: &Ui, args: ForwardArgs) -> Result<Exit> {
    let mut signals = Signals::listen()?;
    let forwarding = run(ui, args);
    tokio::select! {
        biased;
        ended = forwarding => ended,
        _ = signals.next_to_end() => Ok(Exit::SUCCESS),
    }
}

async fn run(ui: &Ui, args: ForwardArgs) -> Result<Exit> {
    let (client, vm) = connect_and_ask(&Paths::from_env()?, async |client| {
        client.vm(&args.name).await
    })
    .await?;
    warn_of_other_release(ui, &client);
    let socket = agent_socket(&vm)?;
    let vmm = process_end(vm.pid)?;
    // All or none.
    let mut open = Vec::new();
    for spec in &args.ports {
        open.push(Listening::open(spec.listen, spec.guest).await?);
    }
    // The process that is watched may have been another's by then; not if it still is this one.
    let still = client.vm(&vm.id).await?;
    if still.pid != vm.pid || still.state != VmState::Running {
        return Err(gone(&client, &vm).await);
    }
    say(ui, &vm, &open)?;
    tokio::select! {
        never = serve(ui, &vm.name, &socket, open) => match never? {},
        () = vmm => Err(gone(&client, &vm).await),
    }
}

fn say(ui: &Ui, vm: &Vm, open: &[Listening]) -> Result<()> {
    if ui.format() == Format::Json {
        let forwards: Vec<_> = open
            .iter()
            .map(|port| Forward {
                listen: port.address.to_string(),
                vm: &vm.name,
                port: port.guest,
            })
            .collect();
        ui.json(&forwards)?;
    }
    for port in open {
        let address = port.address;
        if ui.format() == Format::Table {
            ui.data(&format!("{address} -> {}:{}", vm.name, port.guest))?;
        }
        if !address.ip().is_loopback() {
            ui.warn(
                &format!(
                    "whoever reaches {address} reaches port {} of `{}`",
                    port.guest, vm.name
                ),
                "leave the address away to listen on this host's loopback",
            );
        }
    }
    Ok(())
}

/// Why it ended without us.
async fn gone(client: &Client, vm: &Vm) -> Error {
    let name = &vm.name;
    let error = |what: String| Error::new(Code::AgentFailed, what);
    match client.vm(&vm.id).await {
        Ok(now) if matches!(now.state, VmState::Running | VmState::Starting) => {
            error(format!("`{name}` was started anew"))
                .hint("run the same command again for the new guest")
        }
        Ok(now) => {
            let because = now
                .reason
                .map(|reason| format!(" ({reason})"))
                .unwrap_or_default();
            error(format!("`{name}` is {} now{because}", now.state))
                .hint(format!("run `banger vm start {name}`, then forward again"))
        }
        Err(asked) if asked.code() == Code::NotFound => error(format!("`{name}` was deleted")),
        Err(asked) => error(format!("`{name}` went away")).because(asked),
    }
}

fn spec(text: &str) -> Result<Spec> {
    let refuse = |why: &str| {
        Error::new(
            Code::InvalidArgument,
            format!("`{}` is not a port to forward: {why}", text.escape_debug()),
        )
        .hint("write `80`, `8080:80`, `0:80` or `ADDRESS:8080:80`, an IPv6 address in brackets")
    };
    let port = |text: &str| -> Result<u16> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(port) if digits => Ok(port),
            _ => Err(refuse("a port is a number from 0 to 65535")),
        }
    };
    let (front, guest) = match text.rsplit_once(':') {
        Some((front, guest)) => (Some(front), port(guest)?),
        None => (None, port(text)?),
    };
    if guest == 0 {
        return Err(refuse("the guest's port cannot be 0"));
    }
    let (address, host) = match front.map(|front| front.rsplit_once(':').ok_or(front)) {
        None => (None, guest),
        Some(Err(host)) => (None, port(host)?),
        Some(Ok((address, host))) => (Some(address), port(host)?),
    };
    let address = match address {
        None | Some("localhost") => IpAddr::V4(Ipv4Addr::LOCALHOST),
        Some(text) => {
            let bare = text
                .strip_prefix('[')
                .and_then(|text| text.strip_suffix(']'));
            let parsed = match bare {
                Some(v6) => v6.parse().ok().map(IpAddr::V6),
                None => text.parse().ok().map(IpAddr::V4),
            };
            parsed.ok_or_else(|| refuse("the address is not one of this host"))?
        }
    };
    Ok(Spec {
        listen: SocketAddr::new(address, host),
        guest,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_written_as_for_ssh_and_docker() {
        for (text, listen, guest) in [
            ("80", "127.0.0.1:80", 80),
            ("8080:80", "127.0.0.1:8080", 80),
            ("0:80", "127.0.0.1:0", 80),
            ("localhost:8080:80", "127.0.0.1:8080", 80),
            ("0.0.0.0:8080:80", "0.0.0.0:8080", 80),
            ("[::1]:8080:80", "[::1]:8080", 80),
            ("65535:65535", "127.0.0.1:65535", 65535),
        ] {
            let spec = spec(text).unwrap();
            assert_eq!(spec.listen, listen.parse().unwrap(), "{text}");
            assert_eq!(spec.guest, guest, "{text}");
        }
        for bad in [
            "",
            ":",
            "0",
            "8080:0",
            "80:",
            ":80",
            "65536",
            "-1",
            "+80",
            "http",
            "a:80",
            "::80",
            "::1:8080:80",
            "host:8080:80",
            "[127.0.0.1]:1:2",
            "[::1]:80",
            "1:2:3",
            "1.2.3.4:80",
        ] {
            let error = spec(bad).unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument, "{bad}");
            assert!(error.hint_text().is_some());
        }
    }
}
