//! IDENTIFY DEVICE and IDENTIFY PACKET DEVICE (ATA/ATAPI-7 vol. 1, 6.17 and 6.18). Only what the drive does is claimed.
use super::spec::{MAX_MULTIPLE, SECTOR};

/// The 256 words.
struct Words([u16; 256]);

impl Words {
    fn set(&mut self, at: usize, value: u16) {
        if let Some(word) = self.0.get_mut(at) {
            *word = value;
        }
    }

    /// Text: two characters a word, the first in the high byte, padded with blanks.
    fn text(&mut self, at: usize, words: usize, text: &str) {
        let mut bytes = text.bytes().chain(std::iter::repeat(b' '));
        for word in self.0.iter_mut().skip(at).take(words) {
            *word = u16::from(bytes.next().unwrap_or(b' ')) << 8 | u16::from(bytes.next().unwrap_or(b' '));
        }
    }

    fn long(&mut self, at: usize, value: u32) {
        self.set(at, value as u16);
        self.set(at.saturating_add(1), (value >> 16) as u16);
    }

    fn bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|w| w.to_le_bytes()).collect()
    }
}

/// Cylinders, heads and sectors that old software sees.
pub(crate) fn geometry(sectors: u64) -> (u16, u16, u16) {
    let cylinders = sectors.div_euclid(16 * 63).clamp(1, 16383);
    (cylinders as u16, 16, 63)
}

/// Word 88: Ultra DMA modes 0–5 and the one selected; word 63: multiword DMA 0–2.
fn modes(words: &mut Words, mode: u8) {
    let selected = |base: u8| if mode & 0xf8 == base { 0x100u16 << (mode & 7) } else { 0 };
    words.set(63, 0x0007 | selected(0x20));
    words.set(88, 0x003f | selected(0x40));
}

/// A disk of `sectors` sectors.
pub(crate) fn disk(sectors: u64, index: u8, multiple: u8, mode: u8) -> Vec<u8> {
    let mut w = Words([0; 256]);
    let (cylinders, heads, spt) = geometry(sectors);
    let small = u32::try_from(sectors.min(0x0fff_ffff)).unwrap_or(0);
    w.set(0, 0x0040);
    w.set(1, cylinders);
    w.set(3, heads);
    w.set(6, spt);
    w.text(10, 10, &format!("BH{:05}", u16::from(index).saturating_add(1)));
    w.text(23, 4, "1.0");
    w.text(27, 20, "BULKHEAD HARDDISK");
    w.set(47, 0x8000 | u16::from(MAX_MULTIPLE));
    w.set(48, 1);
    w.set(49, 0x0f00); // LBA, DMA, IORDY
    w.set(50, 0x4000);
    w.set(51, 0x0200);
    w.set(53, 7);
    w.set(54, cylinders);
    w.set(55, heads);
    w.set(56, spt);
    w.long(57, u32::from(cylinders).saturating_mul(u32::from(heads)).saturating_mul(u32::from(spt)));
    w.set(59, if multiple > 0 { 0x0100 | u16::from(multiple) } else { 0 });
    w.long(60, small);
    for at in [65, 66, 67, 68] {
        w.set(at, 120);
    }
    w.set(64, 3); // PIO 3 and 4
    w.set(80, 0x00f0); // ATA-4 to ATA-7
    w.set(82, 0x4020); // NOP, write cache
    w.set(83, 0x7400); // FLUSH EXT, FLUSH, 48-bit
    w.set(84, 0x4000);
    w.set(85, 0x4020);
    w.set(86, 0x3400);
    w.set(87, 0x4000);
    modes(&mut w, mode);
    w.set(93, if index & 1 == 0 { 0x600b } else { 0x6b00 });
    w.long(100, sectors as u32);
    w.long(102, (sectors >> 32) as u32);
    w.set(105, 1); // sectors of a DATA SET MANAGEMENT list
    w.set(106, 0x4000);
    w.set(169, 1); // TRIM
    debug_assert_eq!(w.0.len().saturating_mul(2), SECTOR);
    w.bytes()
}

/// A CD-ROM drive.
pub(crate) fn cdrom(index: u8, mode: u8) -> Vec<u8> {
    let mut w = Words([0; 256]);
    w.set(0, 0x8580); // ATAPI, CD-ROM, removable, 12-byte packets, DRQ within 50 µs
    w.text(10, 10, &format!("BH{:05}", u16::from(index).saturating_add(1)));
    w.text(23, 4, "1.0");
    w.text(27, 20, "BULKHEAD DVD-ROM");
    w.set(48, 1);
    w.set(49, 0x0b00); // DMA, LBA, IORDY
    w.set(53, 7);
    w.set(64, 3);
    w.set(65, 0xb4);
    w.set(66, 0xb4);
    w.set(67, 0x12c);
    w.set(68, 0xb4);
    w.set(71, 30);
    w.set(72, 30);
    w.set(80, 0x001e);
    w.set(82, 0x4210); // NOP, DEVICE RESET, PACKET
    w.set(83, 0x4000);
    w.set(84, 0x4000);
    w.set(85, 0x4210);
    w.set(87, 0x4000);
    modes(&mut w, mode);
    w.bytes()
}
