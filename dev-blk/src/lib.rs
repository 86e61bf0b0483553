//! Block devices: IDE with its drives, the back end of PV disks, and images.
mod ata;
pub mod backend;
pub mod ide;
pub mod qdisk;
