//! Reading a kernel package: an `ar` archive with a compressed tar in it.
//!
//! apt has verified the package by the time it comes here; lengths and paths are checked all
//! the same.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use banger_model::{Code, Error, IoContext, Result};

use crate::kernels::MODULES;

/// No file of a kernel is larger.
const MAX_FILE: u64 = 512 << 20;
/// No kernel package is larger, unpacked.
const MAX_TOTAL: u64 = 4 << 30;
/// The members of an `ar` archive follow this.
const AR_MAGIC: &[u8; 8] = b"!<arch>\n";

/// What was found in a package beside the modules.
#[derive(Debug)]
pub(crate) struct Contents {
    /// The kernel's release.
    pub(crate) release: String,
    /// `boot/vmlinuz-<release>`.
    pub(crate) vmlinuz: Vec<u8>,
    /// `boot/config-<release>`.
    pub(crate) config: Vec<u8>,
}

/// Unpacks the modules of `package` to `lib/modules/<release>` below `target` and returns the
/// rest. `progress` receives the part of the package that has been read, from 0 to 1, and ends
/// the work when it returns an error.
pub(crate) fn unpack(
    package: &Path,
    target: &Path,
    progress: &mut dyn FnMut(f32) -> Result<()>,
) -> Result<Contents> {
    let mut file = BufReader::with_capacity(1 << 18, File::open(package).at("open", package)?);
    let data = find_data(&mut file).map_err(|error| broken(package, error))?;
    let consumed = Rc::new(Cell::new(0));
    let counted = Counted {
        inner: file.take(data.length),
        consumed: consumed.clone(),
    };
    let decoder = decoder(&data.name, counted).map_err(|error| broken(package, error))?;
    let mut tar = tar::Archive::new(decoder);
    let mut found = Found::default();
    let mut total = 0u64;
    for entry in tar.entries().map_err(|error| broken(package, error))? {
        let mut entry = entry.map_err(|error| broken(package, error))?;
        let size = entry.size();
        total = total.saturating_add(size);
        if size > MAX_FILE || total > MAX_TOTAL {
            return Err(broken(package, io::Error::other("it is too large")));
        }
        // Directories are made as needed; links lead to kernel headers, which are not here.
        if entry.header().entry_type().is_file() {
            let path = entry
                .path()
                .map_err(|error| broken(package, error))?
                .into_owned();
            found
                .take(&path, &mut entry, target)
                .map_err(|error| match error {
                    Failure::Read(error) => broken(package, error),
                    Failure::Write(error) => error,
                })?;
        }
        progress(consumed.get() as f32 / data.length.max(1) as f32)?;
    }
    found.finish(package)
}

/// Which side of a copy failed.
enum Failure {
    Read(io::Error),
    Write(Error),
}

#[derive(Default)]
struct Found {
    release: Option<String>,
    vmlinuz: Option<Vec<u8>>,
    config: Option<Vec<u8>>,
    modules: bool,
}

impl Found {
    fn take(&mut self, path: &Path, from: &mut impl Read, target: &Path) -> Result<(), Failure> {
        let Some(parts) = parts(path) else {
            return Err(Failure::Read(io::Error::other(format!(
                "it holds the path `{}`",
                path.display()
            ))));
        };
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        match parts.as_slice() {
            ["boot", name] => {
                if let Some(release) = name.strip_prefix("vmlinuz-") {
                    self.vmlinuz = Some(read_all(from)?);
                    self.release = Some(release.to_owned());
                } else if name.starts_with("config-") {
                    self.config = Some(read_all(from)?);
                }
            }
            ["lib", "modules", rest @ ..] | ["usr", "lib", "modules", rest @ ..]
                if rest.len() > 1 =>
            {
                self.modules = true;
                let to = target.join(MODULES).join(rest.iter().collect::<PathBuf>());
                write_file(from, &to)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(self, package: &Path) -> Result<Contents> {
        let missing = |what: &str| broken(package, io::Error::other(format!("it holds no {what}")));
        if !self.modules {
            return Err(missing("kernel modules"));
        }
        Ok(Contents {
            release: self.release.ok_or_else(|| missing("kernel"))?,
            vmlinuz: self.vmlinuz.ok_or_else(|| missing("kernel"))?,
            config: self.config.ok_or_else(|| missing("kernel configuration"))?,
        })
    }
}

/// The components of a relative path without tricks.
fn parts(path: &Path) -> Option<Vec<String>> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::Normal(name) => parts.push(name.to_str()?.to_owned()),
            _ => return None,
        }
    }
    Some(parts)
}

fn read_all(from: &mut impl Read) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    from.take(MAX_FILE)
        .read_to_end(&mut bytes)
        .map_err(Failure::Read)?;
    Ok(bytes)
}

fn write_file(from: &mut impl Read, to: &Path) -> Result<(), Failure> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)
            .at("create", parent)
            .map_err(Failure::Write)?;
    }
    let bytes = read_all(from)?;
    fs::write(to, bytes).at("write", to).map_err(Failure::Write)
}

/// One member of an `ar` archive.
struct Member {
    name: String,
    length: u64,
}

