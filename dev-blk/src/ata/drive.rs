//! One drive: its medium and its registers.
use super::counters::Counters;
use super::settings::{Geometry, Power, Settings};
use super::spec::{MAX_MULTIPLE, MediaEvent, Sense, Status};
use super::state::DriveState;
use crate::backend::Image;
use bulkhead_bus::StateError;
use std::sync::Arc;

/// A command block register, with its previous value (48-bit commands write twice).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Twice {
    pub(crate) now: u8,
    pub(crate) before: u8,
}

impl Twice {
    pub(crate) fn write(&mut self, value: u8) {
        self.before = self.now;
        self.now = value;
    }
}

/// What a drive says it is, where somebody has named it; characters that are not printable ASCII become blanks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Serial number, 20 characters at most.
    pub serial: Option<String>,
    /// Version of the firmware, 8 characters at most.
    pub version: Option<String>,
    /// Model, 40 characters at most.
    pub model: Option<String>,
    /// Cylinders, heads, sectors of a track after power-on.
    pub geometry: Option<(u16, u8, u8)>,
}

/// A drive to put in.
#[derive(Debug)]
pub struct DriveSpec {
    /// 0 primary master to 3 secondary slave.
    pub index: u8,
    /// A CD-ROM drive.
    pub cdrom: bool,
    /// No writes.
    pub read_only: bool,
    /// The medium.
    pub image: Option<Image>,
    /// What it says it is.
    pub identity: Identity,
}

/// A drive.
#[derive(Debug)]
pub(crate) struct Drive {
    pub(crate) index: u8,
    pub(crate) identity: Identity,
    pub(crate) cdrom: bool,
    pub(crate) read_only: bool,
    pub(crate) image: Option<Arc<Image>>,
    /// It has been unplugged.
    pub(crate) present: bool,
    pub(crate) features: Twice,
    pub(crate) count: Twice,
    pub(crate) lba: [Twice; 3],
    pub(crate) status: Status,
    pub(crate) error: u8,
    pub(crate) settings: Settings,
    pub(crate) power: Power,
    pub(crate) sense: Sense,
    pub(crate) locked: bool,
    /// The medium was taken out and none put in since, or the guest has opened the tray with the medium on it.
    pub(crate) tray_open: bool,
    /// The next command hears that the medium may have changed.
    pub(crate) attention: bool,
    /// What the guest has not heard of yet.
    pub(crate) event: MediaEvent,
    /// What it has done.
    pub(crate) counters: Counters,
}

impl Drive {
    pub(crate) fn new(spec: DriveSpec) -> Self {
        let DriveSpec { index, cdrom, read_only, image, identity } = spec;
        let image = image.map(Arc::new);
        let mut drive = Self {
            index,
            identity,
            cdrom,
            read_only,
            image,
            present: true,
            features: Twice::default(),
            count: Twice::default(),
            lba: [Twice::default(); 3],
            status: Status::new(),
            error: 0,
            settings: Settings::DEFAULT,
            power: Power::Active,
            sense: Sense::NONE,
            locked: false,
            tray_open: false,
            attention: false,
            event: MediaEvent::None,
            counters: Counters::default(),
        };
        drive.signature();
        drive
    }

    /// What a reset leaves in the registers (ATA/ATAPI-7 vol. 2, 9.1).
    pub(crate) fn signature(&mut self) {
        let (mid, high) = if self.cdrom { (0x14, 0xeb) } else { (0, 0) };
        self.count = Twice { now: 1, before: 1 };
        let plain = |now| Twice { now, before: now };
        self.lba = [plain(1), plain(mid), plain(high)];
        self.error = 1;
        self.status = if self.cdrom { Status::new() } else { Status::new().with_drdy(true).with_dsc(true) };
    }

    /// DEVICE RESET (ATA/ATAPI-5, 8.7).
    pub(crate) fn device_reset(&mut self) {
        self.signature();
        self.sense = Sense::NONE;
    }

    /// A reset by the device control register.
    pub(crate) fn software_reset(&mut self) {
        self.device_reset();
        self.settings.software_reset();
        self.power = Power::Active;
    }

    /// Power-on, or a reset by the bus: it takes back what only a command can set (SPC-3, 6.13: prevention too).
    pub(crate) fn hard_reset(&mut self) {
        self.device_reset();
        self.settings = Settings::DEFAULT;
        self.power = Power::Active;
        self.locked = false;
    }

    /// The translation in force.
    pub(crate) fn geometry(&self) -> Geometry {
        if self.settings.translation.is_none() { self.native() } else { self.settings.geometry(self.sectors()) }
    }

    /// The translation after power-on.
    pub(crate) fn native(&self) -> Geometry {
        match self.identity.geometry {
            Some((cylinders, heads @ 1.., sectors @ 1..)) => Geometry { cylinders, heads, sectors },
            _ => Geometry::default_of(self.sectors()),
        }
    }

