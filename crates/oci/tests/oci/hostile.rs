//! Registries that lie, break, stall and mislead.

use std::time::{Duration, Instant};

use banger_model::{ByteSize, Code};
use banger_oci::Options;
use serde_json::json;

use crate::images::{INDEX, Layer, MANIFEST, Made, descriptor, digest, noise, tar};
use crate::server::{Content, Reply, Server};
use crate::{Host, assert_whole, options};

/// One layer that is large enough to be cut.
fn single() -> (Made, String) {
    let made = Made::new(vec![Layer::plain(tar(&[("f", &noise(600_000, 1))]))]);
    let layer = digest(&made.layers[0].packed).to_string();
    (made, layer)
}

#[tokio::test]
async fn an_honest_registry_gives_the_whole_image() {
    let made = Made::of_size(100_000, 1);
    let server = Server::honest(Content::of(&made)).await;
    let host = Host::new();
    let image = host.pull(&server.image()).await.unwrap();
    assert_whole(&image, &made);
    assert_eq!(image.manifest_digest, digest(&made.manifest));
    assert_eq!(image.config_digest, digest(&made.config));
    assert_eq!(image.config.env["PATH"], "/usr/bin:/bin");
    assert_eq!(image.config.user.as_deref(), Some("1000"));
    assert_eq!(image.config.workdir.as_deref(), Some("/srv"));
    assert_eq!(image.config.entrypoint, ["/init"]);
    assert_eq!(image.config.cmd, ["run"]);
    assert_eq!(image.details.stop_signal.as_deref(), Some("SIGINT"));
    assert_eq!(image.details.exposed_ports, ["80/tcp"]);
    assert!(host.files("partial").is_empty());
}

#[tokio::test]
async fn other_content_than_the_digest_says_is_never_published() {
    let (made, layer) = single();
    let server = Server::new(Content::of(&made), move |seen, content| {
        let mut reply = content.answer(seen);
        seen.path.ends_with(&layer).then(|| {
            reply.flip(300_000);
            reply
        })
    })
    .await;
    let host = Host::new();
    let error = host.pull(&server.image()).await.unwrap_err();
    assert_eq!(error.code(), Code::FetchFailed);
    assert!(
        error.message().contains("what the registry sent"),
        "{error:?}"
    );
    assert_eq!(host.files("blobs"), [digest(&made.config).hex()]);
    assert!(host.files("partial").is_empty());
}

#[tokio::test]
async fn other_lengths_than_announced_in_the_manifest_are_refused() {
    let size = single().0.layers[0].packed.len();
    type Lie = fn(Reply, usize) -> Reply;
    let cases: [(&str, Lie); 4] = [
        ("announces", |reply, size| {
            reply.cut(size - 1).announce(Some(size - 1))
        }),
        ("announces", |reply, size| {
            reply.append(b"more").announce(Some(size + 4))
        }),
        ("sends more bytes", |reply, _| {
            reply.append(&[0; 100_000]).announce(None)
        }),
        ("ends after", |reply, size| {
            reply.cut(size - 1).announce(None)
        }),
    ];
    for (text, lie) in cases {
        let (made, layer) = single();
        let server = Server::new(Content::of(&made), move |seen, content| {
            // A range would be a chance to make up for it.
            let mut seen = seen.clone();
            seen.headers.remove("range");
            seen.path
                .ends_with(&layer)
                .then(|| lie(content.answer(&seen), size))
        })
        .await;
        let host = Host::new();
        let error = host.pull(&server.image()).await.unwrap_err();
        assert!(error.message().contains(text), "{text}: {error:?}");
        assert_eq!(host.files("blobs").len(), 1, "the config only");
    }
}

