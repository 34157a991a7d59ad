//! `banger vm stats`

use std::collections::HashMap;
use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

use banger_api::{Client, Vm, VmStats};
use banger_config::Paths;
use banger_guest_api::{Stats, client};
use banger_model::{ByteSize, Code, Error, Result, VmState};
use clap::Args;
use clap_complete::engine::ArgValueCandidates;
use futures_util::future::join_all;
use jiff::Timestamp;
use serde::Serialize;

use super::reference;
use crate::completion::vm_names;
use crate::connect::{connect, warn_of_other_release};
use crate::exit::Exit;
use crate::ui::{ErrorReport, Format, Ui, human_size, table};

/// Show what machines use: processor, memory, disk, network
///
/// CPU is in percent of one processor over the interval. MEMORY is what the machine takes from
/// the host, GUEST what its programs use. DISK is what it takes on the host's disk. RECEIVED and
/// SENT are the guest's, since its boot. What a guest does not say within two seconds is `-`.
#[derive(Args, Debug)]
pub(crate) struct StatsArgs {
    /// Names, ids, or unique beginnings of either; all machines when absent
    #[arg(value_name = "NAME", value_parser = reference, add = ArgValueCandidates::new(vm_names))]
    names: Vec<String>,

    /// Measure the processor for this long; 1 on a terminal, else not at all
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    interval: Option<Duration>,
}

/// How long a guest may take to answer.
const GUEST_LIMIT: Duration = Duration::from_secs(2);
/// Between two samples when nobody says otherwise.
const INTERVAL: Duration = Duration::from_secs(1);

/// One machine, as JSON.
#[derive(Debug, Serialize)]
struct Usage {
    #[serde(flatten)]
    host: VmStats,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_percent: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    guest: Option<Stats>,
}

/// A line of JSON: a machine, or a name and why there is none.
#[derive(Serialize)]
#[serde(untagged)]
enum Entry<'a> {
    Usage(&'a Usage),
    Error(Box<ErrorReport>),
}

pub(crate) async fn cmd_stats(ui: &Ui, args: StatsArgs) -> Result<Exit> {
    let daemon = connect(&Paths::from_env()?).await?;
    let is_for_a_person = ui.format() == Format::Table && std::io::stdout().is_terminal();
    let interval = args.interval.or(is_for_a_person.then_some(INTERVAL));
    let (mut vms, missing) = find(&daemon, &args.names).await?;
    warn_of_other_release(ui, &daemon);
    vms.sort_by(|a, b| a.name.cmp(&b.name));
    let usages = match vms.is_empty() {
        true => Vec::new(),
        false => measure(&daemon, &vms, interval).await?,
    };
    match ui.format() {
        Format::Json => ui.json(&entries(&usages, &missing))?,
        Format::Table if ui.is_quiet() => {
            ui.names(usages.iter().map(|usage| usage.host.name.as_str()))?;
        }
        Format::Table => ui.data(&as_table(&usages))?,
    }
    if missing.is_empty() {
        return Ok(Exit::SUCCESS);
    }
    if ui.format() == Format::Table {
        missing.iter().for_each(|(_, error)| ui.error(error));
    }
    Ok(Exit::FAILURE)
}

/// The machines that are meant, and the names of none.
async fn find(daemon: &Client, names: &[String]) -> Result<(Vec<Vm>, Vec<(String, Error)>)> {
    if names.is_empty() {
        return Ok((daemon.vms().await?, Vec::new()));
    }
    let (mut vms, mut missing) = (Vec::<Vm>::new(), Vec::new());
    let answers = join_all(names.iter().map(|name| daemon.vm(name))).await;
    for (name, answer) in names.iter().zip(answers) {
        match answer {
            Ok(vm) if vms.iter().any(|other| other.id == vm.id) => {}
            Ok(vm) => vms.push(vm),
            Err(error) if matches!(error.code(), Code::NotFound | Code::Ambiguous) => {
                missing.push((name.clone(), error));
            }
            Err(error) => return Err(error),
        }
    }
    Ok((vms, missing))
}

