//! The way to a registry through a proxy.

use std::sync::{Arc, Mutex};

use banger_model::Code;
use banger_oci::{Options, Proxies};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::images::Made;
use crate::real::DockerRegistry;
use crate::{Host, assert_whole, options};

/// A proxy that lets through to one server, whatever it is called; it ends with this value.
struct Proxy {
    address: String,
    /// The head of every request.
    seen: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Proxy {
    async fn start(to: Option<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen = Arc::default();
        let log = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, to.clone(), Arc::clone(&log)));
            }
        });
        Proxy {
            address,
            seen,
            task,
        }
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut client: TcpStream, to: Option<String>, log: Arc<Mutex<Vec<String>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        // A client that gives up gets no answer.
        let Ok(byte) = client.read_u8().await else {
            return;
        };
        head.push(byte);
    }
    let head = String::from_utf8(head).unwrap();
    let is_tunnel = head.starts_with("CONNECT ");
    log.lock().unwrap().push(head);
    let Some(to) = to.filter(|_| is_tunnel) else {
        client
            .write_all(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")
            .await
            .ok();
        return;
    };
    let mut server = TcpStream::connect(to).await.unwrap();
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    // Either side may go first.
    tokio::io::copy_bidirectional(&mut client, &mut server)
        .await
        .ok();
}

#[tokio::test]
async fn a_registry_is_reached_through_a_proxy_and_this_machine_without() {
    let host = Host::new();
    let registry = DockerRegistry::start(host.path(), true, false);
    let made = Made::of_size(200_000, 1);
    registry.push(&made, "a/image:1", "oci");
    let proxy = Proxy::start(Some(registry.address.clone())).await;
    let through = Options {
        authorities: vec![host.path().join("ca.crt")],
        proxies: Proxies {
            https: Some(format!("http://me:secret@{}", proxy.address)),
            ..Proxies::default()
        },
        ..options()
    };
    let near = format!("{}/a/image:1", registry.address);
    assert_whole(
        &host.pull_with(&near, through.clone()).await.unwrap(),
        &made,
    );
    assert_eq!(proxy.seen(), [""; 0], "this machine is asked directly");

    let other = Host::new();
    let far = "registry.invalid/a/image:1";
    assert_whole(&other.pull_with(far, through.clone()).await.unwrap(), &made);
    let seen = proxy.seen();
    assert!(!seen.is_empty());
    for head in seen {
        assert!(head.starts_with("CONNECT registry.invalid:443 "), "{head}");
        // `me:secret`
        let login = "proxy-authorization: basic bwu6c2vjcmv0";
        assert!(head.to_lowercase().contains(login), "{head}");
    }
    let mut direct = through;
    direct.proxies.none = Some("registry.invalid".to_owned());
    direct.attempts = 1;
    let before = proxy.seen().len();
    let error = Host::new().pull_with(far, direct).await.unwrap_err();
    assert!(error.message().contains("cannot be resolved"), "{error}");
    assert_eq!(proxy.seen().len(), before);
}

#[tokio::test]
async fn a_proxy_that_says_no_is_named_without_its_password() {
    let proxy = Proxy::start(None).await;
    let address = format!("http://me:secret@{}", proxy.address);
    let through = Options {
        insecure: vec!["plain.invalid:5000".parse().unwrap()],
        attempts: 1,
        proxies: Proxies {
            all: Some(address),
            ..Proxies::default()
        },
        ..options()
    };
    for name in ["registry.invalid/a:1", "plain.invalid:5000/a:1"] {
        let error = Host::new()
            .pull_with(name, through.clone())
            .await
            .unwrap_err();
        assert_eq!(error.code(), Code::FetchFailed);
        let said = error.chain();
        assert!(said.contains(&proxy.address), "{said}");
        assert!(!said.contains("secret"), "{said}");
        assert!(error.hint_text().unwrap().contains("NO_PROXY"));
    }
}

#[tokio::test]
async fn a_plain_server_is_asked_for_by_the_proxy() {
    let proxy = Proxy::start(None).await;
    let through = Options {
        insecure: vec!["plain.invalid:5000".parse().unwrap()],
        attempts: 1,
        proxies: Proxies {
            http: Some(format!("http://me:secret@{}", proxy.address)),
            ..Proxies::default()
        },
        ..options()
    };
    let puller = banger_oci::Puller::new(Host::new().cache.clone(), through).unwrap();
    let address = "http://plain.invalid:5000/b".parse().unwrap();
    let progress = tokio::sync::watch::Sender::new(banger_oci::Transfer::default());
    let digest = crate::images::digest(b"");
    let error = puller.file(&address, &digest, &progress).await.unwrap_err();
    assert!(error.message().contains("status 403"), "{error}");
    let seen = proxy.seen();
    assert!(seen[0].starts_with("GET http://plain.invalid:5000/b "));
    assert!(seen[0].to_lowercase().contains("proxy-authorization: "));
}
