//! Contents of the EEPROM of an 82540EM (SDM chapter 5).
use crate::eeprom::WORDS;

/// The sum of all words (SDM 5.6.35).
const SUM: u16 = 0xbaba;

/// The words of a card with this hardware address (SDM table 5-2).
pub(super) fn words(mac: [u8; 6]) -> [u16; WORDS] {
    let mut words = [0u16; WORDS];
    let [a, b, c, d, e, f] = mac;
    let set = [
        (0, u16::from_le_bytes([a, b])),
        (1, u16::from_le_bytes([c, d])),
        (2, u16::from_le_bytes([e, f])),
        (5, 0x0101),
        (8, 0xffff),
        (9, 0xffff),
        // Initialization control 1: load the identity from here; subsystem, device, vendor.
        (0x0a, 0x440a),
        (0x0b, 0x1100),
        (0x0c, 0x1af4),
        (0x0d, 0x100e),
        (0x0e, 0x8086),
        (0x0f, 0x3040),
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

#[cfg(test)]
mod tests {
    #[test]
    fn the_sum_is_what_drivers_check() {
        let words = super::words([2, 0, 0, 0, 0, 1]);
        assert_eq!(words.iter().fold(0u16, |s, w| s.wrapping_add(*w)), super::SUM);
        assert_eq!((words[0], words[2]), (0x0002, 0x0100));
    }
}
