//! Block devices.
pub mod backend;
pub mod ide;
pub mod qdisk;
