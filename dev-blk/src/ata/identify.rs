//! IDENTIFY DEVICE and IDENTIFY PACKET DEVICE (ATA/ATAPI-7 vol. 1, 6.17 and 6.18). They claim only implemented features.
use super::drive::Drive;
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
        let printable = text.bytes().map(|b| if b.is_ascii_graphic() { b } else { b' ' });
        let mut bytes = printable.chain(std::iter::repeat(b' '));
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

/// Serial number, firmware and model.
fn identity(words: &mut Words, drive: &Drive, model: &str) {
    let own = format!("BH{:05}", u16::from(drive.index).saturating_add(1));
    words.text(10, 10, drive.identity.serial.as_deref().unwrap_or(&own));
    words.text(23, 4, drive.identity.version.as_deref().unwrap_or("1.0"));
    words.text(27, 20, drive.identity.model.as_deref().unwrap_or(model));
}

/// Word 88: Ultra DMA modes 0–5 and the one selected; word 63: multiword DMA 0–2.
fn modes(words: &mut Words, mode: u8) {
    let selected = |base: u8| if mode & 0xf8 == base { 0x100u16 << (mode & 7) } else { 0 };
    words.set(63, 0x0007 | selected(0x20));
    words.set(88, 0x003f | selected(0x40));
}

/// Word 85: the features of word 82 that are enabled; those without a switch always are.
fn on(drive: &Drive, supported: u16) -> u16 {
    let off = |on: bool, bit: u16| if on { 0 } else { bit };
    supported & !(off(drive.settings.write_cache, 0x0020) | off(drive.settings.look_ahead, 0x0040))
}

/// The data of IDENTIFY DEVICE.
pub(crate) fn disk(drive: &Drive) -> Vec<u8> {
    let mut w = Words([0; 256]);
    let sectors = drive.sectors();
    let (native, current) = (drive.native(), drive.geometry());
    let small = u32::try_from(sectors.min(0x0fff_ffff)).unwrap_or(0);
    w.set(0, 0x0040);
    w.set(1, native.cylinders);
    w.set(2, 0xc837); // no command is needed for spin-up, and this data is complete
    w.set(3, u16::from(native.heads));
    w.set(6, u16::from(native.sectors));
    identity(&mut w, drive, "BULKHEAD HARDDISK");
    w.set(47, 0x8000 | u16::from(MAX_MULTIPLE));
    w.set(48, 1);
    w.set(49, 0x0f00); // LBA, DMA, IORDY
    w.set(50, 0x4000);
    w.set(51, 0x0200);
    w.set(53, 7);
    w.set(54, current.cylinders);
    w.set(55, u16::from(current.heads));
    w.set(56, u16::from(current.sectors));
    w.long(57, current.capacity());
    w.set(59, if drive.settings.multiple > 0 { 0x0100 | u16::from(drive.settings.multiple) } else { 0 });
    w.long(60, small);
    for at in [65, 66, 67, 68] {
        w.set(at, 120);
    }
    w.set(64, 3); // PIO 3 and 4
    w.set(80, 0x00f0); // ATA-4 to ATA-7
    w.set(82, 0x4068); // NOP, look-ahead, write cache, power management
    w.set(83, 0x7400); // FLUSH EXT, FLUSH, 48-bit
    w.set(84, 0x4000);
    w.set(85, on(drive, 0x4068));
    w.set(86, 0x3400);
    w.set(87, 0x4000);
    modes(&mut w, drive.settings.dma_mode);
    w.set(93, drive.reset_result);
    w.long(100, sectors as u32);
    w.long(102, (sectors >> 32) as u32);
    w.set(106, 0x4000);
    if !drive.read_only {
        w.set(105, 1); // sectors of a DATA SET MANAGEMENT list
        w.set(169, 1); // TRIM
    }
    debug_assert_eq!(w.0.len().saturating_mul(2), SECTOR);
    w.bytes()
}

/// The data of IDENTIFY PACKET DEVICE.
pub(crate) fn cdrom(drive: &Drive) -> Vec<u8> {
    let mut w = Words([0; 256]);
    w.set(0, 0x8580); // ATAPI, CD-ROM, removable, 12-byte packets, DRQ within 3 ms
    identity(&mut w, drive, "BULKHEAD DVD-ROM");
    w.set(48, 1);
    w.set(49, 0x0b00); // DMA, LBA, IORDY
    w.set(53, 6);
    w.set(64, 3);
    w.set(65, 0xb4);
    w.set(66, 0xb4);
    w.set(67, 0x12c);
    w.set(68, 0xb4);
    w.set(71, 30);
    w.set(72, 30);
    w.set(80, 0x001e);
    w.set(82, 0x4218); // NOP, DEVICE RESET, PACKET, power management
    w.set(83, 0x4000);
    w.set(84, 0x4000);
    w.set(85, 0x4218);
    w.set(87, 0x4000);
    modes(&mut w, drive.settings.dma_mode);
    w.bytes()
}
