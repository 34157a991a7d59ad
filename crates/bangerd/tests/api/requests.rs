//! Requests that make no sense, and what they change: nothing.

use banger_api::{CreateVm, DeleteOptions, ErrorResponse};
use banger_model::{ByteSize, Code};

use crate::ground::{Ground, IMAGE, done, make};

#[tokio::test]
async fn bad_requests_are_refused_before_anything_changes() {
    let ground = Ground::with_image();
    let daemon = ground.start();
    let good = make("box");
    let cases = [
        CreateVm {
            name: Some("Box".into()),
            ..good.clone()
        },
        CreateVm {
            name: Some("a/../b".into()),
            ..good.clone()
        },
        CreateVm {
            name: Some(String::new()),
            ..good.clone()
        },
        CreateVm {
            name: Some("a".repeat(64)),
            ..good.clone()
        },
        CreateVm {
            image: Some("../etc".into()),
            ..good.clone()
        },
        CreateVm {
            kernel: Some("-".into()),
            ..good.clone()
        },
        CreateVm {
            vcpus: Some(0),
            ..good.clone()
        },
        CreateVm {
            vcpus: Some(65),
            ..good.clone()
        },
        CreateVm {
            memory: Some(ByteSize::mib(1)),
            ..good.clone()
        },
        CreateVm {
            memory: Some(ByteSize::bytes(u64::MAX)),
            ..good.clone()
        },
        CreateVm {
            disk_size: Some(ByteSize::bytes(0)),
            ..good.clone()
        },
        CreateVm {
            disk_size: Some(ByteSize::bytes(u64::MAX)),
            ..good.clone()
        },
    ];
    for case in cases {
        let error = daemon.client.create_vm(&case).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{case:?}: {error}");
        assert!(error.hint_text().is_some(), "{case:?}: {error}");
    }
    assert!(daemon.client.vms().await.unwrap().is_empty());
    assert!(ground.entries("vms").is_empty());
}

#[tokio::test]
async fn unknown_images_and_kernels_name_the_known_ones() {
    let ground = Ground::with_image();
    let daemon = ground.start();
    // Any other name is a reference; nobody listens there.
    let unknown = CreateVm {
        image: Some("127.0.0.1:1/none".into()),
        ..make("box")
    };
    let error = done(&daemon.client, daemon.client.create_vm(&unknown).await)
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::FetchFailed);
    assert!(error.message().contains("127.0.0.1:1/none"), "{error}");
    let op = error.op_id().expect("an operation").to_owned();
    assert!(ground.log().contains(&op), "the log explains {op}");
    let unknown = CreateVm {
        kernel: Some("no-such".into()),
        ..make("box")
    };
    let error = daemon.client.create_vm(&unknown).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    let hint = error.hint_text().unwrap();
    assert!(
        hint.contains("`debian-bookworm`") && hint.contains(IMAGE),
        "{hint}"
    );
    let pull = daemon.client.pull_kernel("no-such").await.unwrap();
    let error = daemon.client.wait(&pull.id, |_| {}).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    assert_eq!(error.op_id(), Some(pull.id.as_str()));
    assert!(daemon.client.vms().await.unwrap().is_empty());
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let ground = Ground::new();
    let client = &ground.start().client;
    for error in [
        client.vm("nothing").await.unwrap_err(),
        client.vm("../images").await.unwrap_err(),
        client.vm("%2F\n\u{1b}").await.unwrap_err(),
        client.start_vm("nothing").await.unwrap_err(),
        client.stop_vm("nothing").await.unwrap_err(),
        client
            .delete_vm("nothing", DeleteOptions::default())
            .await
            .unwrap_err(),
        client.lease("nothing").await.unwrap_err(),
        client.operation("nothing").await.unwrap_err(),
        client.cancel("nothing").await.unwrap_err(),
        client.events("nothing").await.unwrap_err(),
    ] {
        assert_eq!(error.code(), Code::NotFound, "{error}");
        assert!(!error.message().contains(char::is_control), "{error:?}");
    }
    assert_eq!(
        client.daemon_version().as_deref(),
        Some(env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn every_answer_that_is_no_success_is_an_error_response() {
    let ground = Ground::new();
    let _daemon = ground.start();
    let post = |body: &str| {
        format!(
            "POST /v1/vms HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let bare = |line: &str| format!("{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let large = "x".repeat((1 << 20) + 1);
    for (request, status, code) in [
        (post("{"), 400, Code::InvalidArgument),
        (post("[]"), 400, Code::InvalidArgument),
        (post("{\"title\": \"x\"}"), 400, Code::InvalidArgument),
        (post("{\"vcpus\": -1}"), 400, Code::InvalidArgument),
        (post("{\"vmm\": \"xen\"}"), 400, Code::InvalidArgument),
        (post("\u{0}"), 400, Code::InvalidArgument),
        (post(&large), 400, Code::InvalidArgument),
        (bare("GET /"), 404, Code::NotFound),
        (bare("GET /v2/vms"), 404, Code::NotFound),
        (bare("GET /v1/vms/"), 404, Code::NotFound),
        (bare("PUT /v1/vms"), 405, Code::InvalidArgument),
        (bare("GET /v1/vms/%ff"), 404, Code::NotFound),
    ] {
        let line = request.lines().next().unwrap().to_owned();
        let answer = ground.raw(request.as_bytes());
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{line}: {answer}"
        );
        let body = answer.split("\r\n\r\n").nth(1).unwrap();
        let body: ErrorResponse =
            serde_json::from_str(body).unwrap_or_else(|error| panic!("{line}: {error}: {answer}"));
        assert_eq!(body.error.code, code, "{line}");
        // There is no operation yet, and its lines are found all the same.
        let id = body.error.op_id.unwrap();
        let found = ground
            .log()
            .lines()
            .any(|line| line.contains(&id) && line.contains(code.as_str()));
        assert!(found, "{line}: {id}");
    }
}
