//! CMOS RAM. Indices below 0x0e are the clock, which Xen emulates; it forwards only index writes from 0x0e on, so the latch here
//! never sees others.
use crate::Config;
use bulkhead_bus::DiskGeometry;
use bulkhead_bus::{Inspect, StateError};

/// Floppy drive types: none.
pub(crate) const EQUIPMENT: usize = 0x14;
/// Types of the first channel's disks, the master's in the high half. 0fh refers to an extended type byte, whose value selects the
/// user's table.
pub(crate) const DISK_TYPES: usize = 0x12;
/// Indices of the extended type and the user's table, and the mask in [`DISK_TYPES`], for master and slave.
const DISKS: [(usize, usize, u8); 2] = [(0x19, 0x1b, 0xf0), (0x1a, 0x24, 0x0f)];
const USERS_TABLE: u8 = 47;
/// The translation of cylinder addresses, two bits for each drive (SeaBIOS, hw/rtc.h: CMOS_BIOS_DISKTRANSFLAG).
pub(crate) const TRANSLATIONS: usize = 0x39;
const CENTURY: [usize; 2] = [0x32, 0x37];
pub(crate) const BOOT_1: usize = 0x38;
pub(crate) const BOOT_2: usize = 0x3d;
pub(crate) const CPUS: usize = 0x5f;

/// The RAM and its index latch.
pub(crate) struct Cmos {
    bytes: [u8; 128],
    index: u8,
}

/// SeaBIOS's number of a boot device (boot.c).
fn boot_code(letter: Option<char>) -> u8 {
    match letter {
        Some('a') => 1,
        Some('c') => 2,
        Some('d') => 3,
        Some('n') => 4,
        _ => 0,
    }
}

impl Cmos {
    pub(crate) fn new(config: &Config) -> Self {
        let mut cmos = Self { bytes: [0; 128], index: 0x0e };
        // FPU and PS/2 mouse; no floppy drive.
        cmos.set(EQUIPMENT, 0x06);
        for at in CENTURY {
            cmos.set(at, 0x20);
        }
        let mut order = config.boot.chars();
        let (first, second, third) = (boot_code(order.next()), boot_code(order.next()), boot_code(order.next()));
        // Bit 0 makes the firmware boot a floppy disk without checking its signature; QEMU's PC has it clear.
        cmos.set(BOOT_1, third << 4);
        if config.unsigned_floppy {
            cmos.set(BOOT_1, third << 4 | 1);
        }
        cmos.set(BOOT_2, second << 4 | first);
        for disk in &config.disks {
            cmos.disk(disk);
        }
        cmos.set(CPUS, config.vcpus.saturating_sub(1).min(255) as u8);
        cmos
    }

    /// Adds a disk to the tables of the AT's firmware (Phoenix' and AMI's; Ralf Brown's list of CMOS memory, 12h, 19h to 2ch).
    fn disk(&mut self, disk: &DiskGeometry) {
        let shift = u32::from(disk.drive & 3).wrapping_mul(2);
        self.set(TRANSLATIONS, self.get(TRANSLATIONS) | (disk.translation as u8) << shift);
        let Some((further, table, kind)) = DISKS.get(usize::from(disk.drive)) else { return };
        self.set(DISK_TYPES, self.get(DISK_TYPES) | kind);
        self.set(*further, USERS_TABLE);
        let [low, high] = disk.cylinders.to_le_bytes();
        // No write precompensation; the control byte has a bit for more than eight heads; the landing zone follows the last
        // cylinder.
        let control = 0xc0 | u8::from(disk.heads > 8) << 3;
        for (at, byte) in (*table..).zip([low, high, disk.heads, 0xff, 0xff, control, low, high, disk.sectors]) {
            self.set(at, byte);
        }
    }

    fn get(&self, at: usize) -> u8 {
        self.bytes.get(at).copied().unwrap_or(0)
    }

    fn set(&mut self, at: usize, value: u8) {
        if let Some(byte) = self.bytes.get_mut(at) {
            *byte = value;
        }
    }

    pub(crate) fn read(&self, offset: u16) -> u8 {
        match offset {
            0 => 0xff,
            _ => self.bytes.get(usize::from(self.index)).copied().unwrap_or(0xff),
        }
    }

    pub(crate) fn write(&mut self, offset: u16, value: u8) {
        match offset {
            0 => self.index = value & 0x7f,
            _ if self.index >= 0x0e => self.set(usize::from(self.index), value),
            _ => {}
        }
    }

    pub(crate) fn index(&self) -> u8 {
        self.index
    }

    pub(crate) fn save(&self) -> Vec<u8> {
        self.bytes.to_vec()
    }

    pub(crate) fn load(&mut self, bytes: &[u8], index: u8) -> Result<(), StateError> {
        self.bytes = bytes.try_into().map_err(|_| StateError::Value("CMOS RAM"))?;
        self.index = index & 0x7f;
        Ok(())
    }

    pub(crate) fn inspect(&self, out: &mut Inspect) {
        out.hex("index", self.index);
        for (i, byte) in self.bytes.iter().enumerate().filter(|(i, b)| *i >= 0x0e && **b != 0) {
            out.hex(&format!("{i:02x}"), *byte);
        }
    }
}
