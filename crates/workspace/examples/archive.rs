//! Writes the archive of a repository to standard output: for measuring, without a guest.
//!
//!     cargo run --example archive -- REPOSITORY TEMPORARY > workspace.tar

use std::path::PathBuf;
use std::time::Instant;

use banger_model::{Error, Result};
use banger_workspace::{Options, Repository};

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(repository), Some(temporary)) = (arguments.next(), arguments.next()) else {
        return Err(Error::internal(
            "give a repository and a directory for temporary files",
        ));
    };
    let begun = Instant::now();
    let plan = Repository::open(&repository)?.plan(&Options::default())?;
    let planned = begun.elapsed();
    let summary = plan.write_archive(&temporary, std::io::stdout().lock())?;
    eprintln!(
        "{} files, {} bytes: planned in {planned:.2?}, all in {:.2?}",
        summary.files,
        summary.copied.bytes,
        begun.elapsed()
    );
    Ok(())
}
