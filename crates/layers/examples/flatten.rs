//! Flattens layer files into an ext4 file, for measuring by hand:
//! `cargo run --release -p banger-layers --example flatten -- DISK LAYER…`.

use std::path::{Path, PathBuf};

use banger_layers::{Layer, Options, Watch, flatten};

fn main() -> Result<(), banger_model::Error> {
    let mut arguments = std::env::args_os().skip(1);
    let disk = PathBuf::from(arguments.next().unwrap_or_default());
    let layers: Vec<Layer> = arguments
        .map(|path| Layer {
            name: Path::new(&path).display().to_string(),
            path: path.into(),
            diff_id: None,
        })
        .collect();
    let watch = Watch::new(&|_, _| {}, &|| false);
    let made = flatten(&layers, &disk, &Options::default(), &watch)?;
    println!("{made:?}");
    Ok(())
}
