use std::os::unix::fs::FileExt;
use std::process::Command;

use banger_content::Steps;
use banger_model::Quiet;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{Image, Images};

struct Ground {
    dir: tempfile::TempDir,
    images: Images,
}

impl Ground {
    fn new() -> Ground {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::open(&dir.path().join("images")).unwrap();
        Ground { dir, images }
    }

    /// An ext4 file with one file in it.
    fn ext4(&self, arguments: &[&str]) -> PathBuf {
        let tree = self.dir.path().join("tree");
        fs::create_dir_all(&tree).unwrap();
        fs::write(tree.join("file"), "content").unwrap();
        let path = self.dir.path().join("own.ext4");
        let made = Command::new("mke2fs")
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
            .args(["-q", "-F"])
            .args(arguments)
            .arg("-d")
            .args([&tree, &path])
            .arg("16M")
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        path
    }

    async fn register(&self, rootfs: &Path) -> Result<Image> {
        self.register_with(&self.images, rootfs).await
    }

    async fn register_with(&self, images: &Images, rootfs: &Path) -> Result<Image> {
        let registration = Registration {
            name: "team/own:1".parse().unwrap(),
            rootfs: rootfs.to_owned(),
            kernel: "debian-bookworm".parse().unwrap(),
            config: ImageConfig::default(),
            details: Details {
                labels: [("a".to_owned(), "b".to_owned())].into(),
                ..Details::default()
            },
        };
        images
            .register(registration, &Quiet, &CancellationToken::new())
            .await
    }

    fn staged(&self) -> usize {
        fs::read_dir(self.dir.path().join("images/staging"))
            .unwrap()
            .count()
    }
}

#[tokio::test]
async fn an_ext4_file_becomes_an_image_and_is_left_alone() {
    let ground = Ground::new();
    let path = ground.ext4(&["-t", "ext4"]);
    let before = fs::read(&path).unwrap();
    let image = ground.register(&path).await.unwrap();
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_eq!(fs::read(&image.rootfs).unwrap(), before);
    assert_eq!(image.rootfs_digest, digest_file(&path, |_| Ok(())).ok());
    assert_eq!(image.size, ByteSize::mib(16));
    assert!(image.disk_usage < ByteSize::mib(8), "{}", image.disk_usage);
    assert_eq!(image.details.labels["a"], "b");
    assert!(image.source.contains("own.ext4"), "{}", image.source);
    let name = "team/own:1".parse().unwrap();
    assert_eq!(ground.images.find(&name).unwrap().unwrap().name, name);
    assert_eq!(ground.images.list().unwrap()[0].name, name);
    assert_eq!(ground.staged(), 0);
    assert!(crate::has_journal(&image.rootfs).unwrap());
}

#[tokio::test]
async fn what_cannot_be_an_image_is_refused_and_leaves_nothing() {
    let ground = Ground::new();
    let refused = async |path: &Path, why: &str| {
        let error = ground.register(path).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error:?}");
        assert!(error.message().contains(why), "{error:?}");
        assert!(error.hint_text().is_some(), "{error:?}");
        assert!(ground.images.list().unwrap().is_empty());
        assert_eq!(ground.staged(), 0);
    };
    let with = |bytes: &[u8]| {
        let path = ground.dir.path().join("other");
        let mut content = vec![0; 4 << 20];
        content[..bytes.len()].copy_from_slice(bytes);
        fs::write(&path, content).unwrap();
        path
    };
    refused(&with(b"QFI\xfb"), "qcow2").await;
    refused(&with(b"\x1f\x8b"), "gzip").await;
    refused(&with(b"text"), "no superblock").await;
    refused(ground.dir.path(), "regular file").await;
    refused(Path::new("own.ext4"), "absolute").await;
    fs::write(ground.dir.path().join("small"), "x").unwrap();
    refused(&ground.dir.path().join("small"), "too small").await;
    refused(&ground.ext4(&["-t", "ext2"]), "ext2 or ext3").await;

    let damage = |at: u64, bytes: &[u8]| {
        let path = ground.ext4(&["-t", "ext4", "-O", "^metadata_csum"]);
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(bytes, at).unwrap();
        path
    };
    // As the superblock of a file system that is mounted, or has recorded errors.
    refused(&damage(1024 + 58, &[0, 0]), "unmounted cleanly").await;
    refused(&damage(1024 + 58, &[3, 0]), "recorded errors").await;
    refused(&damage(1024 + 24, &[60, 0, 0, 0]), "makes no sense").await;
    // A bitmap that marks everything as free.
    let path = ground.ext4(&["-t", "ext4", "-b", "1024", "-O", "^metadata_csum,^flex_bg"]);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    for block in 3..400 {
        file.write_all_at(&[0; 1024], block * 1024).unwrap();
    }
    drop(file);
    refused(&path, "damaged").await;
    let path = ground.ext4(&["-t", "ext4"]);
    OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(8 << 20)
        .unwrap();
    refused(&path, "cut off").await;
    let missing = ground.register(Path::new("/no/such")).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
}

#[tokio::test]
async fn a_failure_at_any_step_leaves_nothing_or_the_whole_image() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    let ground = Ground::new();
    let path = ground.ext4(&["-t", "ext4"]);
    for failing in 1.. {
        assert!(failing < 20);
        let count = Arc::new(AtomicU32::new(0));
        let steps = Steps::new(move |what| {
            if count.fetch_add(1, Ordering::Relaxed) + 1 == failing {
                return Err(Error::new(Code::Io, what));
            }
            Ok(())
        });
        let images = ground.images.with_steps(steps);
        let made = ground.register_with(&images, &path).await;
        assert_eq!(ground.staged(), 0);
        let listed = ground.images.list().unwrap().len();
        assert_eq!(listed, usize::from(made.is_ok()), "{failing}");
        if made.is_ok() {
            assert!(failing > 6, "{failing}");
            break;
        }
    }
}

#[tokio::test]
async fn a_cancelled_registration_leaves_nothing() {
    let ground = Ground::new();
    let path = ground.ext4(&["-t", "ext4"]);
    let cancel = CancellationToken::new();
    let token = cancel.clone();
    let steps = Steps::new(move |what| {
        if what == "fill the disk" {
            token.cancel();
        }
        Ok(())
    });
    let registration = Registration {
        name: "own".parse().unwrap(),
        rootfs: path,
        kernel: "debian-bookworm".parse().unwrap(),
        config: ImageConfig::default(),
        details: Details::default(),
    };
    let images = ground.images.with_steps(steps);
    let ended = images.register(registration, &Quiet, &cancel).await;
    assert_eq!(ended.unwrap_err().code(), Code::Cancelled);
    assert_eq!(ground.staged(), 0);
}
