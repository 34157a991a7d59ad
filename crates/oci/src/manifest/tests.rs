use serde_json::{Value, json as value};

use super::*;

fn digest(byte: u8) -> String {
    Digest::from_sha256(&[byte; 32]).to_string()
}

fn layer(media_type: &str) -> Value {
    value!({"mediaType": media_type, "digest": digest(1), "size": 10})
}

fn manifest(layers: &[Value]) -> Value {
    value!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(9), "size": 7},
        "layers": layers,
    })
}

fn parse(document: &Value) -> Result<Document, Refusal> {
    Document::parse(document.to_string().as_bytes(), None)
}

fn entry(platform: Value) -> Value {
    value!({
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": digest(platform.to_string().len() as u8), "size": 3, "platform": platform,
    })
}

#[test]
fn every_known_layer_type_is_read() {
    let types = [
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
    ];
    let Document::Manifest(read) = parse(&manifest(&types.map(layer))).unwrap() else {
        panic!("not a manifest");
    };
    assert_eq!(read.layers.len(), 4);
    assert_eq!(
        read.content_size(ByteSize::mib(1)).unwrap(),
        17,
        "one content counts once"
    );
    let refusal = read.content_size(ByteSize::bytes(16)).unwrap_err();
    assert!(refusal.contains("at most"), "{refusal}");
}

#[test]
fn documents_that_mislead_are_refused_by_name() {
    let good = manifest(&[]);
    let with = |key: &str, new: Value| {
        let mut document = good.clone();
        document[key] = new;
        document
    };
    let config = |key: &str, new: Value| {
        let mut document = good.clone();
        document["config"][key] = new;
        document
    };
    let many: Vec<Value> = (0..=MAX_LAYERS)
        .map(|_| layer("application/vnd.oci.image.layer.v1.tar"))
        .collect();
    let cases = [
        (
            with("manifests", value!([])),
            "a manifest and an index at once",
        ),
        (with("schemaVersion", value!(3)), "schema version 3"),
        (with("schemaVersion", value!(1)), "schema 1"),
        (
            with(
                "mediaType",
                value!("application/vnd.oci.image.index.v1+json"),
            ),
            "calls itself an index",
        ),
        (config("size", value!(MAX_CONFIG + 1)), "has a config of"),
        (config("size", value!(-1)), "cannot be read"),
        (
            config(
                "mediaType",
                value!("application/vnd.cncf.helm.config.v1+json"),
            ),
            "not a container image",
        ),
        (config("digest", value!("sha512:00")), "only sha256"),
        (config("digest", value!("../../etc/passwd")), "only sha256"),
        (
            manifest(&[layer(
                "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            )]),
            "does not give away",
        ),
        (
            manifest(&[layer(
                "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
            )]),
            "unknown type",
        ),
        (manifest(&many), "513 layers"),
        (value!({"schemaVersion": 2}), "neither"),
        (value!([]), "cannot be read"),
        (
            value!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "manifests": []}),
            "calls itself a manifest",
        ),
    ];
    for (document, reason) in cases {
        let refusal = parse(&document).unwrap_err();
        assert!(refusal.contains(reason), "{refusal}");
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(Document::parse(deep.as_bytes(), None).is_err());
}

#[test]
fn two_sizes_for_one_content_are_a_lie() {
    let mut document = manifest(&[
        layer("application/vnd.oci.image.layer.v1.tar"),
        layer("application/vnd.oci.image.layer.v1.tar"),
    ]);
    document["layers"][1]["size"] = value!(u64::MAX);
    let Document::Manifest(read) = parse(&document).unwrap() else {
        panic!("not a manifest");
    };
    assert!(
        read.content_size(ByteSize::gib(1))
            .unwrap_err()
            .contains("two sizes")
    );
}

#[test]
fn the_index_entry_for_the_platform_is_chosen() {
    let index = value!({"schemaVersion": 2, "manifests": [
        entry(value!({"os": "unknown", "architecture": "unknown"})),
        entry(value!({"os": "linux", "architecture": "arm64", "variant": "v8"})),
        entry(value!({"os": "linux", "architecture": "amd64"})),
    ]});
    let Document::Index(entries) = parse(&index).unwrap() else {
        panic!("not an index");
    };
    let chosen = choose(&entries, &Platform::default()).unwrap();
    assert_eq!(chosen.digest, entries[2].digest);
    let arm: Platform = "linux/aarch64".parse().unwrap();
    assert_eq!(choose(&entries, &arm).unwrap().digest, entries[1].digest);
    let refusal = choose(&entries, &"linux/s390x".parse().unwrap()).unwrap_err();
    assert_eq!(
        refusal,
        "has no image for linux/s390x, only for linux/amd64, linux/arm64/v8"
    );
    assert_eq!(
        choose(&[], &arm).unwrap_err(),
        "has no image for linux/arm64"
    );
}
