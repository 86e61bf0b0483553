//! BAR 2: the monitor's description and the registers of both interfaces.
use super::{Vga, edid};
use bulkhead_bus::{IoError, IoResult};

impl Vga {
    /// BAR 2: the EDID at 0, VGA ports at 0x400, DISPI registers at 0x500, the extension block at 0x600.
    pub(super) fn mmio_read(&mut self, offset: u64, size: u8, now: u64) -> IoResult<u64> {
        match (offset, size) {
            (0..=0x7f, 1 | 2 | 4) => {
                let block = edid::block(self.preferred);
                let bytes = block.iter().skip(offset as usize).take(usize::from(size)).rev();
                Ok(bytes.fold(0, |v, b| v << 8 | u64::from(*b)))
            }
            (0x400..=0x41f, 1) => Ok(u64::from(self.port_read((offset as u16).wrapping_sub(0x400), now))),
            (0x500..=0x515, 2) if offset & 1 == 0 => {
                Ok(u64::from(self.dispi_read((offset as u16).wrapping_sub(0x500) >> 1)))
            }
            // Size of the block, then the frame buffer's byte order: little endian.
            (0x600, 4) => Ok(8),
            (0x604, 4) => Ok(0x1e1e_1e1e),
            (0x400..=0x41f | 0x500..=0x515, _) => Err(IoError::Size),
            _ => Ok(u64::MAX),
        }
    }

    pub(super) fn mmio_write(&mut self, offset: u64, size: u8, value: u64) -> IoResult<()> {
        match (offset, size) {
            (0x400..=0x41f, 1) => self.port_write((offset as u16).wrapping_sub(0x400), value as u8),
            (0x500..=0x515, 2) if offset & 1 == 0 => {
                self.dispi_write((offset as u16).wrapping_sub(0x500) >> 1, value as u16)
            }
            (0x400..=0x41f | 0x500..=0x515, _) => return Err(IoError::Size),
            _ => {}
        }
        Ok(())
    }
}
