//! Registries that mislead: manifests, indexes, addresses.

use banger_model::{ByteSize, Code};
use banger_oci::Options;
use serde_json::json;

use crate::hostile::single;
use crate::images::{INDEX, MANIFEST, Made, descriptor, digest};
use crate::server::{Content, Reply, Server};
use crate::{Host, assert_whole, options};

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
