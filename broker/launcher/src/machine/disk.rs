//! A disk's identity, and its geometry by cylinder, head and sector. SeaBIOS reads from the CMOS RAM how to translate such
//! addresses. A boot loader that uses them needs the translation under which the disk was partitioned.
use crate::options::Options;
use bulkhead_bus::{DiskGeometry, DiskIdentity, Translation};

/// Bytes of the first sector.
pub const SECTOR: usize = 512;
/// Offset of the partition table in the first sector. The sector ends with the signature.
const PARTITIONS: usize = 0x1be;
const SIGNATURE: [u8; 2] = [0x55, 0xaa];
/// Most cylinders in IDENTIFY DEVICE's answer (ATA/ATAPI-5, 6.2.1).
const MOST_CYLINDERS: u64 = 16383;
/// Most cylinders that a firmware without translation reaches.
const PLAIN_CYLINDERS: u16 = 1024;
/// Most cylinders × heads for the translation `large`, in which the firmware halves cylinders and doubles heads until they fit.
const MOST_LARGE: u32 = 131_072;

/// Properties of a disk from `-device ide-hd` or `-global ide-hd.…`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    /// Serial number, version and model for IDENTIFY DEVICE.
    pub identity: DiskIdentity,
    /// Cylinders, heads, and sectors of a track.
    pub chs: Option<(u16, u8, u8)>,
    /// The firmware's translation.
    pub translation: Option<Translation>,
}

impl Properties {
    /// Keys of these properties in an option.
    pub const KEYS: [&'static str; 7] = ["serial", "ver", "model", "cyls", "heads", "secs", "bios-chs-trans"];

    /// Takes the properties in `options`. A property that `options` does not have keeps its value.
    ///
    /// # Errors
    /// The rule that a value breaks.
    pub fn take(&mut self, options: &Options) -> Result<(), &'static str> {
        let text = |key: &str, most: usize| match options.get(key) {
            Some(text) if text.is_empty() || text.len() > most || !text.is_ascii() => {
                Err("serial has 20 characters of ASCII at most, ver 8, model 40")
            }
            text => Ok(text.map(str::to_owned)),
        };
        let identity =
            DiskIdentity { serial: text("serial", 20)?, version: text("ver", 8)?, model: text("model", 40)? };
        let number = |key: &str, most: u16| match options.get(key) {
            None => Ok(None),
            Some(n) => (n.parse().ok().filter(|n| (1..=most).contains(n)).map(Some))
                .ok_or("cyls is 1 to 16383, heads 1 to 16, secs 1 to 63"),
        };
        let chs = match (number("cyls", 16383)?, number("heads", 16)?, number("secs", 63)?) {
            (None, None, None) => None,
            (Some(cylinders), Some(heads), Some(sectors)) => Some((cylinders, heads as u8, sectors as u8)),
            _ => return Err("cyls, heads and secs belong together"),
        };
        let translation = match options.get("bios-chs-trans") {
            None | Some("auto") => None,
            Some("none") => Some(Translation::None),
            // XenServer's word for it.
            Some("lba" | "forcelba") => Some(Translation::Lba),
            Some("large") => Some(Translation::Large),
            Some("rechs") => Some(Translation::Rechs),
            Some(_) => return Err("bios-chs-trans is auto, none, lba, large or rechs"),
        };
        self.overlay(Self { identity, chs, translation });
        Ok(())
    }

    /// Replaces properties of all disks by a disk's own.
    pub fn overlay(&mut self, own: Self) {
        let Self { identity, chs, translation } = own;
        self.identity.serial = identity.serial.or(self.identity.serial.take());
        self.identity.version = identity.version.or(self.identity.version.take());
        self.identity.model = identity.model.or(self.identity.model.take());
        self.chs = chs.or(self.chs);
        self.translation = translation.or(self.translation);
    }

    /// The geometry for the firmware of a drive with `bytes` bytes and the first sector `first`, if that is known. A hostile sector
    /// can deceive its own guest alone.
    pub fn geometry(&self, drive: u8, bytes: u64, first: Option<&[u8; SECTOR]>) -> DiskGeometry {
        let total = bytes.div_euclid(SECTOR as u64);
        let by_size = (total.div_euclid(16 * 63).clamp(1, MOST_CYLINDERS) as u16, 16, 63);
        let auto = |cylinders| if cylinders <= PLAIN_CYLINDERS { Translation::None } else { Translation::Lba };
        let ((cylinders, heads, sectors), translation) = match (self.chs, first.and_then(|f| partitioned(f, total))) {
            (Some(chs), _) => (chs, auto(chs.0)),
            (None, None) => (by_size, auto(by_size.0)),
            // A disk has 16 heads at most, so it was partitioned under a translation.
            (None, Some((_, 17.., _))) if u32::from(by_size.0).saturating_mul(16) <= MOST_LARGE => {
                (by_size, Translation::Large)
            }
            (None, Some((_, 17.., _))) => (by_size, Translation::Lba),
            (None, Some((cylinders, heads, sectors))) => ((cylinders, heads as u8, sectors), Translation::None),
        };
        DiskGeometry { drive, cylinders, heads, sectors, translation: self.translation.unwrap_or(translation) }
    }
}

