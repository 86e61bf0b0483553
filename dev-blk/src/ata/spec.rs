//! Registers and codes of ATA: ATA/ATAPI-7 (T13 1532D), SCSI MMC-4 and SPC-3 as far as ATAPI uses them.
use bitfield_struct::bitfield;

/// Bytes of a disk sector.
pub(crate) const SECTOR: usize = 512;
/// Bytes of a CD sector.
pub(crate) const CD_SECTOR: usize = 2048;
/// Most sectors of READ/WRITE MULTIPLE.
pub(crate) const MAX_MULTIPLE: u8 = 16;

/// Status register (6.14 of vol. 1).
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub(crate) struct Status {
    /// Error; CHK for packet commands.
    pub(crate) err: bool,
    #[bits(2)]
    __: u8,
    /// Data request.
    pub(crate) drq: bool,
    /// Seek complete (obsolete; set while ready).
    pub(crate) dsc: bool,
    /// Device fault.
    pub(crate) df: bool,
    /// Device ready.
    pub(crate) drdy: bool,
    /// Busy.
    pub(crate) bsy: bool,
}

impl Status {
    /// No command is in progress.
    pub(crate) const READY: Self = Self::new().with_drdy(true).with_dsc(true);
}

/// Error register of disks.
pub(crate) mod error {
    /// Command aborted.
    pub(crate) const ABRT: u8 = 0x04;
    /// Address not found.
    pub(crate) const IDNF: u8 = 0x10;
    /// Uncorrectable data.
    pub(crate) const UNC: u8 = 0x40;
}

/// Device register.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub(crate) struct DeviceRegister {
    /// LBA bits 27–24, or the head.
    #[bits(4)]
    pub(crate) high: u8,
    /// Device 1 is selected.
    pub(crate) dev: bool,
    __: bool,
    /// LBA addressing.
    pub(crate) lba: bool,
    __: bool,
}

/// Commands (vol. 1, 6).
pub(crate) mod command {
    pub(crate) const DATA_SET_MANAGEMENT: u8 = 0x06;
    pub(crate) const DEVICE_RESET: u8 = 0x08;
    pub(crate) const RECALIBRATE: u8 = 0x10;
    pub(crate) const READ_SECTORS: u8 = 0x20;
    pub(crate) const READ_SECTORS_NORETRY: u8 = 0x21;
    pub(crate) const READ_SECTORS_EXT: u8 = 0x24;
    pub(crate) const READ_DMA_EXT: u8 = 0x25;
    pub(crate) const READ_NATIVE_MAX_EXT: u8 = 0x27;
    pub(crate) const READ_MULTIPLE_EXT: u8 = 0x29;
    pub(crate) const WRITE_SECTORS: u8 = 0x30;
    pub(crate) const WRITE_SECTORS_NORETRY: u8 = 0x31;
    pub(crate) const WRITE_SECTORS_EXT: u8 = 0x34;
    pub(crate) const WRITE_DMA_EXT: u8 = 0x35;
    pub(crate) const WRITE_MULTIPLE_EXT: u8 = 0x39;
    pub(crate) const READ_VERIFY: u8 = 0x40;
    pub(crate) const READ_VERIFY_NORETRY: u8 = 0x41;
    pub(crate) const READ_VERIFY_EXT: u8 = 0x42;
    pub(crate) const SEEK: u8 = 0x70;
    pub(crate) const EXECUTE_DIAGNOSTIC: u8 = 0x90;
    pub(crate) const INITIALIZE_PARAMETERS: u8 = 0x91;
    pub(crate) const PACKET: u8 = 0xa0;
    pub(crate) const IDENTIFY_PACKET: u8 = 0xa1;
    pub(crate) const READ_MULTIPLE: u8 = 0xc4;
    pub(crate) const WRITE_MULTIPLE: u8 = 0xc5;
    pub(crate) const SET_MULTIPLE: u8 = 0xc6;
    pub(crate) const READ_DMA: u8 = 0xc8;
    pub(crate) const READ_DMA_NORETRY: u8 = 0xc9;
    pub(crate) const WRITE_DMA: u8 = 0xca;
    pub(crate) const WRITE_DMA_NORETRY: u8 = 0xcb;
    pub(crate) const STANDBY_IMMEDIATE: u8 = 0xe0;
    pub(crate) const IDLE_IMMEDIATE: u8 = 0xe1;
    pub(crate) const STANDBY: u8 = 0xe2;
    pub(crate) const IDLE: u8 = 0xe3;
    pub(crate) const CHECK_POWER: u8 = 0xe5;
    pub(crate) const SLEEP: u8 = 0xe6;
    pub(crate) const FLUSH: u8 = 0xe7;
    pub(crate) const FLUSH_EXT: u8 = 0xea;
    pub(crate) const IDENTIFY: u8 = 0xec;
    pub(crate) const SET_FEATURES: u8 = 0xef;
    pub(crate) const READ_NATIVE_MAX: u8 = 0xf8;
}

