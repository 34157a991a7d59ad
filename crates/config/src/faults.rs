//! What a test wants to fail: `BANGER_TEST_ABORT`, `BANGER_TEST_FAIL` and `BANGER_TEST_HANG`,
//! each a list of `<kind of operation>:<number of the step>`.

use std::ffi::OsString;

use banger_model::{Code, Error, Result};

/// The variables, with what they ask for. They are read in builds with debug assertions only,
/// and so are no part of [`ENVIRONMENT`](crate::ENVIRONMENT).
const VARIABLES: [(&str, Fault); 3] = [
    ("BANGER_TEST_ABORT", Fault::Abort),
    ("BANGER_TEST_FAIL", Fault::Fail),
    ("BANGER_TEST_HANG", Fault::Hang),
];

/// What happens at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process aborts.
    Abort,
    /// The step is an I/O error.
    Fail,
    /// The step never ends.
    Hang,
}

/// Which steps are to fail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults(Vec<(Fault, String, u32)>);

impl Faults {
    /// Reads the environment; none in builds without debug assertions.
    ///
    /// # Errors
    /// `invalid_config` for a value that is none: a test that arms nothing would prove nothing.
    pub fn from_env() -> Result<Faults> {
        if cfg!(debug_assertions) {
            Faults::read(|name| std::env::var_os(name))
        } else {
            Ok(Faults::default())
        }
    }

    fn read(variable: impl Fn(&str) -> Option<OsString>) -> Result<Faults> {
        let mut faults = Vec::new();
        for (name, fault) in VARIABLES {
            let Some(value) = variable(name) else {
                continue;
            };
            for entry in value.to_string_lossy().split(',') {
                let step = entry
                    .split_once(':')
                    .and_then(|(kind, number)| Some((kind.to_owned(), number.parse().ok()?)))
                    .filter(|(kind, number)| !kind.is_empty() && *number > 0);
                let Some((kind, number)) = step else {
                    return Err(Error::new(
                        Code::InvalidConfig,
                        format!("`{}` in {name} is no step", entry.escape_debug()),
                    )
                    .hint("write it as `stop-vm:3`"));
                };
                faults.push((fault, kind, number));
            }
        }
        Ok(Faults(faults))
    }

    /// What happens at this step of an operation of this kind.
    pub fn at(&self, kind: &str, number: u32) -> Option<Fault> {
        let found = self.0.iter().find(|(_, k, n)| k == kind && *n == number);
        found.map(|(fault, _, _)| *fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_named_by_kind_and_number() {
        let faults = Faults::read(|name| match name {
            "BANGER_TEST_ABORT" => Some("stop-vm:3".into()),
            "BANGER_TEST_FAIL" => Some("create-vm:5,create-vm:7".into()),
            _ => None,
        })
        .unwrap();
        assert_eq!(faults.at("stop-vm", 3), Some(Fault::Abort));
        assert_eq!(faults.at("stop-vm", 4), None);
        assert_eq!(faults.at("start-vm", 3), None);
        assert_eq!(faults.at("create-vm", 5), Some(Fault::Fail));
        assert_eq!(faults.at("create-vm", 7), Some(Fault::Fail));
        assert_eq!(Faults::read(|_| None).unwrap(), Faults::default());
        for bad in ["", "stop-vm", "stop-vm:0", ":3", "stop-vm:x", "a:1,,b:2"] {
            let read = Faults::read(|name| (name == "BANGER_TEST_HANG").then(|| bad.into()));
            assert_eq!(read.unwrap_err().code(), Code::InvalidConfig, "{bad}");
        }
    }
}
