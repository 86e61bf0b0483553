//! What the host can set of a drive, and what of it a reset takes back; the translation of old addresses is one of these.

/// Sectors that cylinder, head and sector reach at most (ATA/ATAPI-5, 6.2.1): what a larger disk says of its words 54 to 58.
const CHS_MOST: u64 = 16_514_064;

/// A translation: cylinders, heads, sectors of a track (ATA/ATAPI-5, 6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub(crate) cylinders: u16,
    pub(crate) heads: u8,
    pub(crate) sectors: u8,
}

impl Geometry {
    /// Heads that every disk has after power-on.
    pub(crate) const HEADS: u8 = 16;

    /// The one that a disk of `sectors` sectors has after power-on.
    pub(crate) fn default_of(sectors: u64) -> Self {
        let cylinders = sectors.div_euclid(16 * 63).clamp(1, 16383);
        Self { cylinders: cylinders as u16, heads: Self::HEADS, sectors: 63 }
    }

    /// One with so many heads and sectors of a track, neither of them 0.
    fn with(sectors: u64, heads: u8, of_track: u8) -> Self {
        let cylinder = u64::from(heads).saturating_mul(u64::from(of_track)).max(1);
        let cylinders = sectors.min(CHS_MOST).div_euclid(cylinder).clamp(1, 65535);
        Self { cylinders: cylinders as u16, heads, sectors: of_track }
    }

    /// Sectors that it reaches.
    pub(crate) fn capacity(&self) -> u32 {
        u32::from(self.cylinders).saturating_mul(u32::from(self.heads)).saturating_mul(u32::from(self.sectors))
    }

    /// The block of an address; none for a head or a sector that it does not have.
    pub(crate) fn block(&self, cylinder: u16, head: u8, sector: u8) -> Option<u64> {
        let sector = sector.checked_sub(1)?;
        if head >= self.heads || sector >= self.sectors {
            return None;
        }
        let track = u64::from(cylinder).saturating_mul(u64::from(self.heads)).saturating_add(u64::from(head));
        Some(track.saturating_mul(u64::from(self.sectors)).saturating_add(u64::from(sector)))
    }
}

/// What SET FEATURES, SET MULTIPLE MODE and INITIALIZE DEVICE PARAMETERS set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Heads and sectors of a track; `None`: the default ones.
    pub(crate) translation: Option<(u8, u8)>,
    /// Sectors of a block of READ and WRITE MULTIPLE; 0: neither is possible.
    pub(crate) multiple: u8,
    /// The DMA mode, as SET FEATURES names it.
    pub(crate) dma_mode: u8,
    /// What is written may stay in memory for a while.
    pub(crate) write_cache: bool,
    /// Told, and of no effect here.
    pub(crate) look_ahead: bool,
    /// A software reset takes nothing back (SET FEATURES 66h; CCh is the opposite).
    pub(crate) keep: bool,
}

impl Settings {
    /// After power-on.
    pub(crate) const DEFAULT: Self =
        Self { translation: None, multiple: 0, dma_mode: 0x42, write_cache: true, look_ahead: true, keep: false };

    /// A software reset (ATA/ATAPI-5, 8.37).
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

/// What CHECK POWER MODE tells (ATA/ATAPI-5, 8.6): its value in the count register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Power {
    #[default]
    Active = 0xff,
    Idle = 0x80,
    Standby = 0x00,
}

impl Power {
    /// As it is saved; 0 is what states have that know nothing of it.
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
