//! A side of a copy: `NAME:PATH` in a machine, or a path here.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use banger_model::{Code, Error, Result};
use clap_complete::CompletionCandidate;
use clap_complete::engine::{PathCompleter, ValueCompleter};

use super::reference;
use crate::completion::vm_names;
use crate::guest_command::typed;

/// Where something is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In a machine.
    Guest {
        /// What was typed for the machine.
        name: String,
        /// A path there.
        path: OsString,
    },
    /// Here.
    Host(PathBuf),
}

impl Place {
    fn parse(text: &OsStr) -> Result<Place> {
        let bytes = text.as_bytes();
        let refuse = |why: &str| {
            let shown = text.to_string_lossy();
            Error::new(
                Code::InvalidArgument,
                format!("`{}` is not a place: {why}", shown.escape_debug()),
            )
            .hint("write `NAME:PATH` for a path in a machine; `./a:b` is a path here with a colon")
        };
        if bytes.is_empty() {
            return Err(refuse("it is empty"));
        }
        let colon = bytes.iter().position(|byte| *byte == b':');
        let slash = bytes.iter().position(|byte| *byte == b'/');
        let Some(colon) = colon.filter(|colon| slash.is_none_or(|slash| *colon < slash)) else {
            return Ok(Place::Host(text.into()));
        };
        let name = std::str::from_utf8(&bytes[..colon])
            .ok()
            .and_then(|name| reference(name).ok())
            .ok_or_else(|| refuse("what is before the colon cannot be the name of a machine"))?;
        // Nothing after the colon is where relative paths start.
        let path = match &bytes[colon + 1..] {
            b"" => OsString::from("."),
            path => OsStr::from_bytes(path).to_owned(),
        };
        Ok(Place::Guest { name, path })
    }
}

/// Parses it without losing bytes that are not UTF-8.
#[derive(Clone)]
pub(super) struct Parser;

impl clap::builder::TypedValueParser for Parser {
    type Value = Place;
    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<Place, clap::Error> {
        typed(command, argument, value, Place::parse)
    }
}

/// Machines, and the files here.
pub(super) fn complete(typed: &OsStr) -> Vec<CompletionCandidate> {
    let mut candidates = PathCompleter::any().complete(typed);
    let machines = vm_names().into_iter().filter_map(|name| {
        let mut place = name.get_value().to_owned();
        place.push(":");
        let begins = place.as_bytes().starts_with(typed.as_bytes());
        begins.then(|| CompletionCandidate::new(place).help(name.get_help().cloned()))
    });
    candidates.extend(machines);
    candidates
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(name: &str, path: &str) -> Place {
        Place::Guest {
            name: name.into(),
            path: path.into(),
        }
    }

    #[test]
    fn a_colon_before_any_slash_names_a_machine() {
        let place = |text: &str| Place::parse(OsStr::new(text)).unwrap();
        assert_eq!(place("box:/srv"), guest("box", "/srv"));
        assert_eq!(place("box:a:b"), guest("box", "a:b"));
        assert_eq!(place("box:"), guest("box", "."));
        for here in ["a", "/a:b", "./a:b", "a/b:c", "-", "..", "~x"] {
            assert_eq!(place(here), Place::Host(here.into()), "{here}");
        }
        for bad in ["", ":", ":/x", "Box:/x", "a b:/x", "..:x"] {
            let error = Place::parse(OsStr::new(bad)).unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument, "{bad}");
            assert!(error.hint_text().is_some());
        }
        let raw = OsStr::from_bytes(b"box:\xff");
        let Place::Guest { path, .. } = Place::parse(raw).unwrap() else {
            panic!("not in a machine");
        };
        assert_eq!(path.as_bytes(), b"\xff");
        assert!(Place::parse(OsStr::from_bytes(b"\xff:x")).is_err());
    }
}
