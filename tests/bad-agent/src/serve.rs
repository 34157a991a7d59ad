//! An agent that comes up properly and then misbehaves: on the agent's port it does the same
//! wrong thing to every request.
//!
//! Each mode's name begins with `serve-`. What the host asks for is recognised well enough by
//! looking for it in the JSON; only what a mode must be honest about, to get as far as its lie,
//! is answered.

use std::fs::File;
use std::io::{self, Read, Write};

use crate::{AGENT_PORT, HOST, listen, write_frame};

const STDOUT: u8 = 2;
/// What a terminal would obey, and what no name may be.
const EVIL: &str = r"\u001b]0;owned\u0007\u001b[31m\u001b[2J../../evil\u0000\u202e";

/// Tells the host that the guest is ready, and serves it in this mode for ever.
pub(crate) fn serve(mode: &str, host: &mut File) -> io::Result<()> {
    let listener = listen(AGENT_PORT)?;
    let info = info();
    write_frame(host, info.replacen("\"info\"", "\"ready\"", 1).as_bytes())?;
    loop {
        let (stream, peer) = crate::accept(&listener)?;
        if peer != HOST {
            continue;
        }
        let mode = mode.to_owned();
        // The host may hang up at any time, which ends one connection.
        std::thread::spawn(move || connection(&mode, stream));
    }
}

fn info() -> String {
    format!(
        r#"{{"type":"info","version":2,"agent_release":"{}","boot_id":"00000000-0000-0000-0000-000000000000","kernel":"bad","init":null}}"#,
        env!("CARGO_PKG_VERSION")
    )
}

