//! Stands in for Firecracker in the tests of its driver: takes requests on the API socket and
//! goes wrong as the test wants. Under the name of `banger-vsock` it keeps what is written, like
//! that. No part of what is installed.
//!
//! How it behaves is read from the file `behaviour` beside its socket, for the environment of a
//! VMM is empty. Every request is written to the file `requests` there.
//!
//! | word            | what it does                                          |
//! |-----------------|-------------------------------------------------------|
//! | `dies`          | says why and ends, before it listens                  |
//! | `hangs`         | never listens                                         |
//! | `silent`        | listens and never answers                             |
//! | `refuses PATH`  | answers a request for that path with a fault          |
//! | `killed`        | is killed while it starts the guest                   |
//! | `nonsense`      | answers with something that is not HTTP               |
//! | `endless`       | answers with a head that does not end                 |
//! | nothing         | does as it is told; the guest prints a line           |

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().collect();
    if args.iter().any(|arg| arg == "--version") {
        println!("Firecracker v1.14.1");
        return Ok(());
    }
    let value = |option: &str| {
        let at = args.iter().position(|arg| arg == option);
        at.and_then(|at| args.get(at + 1)).map(PathBuf::from)
    };
    if args.first().is_some_and(|name| name == "banger-vsock") {
        let files = value("--console").zip(value("--log"));
        let (console, log) = files.ok_or("no files")?;
        return keep(&console, &log);
    }
    let socket = value("--api-sock").ok_or("no socket")?;
    let dir = socket.parent().ok_or("no directory")?;
    let behaviour = std::fs::read_to_string(dir.join("behaviour")).unwrap_or_default();
    match behaviour.as_str() {
        "dies" => return Err("this host is no good".into()),
        "hangs" => wait(),
        _ => {}
    }
    let (stream, _) = UnixListener::bind(&socket)?.accept()?;
    serve(stream, dir, &behaviour)?;
    wait()
}

/// Both pipes to their files, until both are closed.
fn keep(console: &Path, log: &Path) -> Result<(), Failure> {
    let mut logged = File::from(rustix::stdio::stdout().try_clone_to_owned()?);
    let mut log = File::options().append(true).open(log)?;
    let logging = std::thread::spawn(move || std::io::copy(&mut logged, &mut log));
    std::io::copy(&mut std::io::stdin(), &mut File::create(console)?)?;
    logging.join().map_err(|_| "a thread died")??;
    Ok(())
}

fn wait() -> ! {
    loop {
        std::thread::park();
    }
}

/// Answers until the client hangs up.
fn serve(mut stream: UnixStream, dir: &Path, behaviour: &str) -> Result<(), Failure> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut requests = File::create(dir.join("requests"))?;
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("Content-Length: "))
            .ok_or("no length")?
            .parse()?;
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let path = head.split(' ').nth(1).ok_or("no path")?;
        writeln!(requests, "{path} {}", String::from_utf8(body)?)?;
        if behaviour.strip_prefix("refuses ") == Some(path) {
            let fault = r#"{"fault_message":"it is\nnot \u001b[31mgood: Cannot allocate memory"}"#;
            write!(
                stream,
                "HTTP/1.1 400 \r\nServer: x\r\nContent-Length: {}\r\n\r\n{fault}",
                fault.len()
            )?;
            continue;
        }
        match behaviour {
            "silent" => wait(),
            "nonsense" => stream.write_all(b"220 mail.example.com ESMTP\r\n\r\n")?,
            "endless" => loop {
                stream.write_all(&[b'x'; 4096])?;
            },
            "killed" if path == "/actions" => {
                let own = rustix::process::getpid();
                rustix::process::kill_process(own, rustix::process::Signal::KILL)?;
            }
            // In two pieces, as it may come.
            _ => {
                stream.write_all(b"HTTP/1.1 204 \r\nServer: Fire")?;
                stream.write_all(b"cracker API\r\nConnection: keep-alive\r\n\r\n")?;
            }
        }
        if path == "/actions" {
            println!("the guest says hello");
        }
    }
}
