//! A registry that can be told to misbehave in any way, and notes what it is asked.
//!
//! It writes its answers byte by byte: a well-behaved HTTP library would not let it lie.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use banger_model::Digest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::images::{Made, digest};

/// One request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    /// The names are in lower case.
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: String,
    /// How many requests for this path came before.
    pub(crate) before: usize,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The first byte that is asked for.
    pub(crate) fn from(&self) -> Option<usize> {
        let range = self.header("range")?;
        range
            .strip_prefix("bytes=")?
            .strip_suffix('-')?
            .parse()
            .ok()
    }

    pub(crate) fn is_blob(&self) -> bool {
        self.path.contains("/blobs/")
    }
}

/// One answer.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// What `Content-Length` says; nothing at all when `None`.
    length: Option<usize>,
    /// Whether the connection stays open in silence after the body.
    hang: bool,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        Reply {
            status,
            headers: Vec::new(),
            length: Some(body.len()),
            body,
            hang: false,
        }
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Announces what it would have sent and sends only the first `bytes`.
    pub(crate) fn cut(mut self, bytes: usize) -> Self {
        self.body.truncate(bytes);
        self
    }

    /// Sends nothing more after the first `bytes`, and does not hang up.
    pub(crate) fn stall(self, bytes: usize) -> Self {
        Reply {
            hang: true,
            ..self.cut(bytes)
        }
    }

    /// Adds `bytes` to the body and not to the announced length.
    pub(crate) fn append(mut self, bytes: &[u8]) -> Self {
        self.body.extend_from_slice(bytes);
        self
    }

    /// Changes the byte `at`.
    pub(crate) fn flip(&mut self, at: usize) {
        self.body[at] ^= 1;
    }

    pub(crate) fn announce(mut self, length: Option<usize>) -> Self {
        self.length = length;
        self
    }
}

type Script = dyn Fn(&Seen, &Content) -> Option<Reply> + Send + Sync;

/// What the registry would give away if it behaved.
#[derive(Default)]
pub(crate) struct Content {
    blobs: BTreeMap<Digest, Vec<u8>>,
    /// Manifests by tag, with their media type.
    tags: BTreeMap<String, (Vec<u8>, String)>,
}

impl Content {
    pub(crate) fn of(made: &Made) -> Self {
        let mut content = Content::default();
        content.add(made);
        content.tag("1", crate::images::MANIFEST, &made.manifest);
        content
    }

    pub(crate) fn add(&mut self, made: &Made) {
        self.blobs.extend(made.blobs());
    }

    pub(crate) fn tag(&mut self, tag: &str, media_type: &str, bytes: &[u8]) {
        self.blobs.insert(digest(bytes), bytes.to_vec());
        self.tags
            .insert(tag.to_owned(), (bytes.to_vec(), media_type.to_owned()));
    }

    /// The honest answer.
    pub(crate) fn answer(&self, seen: &Seen) -> Reply {
        let Some((_, wanted)) = seen.path.rsplit_once('/') else {
            return Reply::new(404, "");
        };
        if let Some((bytes, media_type)) = self.tags.get(wanted) {
            return Reply::new(200, bytes.clone()).header("Content-Type", media_type);
        }
        let found = wanted
            .parse()
            .ok()
            .and_then(|digest| self.blobs.get(&digest));
        match (found, seen.from()) {
            (None, _) if wanted.is_empty() => Reply::new(200, "{}"),
            (None, _) => Reply::new(404, "{\"errors\":[{\"code\":\"MANIFEST_UNKNOWN\"}]}"),
            (Some(bytes), None) => Reply::new(200, bytes.clone()),
            (Some(bytes), Some(from)) if from >= bytes.len() => Reply::new(416, ""),
            (Some(bytes), Some(from)) => Reply::new(206, &bytes[from..]).header(
                "Content-Range",
                format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len()),
            ),
        }
    }
}

/// The registry; it ends with this value.
pub(crate) struct Server {
    pub(crate) address: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    pub(crate) async fn honest(content: Content) -> Self {
        Server::new(content, |_, _| None).await
    }

    /// A server that answers what `script` says, and honestly where it says nothing.
    pub(crate) async fn new(
        content: Content,
        script: impl Fn(&Seen, &Content) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (log, content, script) = (seen.clone(), Arc::new(content), Arc::new(script));
        let task = tokio::spawn(async move {
            // Connections end with the server.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (log, content, script) = (log.clone(), content.clone(), script.clone());
                connections.spawn(serve(stream, log, content, script as Arc<Script>));
            }
        });
        Server {
            address,
            seen,
            task,
        }
    }

    pub(crate) fn image(&self) -> String {
        format!("{}/test/image:1", self.address)
    }

    /// All requests so far, without the question how the registry is spoken to.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The requests for blobs.
    pub(crate) fn blobs(&self) -> Vec<Seen> {
        self.seen().into_iter().filter(Seen::is_blob).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    mut stream: TcpStream,
    log: Arc<Mutex<Vec<Seen>>>,
    content: Arc<Content>,
    script: Arc<Script>,
) {
    // Who hangs up early, or speaks TLS to us, gets no answer.
    let Some(mut seen) = read_request(&mut stream).await else {
        return;
    };
    {
        let mut log = log.lock().unwrap();
        seen.before = log
            .iter()
            .filter(|earlier| earlier.path == seen.path)
            .count();
        log.push(seen.clone());
    }
    let reply = script(&seen, &content).unwrap_or_else(|| content.answer(&seen));
    let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if let Some(length) = reply.length {
        head.push_str(&format!("Content-Length: {length}\r\n"));
    }
    head.push_str("\r\n");
    let sent = async {
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&reply.body).await?;
        stream.flush().await
    };
    if sent.await.is_err() {
        return;
    }
    if reply.hang {
        std::future::pending::<()>().await;
    }
    // A client that still has something to say must not lose our answer to a reset.
    stream.shutdown().await.ok();
    let mut rest = [0; 1024];
    while stream.read(&mut rest).await.is_ok_and(|read| read > 0) {}
}

async fn read_request(stream: &mut TcpStream) -> Option<Seen> {
    let mut bytes = Vec::new();
    let end = loop {
        let mut chunk = [0; 4096];
        let read = stream.read(&mut chunk).await.ok()?;
        bytes.extend_from_slice(&chunk[..read]);
        if read == 0 || bytes.first() == Some(&0x16) {
            return None;
        }
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).ok()?;
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let mut seen = Seen {
        method: first.next()?.to_owned(),
        path: first.next()?.to_owned(),
        ..Seen::default()
    };
    for line in lines.filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':')?;
        seen.headers
            .insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length: usize = seen
        .header("content-length")
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    let mut body = bytes.split_off(end);
    while body.len() < length {
        let mut chunk = [0; 4096];
        let read = stream
            .read(&mut chunk)
            .await
            .ok()
            .filter(|read| *read > 0)?;
        body.extend_from_slice(&chunk[..read]);
    }
    seen.body = String::from_utf8(body).ok()?;
    Some(seen)
}
