//! A patch as a file of the user's.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use banger_model::{Code, Error, IoContext, Result};

/// Copies `patch` into the current directory under a name that nothing has, and returns its
/// absolute path.
pub(super) fn keep(patch: &Path, vm_name: &str) -> Result<PathBuf> {
    let here = std::env::current_dir().map_err(|error| {
        Error::new(Code::Io, "the current directory cannot be found").because(error)
    })?;
    keep_in(&here, patch, vm_name)
}

fn keep_in(directory: &Path, patch: &Path, vm_name: &str) -> Result<PathBuf> {
    let mut source = File::open(patch).at("open", patch)?;
    let now = jiff::Zoned::now().strftime("%Y%m%d-%H%M%S").to_string();
    let mut number = 1;
    let (path, mut file) = loop {
        let path = directory.join(match number {
            1 => format!("{vm_name}-{now}.patch"),
            number => format!("{vm_name}-{now}-{number}.patch"),
        });
        let opened = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path);
        match opened {
            Ok(file) => break (path, file),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(Error::io("create", &path, error)),
        }
    };
    let written = io::copy(&mut source, &mut file).and_then(|_| file.sync_all());
    if let Err(error) = written {
        // Half a patch is worse than none.
        std::fs::remove_file(&path).ok();
        return Err(Error::io("write", &path, error));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_patch_takes_nobodys_place() {
        let place = tempfile::tempdir().unwrap();
        let patch = place.path().join("p");
        std::fs::write(&patch, "x").unwrap();
        let files: Vec<_> = (0..3)
            .map(|_| keep_in(place.path(), &patch, "box").unwrap())
            .collect();
        assert!(files[0] != files[1] && files[1] != files[2] && files[0] != files[2]);
        for file in files {
            assert_eq!(std::fs::read(file).unwrap(), b"x");
        }
        assert!(keep_in(&place.path().join("absent"), &patch, "box").is_err());
    }
}
