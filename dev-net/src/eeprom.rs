//! A 93C46: 64 words behind a three-wire bus (Microchip 93C46 data sheet, table 2-1): start bit, two bits of operation, six of
//! address. Both cards have one.

/// Words of the EEPROM.
pub(crate) const WORDS: usize = 64;

/// The lines that software drives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lines {
    pub(crate) clock: bool,
    pub(crate) select: bool,
    pub(crate) data: bool,
}

/// The EEPROM's serial bus: Microwire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bus {
    /// Bits received since it was selected, oldest first; the start bit is the first 1.
    pub(crate) shifted: u32,
    pub(crate) count: u8,
    /// Bits to send, highest first.
    pub(crate) out: u16,
    pub(crate) left: u8,
    pub(crate) lines: Lines,
}

impl Bus {
    /// Handles a change of the lines.
    pub(crate) fn write(&mut self, lines: Lines, words: &[u16; WORDS]) {
        let rises = lines.clock && !self.lines.clock;
        self.lines = lines;
        if !lines.select {
            (self.shifted, self.count, self.out, self.left) = (0, 0, 0, 0);
            return;
        }
        if !rises {
            return;
        }
        if self.left > 0 {
            // After the leading zero the first bit follows.
            self.out <<= u32::from(self.left != 17);
            self.left = self.left.saturating_sub(1);
            return;
        }
        if self.count == 0 && !lines.data {
            return;
        }
        self.shifted = self.shifted << 1 | u32::from(lines.data);
        self.count = self.count.saturating_add(1).min(32);
        // Only READ (10) is implemented: writes are acknowledged and have no effect.
        if self.count == 9 && self.shifted >> 6 == 0b110 {
            self.out = words.get((self.shifted & 0x3f) as usize).copied().unwrap_or(0xffff);
            // A zero precedes the sixteen bits.
            self.left = 17;
        }
    }

    /// The level of its data output.
    pub(crate) fn out(&self) -> bool {
        match self.left {
            0 => true,
            17 => false,
            _ => self.out & 0x8000 != 0,
        }
    }

    pub(crate) fn save(&self) -> BusState {
        let Lines { clock, select, data } = self.lines;
        BusState {
            shifted: self.shifted,
            count: u32::from(self.count),
            out: u32::from(self.out),
            left: u32::from(self.left),
            clock,
            select,
            data,
        }
    }

    /// Restores a saved state; `None` if it is invalid.
    pub(crate) fn load(saved: BusState) -> Option<Self> {
        let BusState { shifted, count, out, left, clock, select, data } = saved;
        Some(Self {
            shifted,
            count: u8::try_from(count).ok()?,
            out: u16::try_from(out).ok()?,
            left: u8::try_from(left).ok()?,
            lines: Lines { clock, select, data },
        })
    }
}

/// The saved state of a [`Bus`].
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct BusState {
    #[prost(uint32, tag = "1")]
    shifted: u32,
    #[prost(uint32, tag = "2")]
    count: u32,
    #[prost(uint32, tag = "3")]
    out: u32,
    #[prost(uint32, tag = "4")]
    left: u32,
    // The levels of the lines.
    #[prost(bool, tag = "5")]
    clock: bool,
    #[prost(bool, tag = "6")]
    select: bool,
    #[prost(bool, tag = "7")]
    data: bool,
}

impl BusState {
    /// From version 1 of both cards' states: bits, their number, word, bits left, lines. `None`: another number of values.
    pub(crate) fn of_version_1(saved: &[u32]) -> Option<Self> {
        let [shifted, count, out, left, lines] = *saved else { return None };
        let (clock, select, data) = (lines & 1 != 0, lines & 2 != 0, lines & 4 != 0);
        Some(Self { shifted, count, out, left, clock, select, data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_read_bit_by_bit() {
        let words: [u16; WORDS] = std::array::from_fn(|i| (i as u16).wrapping_mul(0x9e37) ^ 0x5aa5);
        let mut bus = Bus::default();
        for address in [0u32, 1, 13, 63] {
            let clock = |bus: &mut Bus, data: bool| {
                for clock in [false, true, false] {
                    bus.write(Lines { clock, select: true, data }, &words);
                }
            };
            for bit in (0..9).rev() {
                clock(&mut bus, (0b110 << 6 | address) >> bit & 1 != 0);
            }
            let mut value = 0u16;
            for _ in 0..16 {
                clock(&mut bus, false);
                value = value << 1 | u16::from(bus.out());
            }
            assert_eq!(Bus::load(bus.save()), Some(bus));
            bus.write(Lines::default(), &words);
            assert_eq!(value, words[address as usize], "{address}");
        }
    }
}
