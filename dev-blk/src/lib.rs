//! Block devices.
pub mod backend;
pub mod ide;
