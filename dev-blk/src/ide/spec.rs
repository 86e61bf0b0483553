//! Registers of a channel (ATA/ATAPI-7 vol. 2) and of the bus master (Programming Interface for Bus Master IDE Controller 1.0,
//! Intel, 1994).
use crate::ata::spec::command;
use bitfield_struct::bitfield;
use bulkhead_bus::exercise::{BUFFERS, Field, Holds, Register, Shape, home};

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

/// The bus master's registers of a channel, by offset (BM-IDE 1.0, "Bus Master IDE Register Description").
pub(super) mod bus_master {
    pub(crate) const COMMAND: u32 = 0;
    pub(crate) const STATUS: u32 = 2;
    pub(crate) const TABLE: u32 = 4;
    /// Distance of the secondary channel's registers.
    pub(crate) const CHANNEL: u32 = 8;
}

const BLOCK: &str = "ATA/ATAPI-7 vol. 2, 5.2";
const BM: &str = "BM-IDE 1.0, register description";

const fn block(name: &'static str, region: u8, offset: u64, size: u8, words: &'static [u64]) -> Register {
    Register::new(name, BLOCK, region, offset as u32, size).words(words)
}

/// Subcommands of SET FEATURES, bit 0 of PACKET and DATA SET MANAGEMENT.
const FEATURES: &[u64] = &[0, 1, 0x02, 0x03, 0x55, 0x66, 0x82, 0xaa, 0xcc];
/// Counts, transfer modes, blocks of SET MULTIPLE.
const COUNT: &[u64] = &[0, 1, 2, 3, 4, 8, 16, 17, 0x20, 0x22, 0x40, 0x45, 0x80, 0xff];
const LBA: &[u64] = &[0, 1, 2, 7, 63, 64, 0xfe, 0xff];
const DEVICE: &[u64] = &[0xa0, 0xb0, 0xe0, 0xf0, 0xef, 0xaf];
const CONTROL: &[u64] = &[
    0,
    DeviceControl::new().with_nien(true).into_bits() as u64,
    DeviceControl::new().with_srst(true).into_bits() as u64,
    DeviceControl::new().with_hob(true).into_bits() as u64,
];
const BM_COMMAND: &[u64] = &[
    0,
    BusMasterCommand::new().with_start(true).into_bits() as u64,
    BusMasterCommand::new().with_to_memory(true).into_bits() as u64,
    BusMasterCommand::new().with_start(true).with_to_memory(true).into_bits() as u64,
];
const BM_STATUS: &[u64] = &[
    BusMasterStatus::new().with_error(true).into_bits() as u64,
    BusMasterStatus::new().with_interrupt(true).into_bits() as u64,
    BusMasterStatus::new().with_capable(3).into_bits() as u64,
];
const BM_TABLE: &[u64] = &[home(0), home(0) + 8, 0, 0xffef_fff8, 0xffff_fffc];
const DATA: &[u64] = &[0, 0x1234_5678, BUFFERS];

/// Every command, and two that no drive has.
const COMMANDS: &[u64] = &[
    0,
    command::DATA_SET_MANAGEMENT as u64,
    command::DEVICE_RESET as u64,
    command::RECALIBRATE as u64,
    command::READ_SECTORS as u64,
    command::READ_SECTORS_NORETRY as u64,
    command::READ_SECTORS_EXT as u64,
    command::READ_DMA_EXT as u64,
    command::READ_NATIVE_MAX_EXT as u64,
    command::READ_MULTIPLE_EXT as u64,
    command::WRITE_SECTORS as u64,
    command::WRITE_SECTORS_NORETRY as u64,
    command::WRITE_SECTORS_EXT as u64,
    command::WRITE_DMA_EXT as u64,
    command::WRITE_MULTIPLE_EXT as u64,
    command::READ_VERIFY as u64,
    command::READ_VERIFY_NORETRY as u64,
    command::READ_VERIFY_EXT as u64,
    command::SEEK as u64,
    command::EXECUTE_DIAGNOSTIC as u64,
    command::INITIALIZE_PARAMETERS as u64,
    command::PACKET as u64,
    command::IDENTIFY_PACKET as u64,
    command::READ_MULTIPLE as u64,
    command::WRITE_MULTIPLE as u64,
    command::SET_MULTIPLE as u64,
    command::READ_DMA as u64,
    command::READ_DMA_NORETRY as u64,
    command::WRITE_DMA as u64,
    command::WRITE_DMA_NORETRY as u64,
    command::STANDBY_IMMEDIATE as u64,
    command::IDLE_IMMEDIATE as u64,
    command::STANDBY as u64,
    command::IDLE as u64,
    command::CHECK_POWER as u64,
    command::SLEEP as u64,
    command::FLUSH as u64,
    command::FLUSH_EXT as u64,
    command::IDENTIFY as u64,
    command::SET_FEATURES as u64,
    command::READ_NATIVE_MAX as u64,
    // SMART, which is not claimed.
    0xb0,
];