    /// Sectors of a disk.
    pub(crate) fn sectors(&self) -> u64 {
        self.image.as_ref().map_or(0, |i| i.size() >> 9)
    }

    /// Sectors of a CD that the drive can reach: behind an open tray none.
    pub(crate) fn cd_sectors(&self) -> Option<u32> {
        self.image.as_ref().filter(|_| !self.tray_open).map(|i| u32::try_from(i.size() >> 11).unwrap_or(u32::MAX))
    }

    /// Takes the medium out. A locked tray asks the guest first, unless `force`.
    pub(crate) fn eject(&mut self, force: bool) -> Result<(), String> {
        if !self.cdrom {
            return Err("the medium of a disk cannot be changed".into());
        }
        if self.image.is_none() {
            return Ok(());
        }
        if self.locked && !force {
            self.event = MediaEvent::EjectRequest;
            return Err("the guest has locked the tray; it was asked to let go of the medium".into());
        }
        self.image = None;
        (self.locked, self.tray_open, self.attention, self.event) = (false, true, false, MediaEvent::Removal);
        Ok(())
    }

    /// Puts a medium in.
    pub(crate) fn insert(&mut self, image: Image) -> Result<(), String> {
        if !self.cdrom {
            return Err("the medium of a disk cannot be changed".into());
        }
        if self.image.is_some() {
            return Err("there is a medium in the drive".into());
        }
        self.image = Some(Arc::new(image));
        (self.tray_open, self.attention, self.event) = (false, true, MediaEvent::New);
        Ok(())
    }

    pub(crate) fn save(&self) -> DriveState {
        let all = [self.features, self.count, self.lba[0], self.lba[1], self.lba[2]];
        DriveState {
            registers: all.iter().flat_map(|t| [t.now, t.before]).collect(),
            status: u32::from(self.status.into_bits()),
            error: u32::from(self.error),
            multiple: u32::from(self.settings.multiple),
            sense: u32::from_be_bytes([0, self.sense.key, self.sense.asc, self.sense.ascq]),
            present: self.present,
            dma_mode: u32::from(self.settings.dma_mode),
            locked: self.locked,
            tray_open: self.tray_open,
            attention: self.attention,
            event: self.event as u32,
            counters: self.counters.save(),
            translation: self
                .settings
                .translation
                .map_or(0, |(heads, of_track)| u32::from_be_bytes([0, 0, heads, of_track])),
            no_write_cache: !self.settings.write_cache,
            no_look_ahead: !self.settings.look_ahead,
            keep_settings: self.settings.keep,
            power: self.power.save(),
            medium_on_open_tray: self.tray_open && self.image.is_some(),
        }
    }

    pub(crate) fn load(&mut self, s: &DriveState) -> Result<(), StateError> {
        let byte = |v: u32, what| u8::try_from(v).map_err(|_| StateError::Value(what));
        let Ok(registers) = <[u8; 10]>::try_from(s.registers.as_slice()) else {
            return Err(StateError::Value("drive registers"));
        };
        let mut pairs = registers.chunks_exact(2).map(|p| match p {
            [now, before] => Twice { now: *now, before: *before },
            _ => Twice::default(),
        });
        let mut next = || pairs.next().unwrap_or_default();
        let (features, count, lba) = (next(), next(), [next(), next(), next()]);
        let multiple = byte(s.multiple, "multiple")?;
        if multiple > MAX_MULTIPLE {
            return Err(StateError::Value("multiple"));
        }
        let translation = match s.translation.to_be_bytes() {
            [0, 0, 0, 0] => None,
            [0, 0, heads @ 1..=16, of_track @ 1..=255] => Some((heads, of_track)),
            _ => return Err(StateError::Value("translation")),
        };
        let power = Power::load(s.power).ok_or(StateError::Value("power mode"))?;
        let event = MediaEvent::from_u32(s.event).ok_or(StateError::Value("media event"))?;
        let [_, key, asc, ascq] = s.sense.to_be_bytes();
        let (status, error, dma_mode) = (byte(s.status, "status")?, byte(s.error, "error")?, byte(s.dma_mode, "mode")?);
        (self.features, self.count, self.lba) = (features, count, lba);
        self.status = Status::from_bits(status).with_bsy(false).with_drq(false);
        self.error = error;
        self.settings = Settings {
            translation,
            multiple,
            dma_mode,
            write_cache: !s.no_write_cache,
            look_ahead: !s.no_look_ahead,
            keep: s.keep_settings,
        };
        self.power = power;
        self.sense = Sense { key, asc, ascq };
        self.counters = Counters::load(s.counters.as_ref());
        (self.present, self.locked) = (s.present, s.locked);
        // Somebody else may have what was unplugged.
        if !self.present {
            self.image = None;
        }
        // A medium that has come since closes the tray.
        self.tray_open = s.tray_open && (s.medium_on_open_tray || self.image.is_none());
        (self.attention, self.event) = (s.attention, event);
        Ok(())
    }
}
