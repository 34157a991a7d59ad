//! The frequency of the host's time stamp counter.
//!
//! An emulated guest reads the host's counter and must learn how fast it runs. Left alone, the
//! guest kernel times it against an emulated interval timer, and on a busy host that fails:
//! measured with QEMU 7.2 and Linux 6.1, from one boot in six to nearly every boot then hangs
//! for ever without a word. Telling the kernel (`tsc_early_khz=`) leaves nothing to time.

use std::sync::OnceLock;

/// What a guest is told of the host's counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counter {
    /// Its frequency.
    pub(super) khz: u32,
    /// Whether it runs at that speed whatever the processor does, so that it can be trusted.
    pub(super) steady: bool,
}

/// The counter, measured once; absent where it cannot be.
pub(super) fn counter() -> Option<Counter> {
    static COUNTER: OnceLock<Option<Counter>> = OnceLock::new();
    *COUNTER.get_or_init(measure)
}

#[cfg(target_arch = "x86_64")]
fn measure() -> Option<Counter> {
    use std::time::Duration;

    let start = sample();
    // Long enough for a few parts per million, which is finer than the kernel's own timing.
    std::thread::sleep(Duration::from_millis(5));
    let end = sample();
    let khz = khz(
        end.ticks.checked_sub(start.ticks)?,
        end.nanos.checked_sub(start.nanos)?,
    )?;
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    Some(Counter {
        khz,
        steady: is_steady(&cpuinfo),
    })
}

#[cfg(not(target_arch = "x86_64"))]
fn measure() -> Option<Counter> {
    None
}

/// Whether the counter runs at one speed in every power state.
fn is_steady(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .find(|line| line.starts_with("flags"))
        .is_some_and(|line| {
            let has = |flag| line.split_ascii_whitespace().any(|word| word == flag);
            has("constant_tsc") && has("nonstop_tsc")
        })
}

fn khz(ticks: u64, nanos: u64) -> Option<u32> {
    let khz = u128::from(ticks) * 1_000_000 / u128::from(nanos.max(1));
    // Outside what any processor does, the measurement is wrong.
    u32::try_from(khz)
        .ok()
        .filter(|khz| (100_000..=20_000_000).contains(khz))
}

#[cfg(target_arch = "x86_64")]
struct Sample {
    ticks: u64,
    nanos: u64,
}

/// The counter and the clock at one moment: the closest of a few tries, since the process may
/// be preempted between reading one and the other.
#[cfg(target_arch = "x86_64")]
fn sample() -> Sample {
    use core::arch::x86_64::_rdtsc;
    use rustix::time::{ClockId, clock_gettime};

    (0..16)
        .map(|_| {
            // SAFETY: every x86-64 processor has the counter, and Linux lets programs read it
            // unless they asked not to.
            let before = unsafe { _rdtsc() };
            let time = clock_gettime(ClockId::MonotonicRaw);
            // SAFETY: as above.
            let after = unsafe { _rdtsc() };
            let width = after.saturating_sub(before);
            let nanos = u64::try_from(time.tv_sec)
                .unwrap_or(0)
                .saturating_mul(1_000_000_000)
                .saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0));
            (
                width,
                Sample {
                    ticks: before + width / 2,
                    nanos,
                },
            )
        })
        .min_by_key(|(width, _)| *width)
        .map_or(Sample { ticks: 0, nanos: 0 }, |(_, sample)| sample)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_steady_counter_counts() {
        assert!(is_steady(
            "model name : x\nflags\t\t: fpu constant_tsc nonstop_tsc sse\n"
        ));
        assert!(!is_steady("flags\t\t: fpu constant_tsc sse\n"));
        assert!(!is_steady("flags\t\t: fpu xconstant_tsc nonstop_tsc\n"));
        assert!(!is_steady(""));
    }

    #[test]
    fn frequencies_outside_reason_are_dropped() {
        assert_eq!(khz(2_596_120, 1_000_000), Some(2_596_120));
        assert_eq!(khz(1, 1_000_000), None);
        assert_eq!(khz(u64::MAX, 1), None);
        assert_eq!(khz(0, 0), None);
    }

    #[test]
    fn two_measurements_agree() {
        if let (Some(first), Some(second)) = (measure(), measure()) {
            assert!(
                first.khz.abs_diff(second.khz) < first.khz / 1000,
                "{first:?} {second:?}"
            );
            assert_eq!(first.steady, second.steady);
        }
    }
}
