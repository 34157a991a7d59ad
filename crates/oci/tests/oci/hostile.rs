//! Registries that lie about blobs, break and stall.

use std::time::{Duration, Instant};

use banger_model::Code;

use crate::images::{Layer, Made, digest, noise, tar};
use crate::server::{Content, Reply, Server};
use crate::{Host, assert_whole};

/// One layer that is large enough to be cut.
pub(crate) fn single() -> (Made, String) {
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
    assert!(error.message().contains("what was sent"), "{error:?}");
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
