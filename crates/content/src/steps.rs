//! Side effects, announced one by one to whoever wants to know.

use std::fmt;
use std::sync::Arc;

use banger_model::Result;

type Hook = dyn Fn(&str) -> Result<()> + Send + Sync;

/// Is told of every side effect right before it happens, and may make it fail: so a test ends
/// or fails the work at each of them without a list of what there is. By default nobody
/// listens.
#[derive(Clone, Default)]
pub struct Steps(Option<Arc<Hook>>);

impl Steps {
    /// Calls `hook` with what happens next.
    pub fn new(hook: impl Fn(&str) -> Result<()> + Send + Sync + 'static) -> Steps {
        Steps(Some(Arc::new(hook)))
    }

    /// Something is about to be changed.
    ///
    /// # Errors
    /// What the listener wants it to fail with.
    pub fn pass(&self, what: &str) -> Result<()> {
        match &self.0 {
            Some(hook) => hook(what),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Steps").field(&self.0.is_some()).finish()
    }
}
