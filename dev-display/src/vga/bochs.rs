//! Registers of the Bochs interface.
use super::Vga;
use super::spec::{DispiEnable, dispi};

/// Bits of a pixel in video RAM.
fn depth_in_memory(bpp: u16) -> u16 {
    if bpp == 4 { 4 } else { bpp.next_multiple_of(8).max(8) }
}

impl Vga {
    pub(super) fn enable(&self) -> DispiEnable {
        DispiEnable::from_bits(self.dispi(dispi::ENABLE))
    }

    pub(super) fn dispi_enabled(&self) -> bool {
        self.enable().enabled()
    }

    pub(super) fn dac_8bit(&self) -> bool {
        self.enable().dac_8bit()
    }

    /// Bytes of a line in a mode of the Bochs interface.
    pub(super) fn dispi_stride(&self) -> u64 {
        let bits = u64::from(depth_in_memory(self.dispi(dispi::BPP)));
        u64::from(self.dispi(dispi::VIRT_WIDTH)).saturating_mul(bits) >> 3
    }

    pub(super) fn dispi_read(&self, index: u16) -> u16 {
        let index = usize::from(index);
        if self.enable().get_capabilities() {
            match index {
                dispi::XRES => return dispi::MAX_X,
                dispi::YRES => return dispi::MAX_Y,
                dispi::BPP => return 32,
                _ => {}
            }
        }
        self.dispi(index)
    }

    /// Writes a register. It stores the value, or the nearest valid one. The height of the virtual screen, which follows from its
    /// width, and the size of video RAM are read-only. An unsupported version is not stored: a guest detects the version by reading
    /// it back.
    pub(super) fn dispi_write(&mut self, index: u16, value: u16) {
        let index = usize::from(index);
        let value = match index {
            dispi::ID if (dispi::ID0..=dispi::ID5).contains(&value) => value,
            dispi::XRES => value.min(dispi::MAX_X),
            dispi::YRES => value.min(dispi::MAX_Y),
            // Invalid depths, 0 included, become 8 bits, which every guest supports.
            dispi::BPP if !matches!(value, 4 | 8 | 15 | 16 | 24 | 32) => 8,
            dispi::ENABLE => return self.set_enable(DispiEnable::from_bits(value)),
            dispi::BPP | dispi::BANK | dispi::VIRT_WIDTH | dispi::X_OFFSET | dispi::Y_OFFSET => value,
            _ => return,
        };
        if let Some(register) = self.dispi.get_mut(index) {
            *register = value;
        }
        // The bank is valid in every mode; the other values are checked when a mode is enabled.
        self.dispi[dispi::BANK] = self.dispi[dispi::BANK].checked_rem(self.banks()).unwrap_or(0);
        if self.dispi_enabled() {
            self.settle();
        }
    }

    /// Number of banks of 64 KiB; in a planar mode a bank spans all planes.
    fn banks(&self) -> u16 {
        let planar = self.dispi_enabled() && self.dispi[dispi::BPP] == 4;
        (self.vram_size >> if planar { 18 } else { 16 }) as u16
    }

    fn set_enable(&mut self, new: DispiEnable) {
        let starting = new.enabled() && !self.dispi_enabled();
        self.dispi[dispi::ENABLE] = new.into_bits();
        if !starting {
            return;
        }
        self.dispi[dispi::VIRT_WIDTH] = self.dispi[dispi::XRES];
        self.dispi[dispi::X_OFFSET] = 0;
        self.dispi[dispi::Y_OFFSET] = 0;
        self.dispi[dispi::BANK] = 0;
        self.settle();
        if !new.no_clear() {
            let zeroes = [0; 4096];
            let len = self.dispi_stride().saturating_mul(u64::from(self.dispi[dispi::YRES]));
            let len = len.min(u64::from(self.vram_size));
            for at in (0..len).step_by(zeroes.len()) {
                let piece = zeroes.get(..len.saturating_sub(at) as usize).unwrap_or(&zeroes);
                let _ = self.vram.write(at, piece);
            }
        }
    }

    /// Adjusts a mode's registers to values that fit in video RAM.
    fn settle(&mut self) {
        let vram = u64::from(self.vram_size);
        let d = &mut self.dispi;
        d[dispi::BPP] = if d[dispi::BPP] == 0 { 8 } else { d[dispi::BPP] };
        d[dispi::XRES] = if d[dispi::XRES] == 0 { 8 } else { d[dispi::XRES] };
        // A byte of a plane is eight pixels.
        let planar = d[dispi::BPP] == 4;
        let whole = |width: u16| if planar { width.min(0xfff8).next_multiple_of(8) } else { width };
        d[dispi::VIRT_WIDTH] = whole(d[dispi::VIRT_WIDTH].max(d[dispi::XRES]));
        let bits = u64::from(depth_in_memory(d[dispi::BPP]));
        let stride = |width: u16| (u64::from(width).saturating_mul(bits) >> 3).max(1);
        if stride(d[dispi::VIRT_WIDTH]) > vram {
            d[dispi::VIRT_WIDTH] = whole(d[dispi::XRES]);
        }
        let lines = vram.checked_div(stride(d[dispi::VIRT_WIDTH])).unwrap_or(1).max(1);
        d[dispi::YRES] = d[dispi::YRES].clamp(1, u16::try_from(lines).unwrap_or(u16::MAX));
        d[dispi::VIRT_HEIGHT] = u16::try_from(lines).unwrap_or(u16::MAX);
        d[dispi::X_OFFSET] = d[dispi::X_OFFSET].min(d[dispi::VIRT_WIDTH].saturating_sub(d[dispi::XRES]));
        d[dispi::Y_OFFSET] = d[dispi::Y_OFFSET].min(d[dispi::VIRT_HEIGHT].saturating_sub(d[dispi::YRES]));
    }
}

#[cfg(test)]
mod tests;
