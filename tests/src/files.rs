//! A web server on loopback with one file, whose connection breaks once.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// What clients asked for: the `Range` of each request, empty without one.
type Asked = Arc<Mutex<Vec<String>>>;

/// A server of one file. It lives as long as the test program.
pub struct FileServer {
    address: String,
    asked: Asked,
}

impl FileServer {
    /// Serves `content` on a free port, and breaks off the first download after `cut` bytes.
    pub fn start(content: Vec<u8>, cut: usize) -> FileServer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let asked = Asked::default();
        let log = Arc::clone(&asked);
        let content = Arc::new(content);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (content, log) = (Arc::clone(&content), Arc::clone(&log));
                // A client that hangs up has what it wanted.
                thread::spawn(move || serve(client, &content, cut, &log).ok());
            }
        });
        FileServer { address, asked }
    }

    /// The address of the file.
    pub fn url(&self) -> String {
        format!("{}/image.tar.zst", self.address)
    }

    /// The `Range` of every request so far, empty where there was none.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no panic").clone()
    }
}

fn serve(mut client: TcpStream, content: &[u8], cut: usize, log: &Asked) -> std::io::Result<()> {
    let mut range = String::new();
    for line in BufReader::new(client.try_clone()?).lines() {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("range")
        {
            range = value.trim().to_owned();
        }
    }
    let whole = range.is_empty();
    let first = {
        let mut log = log.lock().expect("no panic");
        log.push(range.clone());
        whole && log.iter().filter(|earlier| earlier.is_empty()).count() == 1
    };
    let bounds = range
        .strip_prefix("bytes=")
        .and_then(|range| range.split_once('-'));
    let from: usize = bounds.and_then(|(from, _)| from.parse().ok()).unwrap_or(0);
    let last: Option<usize> = bounds.and_then(|(_, last)| last.parse().ok());
    let end = last.map_or(content.len(), |last| last + 1);
    let (status, said) = if whole {
        ("200 OK", String::new())
    } else {
        let said = format!(
            "Content-Range: bytes {from}-{}/{}\r\n",
            end - 1,
            content.len()
        );
        ("206 Partial Content", said)
    };
    let length = end - from;
    let head =
        format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{said}\r\n");
    client.write_all(head.as_bytes())?;
    let end = if first { cut } else { end };
    client.write_all(&content[from..end])
}
