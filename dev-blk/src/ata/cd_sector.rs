//! The 2352 bytes of a CD's sector in mode 1 (ECMA-130, 14), from which READ CD selects parts. An image has the 2048 bytes of user
//! data; the rest is computed.
use super::spec::CD_SECTOR;

/// Bytes of the error detection code, the zeroes after it, and both parities.
const CODES: usize = 288;
/// End of the user data in the whole sector.
const DATA_END: usize = 16 + CD_SECTOR;
/// Bytes of a whole sector.
pub(super) const WHOLE: usize = DATA_END + CODES;

/// Minutes, seconds, frames of a block address (MMC-4 table 4).
pub(crate) fn msf(lba: u32) -> [u8; 3] {
    let frames = lba.saturating_add(150);
    [
        u8::try_from(frames.div_euclid(75 * 60)).unwrap_or(255),
        frames.div_euclid(75).rem_euclid(60) as u8,
        frames.rem_euclid(75) as u8,
    ]
}

/// Block address of minutes, seconds, frames; `None` before the first block.
pub(crate) fn block(msf: [u8; 3]) -> Option<u32> {
    let [m, s, f] = msf.map(u32::from);
    (s < 60 && f < 75).then_some(())?;
    m.saturating_mul(60).saturating_add(s).saturating_mul(75).saturating_add(f).checked_sub(150)
}

/// The selected parts of a sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Form {
    sync: bool,
    header: bool,
    user: bool,
    codes: bool,
}

impl Form {
    /// The part that the READ commands return.
    pub(crate) const USER: Self = Self { sync: false, header: false, user: true, codes: false };

    /// The parts of a sector in mode 1 that the main channel byte of READ CD selects (MMC-4, READ CD). A sector has no sub-header
    /// in this mode; a selection with a gap is invalid.
    pub(crate) fn selected(byte: u8) -> Option<Self> {
        let bit = |n: u8| byte >> n & 1 != 0;
        let sync = bit(7);
        let sub_header = bit(6);
        let header = bit(5);
        let user = bit(4);
        let codes = bit(3);
        let gap =
            (sync && !header && (sub_header || user || codes)) || (codes && !user && (sync || sub_header || header));
        (!gap).then_some(Self { sync, header, user, codes })
    }

    /// The byte that selects these parts.
    pub(super) fn byte(self) -> u8 {
        let bit = |set: bool, n: u32| u8::from(set).checked_shl(n).unwrap_or(0);
        bit(self.sync, 7) | bit(self.header, 5) | bit(self.user, 4) | bit(self.codes, 3)
    }

    /// Bytes of the selected parts of a sector.
    pub(crate) fn bytes(self) -> usize {
        let part = |wanted: bool, bytes: usize| if wanted { bytes } else { 0 };
        part(self.sync, 12)
            .saturating_add(part(self.header, 4))
            .saturating_add(part(self.user, CD_SECTOR))
            .saturating_add(part(self.codes, CODES))
    }

    /// Builds these parts of the sectors from `first` on; `data` is their user data.
    pub(crate) fn of(self, first: u64, data: Vec<u8>) -> Vec<u8> {
        if self == Self::USER {
            return data;
        }
        let count = data.len().div_euclid(CD_SECTOR);
        let mut out = Vec::with_capacity(count.saturating_mul(self.bytes()));
        for (n, user) in (first..).zip(data.chunks_exact(CD_SECTOR)) {
            let whole = sector(u32::try_from(n).unwrap_or(u32::MAX), user, self.codes);
            for (wanted, part) in
                [(self.sync, 0..12), (self.header, 12..16), (self.user, 16..DATA_END), (self.codes, DATA_END..WHOLE)]
            {
                if wanted {
                    out.extend_from_slice(whole.get(part).unwrap_or_default());
                }
            }
        }
        out
    }
}

/// Builds a whole sector; its codes are zeroes unless `codes` is set.
fn sector(lba: u32, user: &[u8], codes: bool) -> Vec<u8> {
    let mut whole = vec![0];
    whole.extend_from_slice(&[0xff; 10]);
    whole.push(0);
    let bcd = |n: u8| n.div_euclid(10) << 4 | n.rem_euclid(10);
    let [m, s, f] = msf(lba);
    whole.extend_from_slice(&[bcd(m), bcd(s), bcd(f), 1]);
    whole.extend_from_slice(user);
    if codes {
        let code = error_detection(&whole);
        whole.extend_from_slice(&code.to_le_bytes());
        whole.extend_from_slice(&[0; 8]);
        parity(&mut whole, &Words { count: 86, of_one: 24, step: 86, stride: 1 });
        parity(&mut whole, &Words { count: 52, of_one: 43, step: 88, stride: 43 });
    }
    whole.resize(WHOLE, 0);
    whole
}

/// The error detection code (ECMA-130, 14.3): (x^16 + x^15 + x^2 + 1)(x^16 + x^2 + x + 1), least significant bit first.
fn error_detection(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = table();
    bytes.iter().fold(0, |code, byte| {
        let index = (code as u8 ^ byte) as usize;
        code >> 8 ^ TABLE.get(index).copied().unwrap_or(0)
    })
}

#[expect(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "evaluated by the compiler")]
const fn table() -> [u32; 256] {
    let mut table = [0u32; 256];
    let mut i = 0;
    while i < 256 {
        let mut code = i as u32;
        let mut bit = 0;
        while bit < 8 {
            code = if code & 1 != 0 { code >> 1 ^ 0xd801_8001 } else { code >> 1 };
            bit += 1;
        }
        table[i] = code;
        i += 1;
    }
    table
}

