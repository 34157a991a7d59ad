//! Somebody's modules: finding the tree of one release, and copying what matters of it.

use std::fs;
use std::path::{Path, PathBuf};

use banger_model::{Code, Error, IoContext, Result};

use crate::modules::is_module;

/// No kernel has more files, or directories deeper.
const MAX_FILES: usize = 50_000;
const MAX_DEPTH: usize = 24;
/// No kernel's modules take more together.
const MAX_TOTAL: u64 = 4 << 30;
/// What depmod reads beside the modules; everything else in a tree it makes anew.
const LISTS: [&str; 3] = [
    "modules.builtin",
    "modules.builtin.modinfo",
    "modules.order",
];

/// The tree of `release` in `given`: that itself, or what it holds.
///
/// # Errors
/// `not_found`, naming the releases that are there.
pub(crate) fn find(given: &Path, release: &str) -> Result<PathBuf> {
    fs::read_dir(given).at("list", given)?;
    let below = ["", "lib/modules", "usr/lib/modules"].map(|dir| given.join(dir));
    for dir in &below {
        let tree = dir.join(release);
        if tree.is_dir() {
            return Ok(tree);
        }
    }
    // Under whatever name: modules that were built for another kernel are refused later.
    if given.join("kernel").is_dir() || given.join(LISTS[0]).is_file() {
        return Ok(given.to_owned());
    }
    let mut others: Vec<String> = below
        .iter()
        .filter_map(|dir| fs::read_dir(dir).ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join("kernel").is_dir())
        .filter_map(|path| {
            Some(
                path.file_name()?
                    .to_string_lossy()
                    .escape_debug()
                    .to_string(),
            )
        })
        .collect();
    others.sort();
    let error = Error::new(
        Code::NotFound,
        format!(
            "`{}` holds no modules for the kernel {release}",
            given.display()
        ),
    );
    Err(if others.is_empty() {
        error.hint(format!(
            "name a directory that is `lib/modules/{release}` or holds it"
        ))
    } else {
        error.hint(format!("it holds those for {}", others.join(", ")))
    })
}

/// Copies the modules of the tree `from` and the lists that belong to them to `to`, which does
/// not exist. `check` ends the work when it returns an error.
///
/// # Errors
/// `invalid_argument` for a tree that cannot be one; `io`, `no_space`.
pub(crate) fn copy(from: &Path, to: &Path, check: &mut dyn FnMut() -> Result<()>) -> Result<()> {
    let root = fs::canonicalize(from).at("find", from)?;
    let mut todo = vec![(root.clone(), to.to_owned(), 0)];
    let (mut files, mut total) = (0usize, 0u64);
    while let Some((dir, target, depth)) = todo.pop() {
        fs::create_dir_all(&target).at("create", &target)?;
        for entry in fs::read_dir(&dir).at("list", &dir)? {
            check()?;
            let path = entry.at("list", &dir)?.path();
            let name = path.file_name().unwrap_or_default().to_owned();
            let found = fs::symlink_metadata(&path).at("look at", &path)?;
            files += 1;
            if files > MAX_FILES || depth > MAX_DEPTH {
                return Err(refused(&dir, "has more files than any kernel has modules"));
            }
            if found.is_dir() {
                todo.push((path, target.join(name), depth + 1));
                continue;
            }
            let is_list = depth == 0 && LISTS.iter().any(|list| *list == name);
            // What else is there, such as links to the sources, is nothing to load.
            if !is_list && !is_module(&path) {
                continue;
            }
            let source = inside(&root, &path)?;
            let length = fs::metadata(&source).at("look at", &source)?.len();
            total = total.saturating_add(length);
            if total > MAX_TOTAL {
                return Err(refused(&dir, "is larger than any kernel's modules"));
            }
            let target = target.join(name);
            fs::copy(&source, &target).at("copy", &path)?;
        }
    }
    Ok(())
}

