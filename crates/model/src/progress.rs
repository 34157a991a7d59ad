//! How long work reports where it is.

/// Receives the stages of one long piece of work.
///
/// Implementations must be cheap: reporters call them from the middle of the work.
pub trait Progress: Send + Sync {
    /// A new stage began. `name` is one stable word in kebab case such as `pull-image`;
    /// `message` is what a person reads.
    fn stage(&self, name: &str, message: &str);

    /// How much of the current stage is done, from 0.0 to 1.0.
    fn fraction(&self, done: f32);

    /// Something is not as asked, and the work goes on. Unless somebody keeps it for a person,
    /// it is lost.
    fn warn(&self, _warning: &str) {}
}

/// Discards all reports.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quiet;

impl Progress for Quiet {
    fn stage(&self, _name: &str, _message: &str) {}
    fn fraction(&self, _done: f32) {}
}
