//! Images made for the tests.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use banger_model::Digest;
use serde_json::{Value, json};

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

pub(crate) struct Layer {
    pub(crate) tar: Vec<u8>,
    pub(crate) packed: Vec<u8>,
    pub(crate) media_type: String,
}

/// One image and all its blobs.
pub(crate) struct Made {
    pub(crate) layers: Vec<Layer>,
    pub(crate) config: Vec<u8>,
    pub(crate) manifest: Vec<u8>,
}

pub(crate) fn digest(bytes: &[u8]) -> Digest {
    let mut hasher = banger_content::Hasher::new();
    hasher.update(bytes);
    hasher.finish()
}

pub(crate) fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()})
}

/// A tar archive with these files.
pub(crate) fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append_data(&mut header, name, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// Bytes that no compressor makes smaller, different for each seed.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

impl Layer {
    pub(crate) fn plain(tar: Vec<u8>) -> Self {
        Layer {
            packed: tar.clone(),
            tar,
            media_type: LAYER.to_owned(),
        }
    }

    pub(crate) fn gzip(tar: Vec<u8>) -> Self {
        Layer {
            packed: gzip(&tar),
            tar,
            media_type: format!("{LAYER}+gzip"),
        }
    }

    pub(crate) fn zstd(tar: Vec<u8>) -> Self {
        Layer {
            packed: zstd::encode_all(&tar[..], 1).unwrap(),
            tar,
            media_type: format!("{LAYER}+zstd"),
        }
    }
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

impl Made {
    /// An image of three layers, each compressed in another way, of `size` bytes each.
    pub(crate) fn of_size(size: usize, seed: u64) -> Self {
        let layer = |n| tar(&[("file", &noise(size, seed * 10 + n))]);
        Made::new(vec![
            Layer::gzip(layer(1)),
            Layer::zstd(layer(2)),
            Layer::plain(layer(3)),
        ])
    }

    pub(crate) fn new(layers: Vec<Layer>) -> Self {
        Made::for_architecture(layers, "amd64")
    }

    pub(crate) fn for_architecture(layers: Vec<Layer>, architecture: &str) -> Self {
        let diff_ids: Vec<Digest> = layers.iter().map(|layer| digest(&layer.tar)).collect();
        let config = json!({
            "os": "linux", "architecture": architecture,
            "config": {
                "Env": ["PATH=/usr/bin:/bin", "LANG=C"], "User": "1000", "WorkingDir": "/srv",
                "Entrypoint": ["/init"], "Cmd": ["run"], "Labels": {"a": "b"},
                "StopSignal": "SIGINT", "ExposedPorts": {"80/tcp": {}},
            },
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        })
        .to_string()
        .into_bytes();
        let described: Vec<Value> = layers
            .iter()
            .map(|layer| descriptor(&layer.media_type, &layer.packed))
            .collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": descriptor(CONFIG, &config), "layers": described,
        })
        .to_string()
        .into_bytes();
        Made {
            layers,
            config,
            manifest,
        }
    }

    /// Config, layers and manifest by digest.
    pub(crate) fn blobs(&self) -> BTreeMap<Digest, Vec<u8>> {
        let mut blobs: Vec<&Vec<u8>> = vec![&self.config, &self.manifest];
        blobs.extend(self.layers.iter().map(|layer| &layer.packed));
        blobs
            .into_iter()
            .map(|bytes| (digest(bytes), bytes.clone()))
            .collect()
    }

    /// The bytes that a pull has at its end.
    pub(crate) fn content_size(&self) -> u64 {
        let layers: usize = self.layers.iter().map(|layer| layer.packed.len()).sum();
        (layers + self.config.len()) as u64
    }

    /// The files of an OCI layout with this image under `names`.
    pub(crate) fn layout(&self, names: &[&str]) -> Vec<(String, Vec<u8>)> {
        let mut entries: Vec<Value> = names
            .iter()
            .map(|name| {
                let mut entry = descriptor(MANIFEST, &self.manifest);
                entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
                entry
            })
            .collect();
        if entries.is_empty() {
            entries.push(descriptor(MANIFEST, &self.manifest));
        }
        let index = json!({"schemaVersion": 2, "manifests": entries}).to_string();
        let mut files = vec![(
            "oci-layout".to_owned(),
            b"{\"imageLayoutVersion\":\"1.0.0\"}".to_vec(),
        )];
        for (digest, bytes) in self.blobs() {
            files.push((format!("blobs/sha256/{}", digest.hex()), bytes));
        }
        files.push(("index.json".to_owned(), index.into_bytes()));
        files
    }

    /// The files of an archive of `docker save` with this image.
    pub(crate) fn saved(&self, names: &[&str]) -> Vec<(String, Vec<u8>)> {
        let mut files = Vec::new();
        let mut layers = Vec::new();
        for (number, layer) in self.layers.iter().enumerate() {
            layers.push(format!("{number}/layer.tar"));
            files.push((format!("{number}/layer.tar"), layer.packed.clone()));
        }
        let config = format!("{}.json", digest(&self.config).hex());
        files.push((config.clone(), self.config.clone()));
        let list = json!([{"Config": config, "RepoTags": names, "Layers": layers}]);
        files.push(("manifest.json".to_owned(), list.to_string().into_bytes()));
        files
    }
}

/// A tar archive of these files.
pub(crate) fn archive(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let files: Vec<(&str, &[u8])> = files
        .iter()
        .map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
        .collect();
    tar(&files)
}

/// Writes the files below `dir`.
pub(crate) fn unpack(files: &[(String, Vec<u8>)], dir: &Path) {
    for (name, bytes) in files {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}
