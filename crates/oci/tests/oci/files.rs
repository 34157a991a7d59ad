//! Single files with a known digest: bundles.

use banger_model::{Code, Digest, Result};
use banger_oci::{Address, Blob, Options, Puller, Transfer};
use tokio::sync::watch;

use crate::images::digest;
use crate::server::{Content, Reply, Seen, Server};
use crate::{Host, options};

impl Host {
    async fn file(&self, address: &str, digest: &Digest) -> Result<Blob> {
        self.file_with(address, digest, options()).await
    }

    async fn file_with(&self, address: &str, digest: &Digest, options: Options) -> Result<Blob> {
        let puller = Puller::new(self.cache.clone(), options).unwrap();
        let (address, digest) = (address.parse::<Address>().unwrap(), digest.clone());
        tokio::spawn(async move {
            let progress = watch::Sender::new(Transfer::default());
            let blob = puller.file(&address, &digest, &progress).await?;
            let (done, total) = (progress.borrow().done, progress.borrow().total);
            assert_eq!((done, total), (blob.size, blob.size));
            Ok(blob)
        })
        .await
        .unwrap()
    }

    fn is_empty(&self) -> bool {
        self.files("blobs").is_empty()
    }
}

/// Some content, its digest, and a server that has it where nothing else is said.
async fn server(
    script: impl Fn(&Seen, &[u8]) -> Option<Reply> + Send + Sync + 'static,
) -> (Vec<u8>, Digest, Server) {
    let bytes: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let honest = bytes.clone();
    let server = Server::new(Content::default(), move |seen, _| {
        Some(script(seen, &honest).unwrap_or_else(|| answer(seen, &honest)))
    })
    .await;
    (bytes.clone(), digest(&bytes), server)
}

fn answer(seen: &Seen, bytes: &[u8]) -> Reply {
    let range = |from: usize, to: usize| {
        let said = format!("bytes {from}-{}/{}", to - 1, bytes.len());
        Reply::new(206, &bytes[from..to]).header("Content-Range", said)
    };
    match (seen.header("range"), seen.from()) {
        (Some("bytes=0-0"), _) => range(0, 1),
        (_, Some(from)) => range(from, bytes.len()),
        _ => Reply::new(200, bytes),
    }
}

fn url(server: &Server) -> String {
    format!("http://{}/b.tar.zst", server.address)
}

#[tokio::test]
async fn a_file_is_downloaded_once_however_many_ask() {
    let (bytes, digest, server) = server(|_, _| None).await;
    let (host, url) = (Host::new(), url(&server));
    let both = tokio::join!(host.file(&url, &digest), host.file(&url, &digest));
    for blob in [both.0, both.1] {
        assert_eq!(std::fs::read(blob.unwrap().path).unwrap(), bytes);
    }
    let whole = |seen: &Seen| seen.header("range").is_none();
    assert_eq!(server.seen().iter().filter(|seen| whole(seen)).count(), 1);
    // What is here already needs no server.
    drop(server);
    host.file(&url, &digest).await.unwrap();
}

#[tokio::test]
async fn a_download_that_broke_off_goes_on_where_it_was() {
    let (bytes, digest, server) = server(|seen, bytes| {
        (seen.header("range").is_none()).then(|| Reply::new(200, bytes).cut(1_500_000))
    })
    .await;
    let host = Host::new();
    let blob = host.file(&url(&server), &digest).await.unwrap();
    assert_eq!(std::fs::read(&blob.path).unwrap(), bytes);
    let last = server.seen().pop().unwrap();
    assert_eq!(last.from(), Some(1_500_000));
    assert!(host.files("partial").is_empty());
}

#[tokio::test]
async fn a_server_that_knows_no_ranges_will_do() {
    let (bytes, digest, server) = server(|_, bytes| Some(Reply::new(200, bytes))).await;
    let host = Host::new();
    let blob = host.file(&url(&server), &digest).await.unwrap();
    assert_eq!(std::fs::read(&blob.path).unwrap(), bytes);
}

#[tokio::test]
async fn another_file_than_the_one_that_was_meant_is_not_used() {
    let (_, digest, server) = server(|seen, bytes| {
        let mut reply = answer(seen, bytes);
        reply.flip(0);
        Some(reply)
    })
    .await;
    let host = Host::new();
    let error = host.file(&url(&server), &digest).await.unwrap_err();
    assert_eq!(error.code(), Code::FetchFailed);
    assert!(error.message().contains(digest.as_str()), "{error}");
    assert!(host.is_empty() && host.files("partial").is_empty());
}

#[tokio::test]
async fn lengths_are_not_believed_and_bounded() {
    let host = Host::new();
    type Lie = fn(&Seen, &[u8]) -> Option<Reply>;
    let lies: [(Lie, &str); 5] = [
        (
            |_, bytes| Some(Reply::new(200, bytes).announce(None)),
            "does not say",
        ),
        (|_, _| Some(Reply::new(200, "")), "empty"),
        (
            |_, _| {
                let said = "bytes 0-0/99999999999999";
                Some(Reply::new(206, "x").header("Content-Range", said))
            },
            "larger than",
        ),
        (
            |seen, bytes| {
                (seen.header("range") != Some("bytes=0-0"))
                    .then(|| Reply::new(200, bytes).append(b"x").announce(None))
            },
            "more bytes",
        ),
        (|_, _| Some(Reply::new(403, "")), "status 403"),
    ];
    for (lie, said) in lies {
        let (_, digest, server) = server(lie).await;
        let error = host.file(&url(&server), &digest).await.unwrap_err();
        assert_eq!(error.code(), Code::FetchFailed);
        assert!(error.message().contains(said), "{error}");
        assert!(host.is_empty());
    }
    let (_, digest, server) = server(|_, _| Some(Reply::new(404, ""))).await;
    let error = host.file(&url(&server), &digest).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
}

#[tokio::test]
async fn plain_http_is_for_this_machine() {
    let error = Host::new()
        .file("http://files.invalid/b", &digest(b""))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.hint_text().unwrap().contains("insecure_registries"));
}

#[tokio::test]
async fn a_file_of_this_machine_is_copied_and_checked() {
    let host = Host::new();
    let path = host.path().join("b.tar.zst");
    let bytes = vec![7; 9 << 20];
    std::fs::write(&path, &bytes).unwrap();
    let text = path.to_str().unwrap();
    let error = host.file(text, &digest(b"other")).await.unwrap_err();
    assert_eq!(error.code(), Code::FetchFailed);
    assert!(host.is_empty() && host.files("partial").is_empty());
    let blob = host.file(text, &digest(&bytes)).await.unwrap();
    assert_eq!(std::fs::read(&blob.path).unwrap(), bytes);

    let missing = host.file("/no/such/file", &digest(b"")).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
    for no_file in ["/dev/null", "/"] {
        let error = host.file(no_file, &digest(b"")).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
    }
}
