//! Pulls the default kernel and image into a directory and makes the initramfs: the whole
//! path of these crates by hand, without the daemon.
//!
//! ```text
//! cargo run -p banger-image --example pull -- DIR [image|kernel|sweep|AGENT]…
//! ```
//!
//! An interrupt cancels. The last lines say what was made and how long each part took.

use std::path::Path;
use std::time::Instant;

use banger_image::{Images, PullOptions};
use banger_kernel::Kernels;
use banger_model::{Code, Error, Progress, Result};
use tokio_util::sync::CancellationToken;

/// Prints stages with the time since the start, and fractions.
struct Print(Instant);

impl Progress for Print {
    fn stage(&self, name: &str, message: &str) {
        eprintln!(
            "\n{:5.1} s {name}: {message}",
            self.0.elapsed().as_secs_f32()
        );
    }
    fn fraction(&self, done: f32) {
        eprint!("{:.0}% ", done * 100.0);
    }
}

#[tokio::main]
async fn main() -> std::process::ExitCode {
    match run().await {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\n{error:?}");
            std::process::ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let dir = words
        .next()
        .ok_or_else(|| Error::new(Code::InvalidArgument, "name a directory"))?;
    let dir = Path::new(&dir);
    let images = Images::open(&dir.join("images"))?;
    let kernels = Kernels::open(&dir.join("kernels"))?;
    let cancel = CancellationToken::new();
    let interrupted = cancel.clone();
    let listener = tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            interrupted.cancel();
        }
    });
    for word in words {
        let start = Instant::now();
        match word.as_str() {
            "kernel" => {
                let kernel = kernels
                    .pull(&"debian-bookworm".parse()?, &Print(start), &cancel)
                    .await?;
                println!("\n{kernel:#?}");
            }
            "image" => {
                let image = images
                    .pull(
                        &"debian-bookworm".parse()?,
                        &PullOptions::default(),
                        &Print(start),
                        &cancel,
                    )
                    .await?;
                println!("\n{image:#?}");
            }
            "sweep" => {
                images.sweep(&Default::default())?;
                kernels.sweep(&Default::default())?;
            }
            agent => {
                let kernel = kernels
                    .find(&"debian-bookworm".parse()?)?
                    .ok_or_else(|| Error::new(Code::NotFound, "pull a kernel first"))?;
                let initramfs = kernels.initramfs(&kernel, Path::new(agent))?;
                println!("\n{}", initramfs.display());
            }
        }
        println!("{word}: {:.2} s", start.elapsed().as_secs_f64());
    }
    listener.abort();
    Ok(())
}
