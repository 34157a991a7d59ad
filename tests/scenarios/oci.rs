//! Images from a registry, from archives and of one's own, and what becomes of them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use banger_tests::registry::{Registry, archive, layout, script, small_root};
use banger_tests::{Running, World};
use serde_json::{Value, json};

use banger_tests::scenario::{Need, Scenario, pure};
use banger_tests::seconds;

/// What makes and serves the images.
const OCI: &[Need] = &[
    Need::Program("docker-registry"),
    Need::Program("skopeo"),
    Need::Program("busybox"),
];

mod bundle;

pub(crate) const SCENARIOS: &[Scenario] = &[
    pure(
        "oci-image",
        "an image from a registry runs as docker would run it",
        runs_like_docker,
    )
    .needs(OCI),
    pure(
        "oci-pulls-download-once",
        "pulls at once download each layer once",
        download_once,
    )
    .needs(OCI),
    pure(
        "oci-pull-ends-at-any-step",
        "a pull that ends at any step leaves a whole image or none",
        pull_ends_at_any_step,
    )
    .needs(OCI),
    pure(
        "oci-load-from-stdin",
        "an archive of an image is loaded from a pipe",
        load_from_stdin,
    )
    .needs(OCI),
    pure(
        "oci-register-delete-prune",
        "images of one's own come, go and are pruned",
        register_delete_prune,
    )
    .needs(OCI),
    pure(
        "image-promote",
        "a VM becomes an image that others start from",
        promote,
    )
    .needs(OCI),
    pure(
        "oci-bundle",
        "an image of a catalog comes in an archive with its digest",
        bundle::pull,
    )
    .needs(OCI),
];

/// An image with everything in its config, made in the world's directory.
fn image(w: &World, config: Value) -> (PathBuf, String) {
    let root = small_root(w.root());
    script(
        &root,
        "bin/entry",
        "echo \"$A $B $(id -u) $(pwd) $*\"; exit 7",
    );
    layout(w.root(), &root, config, "made")
}

fn config() -> Value {
    json!({
        "Env": ["A=image", "B=image", "PATH=/bin"], "User": "app", "WorkingDir": "/srv",
        "Entrypoint": ["/bin/entry"], "Cmd": ["default", "a b"],
    })
}

fn images(w: &World) -> Vec<String> {
    let list = w.banger(["image", "list", "--output", "json"]).ok().json();
    let list = list.as_array().expect("a list");
    let names = list
        .iter()
        .map(|image| image["name"].as_str().expect("a name"));
    names.map(str::to_owned).collect()
}

/// Everything under the images' staging directory, which is empty when nobody works.
fn staged(w: &World) -> usize {
    fs::read_dir(w.state().join("images/staging"))
        .expect("list")
        .count()
}

fn runs_like_docker(w: &World) {
    let (layout, _) = image(w, config());
    let registry = Registry::start(w.root());
    let name = registry.push(&layout, "made", "team/app:1");

    // What is missing is pulled; entry point, command, environment, user and directory are the
    // image's.
    let run = w
        .banger(["vm", "run", "--rm", "--image", &name])
        .expect_code(7);
    assert_eq!(run.out(), "image image 1000 /srv default a b\n");
    let args = [
        "--rm",
        "--image",
        &name,
        "--env",
        "B=mine",
        "--workdir",
        "/tmp",
        "--user",
        "root",
    ];
    let run = w
        .banger(
            ["vm", "run"]
                .into_iter()
                .chain(args)
                .chain(["--", "x", "y z"]),
        )
        .expect_code(7);
    assert_eq!(run.out(), "image mine 0 /tmp x y z\n");

    let shown = w
        .banger(["image", "show", &name, "--output", "json"])
        .ok()
        .json();
    assert_eq!(shown["name"], name.as_str());
    assert_eq!(shown["reference"], name.as_str());
    assert_eq!(shown["config"]["user"], "app");
    assert_eq!(shown["platform"], "linux/amd64");

    // `exec` has all of it but the entry point.
    w.banger(["vm", "create", "--name", "box", "--image", &name])
        .ok();
    let exec = w.banger([
        "vm",
        "exec",
        "box",
        "--",
        "sh",
        "-c",
        "echo $A $(id -u) $(pwd)",
    ]);
    assert_eq!(exec.ok().out(), "image 1000 /srv\n");

    // An image that is used stays, and says by whom; by force it loses only its name.
    let refused = w.banger(["image", "delete", &name]).expect_code(1);
    assert!(refused.err().contains("`box`"), "{}", refused.err());
    w.banger(["image", "delete", "--force", &name]).ok();
    assert!(!images(w).contains(&name));
    w.banger(["vm", "restart", "box"]).ok();
    w.banger(["vm", "exec", "box", "--", "true"]).ok();
    let objects = || {
        fs::read_dir(w.state().join("images/objects"))
            .expect("list")
            .count()
    };
    let before = objects();
    w.banger(["vm", "delete", "box"]).ok();
    banger_tests::eventually(seconds(5), "the image goes with its last machine", || {
        objects() == before - 1
    });
}

