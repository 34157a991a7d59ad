use std::fs;

use serde_json::{Value, json};

use super::*;

fn password(user: &str, password: &str) -> Credential {
    Credential::Password {
        user: user.to_owned(),
        password: Secret(password.to_owned()),
    }
}

fn base64(text: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// A directory with a config file and helpers, each a shell script.
struct Home(tempfile::TempDir);

impl Home {
    fn new(config: &Value) -> Self {
        let home = Home(tempfile::tempdir().unwrap());
        fs::write(home.0.path().join("config.json"), config.to_string()).unwrap();
        home
    }

    fn helper(self, name: &str, script: &str) -> Self {
        let path = self.0.path().join(format!("docker-credential-{name}"));
        banger_testing::write_program(&path, format!("#!/bin/sh\n{script}\n"));
        self
    }

    fn files(&self) -> CredentialFiles {
        CredentialFiles {
            files: vec![self.0.path().join("config.json")],
            helper_path: self.0.path().into(),
        }
    }

    async fn find(&self, registry: &str, repository: &str) -> Result<Option<Credential>> {
        let registry = registry.parse().unwrap();
        let found = self.files().find(&registry, repository).await?;
        Ok(found.map(|found| found.credential))
    }
}

#[tokio::test]
async fn every_way_to_write_a_registry_is_found() {
    let home = Home::new(&json!({"auths": {
        "https://index.docker.io/v1/": {"auth": base64("hub:p:w")},
        "ghcr.io": {"username": "u", "password": "p"},
        "https://old.example/v2/": {"auth": base64("old:p").trim_end_matches('=')},
        "localhost:5000": {"identitytoken": "it"},
        "quay.io": {"auth": base64("all:p")},
        "quay.io/team/app": {"auth": base64("app:p")},
        "empty.example": {},
    }}));
    let cases = [
        ("docker.io", "library/x", Some(password("hub", "p:w"))),
        ("ghcr.io", "a/b", Some(password("u", "p"))),
        ("old.example", "a", Some(password("old", "p"))),
        (
            "localhost:5000",
            "a",
            Some(Credential::Identity(Secret("it".to_owned()))),
        ),
        ("quay.io", "team/app", Some(password("app", "p"))),
        ("quay.io", "team/app/more", Some(password("app", "p"))),
        ("quay.io", "team/apple", Some(password("all", "p"))),
        ("empty.example", "a", None),
        ("localhost:5001", "a", None),
    ];
    for (registry, repository, expected) in cases {
        assert_eq!(
            home.find(registry, repository).await.unwrap(),
            expected,
            "{registry}"
        );
    }
}

#[tokio::test]
async fn helpers_are_asked_as_docker_asks_them() {
    let home = Home::new(&json!({
        "auths": {"both.example": {"auth": base64("file:p")}},
        "credHelpers": {"own.example": "own", "both.example": "own"}, "credsStore": "store",
    }))
    .helper(
        "own",
        "read -r server; echo \"{\\\"Username\\\":\\\"$server\\\",\\\"Secret\\\":\\\"s\\\"}\"",
    )
    .helper(
        "store",
        "read -r server; case $server in https://index.docker.io/v1/) \
        echo '{\"ServerURL\":\"x\",\"Username\":\"<token>\",\"Secret\":\"it\"}';; \
        *) echo 'credentials not found in native keychain'; exit 1;; esac",
    );
    assert_eq!(
        home.find("own.example", "a").await.unwrap(),
        Some(password("own.example", "s"))
    );
    assert_eq!(
        home.find("both.example", "a").await.unwrap(),
        Some(password("both.example", "s"))
    );
    let token = Credential::Identity(Secret("it".to_owned()));
    assert_eq!(
        home.find("docker.io", "library/a").await.unwrap(),
        Some(token)
    );
    assert_eq!(home.find("other.example", "a").await.unwrap(), None);
}

#[tokio::test]
async fn helpers_that_misbehave_are_errors_that_name_them() {
    let cases = [
        ("exit 3", Code::FetchFailed, "failed (exit status: 3)"),
        ("echo nonsense", Code::FetchFailed, "not a user name"),
        (
            "head -c 100000 /dev/zero",
            Code::FetchFailed,
            "says too much",
        ),
    ];
    for (script, code, text) in cases {
        let home = Home::new(&json!({"credsStore": "bad"})).helper("bad", script);
        let error = home.find("a.example", "a").await.unwrap_err();
        assert_eq!(error.code(), code, "{error:?}");
        assert!(error.message().contains(text), "{error:?}");
        assert!(error.message().contains("docker-credential-bad"));
    }
    let missing = Home::new(&json!({"credsStore": "gone"}));
    let error = missing.find("a.example", "a").await.unwrap_err();
    assert_eq!(error.code(), Code::MissingProgram);
    let evil = Home::new(&json!({"credsStore": "x/../../bin/sh"}));
    let error = evil.find("a.example", "a").await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidConfig);
}

#[tokio::test]
async fn broken_files_are_named_and_missing_ones_left_out() {
    let home = Home::new(&json!({"auths": {"a.example": {"auth": "!!!"}}}));
    let error = home.find("a.example", "a").await.unwrap_err();
    assert!(error.message().contains("config.json") && error.message().contains("a.example"));
    assert_eq!(home.find("b.example", "a").await.unwrap(), None);

    let path = home.0.path().join("config.json");
    fs::write(&path, "{\"auths\": {\"a\": {\"auth\": \"hunter2").unwrap();
    let error = home.find("a.example", "a").await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidConfig);
    assert!(!error.chain().contains("hunter2"), "{error:?}");
    fs::remove_file(&path).unwrap();
    assert_eq!(home.find("a.example", "a").await.unwrap(), None);
}

#[tokio::test]
async fn the_first_file_that_knows_the_registry_counts() {
    let first = Home::new(&json!({"auths": {"b.example": {"auth": base64("b:p")}}}));
    let second = Home::new(&json!({"auths": {
        "a.example": {"auth": base64("a:p")}, "b.example": {"auth": base64("other:p")},
    }}));
    let mut files = first.files();
    files.files.extend(second.files().files);
    for (registry, user) in [("a.example", "a"), ("b.example", "b")] {
        let found = files
            .find(&registry.parse().unwrap(), "x")
            .await
            .unwrap()
            .unwrap();
        assert_eq!(found.credential, password(user, "p"));
    }
}

#[test]
fn the_usual_files_are_where_docker_and_podman_keep_them() {
    let usual = CredentialFiles::usual(
        Some(Path::new("/h")),
        None,
        Some(Path::new("/auth.json")),
        Some(Path::new("/run/u")),
        OsString::new(),
    );
    let expected = [
        "/auth.json",
        "/h/.docker/config.json",
        "/run/u/containers/auth.json",
        "/h/.config/containers/auth.json",
    ];
    assert_eq!(usual.files, expected.map(PathBuf::from));
    let moved = CredentialFiles::usual(None, Some(Path::new("/d")), None, None, OsString::new());
    assert_eq!(moved.files, [PathBuf::from("/d/config.json")]);
}

#[test]
fn secrets_are_not_shown() {
    let shown = format!("{:?}", password("u", "hunter2"));
    assert!(!shown.contains("hunter2"), "{shown}");
}