/// Leaves `file` at the first byte of the member with the package's files.
fn find_data(file: &mut (impl Read + Seek)) -> io::Result<Member> {
    let mut magic = [0; 8];
    file.read_exact(&mut magic)?;
    if magic != *AR_MAGIC {
        return Err(io::Error::other("it is not a Debian package"));
    }
    loop {
        let mut header = [0; 60];
        if let Err(error) = file.read_exact(&mut header) {
            return Err(match error.kind() {
                io::ErrorKind::UnexpectedEof => io::Error::other("it holds no files"),
                _ => error,
            });
        }
        let field = |from: usize, to: usize| String::from_utf8_lossy(&header[from..to]);
        let name = field(0, 16).trim_end().trim_end_matches('/').to_owned();
        let length: u64 = field(48, 58)
            .trim_end()
            .parse()
            .map_err(|_| io::Error::other("a member has no length"))?;
        if name.starts_with("data.tar") {
            return Ok(Member { name, length });
        }
        // Members begin at even positions.
        let skip = i64::try_from(length + length % 2)
            .map_err(|_| io::Error::other("a member has an impossible length"))?;
        file.seek(SeekFrom::Current(skip))?;
    }
}

fn decoder<'a>(name: &str, from: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match name.rsplit('.').next() {
        Some("xz") => Box::new(liblzma::read::XzDecoder::new(from)),
        Some("zst") => Box::new(zstd::stream::read::Decoder::new(from)?),
        Some("gz") => Box::new(flate2::read::GzDecoder::new(from)),
        Some("tar") => Box::new(from),
        _ => {
            return Err(io::Error::other(format!(
                "its files are in `{name}`, a format unknown here"
            )));
        }
    })
}

/// Counts what is read.
struct Counted<R> {
    inner: R,
    consumed: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.consumed.set(self.consumed.get() + read as u64);
        Ok(read)
    }
}

fn broken(package: &Path, why: io::Error) -> Error {
    Error::new(
        Code::BuildFailed,
        format!("cannot unpack `{}`", package.display()),
    )
    .because(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            // Set directly: the safe setter refuses what a hostile archive would hold.
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_cksum();
            builder.append(&header, *bytes).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn deb_of(name: &str, data: &[u8]) -> Vec<u8> {
        let mut deb = AR_MAGIC.to_vec();
        for (name, bytes) in [
            ("debian-binary", b"2.0\n".as_slice()),
            ("control.tar", b"odd"),
        ]
        .into_iter()
        .chain([(name, data)])
        {
            deb.extend_from_slice(
                format!(
                    "{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n",
                    0,
                    0,
                    0,
                    100644,
                    bytes.len()
                )
                .as_bytes(),
            );
            deb.extend_from_slice(bytes);
            if bytes.len() % 2 == 1 {
                deb.push(b'\n');
            }
        }
        deb
    }

    fn unpack_bytes(deb: &[u8]) -> (tempfile::TempDir, Result<Contents>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k.deb");
        fs::write(&path, deb).unwrap();
        let contents = unpack(&path, dir.path(), &mut |done| {
            assert!((0.0..=1.0).contains(&done));
            Ok(())
        });
        (dir, contents)
    }

    const FILES: [(&str, &[u8]); 4] = [
        ("./boot/vmlinuz-6.1-x", b"kernel"),
        ("./boot/config-6.1-x", b"CONFIG_X=y\n"),
        ("./boot/System.map-6.1-x", b"map"),
        ("./lib/modules/6.1-x/kernel/a/b.ko", b"module"),
    ];

    #[test]
    fn every_compression_is_read() {
        let tar = tar_of(&FILES);
        let xz = liblzma::encode_all(tar.as_slice(), 1).unwrap();
        let zst = zstd::encode_all(tar.as_slice(), 1).unwrap();
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut gz, &tar).unwrap();
        for (name, data) in [
            ("data.tar", tar.clone()),
            ("data.tar.xz", xz),
            ("data.tar.zst", zst),
            ("data.tar.gz", gz.finish().unwrap()),
        ] {
            let (dir, contents) = unpack_bytes(&deb_of(name, &data));
            let contents = contents.unwrap();
            assert_eq!(contents.release, "6.1-x");
            assert_eq!(contents.vmlinuz, b"kernel");
            assert_eq!(contents.config, b"CONFIG_X=y\n");
            let module = dir.path().join("lib/modules/6.1-x/kernel/a/b.ko");
            assert_eq!(fs::read(module).unwrap(), b"module");
            assert!(!dir.path().join("boot").exists());
        }
    }

    #[test]
    fn broken_packages_are_refused_by_name() {
        let whole = deb_of("data.tar", &tar_of(&FILES));
        let cut = &whole[..whole.len() / 2];
        let foreign = deb_of("data.tar.lz9", b"x");
        let empty = deb_of("data.tar", &tar_of(&FILES[..3]));
        for bad in [
            b"".as_slice(),
            b"!<arch>\n",
            b"not a package",
            cut,
            &foreign,
            &empty,
        ] {
            let (_dir, contents) = unpack_bytes(bad);
            let error = contents.unwrap_err();
            assert_eq!(error.code(), Code::BuildFailed);
            assert!(error.message().contains("k.deb"), "{error}");
        }
    }

    #[test]
    fn paths_cannot_leave_the_target() {
        for path in [
            "./lib/modules/../../../x",
            "/lib/modules/r/x",
            "lib/modules/r/../../../x",
        ] {
            let (dir, contents) = unpack_bytes(&deb_of("data.tar", &tar_of(&[(path, b"x")])));
            assert!(contents.is_err(), "{path}");
            assert!(!dir.path().parent().unwrap().join("x").exists());
        }
    }
}
