//! ATA and ATAPI drives, independent of their transport.
//!
//! A transport (PIIX3's channel) passes a command to a [`Drive`](drive::Drive) as a value: its code and the
//! [`Registers`](registers::Registers), later a packet or a list. The drive returns a [`Reply`](transfer::Reply): the command has
//! ended, with its result in the registers; or the transport must transfer data or carry out a job. Data paths, interrupts and
//! register addresses belong to the transport.
//!
//! | file | what |
//! |---|---|
//! | `registers.rs` | a command's registers as a value |
//! | `commands.rs` | commands and their ends |
//! | `transfer.rs` | replies: the data to transfer, the jobs that transfer it |
//! | `drive.rs` | a drive: its medium, and its state between commands |
//! | `settings.rs` | settings of a drive, and the effect of resets on them |
//! | `identify.rs` | the identification of a drive |
//! | `atapi.rs`, `atapi/` | packet commands of a CD-ROM drive, its claimed abilities |
//! | `cd_sector.rs` | the parts of a sector for READ CD |
//! | `counters.rs` | counts of a drive's operations |
//! | `spec.rs` | bits and codes |
//! | `state.rs` | the saved state of a drive |
mod atapi;
pub(crate) mod cd_sector;
mod commands;
pub(crate) mod counters;
pub(crate) mod drive;
mod identify;
pub(crate) mod registers;
mod settings;
pub(crate) mod spec;
pub(crate) mod state;
pub(crate) mod transfer;

#[cfg(test)]
mod tests;