/// Asks the host and the guests at the same time; twice when there is an interval.
async fn measure(daemon: &Client, vms: &[Vm], interval: Option<Duration>) -> Result<Vec<Usage>> {
    let guests = join_all(vms.iter().map(ask_guest));
    let host = async {
        let first = daemon.stats().await?;
        let Some(interval) = interval else {
            return Ok::<_, Error>((Vec::new(), first));
        };
        tokio::time::sleep(interval).await;
        Ok((first, daemon.stats().await?))
    };
    let (host, guests) = tokio::join!(host, guests);
    let (earlier, now) = host?;
    let earlier: HashMap<_, _> = earlier
        .into_iter()
        .map(|stats| (stats.id.clone(), stats))
        .collect();
    let mut now: HashMap<_, _> = now
        .into_iter()
        .map(|stats| (stats.id.clone(), stats))
        .collect();
    Ok(vms
        .iter()
        .zip(guests)
        // One that was deleted meanwhile has no statistics.
        .filter_map(|(vm, guest)| Some((now.remove(&vm.id)?, guest)))
        .map(|(host, guest)| Usage {
            cpu_percent: earlier
                .get(&host.id)
                .and_then(|before| cpu_percent(before, &host)),
            guest,
            host,
        })
        .collect())
}

async fn ask_guest(vm: &Vm) -> Option<Stats> {
    let socket = vm
        .agent_socket
        .as_ref()
        .filter(|_| vm.state == VmState::Running)?;
    let answer = client::stats(Path::new(socket));
    tokio::time::timeout(GUEST_LIMIT, answer).await.ok()?.ok()
}

/// Percent of one processor between two samples; none across a restart.
fn cpu_percent(before: &VmStats, now: &VmStats) -> Option<f64> {
    let at = |stats: &VmStats| stats.at.parse::<Timestamp>().ok();
    let passed = at(now)?.duration_since(at(before)?).as_secs_f64();
    let used = now.cpu_seconds? - before.cpu_seconds?;
    (passed > 0.0 && used >= 0.0).then(|| (1000.0 * used / passed).round() / 10.0)
}

fn entries<'a>(usages: &'a [Usage], missing: &[(String, Error)]) -> Vec<Entry<'a>> {
    let missing = missing.iter().map(|(name, error)| {
        Entry::Error(Box::new(ErrorReport {
            warnings: Vec::new(),
            saved: None,
            name: name.clone(),
            error: Some(error.into()),
        }))
    });
    usages.iter().map(Entry::Usage).chain(missing).collect()
}

fn as_table(usages: &[Usage]) -> String {
    let dash = || "-".to_owned();
    let size = |bytes: u64| human_size(ByteSize::bytes(bytes));
    let rows = usages
        .iter()
        .map(
            |Usage {
                 host,
                 cpu_percent,
                 guest,
             }| {
                let of_guest =
                    |value: &dyn Fn(&Stats) -> String| guest.as_ref().map_or_else(dash, value);
                vec![
                    host.name.clone(),
                    host.state.to_string(),
                    cpu_percent.map_or_else(dash, |percent| format!("{percent:.1}%")),
                    match host.memory_used {
                        Some(used) => format!("{} / {}", size(used), human_size(host.memory)),
                        None => dash(),
                    },
                    of_guest(&|guest| {
                        let used = guest.memory_total.saturating_sub(guest.memory_available);
                        format!("{} / {}", size(used), size(guest.memory_total))
                    }),
                    size(host.disk_used),
                    of_guest(&|guest| size(guest.network_received)),
                    of_guest(&|guest| size(guest.network_sent)),
                ]
            },
        )
        .collect();
    table(
        &[
            "NAME", "STATE", "CPU", "MEMORY", "GUEST", "DISK", "RECEIVED", "SENT",
        ],
        rows,
    )
}

