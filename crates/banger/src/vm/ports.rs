//! `banger vm ports`

use banger_config::Paths;
use banger_guest_api::{Listener, Transport, client};
use banger_model::Result;
use clap::Args;
use clap_complete::engine::ArgValueCandidates;
use serde::Serialize;

use super::{agent_socket, reference};
use crate::completion::vm_names;
use crate::connect::{connect_and_ask, warn_of_other_release};
use crate::exit::Exit;
use crate::ui::{Format, Ui, table};

/// List what a running machine listens on, and how to reach it
///
/// A machine without a network is reached through `banger vm forward`. What listens on one
/// address of the guest alone, other than its loopback, cannot be reached that way.
#[derive(Args, Debug)]
pub(crate) struct PortsArgs {
    /// Name, id, or a unique beginning of either
    #[arg(value_parser = reference, add = ArgValueCandidates::new(vm_names))]
    name: String,
}

/// One port, as JSON.
#[derive(Debug, PartialEq, Serialize)]
struct Port {
    transport: Transport,
    address: String,
    port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    process: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    /// How to reach it from here.
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<String>,
}

pub(crate) async fn cmd_ports(ui: &Ui, args: PortsArgs) -> Result<Exit> {
    let (daemon, vm) = connect_and_ask(&Paths::from_env()?, async |client| {
        client.vm(&args.name).await
    })
    .await?;
    warn_of_other_release(ui, &daemon);
    let ports = ports(&vm.name, client::listeners(&agent_socket(&vm)?).await?);
    match ui.format() {
        Format::Table if ui.is_quiet() => {
            let short: Vec<_> = ports.iter().map(short).collect();
            ui.names(short.iter().map(String::as_str))?;
        }
        Format::Table => ui.data(&as_table(&ports))?,
        Format::Json => ui.json(&ports)?,
    }
    Ok(Exit::SUCCESS)
}

fn ports(vm: &str, mut listeners: Vec<Listener>) -> Vec<Port> {
    listeners
        .sort_by(|a, b| (a.transport, a.port, &a.address).cmp(&(b.transport, b.port, &b.address)));
    listeners
        .into_iter()
        .map(|listener| Port {
            endpoint: is_reachable(&listener)
                .then(|| format!("banger vm forward {vm} {}", listener.port)),
            transport: listener.transport,
            address: listener.address,
            port: listener.port,
            process: listener.process,
            pid: listener.pid,
        })
        .collect()
}

/// Whether a connection to the guest's loopback arrives there.
fn is_reachable(listener: &Listener) -> bool {
    let address: Option<std::net::IpAddr> = listener.address.parse().ok();
    listener.transport == Transport::Tcp
        && address.is_some_and(|address| {
            let address = address.to_canonical();
            address.is_unspecified() || address.is_loopback()
        })
}

fn word(transport: Transport) -> &'static str {
    match transport {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
    }
}

fn short(port: &Port) -> String {
    format!("{}/{}", port.port, word(port.transport))
}

fn as_table(ports: &[Port]) -> String {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
    let rows = ports
        .iter()
        .map(|port| {
            vec![
                short(port),
                port.address.clone(),
                or_dash(&port.process),
                or_dash(&port.endpoint),
            ]
        })
        .collect();
    table(&["PORT", "ADDRESS", "PROCESS", "ENDPOINT"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(transport: Transport, address: &str, port: u16, process: &str) -> Listener {
        Listener {
            transport,
            address: address.into(),
            port,
            process: Some(process.into()),
            pid: Some(7),
        }
    }

    #[test]
    fn ports_say_how_they_are_reached_and_nothing_else_gets_through() {
        let found = ports(
            "box",
            vec![
                listener(Transport::Udp, "0.0.0.0", 53, "dns"),
                listener(Transport::Tcp, "10.0.2.15", 9000, "app"),
                listener(Transport::Tcp, "127.0.0.1", 8080, "x\x1b[2J"),
                listener(Transport::Tcp, "::", 80, "nginx"),
            ],
        );
        insta::assert_snapshot!(as_table(&found), @r"
        PORT       ADDRESS     PROCESS      ENDPOINT
        80/tcp     ::          nginx        banger vm forward box 80
        8080/tcp   127.0.0.1   x\u{1b}[2J   banger vm forward box 8080
        9000/tcp   10.0.2.15   app          -
        53/udp     0.0.0.0     dns          -
        ");
        insta::assert_json_snapshot!(found[0], @r#"
        {
          "transport": "tcp",
          "address": "::",
          "port": 80,
          "process": "nginx",
          "pid": 7,
          "endpoint": "banger vm forward box 80"
        }
        "#);
    }

    #[test]
    fn only_what_a_forward_reaches_has_an_endpoint() {
        for (transport, address, expected) in [
            (Transport::Tcp, "0.0.0.0", true),
            (Transport::Tcp, "127.0.0.1", true),
            (Transport::Tcp, "127.1.2.3", true),
            (Transport::Tcp, "::", true),
            (Transport::Tcp, "::1", true),
            (Transport::Tcp, "::ffff:127.0.0.1", true),
            (Transport::Tcp, "10.0.2.15", false),
            (Transport::Tcp, "junk", false),
            (Transport::Udp, "0.0.0.0", false),
        ] {
            let listener = listener(transport, address, 1, "p");
            assert_eq!(is_reachable(&listener), expected, "{address}");
        }
    }
}
