//! The window 0xa0000–0xbffff: addresses, latches, read and write modes (IBM VGA Technical Reference, sequencer and graphics
//! controller). The byte of plane p at plane address a is byte 4a+p of video RAM.
use super::Vga;
use super::spec::{GraphicsMisc, GraphicsMode, MemoryMode, dispi, gfx, seq};

/// Bytes of a plane. A mode of the Bochs interface has larger ones.
const PLANE: u64 = 0x1_0000;

/// Four planes of one byte each, as one number.
fn spread(byte: u8) -> u32 {
    u32::from(byte).wrapping_mul(0x0101_0101)
}

/// A mask of planes (bits 0–3) as bytes.
fn planes(mask: u8) -> u32 {
    // Moves each bit to bit 0 of its byte.
    (u32::from(mask & 0x0f).wrapping_mul(0x0020_4081) & 0x0101_0101).wrapping_mul(0xff)
}

/// The graphics controller's data for the four planes when the processor writes `value` (graphics registers 0, 1, 3, 5, 8).
/// Write modes 0, 2 and 3 differ in data and mask only: the function select and the bit mask come after.
pub(super) fn written(graphics: &[u8; gfx::COUNT], latch: u32, value: u8) -> u32 {
    let [set_reset, enable, _, rotate, _, mode, _, _, bit_mask] = *graphics;
    if [enable, rotate, mode & 3, !bit_mask] == [0; 4] {
        return spread(value);
    }
    let (set_reset, enable) = (planes(set_reset), planes(enable));
    let rotated = value.rotate_right(u32::from(rotate & 7));
    let (data, mask) = match mode & 3 {
        0 => (spread(rotated) & !enable | set_reset & enable, bit_mask),
        1 => return latch,
        2 => (planes(value), bit_mask),
        _ => (set_reset, rotated & bit_mask),
    };
    let data = match rotate >> 3 & 3 {
        0 => data,
        1 => data & latch,
        2 => data | latch,
        _ => data ^ latch,
    };
    let mask = spread(mask);
    data & mask | latch & !mask
}

/// The value that the processor reads from the latches: `plane` in read mode 0, the comparison in read mode 1 (graphics registers
/// 2, 5, 7).
pub(super) fn seen(graphics: &[u8; gfx::COUNT], latch: u32, plane: u8) -> u8 {
    let [_, _, compare, _, _, mode, _, care, _] = *graphics;
    if !GraphicsMode::from_bits(mode).compare() {
        return latch.wrapping_shr(u32::from(plane & 3).wrapping_mul(8)) as u8;
    }
    // Ones for pixels whose colour matches in all planes that are compared.
    let [a, b, c, d] = ((latch ^ planes(compare)) & planes(care)).to_le_bytes();
    !(a | b | c | d)
}

/// The target of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Offset of plane 0's byte in video RAM; the other planes' bytes follow.
    pub(super) at: u64,
    /// The planes that a write reaches, before the map mask.
    pub(super) write: u8,
    /// The plane that a read in mode 0 returns.
    pub(super) read: u8,
    /// It is a byte of a linear picture, which write and read modes do not affect.
    pub(super) plain: bool,
}

impl Vga {
    /// The target of the window's byte `offset`; `None` outside the mapped part.
    ///
    /// Three independent bits select odd/even addressing: sequencer 4 bit 2 for the planes that a write reaches, graphics 5 bit 4
    /// for the plane that is read, graphics 6 bit 1 for the address. Chain 4 (sequencer 4 bit 3) overrides them.
    pub(super) fn place(&self, offset: u64) -> Option<Place> {
        let misc = GraphicsMisc::from_bits(self.graphics(gfx::MISC));
        let (base, len) = match misc.map() {
            0 => (0, 0x2_0000),
            1 => (0, 0x1_0000),
            2 => (0x1_0000, 0x8000),
            _ => (0x1_8000, 0x8000),
        };
        let address = offset.checked_sub(base).filter(|o| *o < len)?;
        let low = (address & 3) as u8;
        let memory = MemoryMode::from_bits(self.sequencer(seq::MEMORY_MODE));
        let read_map = self.graphics(gfx::READ_MAP) & 3;
        let (write, read) = match () {
            () if memory.chain_4() => (1 << low, low),
            () => (
                if memory.sequential() { 0x0f } else { 0b0101 << (low & 1) },
                if GraphicsMode::from_bits(self.graphics(gfx::MODE)).odd_even() {
                    read_map & 2 | low & 1
                } else {
                    read_map
                },
            ),
        };
        let plain = self.dispi_enabled() && memory.chain_4();
        let at = if self.dispi_enabled() {
            // The Bochs interface: consecutive bytes if chained, banks of 64 KiB at 0xa0000.
            let bank = if misc.map() < 2 { u64::from(self.dispi(dispi::BANK)) << 16 } else { 0 };
            let address = address.saturating_add(bank);
            match () {
                () if memory.chain_4() => address & !3,
                () if misc.chain_odd_even() => (address & !1).saturating_mul(4),
                () => address.saturating_mul(4),
            }
        } else {
            // The address bits that select the plane are no part of the plane address. In a window of 128 KiB, bit 16 replaces bit
            // 0.
            let within = match () {
                () if memory.chain_4() => address & 0xfffc | address >> 16,
                () if misc.chain_odd_even() => address & 0xfffe | address >> 16,
                () => address,
            };
            (within & PLANE.wrapping_sub(1)).saturating_mul(4)
        };
        (at.saturating_add(4) <= u64::from(self.vram_size)).then_some(Place { at, write, read, plain })
    }

    /// Reads a byte of the window. Every read loads the latches.
    pub(crate) fn memory_read(&mut self, offset: u64) -> u8 {
        let Some(place) = self.place(offset) else { return 0xff };
        let mut bytes = [0xff; 4];
        let _ = self.vram.read(place.at, &mut bytes);
        self.latch = u32::from_le_bytes(bytes);
        if place.plain {
            return bytes.get(usize::from(place.read)).copied().unwrap_or(0xff);
        }
        seen(&self.graphics, self.latch, place.read)
    }

    /// Writes a byte of the window.
    pub(crate) fn memory_write(&mut self, offset: u64, value: u8) {
        let Some(place) = self.place(offset) else { return };
        let reached = place.write & self.sequencer(seq::MAP_MASK);
        let bytes = if place.plain { [value; 4] } else { written(&self.graphics, self.latch, value).to_le_bytes() };
        if reached & 0x0f == 0x0f {
            let _ = self.vram.write(place.at, &bytes);
            return;
        }
        let mut left = reached & 0x0f;
        while left != 0 {
            let plane = left.trailing_zeros();
            let byte = bytes.get(plane as usize).copied().unwrap_or(0);
            let _ = self.vram.write(place.at.saturating_add(u64::from(plane)), &[byte]);
            left &= left.wrapping_sub(1);
        }
    }
}

#[cfg(test)]
mod tests;