fn download_once(w: &World) {
    let (layout, layer) = image(w, config());
    let registry = Registry::start(w.root());
    let names: Vec<_> = ["a:1", "a:2", "b:1"]
        .iter()
        .map(|name| registry.push(&layout, "made", name))
        .collect();
    let before = registry.downloads(&layer);
    w.banger(["vm", "list"]).ok();
    std::thread::scope(|scope| {
        let pulls: Vec<_> = (0..9)
            .map(|number| {
                let name = &names[number % names.len()];
                scope.spawn(move || w.banger(["image", "pull", name]))
            })
            .collect();
        for pull in pulls {
            pull.join().expect("a pull").ok();
        }
    });
    for name in &names {
        assert!(images(w).contains(name), "{name}");
    }
    assert_eq!(registry.downloads(&layer) - before, 1);
    assert_eq!(staged(w), 0);
    // Again: the registry is asked, and has nothing newer.
    w.banger(["image", "pull", &names[0]]).ok();
    assert_eq!(registry.downloads(&layer) - before, 1);

    let missing = format!("{}/no/such:1", registry.address);
    let refused = w
        .banger(["image", "pull", &missing, "--output", "json"])
        .expect_code(1);
    assert_eq!(refused.json()["error"]["code"], "not_found");
    let refused = w
        .banger(["image", "pull", &names[0], "--platform", "linux/arm64"])
        .expect_code(1);
    assert!(refused.err().contains("linux/arm64"), "{}", refused.err());
}

fn pull_ends_at_any_step(w: &World) {
    let (layout, _) = image(w, config());
    let registry = Registry::start(w.root());
    let name = registry.push(&layout, "made", "app:1");
    let before = images(w);
    let mut steps = 0;
    loop {
        w.banger(["daemon", "stop"]).ok();
        steps += 1;
        let mut pull = w.banger_command(["image", "pull", &name]);
        pull.env("BANGER_TEST_ABORT", format!("pull-image:{steps}"));
        let pulled = Running::start(pull, None).finish();
        if pulled.code() == 0 {
            break;
        }
        // The next daemon finds the whole image or none, and nothing else.
        let now = images(w);
        if now.contains(&name) {
            w.banger(["image", "show", &name]).ok();
            w.banger(["image", "delete", &name]).ok();
        }
        assert_eq!(images(w), before, "step {steps}");
        assert_eq!(staged(w), 0, "step {steps}");
    }
    assert!(steps > 5, "{steps} steps");
    let run = w
        .banger(["vm", "run", "--rm", "--image", &name])
        .expect_code(7);
    assert_eq!(run.out(), "image image 1000 /srv default a b\n");
}

fn load_from_stdin(w: &World) {
    let (layout, _) = image(w, json!({"Cmd": ["/bin/echo", "loaded"]}));
    let bytes = archive(&layout);
    let before = images(w);
    let cut = w
        .banger_with_input(["image", "load", "-"], bytes[..bytes.len() / 2].to_vec())
        .expect_code(1);
    assert!(!cut.err().is_empty());
    assert_eq!(images(w), before);
    let load = ["image", "load", "-", "--name", "own/app:2"];
    let loaded = w.banger_with_input(load, bytes.clone()).ok();
    assert_eq!(loaded.out(), "own/app:2\n");
    let run = w.banger(["vm", "run", "--rm", "--image", "own/app:2"]).ok();
    assert_eq!(run.out(), "loaded\n");

    let file = w.root().join("image.tar");
    fs::write(&file, bytes).expect("write the archive");
    let file = file.to_str().expect("text");
    w.banger(["image", "load", file, "--name", "again"]).ok();
    let missing = w.banger(["image", "load", "/no/such/file"]).expect_code(1);
    assert!(missing.err().contains("/no/such/file"), "{}", missing.err());
}

