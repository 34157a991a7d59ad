//! Places where a test makes the daemon fail.
//!
//! Every side effect of an operation passes [`hit()`] (or [`pass()`] in asynchronous code) right
//! before it happens; hits are numbered from 1 within their operation. A test arms one with the
//! environment, for operations of one kind, and counts up until the operation ends untouched:
//!
//! ```text
//! BANGER_TEST_ABORT=stop-vm:3               the process aborts at the third hit of a stop
//! BANGER_TEST_FAIL=create-vm:5,create-vm:7  these hits are I/O errors
//! BANGER_TEST_HANG=start-vm:2               this one never returns
//! ```
//!
//! The kinds are those of [`OperationKind`](banger_api::OperationKind), and
//! `guest-end` for a VM that ends by itself and `reconcile` for what a daemon does when it
//! starts. Each hit is logged at debug with its kind, number and name. All of this is in builds
//! with debug assertions only; in others nothing is left of it.

pub(crate) use imp::{Scope, arm, carry, hit, pass, steps, within};

/// For what has no operation: a VM that ends by itself.
pub(crate) const GUEST_END: &str = "guest-end";
/// For what has no operation: a daemon that starts.
pub(crate) const RECONCILE: &str = "reconcile";

#[cfg(debug_assertions)]
mod imp {
    use std::io;
    use std::path::Path;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::{Arc, OnceLock};

    use banger_config::{Fault, Faults};
    use banger_content::Steps;
    use banger_model::{Error, Result};

    tokio::task_local! {
        static SCOPE: Scope;
    }

    static ARMED: OnceLock<Faults> = OnceLock::new();

    /// The count of one operation. Clones share it.
    #[derive(Clone, Debug)]
    pub(crate) struct Scope {
        kind: Arc<str>,
        hits: Arc<AtomicU32>,
    }

    impl Scope {
        /// A count that begins now.
        pub(crate) fn new(kind: &str) -> Scope {
            Scope {
                kind: kind.into(),
                hits: Arc::default(),
            }
        }

        fn next(&self, what: &str) -> Option<Fault> {
            let number = self.hits.fetch_add(1, Ordering::Relaxed) + 1;
            tracing::debug!(kind = &*self.kind, number, what, "failpoint");
            ARMED.get()?.at(&self.kind, number)
        }
    }

    /// Arms what the environment names, for the rest of the process.
    pub(crate) fn arm(faults: Faults) {
        // A second time would be a second daemon in one process.
        ARMED.set(faults).ok();
    }

    /// Does the work with its hits counted in this scope.
    pub(crate) async fn within<T>(scope: Scope, work: impl Future<Output = T>) -> T {
        SCOPE.scope(scope, work).await
    }

    /// Takes the present scope along to a thread that may block.
    pub(crate) fn carry<T>(work: impl FnOnce() -> T) -> impl FnOnce() -> T {
        let scope = SCOPE.try_with(Scope::clone).ok();
        move || match scope {
            Some(scope) => SCOPE.sync_scope(scope, work),
            None => work(),
        }
    }

    /// The present scope, for libraries that announce their side effects themselves.
    pub(crate) fn steps() -> Steps {
        match SCOPE.try_with(Scope::clone) {
            Ok(scope) => Steps::new(move |what| SCOPE.sync_scope(scope.clone(), || hit(what))),
            Err(_) => Steps::default(),
        }
    }

    /// A side effect follows, in code that may block.
    ///
    /// # Errors
    /// `io` when a test wants it so.
    pub(crate) fn hit(what: &str) -> Result<()> {
        match next(what) {
            None => Ok(()),
            Some(Fault::Hang) => loop {
                std::thread::park();
            },
            Some(fault) => strike(fault, what),
        }
    }

    /// A side effect follows, in code that must not block.
    ///
    /// # Errors
    /// `io` when a test wants it so.
    pub(crate) async fn pass(what: &str) -> Result<()> {
        match next(what) {
            None => Ok(()),
            Some(Fault::Hang) => std::future::pending().await,
            Some(fault) => strike(fault, what),
        }
    }

    fn next(what: &str) -> Option<Fault> {
        SCOPE.try_with(|scope| scope.next(what)).ok().flatten()
    }

    fn strike(fault: Fault, what: &str) -> Result<()> {
        if fault == Fault::Abort {
            tracing::warn!(what, "aborting, as the test wants");
            std::process::abort();
        }
        tracing::warn!(what, "failing, as the test wants");
        let wanted = io::Error::other("a test wanted it to fail");
        Err(Error::io(what, Path::new("a failpoint"), wanted))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[tokio::test]
        async fn hits_are_counted_per_operation_across_threads() {
            let count = |scope: &Scope| scope.hits.load(Ordering::Relaxed);
            let (one, other) = (Scope::new("start-vm"), Scope::new("start-vm"));
            hit("nobody counts this").unwrap();
            within(one.clone(), async {
                hit("first").unwrap();
                pass("second").await.unwrap();
                let carried = carry(|| hit("third"));
                tokio::task::spawn_blocking(carried).await.unwrap().unwrap();
            })
            .await;
            within(other.clone(), pass("first")).await.unwrap();
            assert_eq!((count(&one), count(&other)), (3, 1));
        }
    }
}

#[cfg(not(debug_assertions))]
mod imp {
    use banger_config::Faults;
    use banger_content::Steps;
    use banger_model::Result;

    #[derive(Clone, Debug)]
    pub(crate) struct Scope;

    impl Scope {
        pub(crate) fn new(_kind: &str) -> Scope {
            Scope
        }
    }

    pub(crate) fn arm(_faults: Faults) {}

    pub(crate) async fn within<T>(_scope: Scope, work: impl Future<Output = T>) -> T {
        work.await
    }

    pub(crate) fn carry<T>(work: impl FnOnce() -> T) -> impl FnOnce() -> T {
        work
    }

    pub(crate) fn steps() -> Steps {
        Steps::default()
    }

    #[inline(always)]
    pub(crate) fn hit(_what: &str) -> Result<()> {
        Ok(())
    }

    #[inline(always)]
    pub(crate) async fn pass(_what: &str) -> Result<()> {
        Ok(())
    }
}
