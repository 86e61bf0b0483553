//! A disk's identity, and its geometry by cylinder, head and sector. SeaBIOS reads from the CMOS RAM how to translate such
//! addresses. A boot loader that uses them needs the translation under which the disk was partitioned.
use crate::options::Options;
use bulkhead_bus::{DiskGeometry, DiskIdentity, Translation};
use bulkhead_plan::intake::Partitioned;

/// Bytes of a sector.
pub const SECTOR: u64 = 512;
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

    /// The geometry for the firmware of a drive with `bytes` bytes, which was partitioned under `partitioned`, if that is known.
    pub fn geometry(&self, drive: u8, bytes: u64, partitioned: Option<Partitioned>) -> DiskGeometry {
        let total = bytes.div_euclid(SECTOR);
        let by_size = (total.div_euclid(16 * 63).clamp(1, MOST_CYLINDERS) as u16, 16, 63);
        let auto = |cylinders| if cylinders <= PLAIN_CYLINDERS { Translation::None } else { Translation::Lba };
        let ((cylinders, heads, sectors), translation) = match (self.chs, partitioned) {
            (Some(chs), _) => (chs, auto(chs.0)),
            (None, None) => (by_size, auto(by_size.0)),
            // A disk has 16 heads at most, so it was partitioned under a translation.
            (None, Some(Partitioned { heads: 17.., .. })) if u32::from(by_size.0).saturating_mul(16) <= MOST_LARGE => {
                (by_size, Translation::Large)
            }
            (None, Some(Partitioned { heads: 17.., .. })) => (by_size, Translation::Lba),
            (None, Some(Partitioned { cylinders, heads, sectors })) => {
                ((cylinders, heads as u8, sectors), Translation::None)
            }
        };
        DiskGeometry { drive, cylinders, heads, sectors, translation: self.translation.unwrap_or(translation) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(mib: u64, partitioned: Option<(u16, u16, u8)>) -> (u16, u8, u8, Translation) {
        let partitioned = partitioned.map(|(cylinders, heads, sectors)| Partitioned { cylinders, heads, sectors });
        let g = Properties::default().geometry(0, mib << 20, partitioned);
        (g.cylinders, g.heads, g.sectors, g.translation)
    }

    #[test]
    fn a_disk_is_addressed_as_it_was_partitioned() {
        use Translation::{Large, Lba, None as Plain};
        assert_eq!(seen(30, None), (60, 16, 63, Plain));
        assert_eq!(seen(4096, None), (8322, 16, 63, Lba));
        assert_eq!(seen(1 << 20, None), (16383, 16, 63, Lba));
        assert_eq!(seen(30, Some((7, 128, 63))), (60, 16, 63, Large));
        assert_eq!(seen(4096, Some((1040, 128, 63))), (8322, 16, 63, Lba));
        assert_eq!(seen(4096, Some((8322, 16, 63))), (8322, 16, 63, Plain));
        assert_eq!(seen(30, Some((480, 4, 32))), (480, 4, 32, Plain));
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
        let g = it.geometry(2, 1 << 30, Some(Partitioned { cylinders: 2080, heads: 16, sectors: 63 }));
        assert_eq!(g, DiskGeometry { drive: 2, cylinders: 480, heads: 4, sectors: 32, translation: Translation::Lba });
        for wrong in ["serial=012345678901234567890", "ver=", "cyls=4", "cyls=4,heads=17,secs=3", "bios-chs-trans=x"] {
            assert!(take(&format!("x=y,{wrong}")).is_err(), "{wrong}");
        }
    }
}