#[tokio::test]
async fn a_cut_connection_is_taken_up_where_it_broke() {
    let (made, layer) = single();
    let server = Server::new(Content::of(&made), move |seen, content| {
        let cut = seen.path.ends_with(&layer) && seen.before < 2;
        cut.then(|| content.answer(seen).cut(200_000))
    })
    .await;
    let host = Host::new();
    assert_whole(&host.pull(&server.image()).await.unwrap(), &made);
    let asked: Vec<_> = server.blobs().iter().map(|seen| seen.from()).collect();
    assert_eq!(asked, [None, None, Some(200_000), Some(400_000)]);
}

#[tokio::test]
async fn a_connection_that_is_always_cut_is_given_up_unless_it_gets_somewhere() {
    let (made, layer) = single();
    let server = Server::new(Content::of(&made), move |seen, content| {
        let cut = seen.path.ends_with(&layer);
        cut.then(|| content.answer(seen).cut(10))
    })
    .await;
    let host = Host::new();
    let error = host.pull(&server.image()).await.unwrap_err();
    assert_eq!(error.code(), Code::FetchFailed);
    assert!(error.hint_text().is_some());
    assert_eq!(server.blobs().len(), 1 + 4, "the config and four attempts");
    assert_eq!(
        host.partial_len(&digest(&made.layers[0].packed)),
        40,
        "kept for another day"
    );

    let large = Made::new(vec![Layer::plain(tar(&[("f", &noise(2_700_000, 1))]))]);
    let server = Server::new(Content::of(&large), |seen, content| {
        seen.is_blob().then(|| content.answer(seen).cut(300_000))
    })
    .await;
    assert_whole(&host.pull(&server.image()).await.unwrap(), &large);
    assert!(server.blobs().len() > 8);
}

