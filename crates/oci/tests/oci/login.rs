//! Challenges, tokens, passwords, and where they must not go.

use banger_model::Code;
use banger_oci::{CredentialFiles, Options};
use serde_json::json;

use crate::images::Made;
use crate::server::{Content, Reply, Seen, Server};
use crate::{Host, assert_whole, options};

/// `user:secret` in base64.
const BASIC: &str = "dXNlcjpzZWNyZXQ=";

/// Options with this docker config.
fn with_config(host: &Host, config: &serde_json::Value) -> Options {
    let path = host.path().join("config.json");
    std::fs::write(&path, config.to_string()).unwrap();
    Options {
        credentials: CredentialFiles {
            files: vec![path],
            helper_path: Default::default(),
        },
        ..options()
    }
}

fn known(host: &Host, server: &Server) -> Options {
    with_config(host, &json!({"auths": {&server.address: {"auth": BASIC}}}))
}

/// Answers 401 with `challenge` unless the right header comes.
fn guard(seen: &Seen, right: &str, challenge: &str) -> Option<Reply> {
    (seen.header("authorization") != Some(right))
        .then(|| Reply::new(401, "").header("WWW-Authenticate", challenge))
}

fn made() -> Made {
    Made::of_size(1000, 1)
}

#[tokio::test]
async fn a_password_is_shown_to_the_registry_only() {
    let elsewhere = Server::honest(Content::of(&made())).await;
    let address = elsewhere.address.clone();
    let server = Server::new(Content::of(&made()), move |seen, _| {
        guard(seen, &format!("Basic {BASIC}"), "Basic realm=\"x\"").or_else(|| {
            let to = format!("http://{address}{}", seen.path);
            (seen.is_blob()).then(|| Reply::new(307, "").header("Location", to))
        })
    })
    .await;
    let host = Host::new();
    let image = host.pull_with(&server.image(), known(&host, &server)).await;
    assert_whole(&image.unwrap(), &made());
    let redirected = elsewhere.seen();
    assert_eq!(redirected.len(), 4);
    for seen in redirected {
        assert_eq!(seen.header("authorization"), None, "{seen:?}");
        assert_eq!(seen.header("cookie"), None);
    }

    let error = Host::new().pull(&server.image()).await.unwrap_err();
    assert!(error.message().contains("none is known"), "{error:?}");
    assert!(error.hint_text().unwrap().contains("docker login"));
    let wrong = json!({"auths": {&server.address: {"username": "u", "password": "hunter2"}}});
    let error = host
        .pull_with(&server.image(), with_config(&host, &wrong))
        .await
        .unwrap_err();
    assert!(
        error.message().contains("does not accept the credentials"),
        "{error:?}"
    );
    assert!(error.message().contains("config.json"));
    assert!(!error.chain().contains("hunter2"));
}

#[tokio::test]
async fn redirects_end() {
    let server = Server::new(Content::of(&made()), |seen, _| {
        let to = format!("{}x", seen.path);
        seen.path
            .contains("/manifests/")
            .then(|| Reply::new(302, "").header("Location", to))
    })
    .await;
    let error = Host::new().pull(&server.image()).await.unwrap_err();
    assert!(error.message().contains("redirects more than"), "{error:?}");
}

