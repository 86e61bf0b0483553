//! The EEPROM: 64 words behind a three-wire bus (93C46), or read through EERD.
use super::spec::Eecd;

/// Words.
pub(super) const WORDS: usize = 64;
/// What all words add up to (SDM 5.6.35).
const SUM: u16 = 0xbaba;

/// The 93C46's bus (Microchip 93C46 data sheet, table 2-1): start bit, two bits of operation, six of address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bus {
    /// Bits that have come since it was selected, oldest first; the start bit is the first 1.
    pub(super) shifted: u32,
    pub(super) count: u8,
    /// What goes out, highest bit first.
    pub(super) out: u16,
    pub(super) left: u8,
    pub(super) lines: Eecd,
}

/// Words that a card with this address has (SDM table 5-2).
pub(super) fn words(mac: [u8; 6]) -> [u16; WORDS] {
    let mut words = [0u16; WORDS];
    let [a, b, c, d, e, f] = mac;
    let set = [
        (0, u16::from_le_bytes([a, b])), (1, u16::from_le_bytes([c, d])), (2, u16::from_le_bytes([e, f])),
        (5, 0x0101), (8, 0xffff), (9, 0xffff),
        // Initialization control 1: load the identity from here; subsystem, device, vendor.
        (0x0a, 0x440a), (0x0b, 0x1100), (0x0c, 0x1af4), (0x0d, 0x100e), (0x0e, 0x8086), (0x0f, 0x3040),
    ];
    for (at, value) in set {
        if let Some(word) = words.get_mut(at) {
            *word = value;
        }
    }
    let sum = words.iter().fold(0u16, |sum, w| sum.wrapping_add(*w));
    if let Some(last) = words.last_mut() {
        *last = SUM.wrapping_sub(sum);
    }
    words
}

impl Bus {
    /// EECD is written.
    pub(super) fn write(&mut self, value: Eecd, words: &[u16; WORDS]) {
        let rises = value.clock() && !self.lines.clock();
        let selected = value.select();
        self.lines = value;
        if !selected {
            (self.shifted, self.count, self.out, self.left) = (0, 0, 0, 0);
            return;
        }
        if !rises {
            return;
        }
        if self.left > 0 {
            // The zero gives way to the first bit.
            self.out <<= u32::from(self.left != 17);
            self.left = self.left.saturating_sub(1);
            return;
        }
        if self.count == 0 && !value.data_in() {
            return;
        }
        self.shifted = self.shifted << 1 | u32::from(value.data_in());
        self.count = self.count.saturating_add(1).min(32);
        // Only READ (10): the words are what they are; writing is acknowledged and does nothing.
        if self.count == 9 && self.shifted >> 6 == 0b110 {
            self.out = words.get((self.shifted & 0x3f) as usize).copied().unwrap_or(0xffff);
            // A zero goes before the sixteen bits.
            self.left = 17;
        }
    }

    /// EECD is read.
    pub(super) fn read(&self) -> Eecd {
        let out = match self.left {
            0 => true,
            17 => false,
            _ => self.out & 0x8000 != 0,
        };
        self.lines.with_data_out(out).with_present(true).with_grant(self.lines.request())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_what_drivers_check() {
        let words = words([2, 0, 0, 0, 0, 1]);
        assert_eq!(words.iter().fold(0u16, |s, w| s.wrapping_add(*w)), SUM);
        assert_eq!((words[0], words[2]), (0x0002, 0x0100));
    }

    #[test]
    fn a_word_is_read_bit_by_bit() {
        let words = words([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
        let mut bus = Bus::default();
        let base = Eecd::new().with_request(true);
        for address in [0u32, 1, 13, 63] {
            let clock = |bus: &mut Bus, bit: bool| {
                for high in [false, true] {
                    bus.write(base.with_select(true).with_data_in(bit).with_clock(high), &words);
                }
                bus.write(base.with_select(true).with_data_in(bit), &words);
            };
            for bit in (0..9).rev() {
                clock(&mut bus, (0b110 << 6 | address) >> bit & 1 != 0);
            }
            let mut value = 0u16;
            for _ in 0..16 {
                clock(&mut bus, false);
                value = value << 1 | u16::from(bus.read().data_out());
            }
            bus.write(base, &words);
            assert_eq!(value, words[address as usize], "{address}");
            assert!(bus.read().grant() && bus.read().present());
        }
    }
}
