//! The documents name files; these tests hold them to it.

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    /// The repository.
    fn root() -> &'static Path {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
    }

    /// Words in backticks that look like paths in this repository, and targets of links.
    fn named_paths(text: &str) -> Vec<String> {
        let top = [
            "crates/", "tests/", "docs/", "images/", "scripts/", "bench/", "lab/", ".ci/",
        ];
        let ticked = text.split('`').skip(1).step_by(2);
        let linked = text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
            .filter(|target| !target.contains("://"));
        ticked
            .filter(|word| top.iter().any(|dir| word.starts_with(dir)))
            .filter(|word| !word.contains(' '))
            .chain(linked)
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn every_path_a_document_names_exists() {
        let mut seen = 0;
        for document in [
            "README.md",
            "ARCHITECTURE.md",
            "CONTRIBUTING.md",
            "docs/compatibility.md",
            "docs/performance.md",
            "docs/promises.md",
        ] {
            let text = fs::read_to_string(root().join(document)).expect(document);
            for path in named_paths(&text) {
                let base = root()
                    .join(document)
                    .parent()
                    .expect("a directory")
                    .to_owned();
                assert!(
                    root().join(&path).exists() || base.join(&path).exists(),
                    "{document} names `{path}`, which does not exist"
                );
                seen += 1;
            }
        }
        assert!(
            seen > 20,
            "only {seen} paths were found: is the parser still right?"
        );
    }

    /// All Rust source below a directory, as one text.
    fn source(dir: &Path) -> String {
        let mut all = String::new();
        for entry in fs::read_dir(dir).expect("list").flatten() {
            let path = entry.path();
            if path.is_dir() && entry.file_name() != "target" {
                all += &source(&path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                all += &fs::read_to_string(&path).expect("read");
            }
        }
        all
    }

    #[test]
    fn every_test_a_promise_names_exists() {
        let text = fs::read_to_string(root().join("docs/promises.md")).expect("the promises");
        let source = ["crates", "tests", "lab"]
            .map(|dir| source(&root().join(dir)))
            .concat();
        let mut seen = 0;
        for row in text.lines().filter(|line| line.starts_with("| ")) {
            let held_by = row
                .trim_end_matches('|')
                .rsplit('|')
                .next()
                .expect("a cell");
            for test in held_by.split('`').skip(1).step_by(2) {
                let there = source.contains(&format!("\"{test}\""))
                    || source.contains(&format!("fn {test}("))
                    || root().join(test).exists();
                assert!(
                    there,
                    "docs/promises.md names `{test}`, which does not exist"
                );
                seen += 1;
            }
        }
        assert!(
            seen > 40,
            "only {seen} tests were found: is the parser right?"
        );
    }
}
