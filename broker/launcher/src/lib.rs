//! `bulkhead-dm`, which libxl starts in QEMU's place. It opens the host's resources, starts each process in its sandbox, keeps the
//! descriptors of each slot and restarts the slot's process with them. docs/architecture.md lists what it parses.

pub mod argv;
pub mod attach;
mod budget;
mod callers;
pub mod errors;
pub mod failure;
pub mod groups;
pub mod intake;
mod log;
pub mod machine;
mod nodes;
pub mod options;
mod phase;
pub mod placement;
mod pv;
mod resource;
pub mod settings;
mod slot;
mod slots;
mod store;
pub mod stubdom;
mod supervise;
mod unserved;

pub use log::tell;
pub use supervise::run;
