//! ATA and ATAPI drives, apart from what connects them to a guest.
//!
//! | file | what |
//! |---|---|
//! | `spec.rs` | registers and codes |
//! | `drive.rs` | a drive: its registers and its medium |
//! | `settings.rs` | what the host can set of a drive, and what a reset takes back |
//! | `identify.rs` | what a drive says of itself |
//! | `atapi.rs`, `atapi/` | packet commands of a CD-ROM drive, what it claims |
//! | `cd_sector.rs` | what READ CD makes of a sector |
//! | `counters.rs` | what a drive has done |
//! | `state.rs` | a drive as it is saved |
pub(crate) mod atapi;
pub(crate) mod cd_sector;
pub(crate) mod counters;
pub(crate) mod drive;
pub(crate) mod identify;
pub(crate) mod settings;
pub(crate) mod spec;
pub(crate) mod state;
