//! ATA and ATAPI drives, apart from what connects them to a guest.
//!
//! A transport (PIIX3's channel) gives a [`Drive`](drive::Drive) a command as a value: its code and the [`Registers`](registers::Registers),
//! later a packet or a list. What it comes to is a [`Reply`](transfer::Reply): it has ended, and the registers tell how; or data is to move,
//! or a job is to be carried out, and the drive says which. How data reaches the guest, when it is interrupted, and what a register's address
//! is, nobody here knows.
//!
//! | file | what |
//! |---|---|
//! | `registers.rs` | a command's registers as a value |
//! | `commands.rs` | what a command asks for, and how it ends |
//! | `transfer.rs` | what a command comes to: the data to move, the jobs that move it |
//! | `drive.rs` | a drive: its medium, and its state between commands |
//! | `settings.rs` | what the host can set of a drive, and what a reset takes back |
//! | `identify.rs` | what a drive says of itself |
//! | `atapi.rs`, `atapi/` | packet commands of a CD-ROM drive, what it claims |
//! | `cd_sector.rs` | what READ CD makes of a sector |
//! | `counters.rs` | what a drive has done |
//! | `spec.rs` | bits and codes |
//! | `state.rs` | a drive as it is saved |
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
