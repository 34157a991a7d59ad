//! How long things may take here.
//!
//! The bounds in the scenarios are those of a common machine. Where everything is slower by a
//! known factor, such as in the lab's emulated machine, `BANGER_TEST_TIME_FACTOR` says so, once
//! and for all of them.

use std::sync::OnceLock;
use std::time::Duration;

/// `BANGER_TEST_TIME_FACTOR`, or 1.
///
/// # Panics
/// When it is not a number from 1 to 100.
pub fn factor() -> u32 {
    static FACTOR: OnceLock<u32> = OnceLock::new();
    *FACTOR.get_or_init(|| {
        let Some(text) = std::env::var_os("BANGER_TEST_TIME_FACTOR") else {
            return 1;
        };
        text.to_str()
            .and_then(|text| text.parse().ok())
            .filter(|factor| (1..=100).contains(factor))
            .unwrap_or_else(|| {
                panic!("BANGER_TEST_TIME_FACTOR is {text:?}, no number from 1 to 100")
            })
    })
}

/// A bound of so many seconds on a common machine.
pub fn seconds(n: u64) -> Duration {
    Duration::from_secs(n) * factor()
}
