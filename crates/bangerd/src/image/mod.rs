//! Images: getting them, making them, and keeping those that VMs use.

mod claim;
mod delete;
mod input;
mod keep;
mod obtain;
mod prune;
mod register;

pub(crate) use claim::Claims;
pub(crate) use delete::{delete, not_found};
pub(crate) use input::Inputs;
pub(crate) use keep::{Holds, hold, sweep, sweep_after, sweep_soon, users};
pub(crate) use obtain::{canonical, default_kernel, obtain, pull};
pub(crate) use prune::prune;
pub(crate) use register::{refuse_existing, register};