#[tokio::test]
async fn a_registry_that_stalls_is_left_and_asked_again() {
    let (made, layer) = single();
    let server = Server::new(Content::of(&made), move |seen, content| {
        let stall = seen.path.ends_with(&layer) && seen.before == 0;
        stall.then(|| content.answer(seen).stall(1000))
    })
    .await;
    let host = Host::new();
    assert_whole(&host.pull(&server.image()).await.unwrap(), &made);
    assert_eq!(server.blobs()[2].from(), Some(1000));

    let silent = Server::new(Content::of(&made), |seen, content| {
        Some(content.answer(seen).stall(0))
    })
    .await;
    let error = Host::new().pull(&silent.image()).await.unwrap_err();
    assert!(
        error.message().contains("sent nothing") || error.message().contains("sending"),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_registry_without_ranges_sends_everything_again() {
    let (made, layer) = single();
    let server = Server::new(Content::of(&made), move |seen, content| {
        let mut deaf = seen.clone();
        deaf.headers.remove("range");
        let reply = content.answer(&deaf);
        seen.path.ends_with(&layer).then(|| match seen.before {
            0 => reply.cut(200_000),
            _ => reply,
        })
    })
    .await;
    let host = Host::new();
    assert_whole(&host.pull(&server.image()).await.unwrap(), &made);
    assert_eq!(server.blobs()[2].from(), Some(200_000));
}

#[tokio::test]
async fn odd_answers_to_ranges_lead_to_the_whole_blob_or_an_error() {
    // 416, another range than asked for, and a part that nobody asked for.
    for odd in 0..3 {
        let (made, layer) = single();
        let server = Server::new(Content::of(&made), move |seen, content| {
            let ranged = seen.from().is_some();
            let reply = content.answer(seen);
            match (seen.path.ends_with(&layer), odd, ranged) {
                (false, ..) => None,
                (true, 2, false) => Some(Reply::new(206, "part")),
                (true, _, false) if seen.before == 0 => Some(reply.cut(1000)),
                (true, 0, true) => Some(Reply::new(416, "")),
                (true, 1, true) => {
                    Some(Reply::new(206, "x").header("Content-Range", "bytes 7-7/9"))
                }
                _ => None,
            }
        })
        .await;
        let host = Host::new();
        let pulled = host.pull(&server.image()).await;
        if odd == 2 {
            assert!(pulled.unwrap_err().message().contains("sends a part"));
        } else {
            assert_whole(&pulled.unwrap(), &made);
        }
    }
}

#[tokio::test]
async fn documents_are_bounded_and_verified() {
    let (made, _) = single();
    let endless = Server::new(Content::of(&made), |seen, _| {
        let manifest = seen.path.contains("/manifests/");
        manifest.then(|| Reply::new(200, vec![b' '; 5 << 20]).announce(None))
    })
    .await;
    let error = Host::new().pull(&endless.image()).await.unwrap_err();
    assert!(
        error.message().contains("more than 4194304 bytes"),
        "{error:?}"
    );

    let pinned = format!("{}/test/image@{}", endless.address, digest(b"another"));
    let honest = Server::new(Content::of(&made), {
        let manifest = made.manifest.clone();
        move |seen, _| {
            let manifest = manifest.clone();
            seen.path
                .contains("/manifests/")
                .then(|| Reply::new(200, manifest))
        }
    })
    .await;
    let pinned = pinned.replace(&endless.address, &honest.address);
    let error = Host::new().pull(&pinned).await.unwrap_err();
    assert!(
        error.message().contains("sent a manifest that is"),
        "{error:?}"
    );

    let lying = Server::new(Content::of(&made), |seen, content| {
        let manifest = seen.path.contains("/manifests/");
        manifest.then(|| {
            content
                .answer(seen)
                .header("Docker-Content-Digest", digest(b"another").to_string())
        })
    })
    .await;
    let error = Host::new().pull(&lying.image()).await.unwrap_err();
    assert!(
        error.message().contains("sent a manifest that is"),
        "{error:?}"
    );
}

#[tokio::test]
async fn indexes_lead_to_the_platform_and_not_in_circles() {
    let amd64 = Made::of_size(10, 1);
    let arm64 = Made::for_architecture(vec![], "arm64");
    let entry = |made: &Made, architecture: &str| {
        let mut entry = descriptor(MANIFEST, &made.manifest);
        entry["platform"] = json!({"os": "linux", "architecture": architecture});
        entry
    };
    let index = json!({"schemaVersion": 2, "mediaType": INDEX,
        "manifests": [entry(&arm64, "arm64"), entry(&amd64, "amd64")]});
    let nested = |inner: &serde_json::Value| {
        json!({"schemaVersion": 2, "mediaType": INDEX,
            "manifests": [descriptor(INDEX, inner.to_string().as_bytes())]})
    };
    let outer = nested(&index);
    let mut content = Content::of(&amd64);
    content.add(&arm64);
    content.tag("index", INDEX, index.to_string().as_bytes());
    content.tag("nested", INDEX, outer.to_string().as_bytes());
    let mut deep = outer.clone();
    for _ in 0..3 {
        deep = nested(&deep);
        content.tag("deep", INDEX, deep.to_string().as_bytes());
    }
    content.tag(
        "lying",
        INDEX,
        json!({"schemaVersion": 2, "manifests": [entry(&arm64, "amd64")]})
            .to_string()
            .as_bytes(),
    );
    let mut small = entry(&amd64, "amd64");
    small["size"] = json!(5);
    content.tag(
        "small",
        INDEX,
        json!({"schemaVersion": 2, "manifests": [small]})
            .to_string()
            .as_bytes(),
    );
    content.tag("arm", MANIFEST, &arm64.manifest);
    let server = Server::honest(content).await;
    let host = Host::new();
    let name = |tag: &str| format!("{}/test/image:{tag}", server.address);
    for tag in ["index", "nested"] {
        let image = host.pull(&name(tag)).await.unwrap();
        assert_eq!(image.manifest_digest, digest(&amd64.manifest));
    }
    for (tag, text) in [
        ("deep", "indexes within each other"),
        ("lying", "is for linux/arm64, not for linux/amd64"),
        ("arm", "is for linux/arm64, not for linux/amd64"),
        ("small", "wrong size"),
    ] {
        let error = host.pull(&name(tag)).await.unwrap_err();
        assert!(error.message().contains(text), "{tag}: {error:?}");
    }
    let missing = host.pull(&name("gone")).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
    assert!(missing.chain().contains("MANIFEST_UNKNOWN"));
}

#[tokio::test]
async fn a_registry_that_is_busy_is_asked_again_when_it_says() {
    let (made, _) = single();
    let server = Server::new(Content::of(&made), |seen, _| {
        let busy = seen.path.contains("/manifests/") && seen.before < 2;
        busy.then(|| match seen.before {
            0 => Reply::new(429, "").header("Retry-After", "1"),
            _ => Reply::new(503, ""),
        })
    })
    .await;
    let begun = Instant::now();
    assert_whole(&Host::new().pull(&server.image()).await.unwrap(), &made);
    assert!(begun.elapsed() >= Duration::from_secs(1));

    let limited = Server::new(Content::of(&made), |seen, _| {
        let busy = seen.is_blob();
        busy.then(|| Reply::new(429, "").header("Retry-After", "3600"))
    })
    .await;
    let error = Host::new().pull(&limited.image()).await.unwrap_err();
    assert!(error.message().contains("too many requests"), "{error:?}");
    assert_eq!(limited.blobs().len(), 1, "asking earlier is no use");
}

#[tokio::test]
async fn nobody_there_is_said_as_such() {
    let closed = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let error = Host::new().pull(&format!("{closed}/x")).await.unwrap_err();
    assert_eq!(error.code(), Code::FetchFailed);
    assert!(
        error.message().contains("nothing accepts connections"),
        "{error:?}"
    );
    let error = Host::new().pull("registry.invalid/x").await.unwrap_err();
    assert!(error.message().contains("cannot be resolved"), "{error:?}");
}

#[tokio::test]
async fn images_that_are_too_large_are_refused_before_a_layer_comes() {
    let (made, _) = single();
    let server = Server::honest(Content::of(&made)).await;
    let limited = Options {
        max_size: ByteSize::bytes(500_000),
        ..options()
    };
    let error = Host::new()
        .pull_with(&server.image(), limited)
        .await
        .unwrap_err();
    assert!(error.message().contains("at most"), "{error:?}");
    assert!(server.blobs().is_empty());

    let mut manifest: serde_json::Value = serde_json::from_slice(&made.manifest).unwrap();
    manifest["layers"][0]["size"] = json!(1u64 << 60);
    let mut content = Content::of(&made);
    content.tag("huge", MANIFEST, manifest.to_string().as_bytes());
    let server = Server::honest(content).await;
    let endless = Options {
        max_size: ByteSize::bytes(u64::MAX),
        ..options()
    };
    let name = format!("{}/test/image:huge", server.address);
    let error = Host::new().pull_with(&name, endless).await.unwrap_err();
    assert_eq!(error.code(), Code::NoSpace, "{error:?}");
    assert_eq!(server.blobs().len(), 1, "the config only");
}

#[tokio::test]
async fn other_machines_are_spoken_to_without_tls_only_when_they_are_named() {
    let (made, _) = single();
    let server = Server::honest(Content::of(&made)).await;
    // An address that leads here and does not say so.
    let name = server.image().replace("127.0.0.1", "0.0.0.0");
    let host = Host::new();
    let error = host.pull(&name).await.unwrap_err();
    assert_eq!(error.code(), Code::FetchFailed, "{error:?}");
    assert!(server.seen().is_empty(), "{:?}", server.seen());
    let named = Options {
        insecure: vec![
            server
                .address
                .replace("127.0.0.1", "0.0.0.0")
                .parse()
                .unwrap(),
        ],
        ..options()
    };
    assert_whole(&host.pull_with(&name, named).await.unwrap(), &made);
}