/// Cylinders, heads and sectors of a track, from the end of the first partition. `total`: sectors of the disk.
fn partitioned(first: &[u8; SECTOR], total: u64) -> Option<(u16, u16, u8)> {
    if !first.ends_with(&SIGNATURE) {
        return None;
    }
    let entries = first.get(PARTITIONS..)?.as_chunks::<16>().0;
    entries.iter().take(4).find_map(|entry| {
        let [_, _, _, _, _, head, sector, _, _, _, _, _, count @ ..] = *entry;
        let (heads, sectors) = (u16::from(head).saturating_add(1), sector & 0x3f);
        if u32::from_le_bytes(count) == 0 || heads == 1 || sectors == 0 {
            return None;
        }
        let cylinders = total.checked_div(u64::from(heads).saturating_mul(sectors.into()))?;
        let cylinders = Some(cylinders).filter(|c| (1..=MOST_CYLINDERS).contains(c))?;
        Some((cylinders as u16, heads, sectors))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sector(end: [u8; 3]) -> [u8; SECTOR] {
        let mut bytes = [0; SECTOR];
        bytes[PARTITIONS..][..16]
            .copy_from_slice(&[0x80, 1, 1, 0, 6, end[0], end[1], end[2], 63, 0, 0, 0, 0x41, 0x1f, 0, 0]);
        bytes[510..].copy_from_slice(&SIGNATURE);
        bytes
    }

    fn seen(mib: u64, first: Option<[u8; SECTOR]>) -> (u16, u8, u8, Translation) {
        let g = Properties::default().geometry(0, mib << 20, first.as_ref());
        (g.cylinders, g.heads, g.sectors, g.translation)
    }

    #[test]
    fn a_disk_is_addressed_as_it_was_partitioned() {
        use Translation::{Large, Lba, None as Plain};
        assert_eq!(seen(30, None), (60, 16, 63, Plain));
        assert_eq!(seen(30, Some([0; SECTOR])), (60, 16, 63, Plain));
        assert_eq!(seen(4096, None), (8322, 16, 63, Lba));
        assert_eq!(seen(1 << 20, None), (16383, 16, 63, Lba));
        // 128 heads.
        assert_eq!(seen(30, Some(sector([127, 63, 0]))), (60, 16, 63, Large));
        assert_eq!(seen(4096, Some(sector([127, 63, 0]))), (8322, 16, 63, Lba));
        // 16 heads, and a disk of other heads and sectors.
        assert_eq!(seen(4096, Some(sector([15, 63, 7]))), (8322, 16, 63, Plain));
        assert_eq!(seen(30, Some(sector([3, 32, 7]))), (480, 4, 32, Plain));
        // Sectors without a usable table.
        let mut unsigned = sector([127, 63, 0]);
        unsigned[510] = 0;
        assert_eq!(seen(30, Some(unsigned)), (60, 16, 63, Plain));
        assert_eq!(seen(30, Some(sector([0, 63, 7]))), (60, 16, 63, Plain));
        assert_eq!(seen(30, Some(sector([3, 0, 7]))), (60, 16, 63, Plain));
        assert_eq!(seen(0, None), (1, 16, 63, Plain));
    }

    #[test]
    fn what_is_said_of_a_disk_is_taken_or_refused() {
        let take = |text: &str| {
            let mut properties = Properties {
                identity: DiskIdentity { version: Some("1".into()), ..DiskIdentity::default() },
                ..Properties::default()
            };
            properties.take(&Options::parse(text)).map(|()| properties)
        };
        let it = take("x=y,serial=abc,cyls=480,heads=4,secs=32,bios-chs-trans=lba").unwrap();
        assert_eq!((it.identity.serial.as_deref(), it.identity.version.as_deref()), (Some("abc"), Some("1")));
        let g = it.geometry(2, 1 << 30, Some(&sector([15, 63, 7])));
        assert_eq!(g, DiskGeometry { drive: 2, cylinders: 480, heads: 4, sectors: 32, translation: Translation::Lba });
        for wrong in ["serial=012345678901234567890", "ver=", "cyls=4", "cyls=4,heads=17,secs=3", "bios-chs-trans=x"] {
            assert!(take(&format!("x=y,{wrong}")).is_err(), "{wrong}");
        }
    }
}
