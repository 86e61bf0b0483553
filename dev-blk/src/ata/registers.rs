//! The command block registers as a value, before and after a command.
use super::spec::{DeviceRegister, Status};

/// The registers. Commands with 48-bit addresses have two values of a register: the last written one is in the low half.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Registers {
    pub(crate) features: u16,
    pub(crate) count: u16,
    /// LBA low, mid and high; then the previous values of the three.
    pub(crate) lba: [u8; 6],
    pub(crate) device: DeviceRegister,
    pub(crate) status: Status,
    pub(crate) error: u8,
}

impl Registers {
    /// Bit 0 of the features register. It selects DMA for PACKET, and TRIM for DATA SET MANAGEMENT.
    pub(crate) fn feature_0(&self) -> bool {
        self.features & 1 != 0
    }

    /// The last value of the count register.
    pub(crate) fn low_count(&self) -> u8 {
        let [low, _] = self.count.to_le_bytes();
        low
    }

    /// Sets the last value of the count register.
    pub(crate) fn set_low_count(&mut self, value: u8) {
        self.count = self.count & 0xff00 | u16::from(value);
    }

    /// The byte count of packet commands, in LBA mid and high.
    pub(crate) fn byte_count(&self) -> u16 {
        let [_, mid, high, ..] = self.lba;
        u16::from_le_bytes([mid, high])
    }

    /// Sets the byte count of packet commands.
    pub(crate) fn set_byte_count(&mut self, value: u16) {
        let [mid, high] = value.to_le_bytes();
        self.lba[1] = mid;
        self.lba[2] = high;
    }
}