fn connection(mode: &str, mut stream: File) -> io::Result<()> {
    let request = read_request(&mut stream)?;
    let asks = |name: &str| request.contains(&format!("\"type\":\"{name}\""));
    match mode {
        "serve-garbage" => stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")?,
        "serve-stall" => {}
        // A frame of 4 GiB.
        "serve-huge" => stream.write_all(&[0xff, 0xff, 0xff, 0xff, 0])?,
        "serve-half" => {
            stream.write_all(&[0, 0, 1, 0, 0])?;
            return stream.write_all(br#"{"type":"#);
        }
        "serve-close" => return Ok(()),
        "serve-refuse" => {
            let refusal = format!(r#"{{"type":"error","message":"{EVIL}"}}"#);
            write_frame(&mut stream, refusal.as_bytes())?;
        }
        _ if asks("info") => write_frame(&mut stream, info().as_bytes())?,
        _ if asks("wait_boot") => write_frame(&mut stream, br#"{"type":"done"}"#)?,
        "serve-flood" => {
            if asks("exec") {
                started(&mut stream)?;
            }
            flood(&mut stream)?;
        }
        // Ends that no command has.
        "serve-exit" => {
            started(&mut stream)?;
            write_frame(&mut stream, br#"{"type":"exited","code":65536}"#)?;
        }
        "serve-signal" => {
            started(&mut stream)?;
            write_frame(&mut stream, br#"{"type":"signalled","signal":-9}"#)?;
        }
        // Input that was never sent is acknowledged.
        "serve-credit" => {
            started(&mut stream)?;
            write_frame(
                &mut stream,
                br#"{"type":"stdin_credit","bytes":4294967295}"#,
            )?;
        }
        "serve-names" if asks("listeners") => listeners(&mut stream)?,
        "serve-names" if asks("stats") => stats(&mut stream)?,
        "serve-names" if asks("copy_out") => archive(&mut stream)?,
        "serve-names" if asks("copy_in") => {
            let failed = format!(r#"{{"type":"failed","message":"{EVIL}","no_space":true}}"#);
            write_frame(&mut stream, failed.as_bytes())?;
        }
        "serve-names" => {
            let refused = format!(r#"{{"type":"refused","code":127,"message":"{EVIL}"}}"#);
            write_frame(&mut stream, refused.as_bytes())?;
        }
        // An archive that never ends: one file of eight exbibytes of nothing.
        "serve-endless" if asks("copy_out") => endless(&mut stream)?,
        other => println!("bad-agent: unknown mode {other:?}"),
    }
    // Until the host hangs up, whatever it sends.
    io::copy(&mut stream, &mut io::sink()).map(drop)
}

fn read_request(stream: &mut File) -> io::Result<String> {
    let mut head = [0; 5];
    stream.read_exact(&mut head)?;
    let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
    let mut request = String::new();
    stream.take(length.into()).read_to_string(&mut request)?;
    Ok(request)
}

fn started(stream: &mut File) -> io::Result<()> {
    write_frame(stream, br#"{"type":"started","pid":1}"#)
}

/// Output without end, of what a terminal would obey.
fn flood(stream: &mut File) -> io::Result<()> {
    let piece = b"\x1b[31mflood\x1b]0;owned\x07".repeat(8 << 10);
    loop {
        write_data(stream, &piece)?;
    }
}

fn listeners(stream: &mut File) -> io::Result<()> {
    let one =
        format!(r#"{{"transport":"tcp","address":"{EVIL}","port":22,"process":"{EVIL}","pid":1}}"#);
    let many = vec![one; 1000].join(",");
    let answer = format!(r#"{{"type":"listeners","listeners":[{many}]}}"#);
    write_frame(stream, answer.as_bytes())
}

fn stats(stream: &mut File) -> io::Result<()> {
    let disk = format!(r#"{{"path":"{EVIL}","total":1,"used":18446744073709551615}}"#);
    let answer = format!(
        r#"{{"type":"stats","uptime_seconds":-1e300,"memory_total":1,"memory_available":18446744073709551615,"load_1":1e300,"tasks":4294967295,"network_received":18446744073709551615,"network_sent":18446744073709551615,"disks":[{disk}]}}"#
    );
    write_frame(stream, answer.as_bytes())
}

/// Names that lead out of where they are unpacked, one after the other; a reader that gets past
/// the first is in trouble with the next.
fn archive(stream: &mut File) -> io::Result<()> {
    for (name, kind, link, data) in [
        ("root", b'5', "", ""),
        ("root/harmless", b'0', "", "harmless"),
        ("root/link", b'2', "/tmp", ""),
        ("root/link/banger-evil", b'0', "", "evil"),
        ("root/../banger-evil", b'0', "", "evil"),
        ("/tmp/banger-evil", b'0', "", "evil"),
        ("root/hard", b'1', "/etc/passwd", ""),
        ("root/\u{1b}[31mred", b'0', "", "evil"),
    ] {
        write_data(stream, &entry(name, kind, link, data.len() as u64))?;
        let mut block = data.as_bytes().to_vec();
        block.resize(data.len().next_multiple_of(512), 0);
        if !block.is_empty() {
            write_data(stream, &block)?;
        }
    }
    write_data(stream, &[0; 1024])?;
    write_data(stream, &[])?;
    write_frame(stream, br#"{"type":"copied","entries":8,"bytes":1}"#)
}

fn endless(stream: &mut File) -> io::Result<()> {
    // The largest size a header can say.
    write_data(stream, &entry("root", b'0', "", (1 << 33) - 1))?;
    let piece = vec![0x2a; 128 << 10];
    loop {
        write_data(stream, &piece)?;
    }
}

/// A tar header.
fn entry(name: &str, kind: u8, link: &str, size: u64) -> [u8; 512] {
    let mut block = [0; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..107].copy_from_slice(b"0004777");
    block[108..115].copy_from_slice(b"0000000");
    block[116..123].copy_from_slice(b"0000000");
    block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    block[136..147].copy_from_slice(b"00000000000");
    block[148..156].fill(b' ');
    block[156] = kind;
    block[157..157 + link.len()].copy_from_slice(link.as_bytes());
    block[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn write_data(stream: &mut File, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(&(bytes.len() as u32).to_be_bytes())?;
    stream.write_all(&[STDOUT])?;
    stream.write_all(bytes)
}