/// The regular file that `path` is or, by a link, means; within the tree.
fn inside(root: &Path, path: &Path) -> Result<PathBuf> {
    let real = fs::canonicalize(path).at("find", path)?;
    if !real.starts_with(root) {
        return Err(refused(
            path,
            "is a link to a file outside the modules directory",
        ));
    }
    if !fs::metadata(&real).at("look at", &real)?.is_file() {
        return Err(refused(path, "is no regular file"));
    }
    Ok(real)
}

fn refused(path: &Path, why: &str) -> Error {
    Error::new(
        Code::InvalidArgument,
        format!(
            "the modules cannot be imported: `{}` {why}",
            path.to_string_lossy().escape_debug()
        ),
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn write(path: &Path) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }

    fn copied(from: &Path) -> Result<Vec<String>> {
        let to = tempfile::tempdir().unwrap();
        copy(from, &to.path().join("to"), &mut || Ok(()))?;
        let mut found = Vec::new();
        let mut todo = vec![to.path().join("to")];
        while let Some(dir) = todo.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => todo.push(path),
                    false => {
                        assert!(fs::symlink_metadata(&path).unwrap().is_file());
                        let below = path.strip_prefix(to.path().join("to")).unwrap();
                        found.push(below.display().to_string());
                    }
                }
            }
        }
        found.sort();
        Ok(found)
    }

    #[test]
    fn the_tree_is_found_from_where_people_point() {
        for place in ["6.1-x", "lib/modules/6.1-x", "usr/lib/modules/6.1-x"] {
            let dir = tempfile::tempdir().unwrap();
            let tree = dir.path().join(place);
            write(&tree.join("kernel/a.ko"));
            assert_eq!(find(dir.path(), "6.1-x").unwrap(), tree);
            assert_eq!(find(&tree, "6.1-x").unwrap(), tree);
            let error = find(dir.path(), "6.2").unwrap_err();
            assert_eq!(error.code(), Code::NotFound);
            assert!(error.hint_text().unwrap().contains("6.1-x"), "{error}");
        }
        let empty = tempfile::tempdir().unwrap();
        let error = find(empty.path(), "6.1").unwrap_err();
        assert!(error.hint_text().unwrap().contains("lib/modules/6.1"));
        assert!(find(&empty.path().join("absent"), "6.1").is_err());
    }

    #[test]
    fn modules_and_lists_are_copied_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for file in [
            "kernel/fs/a.ko",
            "updates/b.ko.xz",
            "modules.builtin",
            "modules.dep.bin",
            "vmlinuz",
            "kernel/modules.order",
        ] {
            write(&dir.path().join(file));
        }
        symlink("/usr/src/linux", dir.path().join("build")).unwrap();
        symlink("fs/a.ko", dir.path().join("kernel/again.ko")).unwrap();
        symlink("..", dir.path().join("kernel/up")).unwrap();
        assert_eq!(
            copied(dir.path()).unwrap(),
            [
                "kernel/again.ko",
                "kernel/fs/a.ko",
                "modules.builtin",
                "updates/b.ko.xz"
            ]
        );
    }

    #[test]
    fn links_out_of_the_tree_and_odd_files_are_refused_by_name() {
        let outside = tempfile::tempdir().unwrap();
        write(&outside.path().join("secret.ko"));
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("kernel/a.ko"));
        let link = dir.path().join("kernel/b\n.ko");
        symlink(outside.path().join("secret.ko"), &link).unwrap();
        let error = copied(dir.path()).unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
        assert!(error.message().contains("b\\n.ko"), "{error}");
        fs::remove_file(&link).unwrap();
        symlink("/dev/zero", &link).unwrap();
        assert!(copied(dir.path()).is_err());
        fs::remove_file(&link).unwrap();
        symlink("absent.ko", &link).unwrap();
        assert!(copied(dir.path()).is_err());
        fs::remove_file(&link).unwrap();
        let pipe = dir.path().join("kernel/pipe.ko");
        let status = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(status.unwrap().success());
        assert!(copied(dir.path()).is_err());
    }
}
