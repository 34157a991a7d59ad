//! Debian's `docker-registry`, filled by `skopeo`: with and without TLS and passwords.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use banger_oci::{CredentialFiles, Options, Transfer, Wanted, load};
use serde_json::json;
use tokio::sync::watch;

use crate::images::{Layer, Made, digest, tar, unpack};
use crate::{Host, assert_whole, options};

/// `htpasswd -nbB user secret`
const HTPASSWD: &str = "user:$2y$05$IBLAooLbhK5I5U8m0mCd0.TrrlhtdlD8nl.diYBs/2r04f50vmTxW";

/// A registry of Debian's; it ends with this value.
pub(crate) struct DockerRegistry {
    child: Child,
    pub(crate) address: String,
    dir: PathBuf,
    scheme: &'static str,
}

impl DockerRegistry {
    pub(crate) fn start(dir: &Path, tls: bool, password: bool) -> Self {
        let mut config = json!({
            "version": "0.1",
            "log": {"level": "info", "formatter": "text"},
            "storage": {"filesystem": {"rootdirectory": dir.join("storage")}},
            "http": {"addr": "127.0.0.1:0"},
        });
        if tls {
            make_certificates(dir);
            config["http"]["tls"] = json!({
                "certificate": dir.join("server.crt"), "key": dir.join("server.key"),
            });
        }
        if password {
            std::fs::write(dir.join("htpasswd"), HTPASSWD).unwrap();
            config["auth"] = json!({"htpasswd": {"realm": "test", "path": dir.join("htpasswd")}});
        }
        let path = dir.join("registry.yml");
        std::fs::write(&path, config.to_string()).unwrap();
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker-registry is installed by scripts/install-deps");
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        let address = loop {
            let mut line = String::new();
            assert!(log.read_line(&mut line).unwrap() > 0, "it ended: {said}");
            said.push_str(&line);
            if let Some((_, rest)) = line.split_once("listening on ") {
                let end = rest.find([',', '"', ' ']).unwrap_or(rest.len());
                break rest[..end].trim().to_owned();
            }
        };
        // It must not block on a full pipe.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        DockerRegistry {
            child,
            address,
            dir: dir.to_owned(),
            scheme: if tls { "https" } else { "http" },
        }
    }

    /// Has `skopeo` push `made` as `name`.
    pub(crate) fn push(&self, made: &Made, name: &str, format: &str) {
        let layout = self.dir.join(format!("layout-{format}"));
        unpack(&made.layout(&["x"]), &layout);
        let output = Command::new("skopeo")
            .args(["--insecure-policy", "copy", "--quiet"])
            .args(match format {
                // Otherwise it would compress layers anew.
                "oci" => vec!["--preserve-digests"],
                other => vec!["--format", other],
            })
            .arg("--dest-creds=user:secret")
            .arg(format!("--dest-tls-verify={}", self.scheme == "https"))
            .arg(format!(
                "--dest-cert-dir={}",
                self.dir.join("certs").display()
            ))
            .arg(format!("oci:{}:x", layout.display()))
            .arg(format!("docker://{}/{name}", self.address))
            .output()
            .expect("skopeo is installed by scripts/install-deps");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// An authority of our own and a certificate by it for 127.0.0.1 and `registry.invalid`.
fn make_certificates(dir: &Path) {
    let script = "
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
            -subj /CN=test-authority -keyout ca.key -out ca.crt
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
            -subj /CN=test -keyout server.key -out server.csr
        echo subjectAltName=IP:127.0.0.1,DNS:registry.invalid >extensions
        openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 \
            -extfile extensions -out server.crt
        mkdir certs
        cp ca.crt certs/";
    let output = Command::new("sh")
        .args(["-e", "-c", script])
        .current_dir(dir)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

#[tokio::test]
async fn a_plain_registry_on_this_machine_needs_no_option() {
    let host = Host::new();
    let registry = DockerRegistry::start(host.path(), false, false);
    let made = Made::of_size(200_000, 1);
    registry.push(&made, "a/b/image:oci", "oci");
    let image = host
        .pull(&format!("{}/a/b/image:oci", registry.address))
        .await
        .unwrap();
    assert_whole(&image, &made);
    let pinned = format!("{}/a/b/image@{}", registry.address, image.manifest_digest);
    assert_whole(&host.pull(&pinned).await.unwrap(), &made);
    let error = host
        .pull(&format!("{}/a/b/image:no", registry.address))
        .await
        .unwrap_err();
    assert_eq!(error.code(), banger_model::Code::NotFound);
    let error = host
        .pull(&format!("{}/no:1", registry.address))
        .await
        .unwrap_err();
    assert_eq!(error.code(), banger_model::Code::NotFound);
}

#[tokio::test]
async fn docker_manifests_are_read_too() {
    let host = Host::new();
    let registry = DockerRegistry::start(host.path(), false, false);
    // Docker's format has no zstd: skopeo would compress anew.
    let layer = Layer::gzip(tar(&[("f", b"content")]));
    let made = Made::new(vec![layer]);
    registry.push(&made, "image:docker", "v2s2");
    let image = host
        .pull(&format!("{}/image:docker", registry.address))
        .await
        .unwrap();
    assert_whole(&image, &made);
    assert!(
        image.layers[0]
            .media_type
            .starts_with("application/vnd.docker.")
    );
}

#[tokio::test]
async fn tls_and_passwords_are_verified() {
    let host = Host::new();
    let registry = DockerRegistry::start(host.path(), true, true);
    let made = Made::of_size(200_000, 1);
    registry.push(&made, "private/image:1", "oci");
    let name = format!("{}/private/image:1", registry.address);

    let error = host.pull(&name).await.unwrap_err();
    assert!(error.message().contains("does not trust"), "{error:?}");
    assert!(
        error
            .hint_text()
            .unwrap()
            .contains("update-ca-certificates")
    );

    let trusting = Options {
        authorities: vec![host.path().join("ca.crt")],
        ..options()
    };
    let error = host.pull_with(&name, trusting.clone()).await.unwrap_err();
    assert!(error.message().contains("none is known"), "{error:?}");

    let config = host.path().join("auth.json");
    let with_password = |password: &str| {
        let auths =
            json!({"auths": {&registry.address: {"username": "user", "password": password}}});
        std::fs::write(&config, auths.to_string()).unwrap();
        Options {
            credentials: CredentialFiles {
                files: vec![config.clone()],
                helper_path: Default::default(),
            },
            ..trusting.clone()
        }
    };
    let error = host
        .pull_with(&name, with_password("wrong"))
        .await
        .unwrap_err();
    assert!(error.message().contains("does not accept"), "{error:?}");
    let image = host
        .pull_with(&name, with_password("secret"))
        .await
        .unwrap();
    assert_whole(&image, &made);

    // A certificate for an address is none for a name.
    let other = name.replace("127.0.0.1", "localhost");
    let error = host.pull_with(&other, trusting).await.unwrap_err();
    assert!(error.message().contains("is for another name"), "{error:?}");
}

#[tokio::test]
async fn archives_that_skopeo_writes_are_read() {
    let host = Host::new();
    let layer = |text: &[u8]| Layer::gzip(tar(&[("f", text)]));
    // One content twice: such archives have links.
    let made = Made::new(vec![layer(b"one"), layer(b"two"), layer(b"one")]);
    let layout = host.path().join("layout");
    unpack(&made.layout(&["x"]), &layout);
    for kind in ["docker-archive", "oci-archive"] {
        let file = host.path().join(kind);
        let output = Command::new("skopeo")
            .args(["--insecure-policy", "copy", "--quiet"])
            .arg(format!("oci:{}:x", layout.display()))
            .arg(format!("{kind}:{}:example.com/app:1", file.display()))
            .output()
            .expect("skopeo is installed by scripts/install-deps");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        let progress = watch::Sender::new(Transfer::default());
        let wanted = Wanted {
            name: Some("example.com/app:1".to_owned()),
            ..Wanted::default()
        };
        let source = std::fs::File::open(&file).unwrap();
        let image = load(&host.cache, source, None, &wanted, &progress)
            .await
            .unwrap();
        assert_eq!(image.layers.len(), 3);
        for (layer, expected) in image.layers.iter().zip(&made.layers) {
            assert_eq!(layer.diff_id, digest(&expected.tar), "{kind}");
        }
    }
}
