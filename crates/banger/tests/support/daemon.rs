//! A daemon with one VM called `box`, which boots, fails and vanishes as a test wants.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::Place;

/// What every command asks first, to know that somebody serves; any answer will do.
const GREETING: &str = "GET /v1/daemon";
const ID: &str = "0123456789ab";
/// Bounds a wait for something that should come at once.
const LIMIT: Duration = Duration::from_secs(20);

/// How the VM comes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Boot {
    /// At once.
    Succeeds,
    /// Not at all.
    Fails,
    /// Never; undone when cancelled.
    Hangs,
    /// Never; and undoing it never ends either.
    HangsForGood,
    /// Just when it is cancelled.
    SucceedsWhenCancelled,
    /// At once, but then it cannot be deleted.
    CannotBeDeleted,
    /// At once, by a daemon of another release.
    SucceedsElsewhere,
}

/// Records what is asked of it.
#[derive(Clone)]
pub(crate) struct FakeDaemon(Arc<Inner>);

struct Inner {
    boot: Boot,
    vm: String,
    log: Mutex<Vec<String>>,
    logged: Condvar,
}

impl FakeDaemon {
    pub(crate) fn start(place: &Place, agent_socket: &Path, boot: Boot) -> FakeDaemon {
        let runtime = place.path().join("run/banger");
        std::fs::create_dir_all(&runtime).unwrap();
        std::fs::set_permissions(&runtime, std::fs::Permissions::from_mode(0o700)).unwrap();
        let listener = UnixListener::bind(runtime.join("bangerd.sock")).unwrap();
        let daemon = FakeDaemon(Arc::new(Inner {
            boot,
            vm: vm_json(agent_socket),
            log: Mutex::default(),
            logged: Condvar::new(),
        }));
        let serving = daemon.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let daemon = serving.clone();
                std::thread::spawn(move || daemon.serve(stream.unwrap()));
            }
        });
        daemon
    }

    /// The requests so far.
    pub(crate) fn log(&self) -> Vec<String> {
        self.0.log.lock().unwrap().clone()
    }

    /// Waits until something has been recorded.
    pub(crate) fn wait_for(&self, entry: &str) {
        let log = self.0.log.lock().unwrap();
        let missing = |log: &mut Vec<String>| !log.iter().any(|line| line == entry);
        let (log, timeout) = self
            .0
            .logged
            .wait_timeout_while(log, LIMIT, missing)
            .unwrap();
        assert!(!timeout.timed_out(), "`{entry}` is not among {log:?}");
    }

    fn record(&self, entry: String) {
        self.0.log.lock().unwrap().push(entry);
        self.0.logged.notify_all();
    }

    fn serve(&self, stream: UnixStream) {
        let Some(request) = read_request(&stream) else {
            return;
        };
        if request != GREETING {
            self.record(request.clone());
        }
        let (method_and_path, _) = request.split_once(" {").unwrap_or((&request, ""));
        let version = match self.0.boot {
            Boot::SucceedsElsewhere => "99.0.0",
            _ => env!("CARGO_PKG_VERSION"),
        };
        match method_and_path {
            "GET /v1/vms/box" | "GET /v1/vms/0123456789ab" => {
                reply(stream, version, "200 OK", &self.0.vm)
            }
            "POST /v1/vms" => reply(
                stream,
                version,
                "202 Accepted",
                &operation("create", "running", ""),
            ),
            "GET /v1/vms/0123456789ab/lease" => self.lease(stream),
            "DELETE /v1/vms/0123456789ab" if self.exists() => {
                reply(
                    stream,
                    version,
                    "202 Accepted",
                    &operation("delete", "running", ""),
                );
            }
            "GET /v1/operations/create/events" => self.boot(stream),
            "GET /v1/operations/delete/events" => {
                begin_events(&stream);
                send(
                    &stream,
                    &match self.0.boot {
                        Boot::CannotBeDeleted => {
                            operation("delete", "failed", &error("io", "stuck"))
                        }
                        _ => operation("delete", "succeeded", ""),
                    },
                );
            }
            "POST /v1/operations/create/cancel" => {
                reply(
                    stream,
                    version,
                    "200 OK",
                    &operation("create", "running", ""),
                );
            }
            _ => reply(
                stream,
                version,
                "404 Not Found",
                r#"{"error":{"code":"not_found","message":"no such VM","hint":"look\u001b[2J"}}"#,
            ),
        }
    }

    fn exists(&self) -> bool {
        matches!(
            self.0.boot,
            Boot::Succeeds
                | Boot::SucceedsElsewhere
                | Boot::CannotBeDeleted
                | Boot::SucceedsWhenCancelled
        )
    }

    /// Holds the lease until the client lets go.
    fn lease(&self, mut stream: UnixStream) {
        begin_events(&stream);
        stream.write_all(b": held\n\n").unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).ok();
        self.record("lease ended".into());
    }

    fn boot(&self, stream: UnixStream) {
        begin_events(&stream);
        let booting = r#","stage":{"name":"boot","message":"booting\u001b[2J"}"#;
        send(&stream, &operation("create", "running", booting));
        self.record("booting".into());
        let cancel = "POST /v1/operations/create/cancel";
        let last = match self.0.boot {
            Boot::Succeeds | Boot::SucceedsElsewhere | Boot::CannotBeDeleted => {
                operation("create", "succeeded", "")
            }
            Boot::Fails => operation("create", "failed", &error("boot_failed", "it is broken")),
            Boot::Hangs => {
                self.wait_for(cancel);
                operation("create", "failed", &error("cancelled", "cancelled"))
            }
            Boot::SucceedsWhenCancelled => {
                self.wait_for(cancel);
                operation("create", "succeeded", "")
            }
            Boot::HangsForGood => {
                let mut rest = Vec::new();
                (&stream).read_to_end(&mut rest).ok();
                return;
            }
        };
        send(&stream, &last);
    }
}

