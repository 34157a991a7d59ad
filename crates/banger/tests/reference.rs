//! `docs/cli.md` is what the program says about itself.

use std::path::Path;

#[test]
fn the_reference_is_up_to_date() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cli.md");
    let now = banger_cli::reference::markdown();
    if std::env::var_os("BANGER_REGENERATE").is_some() {
        std::fs::write(&file, &now).unwrap();
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        committed == now,
        "docs/cli.md is not what the program says: run `BANGER_REGENERATE=1 cargo test -p banger`"
    );
}
