//! An HTTP proxy on loopback that fails after a number of bytes: an archive that becomes
//! unreachable half-way.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::thread;

/// A proxy that passes on so many bytes and then breaks every connection.
pub struct FailingProxy {
    address: String,
    left: Arc<AtomicI64>,
    requests: Arc<AtomicUsize>,
}

impl FailingProxy {
    /// Listens on a free port of the loopback interface.
    pub fn start(bytes: i64) -> FailingProxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let left = Arc::new(AtomicI64::new(bytes));
        let requests = Arc::new(AtomicUsize::new(0));
        let (budget, counter) = (Arc::clone(&left), Arc::clone(&requests));
        // Lives as long as the test program; each connection ends with its client.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (budget, counter) = (Arc::clone(&budget), Arc::clone(&counter));
                thread::spawn(move || {
                    counter.fetch_add(1, Ordering::Relaxed);
                    // A broken connection is what this is for.
                    serve(client, &budget).ok();
                });
            }
        });
        FailingProxy {
            address,
            left,
            requests,
        }
    }

    /// Its URL, for `http_proxy` and `https_proxy`.
    pub fn url(&self) -> &str {
        &self.address
    }

    /// Whether it was used, and used up.
    pub fn is_spent(&self) -> bool {
        self.requests.load(Ordering::Relaxed) > 0 && self.left.load(Ordering::Relaxed) <= 0
    }
}

fn serve(client: TcpStream, budget: &AtomicI64) -> io::Result<()> {
    if budget.load(Ordering::Relaxed) <= 0 {
        return client.shutdown(Shutdown::Both);
    }
    let mut reader = BufReader::new(client.try_clone()?);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut words = request.split_whitespace();
    let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let tunnel = method == "CONNECT";
    let authority = target.strip_prefix("http://").unwrap_or(target);
    let authority = authority.split('/').next().unwrap_or("");
    let host = match authority.contains(':') {
        true => authority.to_owned(),
        false => format!("{authority}:80"),
    };
    let mut upstream = TcpStream::connect(host)?;
    if tunnel {
        let mut line = String::new();
        while reader.read_line(&mut line)? > 0 && !line.trim().is_empty() {
            line.clear();
        }
        (&client).write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    } else {
        // The form that is for servers (RFC 9112, 3.2.1): not all accept the absolute one.
        let origin = request.replacen(&format!("http://{authority}"), "", 1);
        upstream.write_all(origin.as_bytes())?;
    }
    let mut to_upstream = upstream.try_clone()?;
    thread::spawn(move || {
        io::copy(&mut reader, &mut to_upstream).ok();
        to_upstream.shutdown(Shutdown::Write).ok();
    });
    let mut buffer = vec![0; 64 << 10];
    loop {
        let n = upstream.read(&mut buffer)?;
        let spent = budget.fetch_sub(n as i64, Ordering::Relaxed) <= n as i64;
        if n == 0 || spent {
            upstream.shutdown(Shutdown::Both).ok();
            return client.shutdown(Shutdown::Both);
        }
        (&client).write_all(&buffer[..n])?;
    }
}