fn vm_json(agent_socket: &Path) -> String {
    format!(
        r#"{{"id":"{ID}","name":"box","state":"running","image":"i","image_digest":"d",
        "kernel":"k","vcpus":1,"memory":1073741824,"disk_size":1073741824,"nat":false,
        "vmm":"auto","ephemeral":false,"created_at":"2026-01-01T00:00:00Z",
        "agent_socket":{:?},"console_log":"/console","ssh_identity":"/ssh/id","image_config":{{"env":{{"FROM":"image"}}}}}}"#,
        agent_socket.to_str().unwrap()
    )
}

fn operation(id: &str, state: &str, more: &str) -> String {
    format!(
        r#"{{"id":"{id}","kind":"{id}-vm","subject":"box","vm_id":"{ID}","state":"{state}"{more}}}"#
    )
}

fn error(code: &str, message: &str) -> String {
    format!(r#","error":{{"code":"{code}","message":"{message}"}}"#)
}

/// Method, path and, when there is one, the body.
pub(super) fn read_request(stream: &UnixStream) -> Option<String> {
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return None;
        }
        if line == "\r\n" {
            break;
        }
        head.push(line.to_ascii_lowercase());
        if head.len() == 1 {
            head[0] = line;
        }
    }
    let length = head
        .iter()
        .find_map(|line| line.strip_prefix("content-length:"));
    let mut body = vec![0; length.map_or(0, |length| length.trim().parse().unwrap())];
    reader.read_exact(&mut body).unwrap();
    let first = head[0].trim_end().trim_end_matches(" HTTP/1.1");
    let body = String::from_utf8(body).unwrap();
    Some(format!("{first} {body}").trim_end().to_owned())
}

pub(super) fn reply(mut stream: UnixStream, version: &str, status: &str, body: &str) {
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nserver: bangerd/{version}\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
    .ok();
}

pub(super) fn begin_events(mut stream: &UnixStream) {
    stream
        .write_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n",
        )
        .ok();
}

pub(super) fn send(mut stream: &UnixStream, event: &str) {
    stream
        .write_all(format!("data: {event}\n\n").as_bytes())
        .ok();
}
