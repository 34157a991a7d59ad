//! Starts, finds and ends the processes that run VMs.
//!
//! A [`Driver`] turns a [`Machine`] into an [`Instance`]: one VMM process and the programs it
//! needs, detached from whoever started them. Instances are found again from the system alone
//! ([`find_all`]), never from files that say what should be running. The crate also probes the
//! host: which VMMs work here ([`Facts`]), and which one to use ([`choose()`]).
//!
//! It knows nothing of images, of the database or of what happens inside the guest.

mod choose;
mod discover;
mod driver;
mod firecracker;
mod host;
mod instance;
mod kvm;
mod log;
mod machine;
mod patience;
mod process;
mod programs;
mod qemu;
mod tail;
#[cfg(test)]
mod testing;
mod versions;

pub use choose::{Choice, Demand, choose, driver};
pub use discover::find_all;
pub use driver::Driver;
pub use firecracker::{Firecracker, FirecrackerFacts, FirecrackerPrograms, HALTED};
pub use host::{Facts, ProgramFacts, checks};
pub use instance::{Ended, Instance, Part};
pub use kvm::{DeviceAccess, KvmFacts, LiveBoot, ProbeInputs, prove, recall};
pub use machine::{
    Disk, GuestNetwork, Machine, agent_socket, boot_socket, device_path, guest_network, runtime_dir,
};
pub use patience::{Patience, Wanted};
pub use programs::{Programs, Search};
pub use qemu::{Accel, Qemu};
pub use tail::log_tail;
pub use versions::Versions;
