//! The window 0xa0000–0xbffff: planes, latches, write modes. A byte of plane p at address a is byte 4a+p of video RAM.
use super::Vga;
use super::spec::{dispi, gfx, seq};

/// Four planes of one byte each, as one number.
fn spread(byte: u8) -> u32 {
    u32::from(byte).wrapping_mul(0x0101_0101)
}

/// A mask of planes (bits 0–3) as bytes.
fn planes(mask: u8) -> u32 {
    (0..4u32).filter(|p| mask >> p & 1 != 0).fold(0, |m, p| m | 0xffu32 << p.wrapping_mul(8))
}

impl Vga {
    /// Where in the planes the window's byte `offset` is; `None` outside the part that is mapped.
    fn window(&self, offset: u64) -> Option<u64> {
        let (base, len) = match self.graphics(gfx::MISC) >> 2 & 3 {
            0 => (0, 0x2_0000),
            1 => (0, 0x1_0000),
            2 => (0x1_0000, 0x8000),
            _ => (0x1_8000, 0x8000),
        };
        let inside = offset.checked_sub(base).filter(|o| *o < len)?;
        let bank = if self.dispi_enabled() { u64::from(self.dispi(dispi::BANK)) << 16 } else { 0 };
        Some(inside.saturating_add(bank))
    }

    fn vram_byte(&self, at: u64) -> u8 {
        let mut byte = [0xff];
        let _ = self.vram.read(at, &mut byte);
        byte[0]
    }

    fn vram_planes(&self, at: u64) -> u32 {
        let mut bytes = [0xff; 4];
        let _ = self.vram.read(at.saturating_mul(4), &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// Reads a byte of the window.
    pub(crate) fn memory_read(&mut self, offset: u64) -> u8 {
        let Some(at) = self.window(offset) else { return 0xff };
        if self.sequencer(seq::MEMORY_MODE) & 8 != 0 {
            return self.vram_byte(at);
        }
        if self.graphics(gfx::MODE) & 0x10 != 0 {
            let plane = u64::from(self.graphics(gfx::READ_MAP) & 2) | at & 1;
            return self.vram_byte((at & !1) << 1 | plane);
        }
        self.latch = self.vram_planes(at);
        if self.graphics(gfx::MODE) & 8 == 0 {
            let plane = u32::from(self.graphics(gfx::READ_MAP) & 3);
            return (self.latch >> plane.wrapping_mul(8)) as u8;
        }
        // Read mode 1: ones where the colour, as far as one cares, is the one looked for.
        let care = planes(self.graphics(gfx::COLOR_DONT_CARE));
        let differing = (self.latch ^ planes(self.graphics(gfx::COLOR_COMPARE))) & care;
        let [a, b, c, d] = differing.to_le_bytes();
        !(a | b | c | d)
    }

    /// Writes a byte of the window.
    pub(crate) fn memory_write(&mut self, offset: u64, value: u8) {
        let Some(at) = self.window(offset) else { return };
        let mask = self.sequencer(seq::MAP_MASK) & 0x0f;
        if self.sequencer(seq::MEMORY_MODE) & 8 != 0 {
            if mask >> (at & 3) & 1 != 0 {
                let _ = self.vram.write(at, &[value]);
            }
            return;
        }
        if self.graphics(gfx::MODE) & 0x10 != 0 {
            let plane = u64::from(self.graphics(gfx::READ_MAP) & 2) | at & 1;
            if mask >> plane & 1 != 0 {
                let _ = self.vram.write((at & !1) << 1 | plane, &[value]);
            }
            return;
        }
        let rotated = value.rotate_right(u32::from(self.graphics(gfx::DATA_ROTATE) & 7));
        let bit_mask = self.graphics(gfx::BIT_MASK);
        let set_reset = planes(self.graphics(gfx::SET_RESET));
        let (data, bits) = match self.graphics(gfx::MODE) & 3 {
            0 => {
                let enabled = planes(self.graphics(gfx::ENABLE_SET_RESET));
                (self.combine(spread(rotated) & !enabled | set_reset & enabled), spread(bit_mask))
            }
            1 => (self.latch, u32::MAX),
            2 => (self.combine(planes(value)), spread(bit_mask)),
            _ => (set_reset, spread(rotated & bit_mask)),
        };
        let new = data & bits | self.latch & !bits;
        let write = planes(mask);
        let merged = self.vram_planes(at) & !write | new & write;
        let _ = self.vram.write(at.saturating_mul(4), &merged.to_le_bytes());
    }

    /// The logical operation with the latches.
    fn combine(&self, data: u32) -> u32 {
        match self.graphics(gfx::DATA_ROTATE) >> 3 & 3 {
            0 => data,
            1 => data & self.latch,
            2 => data | self.latch,
            _ => data ^ self.latch,
        }
    }
}