/// The layout of code words in the bytes after the sync (ECMA-130, annex A): the words are in two planes, even and odd bytes.
struct Words {
    /// Code words of both planes.
    count: usize,
    /// Data bytes of each.
    of_one: usize,
    /// Distance from one byte of a word to the next.
    step: usize,
    /// Distance from the beginning of one word to that of the next, in pairs of bytes.
    stride: usize,
}

/// Adds both parity bytes of each code word: in GF(2^8) the word's bytes add up to zero, and so do the bytes multiplied by 2 to the
/// power of their distance from the end.
fn parity(sector: &mut Vec<u8>, words: &Words) {
    let covered = words.count.saturating_mul(words.of_one);
    let mut first = Vec::with_capacity(words.count);
    let mut second = Vec::with_capacity(words.count);
    for n in 0..words.count {
        let begin = (n >> 1).saturating_mul(words.stride).saturating_mul(2);
        let (mut sum, mut weighted) = (0u8, 0u8);
        for i in 0..words.of_one {
            let pair = begin.saturating_add(i.saturating_mul(words.step)).checked_rem(covered).unwrap_or(0);
            let at = 12usize.saturating_add(pair).saturating_add(n & 1);
            let byte = sector.get(at).copied().unwrap_or(0);
            sum ^= byte;
            weighted = double(weighted) ^ byte;
        }
        // The last data byte is two places before the end.
        let weighted = double(double(weighted));
        let before_last = divide_by_3(sum ^ weighted);
        first.push(before_last);
        second.push(sum ^ before_last);
    }
    sector.append(&mut first);
    sector.append(&mut second);
}

/// Twice a number in GF(2^8) with x^8 + x^4 + x^3 + x^2 + 1.
fn double(n: u8) -> u8 {
    n << 1 ^ if n & 0x80 != 0 { 0x1d } else { 0 }
}

/// A number by 3: times 3 to the power of 254, as 3 to the power of 255 is 1.
fn divide_by_3(n: u8) -> u8 {
    (0..254).fold(n, |n, _| double(n) ^ n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All 32 selections: the bytes of a sector in mode 1, or none where MMC-4 has none.
    #[test]
    fn read_cd_selects_exactly_the_bytes_of_the_table() {
        let want = [
            (0x00, Some(0)),
            (0x08, Some(288)),
            (0x10, Some(2048)),
            (0x18, Some(2336)),
            (0x20, Some(4)),
            (0x28, None),
            (0x30, Some(2052)),
            (0x38, Some(2340)),
            (0x40, Some(0)),
            (0x48, None),
            (0x50, Some(2048)),
            (0x58, Some(2336)),
            (0x60, Some(4)),
            (0x68, None),
            (0x70, Some(2052)),
            (0x78, Some(2340)),
            (0x80, Some(12)),
            (0x88, None),
            (0x90, None),
            (0x98, None),
            (0xa0, Some(16)),
            (0xa8, None),
            (0xb0, Some(2064)),
            (0xb8, Some(2352)),
            (0xc0, None),
            (0xc8, None),
            (0xd0, None),
            (0xd8, None),
            (0xe0, Some(16)),
            (0xe8, None),
            (0xf0, Some(2064)),
            (0xf8, Some(2352)),
        ];
        for (byte, bytes) in want {
            assert_eq!(Form::selected(byte).map(Form::bytes), bytes, "{byte:#04x}");
            if let Some(form) = Form::selected(byte) {
                assert_eq!(form.of(7, vec![1; 3 * CD_SECTOR]).len(), 3 * form.bytes(), "{byte:#04x}");
            }
        }
    }

    /// Multiplication in the field, bit by bit.
    fn times(a: u8, b: u8) -> u8 {
        (0..8).fold(0, |sum, bit| {
            let shifted = (0..bit).fold(a, |n, _| double(n));
            sum ^ if b >> bit & 1 != 0 { shifted } else { 0 }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 20, ..ProptestConfig::default() })]
        /// Checks the codes by another definition: the polynomial divides the sector, and every word of both parities is a code
        /// word.
        #[test]
        fn the_codes_of_a_sector_are_those_of_ecma_130(seed in any::<u32>(), lba in 0u32..400_000) {
            let user: Vec<u8> = (0..2048u32).map(|i| (seed.wrapping_mul(i.wrapping_add(77)) >> 13) as u8).collect();
            let whole = sector(lba, &user, true);
            prop_assert_eq!(whole.len(), 2352);
            let mut rest = 0u64;
            for byte in &whole[..2068] {
                for bit in 0..8 {
                    rest = rest << 1 | u64::from(byte >> bit & 1);
                    if rest >> 32 != 0 {
                        rest ^= 0x1_8001_801b;
                    }
                }
            }
            prop_assert_eq!(rest, 0, "error detection code");
            let words = &whole[12..];
            for plane in 0..2 {
                // P: 43 columns of 26 pairs.
                for column in 0..43 {
                    let word: Vec<u8> = (0..26).map(|row| words[2 * (43 * row + column) + plane]).collect();
                    check(&word)?;
                }
                // Q: 26 diagonals of 43 pairs, followed by their parities.
                for diagonal in 0..26 {
                    let mut word: Vec<u8> =
                        (0..43).map(|m| words[2 * ((44 * m + 43 * diagonal) % 1118) + plane]).collect();
                    word.push(words[2 * (1118 + diagonal) + plane]);
                    word.push(words[2 * (1118 + 26 + diagonal) + plane]);
                    check(&word)?;
                }
            }
        }
    }

    fn check(word: &[u8]) -> Result<(), TestCaseError> {
        let (mut sum, mut weighted, mut weight) = (0, 0, 1);
        for byte in word.iter().rev() {
            sum ^= byte;
            weighted ^= times(*byte, weight);
            weight = double(weight);
        }
        prop_assert_eq!((sum, weighted), (0, 0));
        Ok(())
    }
}