/// A registry with a token server of its own at `/token`, which answers with `token`.
async fn with_tokens(token: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Server {
    Server::new(Content::of(&made()), move |seen, _| {
        if seen.path.starts_with("/token") {
            return Some(token(seen));
        }
        let realm = format!("http://{}/token?x=1", seen.header("host").unwrap());
        let challenge = format!(
            "Bearer realm=\"{realm}\",service=\"the registry\",scope=\"repository:test/image:pull\""
        );
        guard(seen, "Bearer t0ken", &challenge)
    })
    .await
}

#[tokio::test]
async fn one_anonymous_token_serves_the_whole_pull() {
    let server = with_tokens(|_| Reply::new(200, "{\"token\":\"t0ken\",\"expires_in\":60}")).await;
    assert_whole(&Host::new().pull(&server.image()).await.unwrap(), &made());
    let seen = server.seen();
    let asked: Vec<_> = seen
        .iter()
        .filter(|seen| seen.path.starts_with("/token"))
        .collect();
    assert_eq!(asked.len(), 1);
    assert_eq!(
        asked[0].path,
        "/token?x=1&scope=repository%3Atest%2Fimage%3Apull&service=the%20registry"
    );
    assert_eq!(asked[0].header("authorization"), None);
}

#[tokio::test]
async fn passwords_and_identity_tokens_are_exchanged() {
    let server = with_tokens(|seen| match seen.header("authorization") {
        Some(header) if header == format!("Basic {BASIC}") => {
            Reply::new(200, "{\"access_token\":\"t0ken\"}")
        }
        _ => Reply::new(401, ""),
    })
    .await;
    let host = Host::new();
    let image = host.pull_with(&server.image(), known(&host, &server)).await;
    assert_whole(&image.unwrap(), &made());
    let error = Host::new().pull(&server.image()).await.unwrap_err();
    assert!(
        error.message().contains("no credentials are known"),
        "{error:?}"
    );
    let wrong = json!({"auths": {&server.address: {"username": "u", "password": "hunter2"}}});
    let error = host
        .pull_with(&server.image(), with_config(&host, &wrong))
        .await
        .unwrap_err();
    assert!(error.message().contains("does not accept"), "{error:?}");

    let server = with_tokens(|seen| {
        let right = seen.method == "POST"
            && seen
                .body
                .contains("grant_type=refresh_token&refresh_token=id%20token&client_id=");
        Reply::new(
            if right { 200 } else { 400 },
            "{\"access_token\":\"t0ken\"}",
        )
    })
    .await;
    let identity = json!({"auths": {&server.address: {"identitytoken": "id token"}}});
    let host = Host::new();
    let image = host
        .pull_with(&server.image(), with_config(&host, &identity))
        .await;
    assert_whole(&image.unwrap(), &made());
}

#[tokio::test]
async fn a_token_that_runs_out_is_renewed_once() {
    let server = Server::new(Content::of(&made()), |seen, _| {
        if seen.path.starts_with("/token") {
            return Some(Reply::new(
                200,
                format!("{{\"token\":\"t{}\"}}", seen.before),
            ));
        }
        let realm = format!("http://{}/token", seen.header("host").unwrap());
        // The first token is good for the manifest only.
        let right = if seen.is_blob() {
            "Bearer t1"
        } else {
            "Bearer t0"
        };
        guard(seen, right, &format!("Bearer realm=\"{realm}\""))
    })
    .await;
    // The token server counts requests for one path.
    assert_whole(&Host::new().pull(&server.image()).await.unwrap(), &made());
    let asked = server.seen();
    let asked = asked.iter().filter(|seen| seen.path.starts_with("/token"));
    assert_eq!(asked.count(), 2);
}

#[tokio::test]
async fn a_bad_challenge_is_an_error_that_says_so() {
    let cases = [
        ("", "names no way to log in"),
        ("Negotiate", "login by `negotiate`"),
        ("Digest realm=\"x\", nonce=\"y\"", "login by `digest`"),
        ("Bearer", "does not say where its tokens come from"),
        (
            "Bearer realm=\"\"",
            "does not say where its tokens come from",
        ),
        ("Bearer realm=\"not an address\"", "no address"),
        ("Bearer realm=\"ftp://x/\"", "no address"),
        ("Bearer realm=\"http://user@127.0.0.1/\"", "no address"),
        ("Bearer realm=\"/token\"", "no address"),
        ("Bearer realm=\"http://tokens.example/\"", "in the clear"),
    ];
    for (challenge, text) in cases {
        let server = Server::new(Content::of(&made()), move |_, _| {
            Some(Reply::new(401, "").header("WWW-Authenticate", challenge))
        })
        .await;
        let host = Host::new();
        let known = known(&host, &server);
        let error = host.pull_with(&server.image(), known).await.unwrap_err();
        assert_eq!(error.code(), Code::FetchFailed);
        assert!(error.message().contains(text), "{challenge}: {error:?}");
    }
    for (answer, text) in [
        (Reply::new(200, "<html>"), "something that is no token"),
        (Reply::new(200, "{}"), "without a token"),
        (Reply::new(200, "{\"token\":\"a\\nb\"}"), "cannot be sent"),
        (
            Reply::new(200, vec![b' '; 2 << 20]),
            "more than 1048576 bytes",
        ),
        (Reply::new(404, ""), "does not have a token"),
    ] {
        let server = with_tokens(move |_| answer.clone()).await;
        let error = Host::new().pull(&server.image()).await.unwrap_err();
        assert!(error.message().contains(text), "{text}: {error:?}");
    }
}

#[tokio::test]
async fn a_registry_that_is_never_content_is_left() {
    let server = Server::new(Content::of(&made()), |seen, _| {
        if seen.path.starts_with("/token") {
            return Some(Reply::new(200, "{\"token\":\"x\"}"));
        }
        let realm = format!("http://{}/token", seen.header("host").unwrap());
        Some(Reply::new(401, "").header("WWW-Authenticate", format!("Bearer realm=\"{realm}\"")))
    })
    .await;
    let error = Host::new().pull(&server.image()).await.unwrap_err();
    assert!(error.message().contains("does not give away"), "{error:?}");
    assert!(server.seen().len() < 6);
    let forbidden = Server::new(Content::of(&made()), |_, _| Some(Reply::new(403, ""))).await;
    let error = Host::new().pull(&forbidden.image()).await.unwrap_err();
    assert!(error.message().contains("does not give away"), "{error:?}");
}