/// An interval worth measuring over.
fn seconds(text: &str) -> Result<Duration> {
    let refuse = || {
        Error::new(
            Code::InvalidArgument,
            format!("`{}` is not an interval", text.escape_debug()),
        )
        .hint("write seconds from 0.1 to 3600, such as `2` or `0.5`")
    };
    let seconds: f64 = text.parse().map_err(|_| refuse())?;
    match (0.1..=3600.0).contains(&seconds) {
        true => Ok(Duration::from_secs_f64(seconds)),
        false => Err(refuse()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at: &str, cpu_seconds: Option<f64>) -> VmStats {
        VmStats {
            id: "0123456789ab".into(),
            name: "box".into(),
            state: VmState::Running,
            at: at.into(),
            cpu_seconds,
            memory_used: Some(327_155_712),
            memory: ByteSize::gib(2),
            disk_used: 1 << 30,
        }
    }

    fn usage(answers: bool) -> Usage {
        let guest = Stats {
            uptime_seconds: 12.5,
            memory_total: 2 << 30,
            memory_available: (2 << 30) - (100 << 20),
            load_1: 0.25,
            tasks: 80,
            network_received: 5000,
            network_sent: 1_234_567,
            disks: vec![banger_guest_api::DiskUse {
                path: "/".into(),
                total: 8 << 30,
                used: 1 << 30,
            }],
        };
        Usage {
            host: sample("2026-01-01T00:00:00Z", Some(3.25)),
            cpu_percent: Some(12.5),
            guest: answers.then_some(guest),
        }
    }

    #[test]
    fn the_processor_is_measured_between_two_samples() {
        let before = sample("2026-01-01T00:00:00Z", Some(1.0));
        for (at, cpu, percent) in [
            ("2026-01-01T00:00:01Z", Some(1.5), Some(50.0)),
            ("2026-01-01T00:00:02Z", Some(5.0), Some(200.0)),
            // It was started anew.
            ("2026-01-01T00:00:01Z", Some(0.5), None),
            ("2026-01-01T00:00:01Z", None, None),
            ("2026-01-01T00:00:00Z", Some(1.5), None),
            ("yesterday", Some(1.5), None),
        ] {
            assert_eq!(
                cpu_percent(&before, &sample(at, cpu)),
                percent,
                "{at} {cpu:?}"
            );
        }
    }

    #[test]
    fn what_is_not_known_is_a_dash() {
        let mut silent = usage(false);
        silent.host.name = "silent".into();
        silent.host.memory_used = None;
        silent.cpu_percent = None;
        insta::assert_snapshot!(as_table(&[usage(true), silent]), @r"
        NAME     STATE     CPU     MEMORY      GUEST       DISK   RECEIVED   SENT
        box      running   12.5%   312M / 2G   100M / 2G   1G     5000       1.2M
        silent   running   -       -           -           1G     -          -
        ");
    }

    #[test]
    fn json_has_the_documented_fields() {
        let missing = [("no".to_owned(), Error::new(Code::NotFound, "no such VM"))];
        insta::assert_json_snapshot!(entries(&[usage(true)], &missing), @r#"
        [
          {
            "id": "0123456789ab",
            "name": "box",
            "state": "running",
            "at": "2026-01-01T00:00:00Z",
            "cpu_seconds": 3.25,
            "memory_used": 327155712,
            "memory": 2147483648,
            "disk_used": 1073741824,
            "cpu_percent": 12.5,
            "guest": {
              "uptime_seconds": 12.5,
              "memory_total": 2147483648,
              "memory_available": 2042626048,
              "load_1": 0.25,
              "tasks": 80,
              "network_received": 5000,
              "network_sent": 1234567,
              "disks": [
                {
                  "path": "/",
                  "total": 8589934592,
                  "used": 1073741824
                }
              ]
            }
          },
          {
            "name": "no",
            "error": {
              "code": "not_found",
              "message": "no such VM"
            }
          }
        ]
        "#);
    }

    #[test]
    fn intervals_are_bounded() {
        assert_eq!(seconds("0.5").unwrap(), Duration::from_millis(500));
        for bad in ["", "0", "-1", "NaN", "inf", "1h", "3601"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
