//! The program with the scenarios: built by cargo, checked before the outer machine is started.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use banger_model::{Code, Error, Result};

/// What the list says of a scenario that needs one.
const ARCHIVE: &str = "a package archive";

/// The suite and the build directory it is in.
pub(crate) struct Suite {
    /// The program.
    pub(crate) program: PathBuf,
    /// The build directory, with banger's programs.
    pub(crate) target: PathBuf,
}

impl Suite {
    /// Builds it, and pulls what every world starts with unless it is there.
    pub(crate) fn build() -> Result<Suite> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
        let mut build = Command::new(cargo);
        build
            .args(["test", "--locked", "--workspace", "--test", "scenarios"])
            .args(["--no-run", "--message-format=json"]);
        let program = program_of(&output(&mut build)?).ok_or_else(|| {
            Error::internal("cargo built the scenarios and did not say where they are")
        })?;
        // …/target/debug/deps/scenarios-…
        let target = program.ancestors().nth(3).map(Path::to_owned);
        let target = target.ok_or_else(|| Error::internal("the build directory has no name"))?;
        let suite = Suite { program, target };
        let mut pull = Command::new(&suite.program);
        pull.arg("--pull").env("BANGER_TEST_BASE", "keep");
        output(&mut pull)?;
        Ok(suite)
    }

    /// Whether one of these scenarios needs a package archive.
    ///
    /// # Errors
    /// `invalid_argument` when one is unknown; the suite has said which.
    pub(crate) fn need_archive(&self, names: &str) -> Result<bool> {
        let mut list = Command::new(&self.program);
        list.args(["--list", "--scenario", names]);
        let listed = output(&mut list).map_err(|error| {
            Error::new(Code::InvalidArgument, "the scenarios cannot be run").because(error)
        })?;
        Ok(listed.contains(ARCHIVE))
    }
}

/// Runs a program; what it says to people goes to them.
fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |words: String| Error::new(Code::BuildFailed, format!("`{program}`: {words}"));
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(format!(
            "{}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stdout).trim()
        )));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The test program among cargo's messages.
fn program_of(messages: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .find(|message| message["target"]["name"] == "scenarios")
        .and_then(|message| message["executable"].as_str().map(PathBuf::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_found_among_cargos_messages() {
        let messages = r#"
            {"reason":"compiler-artifact","target":{"name":"banger_tests"},"executable":null}
            {"reason":"compiler-artifact","target":{"name":"scenarios"},"executable":"/t/debug/deps/scenarios-1"}
            {"reason":"build-finished","success":true}"#;
        assert_eq!(
            program_of(messages),
            Some(PathBuf::from("/t/debug/deps/scenarios-1"))
        );
        assert_eq!(program_of("{}"), None);
    }

    #[test]
    fn a_scenario_says_that_it_needs_an_archive() {
        let scratch = tempfile::tempdir().unwrap();
        let program = scratch.path().join("scenarios");
        let list = "#!/bin/sh\necho 'one  pure    about'\n\
            test \"$3\" != one,two || echo 'two  shared  about (needs root, a package archive)'\n";
        banger_testing::write_program(&program, list);
        let suite = Suite {
            program,
            target: scratch.path().to_owned(),
        };
        assert!(!suite.need_archive("one").unwrap());
        assert!(suite.need_archive("one,two").unwrap());
    }

    #[test]
    fn what_a_program_said_is_in_the_error() {
        let error = output(Command::new("sh").args(["-c", "echo why; exit 2"])).unwrap_err();
        assert!(error.message().contains("why"), "{error}");
    }
}
