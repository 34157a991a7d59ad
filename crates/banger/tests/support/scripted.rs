//! A daemon that answers from a table, and an agent that answers as a test wants.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use banger_guest_api::{Open, Request, frame};

use super::Place;
use super::daemon::{begin_events, read_request, reply, send};

/// Records what is asked of it. What is not in its table is not found, operations apart: one
/// whose subject begins with `bad` fails.
#[derive(Clone, Default)]
pub(crate) struct Scripted(Arc<Mutex<Vec<String>>>);

impl Scripted {
    /// `table` has the request, method and path, and the body of the answer. A body `op:NAME` is
    /// an operation on that machine; `CODE!` an error with that code.
    pub(crate) fn start(place: &Place, table: &[(&str, &str)]) -> Scripted {
        let runtime = place.path().join("run/banger");
        std::fs::create_dir_all(&runtime).unwrap();
        std::fs::set_permissions(&runtime, std::fs::Permissions::from_mode(0o700)).unwrap();
        let listener = UnixListener::bind(runtime.join("bangerd.sock")).unwrap();
        let table: Arc<[(String, String)]> = table
            .iter()
            .map(|(request, body)| ((*request).to_owned(), (*body).to_owned()))
            .collect();
        let daemon = Scripted::default();
        let serving = daemon.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (daemon, table) = (serving.clone(), table.clone());
                std::thread::spawn(move || daemon.serve(stream.unwrap(), &table));
            }
        });
        daemon
    }

    /// The requests so far that change something.
    pub(crate) fn changes(&self) -> Vec<String> {
        let mut log = self.0.lock().unwrap().clone();
        log.retain(|line| !line.starts_with("GET "));
        log.sort();
        log
    }

    fn serve(&self, stream: UnixStream, table: &[(String, String)]) {
        let Some(request) = read_request(&stream) else {
            return;
        };
        self.0.lock().unwrap().push(request.clone());
        let version = env!("CARGO_PKG_VERSION");
        let (head, _) = request.split_once(" {").unwrap_or((&request, ""));
        if let Some(name) = head
            .strip_prefix("GET /v1/operations/op-")
            .and_then(|rest| rest.strip_suffix("/events"))
        {
            begin_events(&stream);
            return send(&stream, &operation(name, true));
        }
        let body = table
            .iter()
            .find(|(request, _)| request == head)
            .map_or("not_found!", |(_, body)| body);
        if let Some(name) = body.strip_prefix("op:") {
            return reply(stream, version, "202 Accepted", &operation(name, false));
        }
        match body.strip_suffix('!') {
            Some(code) => {
                let error = format!(
                    r#"{{"error":{{"code":"{code}","message":"it says {code}","hint":"do else"}}}}"#
                );
                reply(stream, version, "409 Conflict", &error);
            }
            None => reply(stream, version, "200 OK", body),
        }
    }
}

fn operation(name: &str, ended: bool) -> String {
    let outcome = match (ended, name.starts_with("bad")) {
        (false, _) => r#""state":"running""#,
        (true, false) => r#""state":"succeeded""#,
        (true, true) => r#""state":"failed","error":{"code":"io","message":"it is stuck"}"#,
    };
    format!(r#"{{"id":"op-{name}","kind":"stop-vm","subject":"{name}",{outcome}}}"#)
}

/// A machine as the daemon describes it; `more` are fields that end with a comma.
pub(crate) fn vm_json(name: &str, state: &str, more: &str) -> String {
    format!(
        r#"{{{more}"id":"0000000{name}","name":"{name}","state":"{state}","image":"i",
        "image_digest":"d","kernel":"k","vcpus":1,"memory":1073741824,"disk_size":1073741824,
        "nat":false,"vmm":"auto","ephemeral":false,"created_at":"2026-01-01T00:00:00Z",
        "ssh_identity":"/keys/id_ed25519","image_config":{{}}}}"#
    )
}

/// Listens as a VM's agent does and hands each request to `serve`, after its `Open`.
pub(crate) fn agent_for(
    dir: &Path,
    serve: impl Fn(Request, UnixStream) + Send + Sync + 'static,
) -> PathBuf {
    let socket = dir.join("agent.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, serve) = (stream.unwrap(), serve.clone());
            std::thread::spawn(move || {
                super::read_line(&mut stream);
                std::io::Write::write_all(&mut stream, b"OK 1\n").unwrap();
                let open: Open = frame::read(&mut stream).unwrap().unwrap().parse().unwrap();
                serve(open.request, stream);
            });
        }
    });
    socket
}