/// The registers of both channels.
pub(super) const REGISTERS: &[Register] = &[
    block("Data (primary)", 0, reg::DATA, 2, DATA),
    block("Error, Features (primary)", 0, reg::ERROR_FEATURES, 1, FEATURES),
    block("Sector Count (primary)", 0, reg::COUNT, 1, COUNT),
    block("LBA Low (primary)", 0, reg::LBA_LOW, 1, LBA),
    block("LBA Mid (primary)", 0, reg::LBA_MID, 1, LBA),
    block("LBA High (primary)", 0, reg::LBA_HIGH, 1, LBA),
    block("Device (primary)", 0, reg::DEVICE, 1, DEVICE),
    block("Status, Command (primary)", 0, reg::STATUS_COMMAND, 1, COMMANDS),
    block("Alternate Status, Device Control (primary)", 1, 0, 1, CONTROL),
    block("Data (secondary)", 2, reg::DATA, 2, DATA),
    block("Error, Features (secondary)", 2, reg::ERROR_FEATURES, 1, FEATURES),
    block("Sector Count (secondary)", 2, reg::COUNT, 1, COUNT),
    block("LBA Low (secondary)", 2, reg::LBA_LOW, 1, LBA),
    block("LBA Mid, Byte Count Low (secondary)", 2, reg::LBA_MID, 1, LBA),
    block("LBA High, Byte Count High (secondary)", 2, reg::LBA_HIGH, 1, LBA),
    block("Device (secondary)", 2, reg::DEVICE, 1, DEVICE),
    block("Status, Command (secondary)", 2, reg::STATUS_COMMAND, 1, COMMANDS),
    block("Alternate Status, Device Control (secondary)", 3, 0, 1, CONTROL),
    Register::new("BMICP", BM, 4, bus_master::COMMAND, 1).words(BM_COMMAND),
    Register::new("BMISP", BM, 4, bus_master::STATUS, 1).words(BM_STATUS),
    Register::new("BMIDTPP", BM, 4, bus_master::TABLE, 4).words(BM_TABLE),
    Register::new("BMICS", BM, 4, bus_master::CHANNEL + bus_master::COMMAND, 1).words(BM_COMMAND),
    Register::new("BMISS", BM, 4, bus_master::CHANNEL + bus_master::STATUS, 1).words(BM_STATUS),
    Register::new("BMIDTPS", BM, 4, bus_master::CHANNEL + bus_master::TABLE, 4).words(BM_TABLE),
];

/// End of table, in the upper half of an entry's second word.
pub(super) const LAST: u16 = 0x8000;

/// What the bus master reads: entries of the table of physical regions.
pub(super) const SHAPES: &[Shape] = &[Shape {
    name: "Physical Region Descriptor",
    len: 8,
    fields: &[
        Field::new(0, 4, Holds::Buffer),
        Field::new(4, 2, Holds::Length(4096)),
        Field::new(6, 2, Holds::Flags(&[0, LAST as u64])),
    ],
}];
