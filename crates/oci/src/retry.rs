//! When to ask again, and when to give up.

use std::time::Duration;

use crate::failure::Failure;
use crate::options::Options;

/// Counts the failures of one piece of work.
pub(crate) struct Retry {
    left: u32,
    pause: Duration,
    longest: Duration,
    attempts: u32,
    first: Duration,
}

impl Retry {
    pub(crate) fn new(options: &Options) -> Self {
        let attempts = options.attempts.max(1);
        Retry {
            left: attempts - 1,
            pause: options.first_pause,
            longest: options.longest_pause,
            attempts,
            first: options.first_pause,
        }
    }

    /// Forgets earlier failures: the work got further since.
    pub(crate) fn forget(&mut self) {
        self.left = self.attempts - 1;
        self.pause = self.first;
    }

    /// Waits until it is time to try again, or returns the failure when that is no use.
    ///
    /// A server's wish for a longer pause is heeded up to the longest one. When it wants more
    /// than that, asking earlier would only be refused again, so the failure is returned.
    pub(crate) async fn wait(&mut self, failure: Failure) -> Result<(), Failure> {
        if !failure.again || self.left == 0 {
            return Err(failure);
        }
        let pause = failure.after.unwrap_or_default().max(self.pause);
        if pause > self.longest.max(self.pause) {
            return Err(failure);
        }
        self.left -= 1;
        self.pause = (self.pause * 2).min(self.longest);
        tracing::info!(error = %failure.error.chain(), ?pause, "a request is repeated");
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use banger_model::{Code, Error};

    use super::*;

    fn passing(after: Option<u64>) -> Failure {
        Failure {
            after: after.map(Duration::from_secs),
            ..Failure::passing(Error::new(Code::FetchFailed, "x"))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_double_and_end() {
        let mut retry = Retry::new(&Options::default());
        let begun = tokio::time::Instant::now();
        for seconds in [0.5, 1.5, 3.5] {
            assert!(retry.wait(passing(None)).await.is_ok());
            assert_eq!(begun.elapsed().as_secs_f32(), seconds);
        }
        assert!(retry.wait(passing(None)).await.is_err());
        retry.forget();
        assert!(retry.wait(passing(None)).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_may_ask_for_a_pause_but_not_for_any() {
        let mut retry = Retry::new(&Options::default());
        let begun = tokio::time::Instant::now();
        assert!(retry.wait(passing(Some(20))).await.is_ok());
        assert_eq!(begun.elapsed().as_secs(), 20);
        assert!(retry.wait(passing(Some(3600))).await.is_err());
        let lasting = Failure::lasting(Error::new(Code::FetchFailed, "x"));
        assert!(retry.wait(lasting).await.is_err());
        assert_eq!(begun.elapsed().as_secs(), 20);
    }
}
