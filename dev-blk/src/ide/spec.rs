//! Registers of a channel (ATA/ATAPI-7 vol. 2) and of the bus master (Programming Interface for Bus Master IDE Controller 1.0,
//! Intel, 1994).
use bitfield_struct::bitfield;

/// Command block registers, by offset (ATA/ATAPI-7 vol. 2, 5.2).
pub(crate) mod reg {
    pub(crate) const DATA: u64 = 0;
    pub(crate) const ERROR_FEATURES: u64 = 1;
    pub(crate) const COUNT: u64 = 2;
    pub(crate) const LBA_LOW: u64 = 3;
    pub(crate) const LBA_MID: u64 = 4;
    pub(crate) const LBA_HIGH: u64 = 5;
    pub(crate) const DEVICE: u64 = 6;
    pub(crate) const STATUS_COMMAND: u64 = 7;
}

/// Device control register.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub(crate) struct DeviceControl {
    __: bool,
    /// No interrupts.
    pub(crate) nien: bool,
    /// Software reset.
    pub(crate) srst: bool,
    #[bits(4)]
    __: u8,
    /// Reads return the registers' previous contents (48-bit commands).
    pub(crate) hob: bool,
}

/// Bus master command register.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub(crate) struct BusMasterCommand {
    /// Starts the engine.
    pub(crate) start: bool,
    #[bits(2)]
    __: u8,
    /// Direction: from the drive to memory.
    pub(crate) to_memory: bool,
    #[bits(4)]
    __: u8,
}

/// Bus master status register.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub(crate) struct BusMasterStatus {
    /// A transfer is in progress.
    pub(crate) active: bool,
    /// An error; cleared by writing 1.
    pub(crate) error: bool,
    /// The drive has interrupted; cleared by writing 1.
    pub(crate) interrupt: bool,
    #[bits(2)]
    __: u8,
    /// Set by software: the drives support DMA.
    #[bits(2)]
    pub(crate) capable: u8,
    __: bool,
}
