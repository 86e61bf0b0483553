//! Settings of a drive by commands, including the translation of cylinder addresses, and the effect of resets on them.

/// Most sectors that cylinder, head and sector can address (ATA/ATAPI-5, 6.2.1); larger disks report this in words 54 to 58.
const CHS_MOST: u64 = 16_514_064;

/// A translation: cylinders, heads, sectors per track (ATA/ATAPI-5, 6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub(crate) cylinders: u16,
    pub(crate) heads: u8,
    pub(crate) sectors: u8,
}

impl Geometry {
    /// Default number of heads after power-on.
    pub(crate) const HEADS: u8 = 16;

    /// The default translation of a disk with `sectors` sectors after power-on.
    pub(crate) fn default_of(sectors: u64) -> Self {
        let cylinders = sectors.div_euclid(16 * 63).clamp(1, 16383);
        Self { cylinders: cylinders as u16, heads: Self::HEADS, sectors: 63 }
    }

    /// A translation with this many heads and sectors per track, which must not be 0.
    fn with(sectors: u64, heads: u8, of_track: u8) -> Self {
        let cylinder = u64::from(heads).saturating_mul(u64::from(of_track)).max(1);
        let cylinders = sectors.min(CHS_MOST).div_euclid(cylinder).clamp(1, 65535);
        Self { cylinders: cylinders as u16, heads, sectors: of_track }
    }

    /// Number of sectors that it can address.
    pub(crate) fn capacity(&self) -> u32 {
        u32::from(self.cylinders).saturating_mul(u32::from(self.heads)).saturating_mul(u32::from(self.sectors))
    }

    /// The block of an address; `None` for a head or a sector that it does not have.
    pub(crate) fn block(&self, cylinder: u16, head: u8, sector: u8) -> Option<u64> {
        let sector = sector.checked_sub(1)?;
        if head >= self.heads || sector >= self.sectors {
            return None;
        }
        let track = u64::from(cylinder).saturating_mul(u64::from(self.heads)).saturating_add(u64::from(head));
        Some(track.saturating_mul(u64::from(self.sectors)).saturating_add(u64::from(sector)))
    }
}

/// Settings of SET FEATURES, SET MULTIPLE MODE and INITIALIZE DEVICE PARAMETERS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Heads and sectors per track; `None`: the default ones.
    pub(crate) translation: Option<(u8, u8)>,
    /// Sectors of a block of READ and WRITE MULTIPLE; 0 disables both.
    pub(crate) multiple: u8,
    /// The DMA mode in SET FEATURES' encoding.
    pub(crate) dma_mode: u8,
    /// A write may end before it is durable.
    pub(crate) write_cache: bool,
    /// Reported by IDENTIFY; without an effect here.
    pub(crate) look_ahead: bool,
    /// A software reset keeps all settings (SET FEATURES 66h; CCh is the opposite).
    pub(crate) keep: bool,
}

impl Settings {
    /// The settings after power-on.
    pub(crate) const DEFAULT: Self =
        Self { translation: None, multiple: 0, dma_mode: 0x42, write_cache: true, look_ahead: true, keep: false };

    /// The effect of a software reset (ATA/ATAPI-5, 8.37).
    pub(crate) fn software_reset(&mut self) {
        if !self.keep {
            *self = Self::DEFAULT;
        }
    }

    /// The translation in force for a disk of `sectors` sectors.
    pub(crate) fn geometry(&self, sectors: u64) -> Geometry {
        match self.translation {
            Some((heads, of_track)) => Geometry::with(sectors, heads, of_track),
            None => Geometry::default_of(sectors),
        }
    }
}

/// The power mode; its value in the count register of CHECK POWER MODE (ATA/ATAPI-5, 8.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Power {
    #[default]
    Active = 0xff,
    Idle = 0x80,
    Standby = 0x00,
}

impl Power {
    /// The saved value; 0 is also that of states without this field.
    pub(crate) fn save(self) -> u32 {
        match self {
            Self::Active => 0,
            Self::Idle => 1,
            Self::Standby => 2,
        }
    }

    pub(crate) fn load(value: u32) -> Option<Self> {
        Some(match value {
            0 => Self::Active,
            1 => Self::Idle,
            2 => Self::Standby,
            _ => return None,
        })
    }
}