/// Interrupt reason, in the count register of packet commands.
pub(crate) mod reason {
    /// The drive requests a command packet.
    pub(crate) const COMMAND: u8 = 1;
    /// Data to the drive.
    pub(crate) const DATA_OUT: u8 = 0;
    /// Data to the host.
    pub(crate) const DATA_IN: u8 = 2;
    /// The command has ended.
    pub(crate) const STATUS: u8 = 3;
}

/// Sense keys and additional codes (MMC-4 annex F): key, code, qualifier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sense {
    pub(crate) key: u8,
    pub(crate) asc: u8,
    pub(crate) ascq: u8,
}

impl Sense {
    pub(crate) const NONE: Self = Self { key: 0, asc: 0, ascq: 0 };
    pub(crate) const NO_MEDIUM: Self = Self { key: 2, asc: 0x3a, ascq: 0 };
    pub(crate) const TRAY_OPEN: Self = Self { key: 2, asc: 0x3a, ascq: 2 };
    pub(crate) const READ_ERROR: Self = Self { key: 3, asc: 0x11, ascq: 0 };
    pub(crate) const ILLEGAL_COMMAND: Self = Self { key: 5, asc: 0x20, ascq: 0 };
    pub(crate) const LIST_LENGTH: Self = Self { key: 5, asc: 0x1a, ascq: 0 };
    pub(crate) const OUT_OF_RANGE: Self = Self { key: 5, asc: 0x21, ascq: 0 };
    pub(crate) const INVALID_FIELD: Self = Self { key: 5, asc: 0x24, ascq: 0 };
    pub(crate) const REMOVAL_PREVENTED: Self = Self { key: 5, asc: 0x53, ascq: 2 };
    pub(crate) const INVALID_PARAMETER: Self = Self { key: 5, asc: 0x26, ascq: 0 };
    pub(crate) const INCOMPATIBLE_MEDIUM: Self = Self { key: 5, asc: 0x30, ascq: 2 };
    pub(crate) const NO_SAVED_VALUES: Self = Self { key: 5, asc: 0x39, ascq: 0 };
    pub(crate) const WRONG_MODE: Self = Self { key: 5, asc: 0x64, ascq: 0 };
    pub(crate) const MEDIUM_MAY_HAVE_CHANGED: Self = Self { key: 6, asc: 0x28, ascq: 0 };
    pub(crate) const ABORTED: Self = Self { key: 0x0b, asc: 0, ascq: 0 };
}

/// An event of the medium, for GET EVENT STATUS NOTIFICATION (MMC-4 table 72).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum MediaEvent {
    #[default]
    None = 0,
    /// The host requests the removal of the medium.
    EjectRequest = 1,
    New = 2,
    Removal = 3,
}

impl MediaEvent {
    pub(crate) fn from_u32(value: u32) -> Option<Self> {
        Some(match value {
            0 => Self::None,
            1 => Self::EjectRequest,
            2 => Self::New,
            3 => Self::Removal,
            _ => return None,
        })
    }
}