fn register_delete_prune(w: &World) {
    let root = small_root(w.root());
    let program = root.join("bin/setuid");
    fs::write(&program, "#!/bin/sh\n").expect("write");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).expect("chmod");
    let disk = w.root().join("own.ext4");
    ext4(&root, &disk);
    let config = w.root().join("config.json");
    let text = r#"{"config": {"Cmd": ["/bin/stat", "-c", "%a", "/bin/setuid"]}}"#;
    fs::write(&config, text).expect("write the config");
    let (disk, config) = (disk.to_str().expect("text"), config.to_str().expect("text"));
    let register = [
        "image", "register", "own", "--rootfs", disk, "--config", config,
    ];
    w.banger(register).ok();
    let run = w.banger(["vm", "run", "--rm", "--image", "own"]).ok();
    assert_eq!(run.out(), "4755\n");

    let taken = w.banger(register).expect_code(1);
    assert!(taken.err().contains("--force"), "{}", taken.err());
    w.banger(register.into_iter().chain(["--force"])).ok();
    fs::write(disk, "no file system").expect("write");
    let register = ["image", "register", "other", "--rootfs", disk];
    let refused = w.banger(register).expect_code(1);
    assert!(refused.err().contains("not an ext4"), "{}", refused.err());

    w.banger([
        "vm",
        "create",
        "--no-start",
        "--name",
        "box",
        "--image",
        "own",
    ])
    .ok();
    let pruned = w
        .banger(["image", "prune", "--all", "--force", "--output", "json"])
        .ok()
        .json();
    let gone: Vec<_> = pruned["images"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|image| image["name"].as_str().unwrap_or_default())
        .collect();
    assert_eq!(gone, ["debian-bookworm"]);
    assert_eq!(images(w), ["own"]);
    w.banger(["image", "prune"]).expect_code(2);
    w.banger(["vm", "delete", "box"]).ok();
    w.banger(["image", "delete", "own"]).ok();
    assert!(images(w).is_empty());
    let objects = fs::read_dir(w.state().join("images/objects")).expect("list");
    assert_eq!(objects.count(), 0);
}

fn promote(w: &World) {
    let (layout, _) = image(w, json!({"Env": ["A=kept"]}));
    let bytes = archive(&layout);
    w.banger_with_input(["image", "load", "-", "--name", "base"], bytes)
        .ok();
    let change = "echo changed > /srv/file && chown 1000:1000 /srv/file && \
                  echo x > /bin/own && chown 7:8 /bin/own && chmod 4751 /bin/own && \
                  echo box > /etc/machine-id";
    let run = ["vm", "run", "-d", "--name", "box", "--image", "base"];
    w.banger(run).ok();
    let refused = w.banger(["image", "promote", "box", "made"]).expect_code(1);
    assert!(refused.err().contains("vm stop box"), "{}", refused.err());
    w.banger(["vm", "exec", "box", "--", "sh", "-c", change])
        .ok();
    w.banger(["vm", "stop", "box"]).ok();
    w.banger(["image", "promote", "box", "made"]).ok();
    assert!(images(w).contains(&"made".to_owned()));
    assert_eq!(staged(w), 0);

    let look = "cat /srv/file; stat -c '%a %u %g' /bin/own /srv/file; echo $A; \
                tr 0-9a-f x < /etc/machine-id; cat /etc/hostname";
    let run = w.banger([
        "vm", "run", "--rm", "--image", "made", "--name", "other", "--", "sh", "-c", look,
    ]);
    let out = run.ok().out();
    // The identity of each machine is its own.
    let identity = format!("{}\nother\n", "x".repeat(32));
    assert_eq!(
        out,
        format!("changed\n4751 7 8\n644 1000 1000\nkept\n{identity}")
    );
    // The first machine is as it was.
    w.banger(["vm", "start", "box"]).ok();
    let exec = w.banger([
        "vm",
        "exec",
        "box",
        "--",
        "cat",
        "/srv/file",
        "/etc/hostname",
    ]);
    assert_eq!(exec.ok().out(), "changed\nbox\n");
    w.banger(["vm", "delete", "box"]).ok();
    assert_eq!(
        fs::read_dir(w.state().join("vms")).expect("list").count(),
        0
    );
}

fn ext4(tree: &Path, disk: &Path) {
    let made = Command::new("mke2fs")
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .args(["-q", "-t", "ext4", "-E", "root_owner=0:0", "-d"])
        .args([tree, disk])
        .arg("64M")
        .output()
        .expect("run mke2fs");
    assert!(made.status.success(), "{made:?}");
}
