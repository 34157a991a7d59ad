//! The committed description of the API is the one that is served.

use std::path::Path;

#[test]
fn the_committed_description_matches() {
    let (_, document) = super::routes().split_for_parts();
    let mut generated = document.to_pretty_json().unwrap();
    generated.push('\n');
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../api/openapi.json");
    if std::env::var_os("BANGER_REGENERATE").is_some() {
        std::fs::write(&path, &generated).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == generated,
        "crates/api/openapi.json is not what the routes and types say; write it anew with \
         `BANGER_REGENERATE=1 cargo test -p bangerd the_committed_description_matches`"
    );
}
