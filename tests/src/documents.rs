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
            "crates/", "tests/", "docs/", "images/", "scripts/", "bench/", ".ci/",
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
            "docs/performance.md",
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
}
