//! Block devices.
mod ata;
pub mod backend;
pub mod ide;
pub mod qdisk;
