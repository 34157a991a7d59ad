//! `make bench`: the speed promises, measured side by side.
//!
//! Machines differ and are noisy, so each promise is a ratio: banger and its floor run in
//! turn, A B A B, in one process, and the table shows the ratio of the medians with both raw
//! figures. `BANGER_BENCH_N` changes the number of runs (default 20), `BANGER_BENCH_TREE` the size in
//! MiB of the large tree that is copied (default 1024). `BANGER_BENCH_ONLY=workspaces` measures
//! nothing but copies and exports, `=images` nothing but imports, `=boots` nothing but the start of
//! machines and of commands. `BANGER_BENCH_VMM` names the VMM. Called with the socket of an agent, it
//! has that run `true` and ends: a floor of its own measurements.

mod floor;
mod image;
mod life;
mod recipe;
mod stats;
mod subject;
mod workspace;

use std::process::Command;
use std::time::Instant;

use banger_guest_api::{ByteString, Exec, Request, client};
use banger_model::Result;
use stats::{Row, Series};

/// How much goes through a session's standard input and back, in bytes.
const STREAM: usize = 256 << 20;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    if let Some(socket) = std::env::args_os().nth(1) {
        return agent_runs_true(socket.as_ref()).await;
    }
    let n = number("BANGER_BENCH_N", 20);
    let tree = number("BANGER_BENCH_TREE", 1024);
    let subject = subject::Subject::prepare();
    // Each takes a minute and more where the guest is emulated.
    let workspaces = || workspace::measure(&subject, n.div_ceil(4), tree);
    let images = || image::measure(&subject, n.div_ceil(4));
    let only = std::env::var("BANGER_BENCH_ONLY").unwrap_or_default();
    if ["workspaces", "images"].contains(&only.as_str()) {
        let rows = match only.as_str() {
            "images" => images(),
            _ => workspaces(),
        };
        drop(subject);
        stats::print(&rows);
        return Ok(());
    }
    let mut rows = Vec::new();

    eprintln!("vm run --rm -- true, and the same machine by hand ({n} each)");
    let floor = floor::Floor::prepare(&subject);
    let (mut run, mut by_hand) = (Series::default(), Series::default());
    for _ in 0..n {
        by_hand.push(floor.boot().await);
        let begun = Instant::now();
        subject.banger(&["vm", "run", "--rm", "-q", "--", "true"]);
        run.push(begun.elapsed().as_secs_f64());
    }
    rows.push(Row::ratio(
        "vm run --rm -- true",
        "VMM by hand until the agent answers",
        "s",
        &run,
        &by_hand,
        1.20,
    ));

    let socket = subject.start("bench");
    let calls = n * 10;
    eprintln!("vm exec -- true, and the agent's own round trip ({calls} each)");
    let [mut exec, mut round_trip, mut program] = <[Series; 3]>::default();
    for _ in 0..calls {
        let begun = Instant::now();
        agent_runs_true(&socket).await?;
        round_trip.push(begun.elapsed().as_secs_f64() * 1e3);
        let begun = Instant::now();
        a_program_runs_true(&socket);
        program.push(begun.elapsed().as_secs_f64() * 1e3);
        let begun = Instant::now();
        subject.banger(&["vm", "exec", "bench", "--", "true"]);
        exec.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    rows.push(Row::ratio(
        "vm exec -- true",
        "the agent runs true, in process",
        "ms",
        &exec,
        &round_trip,
        2.0,
    ));
    rows.push(Row::ratio(
        "vm exec -- true",
        "a program that knows the socket has the agent run true",
        "ms",
        &exec,
        &program,
        1.20,
    ));

    if only == "boots" {
        subject.banger(&["vm", "delete", "bench"]);
        drop(subject);
        stats::print(&rows);
        return Ok(());
    }

    eprintln!("256 MiB through vm exec -- cat, and through the raw echo ({n} each)");
    let (mut stream, mut echo) = (Series::default(), Series::default());
    let block = subject.noise();
    for _ in 0..n {
        echo.push(megabytes_per_second(raw_echo(&socket, &block).await?));
        stream.push(megabytes_per_second(subject.pipe(
            &["vm", "exec", "bench", "--", "cat"],
            &block,
            STREAM,
        )));
    }
    rows.push(Row::unpromised(
        "vm exec, 256 MiB in and out",
        "raw vsock echo",
        "MB/s",
        &stream,
        &echo,
    ));
    subject.banger(&["vm", "delete", "bench"]);

    rows.push(Row::absolute(
        "daemon at rest, RSS",
        "MiB",
        &Series::of(subject.daemon_rss_mib()),
        20.0,
    ));
    rows.extend(life::measure(&subject, n));
    rows.extend(workspaces());
    rows.extend(images());

    eprintln!("banger version ({calls})");
    let mut version = Series::default();
    for _ in 0..calls {
        let begun = Instant::now();
        subject.banger(&["version"]);
        version.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    rows.push(Row::absolute("banger version", "ms", &version, 10.0));
    rows.push(Row::figure(
        "daemon after all of this, RSS",
        "MiB",
        &Series::of(subject.daemon_rss_mib()),
    ));

    drop(subject);
    stats::print(&rows);
    Ok(())
}

fn number(variable: &str, default: usize) -> usize {
    let set = std::env::var(variable).ok();
    set.and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn megabytes_per_second(seconds: f64) -> f64 {
    STREAM as f64 / 1e6 / seconds
}

/// One command through the agent, without a process of banger's in between.
async fn agent_runs_true(socket: &std::path::Path) -> Result<()> {
    let exec = Exec {
        argv: vec![ByteString::from("true")],
        ..Exec::default()
    };
    let (_sender, mut receiver) = client::exec(socket, exec).await?;
    loop {
        if let client::ExecOutput::Exited(code) = receiver.next().await? {
            assert_eq!(code, 0, "true succeeds");
            return Ok(());
        }
    }
}

/// The same by a program that does nothing else: this one, called with the socket. Whoever runs
/// something in a VM by hand starts a program for it.
fn a_program_runs_true(socket: &std::path::Path) {
    let me = std::env::current_exe().expect("the path of this program");
    let status = Command::new(me).arg(socket).status();
    assert!(status.expect("start this program").success());
}

/// Seconds for [`STREAM`] bytes to the agent's echo and back.
async fn raw_echo(socket: &std::path::Path, block: &[u8]) -> Result<f64> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let stream = client::open(socket, Request::Echo).await?;
    let (mut read, mut write) = stream.into_split();
    let begun = Instant::now();
    let send = async {
        let mut left = STREAM;
        while left > 0 {
            let piece = left.min(block.len());
            write
                .write_all(&block[..piece])
                .await
                .expect("send to the echo");
            left -= piece;
        }
    };
    let receive = async {
        let mut buffer = vec![0; 256 << 10];
        let mut left = STREAM;
        while left > 0 {
            let got = read.read(&mut buffer).await.expect("receive from the echo");
            assert!(got > 0, "the echo ended early");
            left -= got;
        }
    };
    tokio::join!(send, receive);
    Ok(begun.elapsed().as_secs_f64())
}
