//! One drive: its medium, and its state between commands.
use super::counters::Counters;
use super::registers::Registers;
use super::settings::{Geometry, Power, Settings};
use super::spec::{MAX_MULTIPLE, MediaEvent, Sense, Status};
use super::state::{DriveState, TranslationState};
use crate::backend::Image;
use bulkhead_bus::{DriveError, StateError};
use std::sync::Arc;

/// Strings and geometry that a drive reports instead of its defaults; characters that are not printable ASCII become blanks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Serial number, 20 characters at most.
    pub serial: Option<String>,
    /// Version of the firmware, 8 characters at most.
    pub version: Option<String>,
    /// Model, 40 characters at most.
    pub model: Option<String>,
    /// Cylinders, heads, sectors per track after power-on.
    pub geometry: Option<(u16, u8, u8)>,
}

/// The specification of a drive.
#[derive(Debug)]
pub struct DriveSpec {
    /// 0 primary master to 3 secondary slave.
    pub index: u8,
    /// A CD-ROM drive.
    pub cdrom: bool,
    /// The guest may not write to the medium.
    pub read_only: bool,
    /// The medium; `None` for an empty CD-ROM drive.
    pub image: Option<Image>,
    /// Strings and geometry that it reports.
    pub identity: Identity,
}

/// A drive.
#[derive(Debug)]
pub(crate) struct Drive {
    pub(crate) index: u8,
    pub(crate) identity: Identity,
    /// Word 93 of a disk's IDENTIFY DEVICE, which the transport determines.
    pub(crate) reset_result: u16,
    pub(crate) cdrom: bool,
    pub(crate) read_only: bool,
    pub(crate) image: Option<Arc<Image>>,
    /// False once the guest has unplugged it.
    pub(crate) present: bool,
    pub(crate) settings: Settings,
    pub(crate) power: Power,
    pub(crate) sense: Sense,
    pub(crate) locked: bool,
    /// The medium was removed and not replaced, or the guest has opened the tray with the medium on it.
    pub(crate) tray_open: bool,
    /// A unit attention is pending: the medium may have changed.
    pub(crate) attention: bool,
    /// The event that the guest has not read yet.
    pub(crate) event: MediaEvent,
    /// Its operations since the guest started.
    pub(crate) counters: Counters,
    /// The command in progress is a packet command.
    pub(super) packet: bool,
    /// The byte count limit of that packet command's blocks, without DMA.
    pub(super) limit: u16,
}

impl Drive {
    /// A drive in its power-on state; `reset_result` is word 93 of IDENTIFY DEVICE.
    pub(crate) fn new(spec: DriveSpec, reset_result: u16) -> Self {
        let DriveSpec { index, cdrom, read_only, image, identity } = spec;
        Self {
            index,
            identity,
            reset_result,
            cdrom,
            read_only,
            image: image.map(Arc::new),
            present: true,
            settings: Settings::DEFAULT,
            power: Power::Active,
            sense: Sense::NONE,
            locked: false,
            tray_open: false,
            attention: false,
            event: MediaEvent::None,
            counters: Counters::default(),
            packet: false,
            limit: 0,
        }
    }

    /// Sets the registers to the signature after a reset (ATA/ATAPI-7 vol. 2, 9.1).
    pub(crate) fn signature(&self, r: &mut Registers) {
        let (mid, high) = if self.cdrom { (0x14, 0xeb) } else { (0, 0) };
        r.count = 0x0101;
        r.lba = [1, mid, high, 1, mid, high];
        r.error = 1;
        r.status = if self.cdrom { Status::new() } else { Status::READY };
    }

    /// DEVICE RESET (ATA/ATAPI-5, 8.7).
    pub(crate) fn device_reset(&mut self, r: &mut Registers) {
        self.signature(r);
        self.sense = Sense::NONE;
    }

    /// A reset by the device control register.
    pub(crate) fn software_reset(&mut self, r: &mut Registers) {
        self.device_reset(r);
        self.settings.software_reset();
        self.power = Power::Active;
    }

    /// Power-on or a reset of the bus: clears all settings and the tray's lock (SPC-3, 6.13).
    pub(crate) fn hard_reset(&mut self, r: &mut Registers) {
        self.device_reset(r);
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

    /// The packet command in progress, if it is one: the byte count limit of its blocks.
    pub(crate) fn packet_limit(&self) -> Option<u16> {
        self.packet.then_some(self.limit)
    }

    /// Restores it.
    pub(crate) fn set_packet_limit(&mut self, limit: Option<u16>) {
        (self.packet, self.limit) = (limit.is_some(), limit.unwrap_or(0));
    }

    /// Number of sectors of a disk.
    pub(crate) fn sectors(&self) -> u64 {
        self.image.as_ref().map_or(0, |i| i.size() >> 9)
    }

    /// Number of sectors of a CD; `None` without a medium or with an open tray.
    pub(crate) fn cd_sectors(&self) -> Option<u32> {
        self.image.as_ref().filter(|_| !self.tray_open).map(|i| u32::try_from(i.size() >> 11).unwrap_or(u32::MAX))
    }

    /// Removes the medium. If the tray is locked, it fails and sends the guest an eject request, unless `force` is set.
    pub(crate) fn eject(&mut self, force: bool) -> Result<(), DriveError> {
        if !self.cdrom {
            return Err(DriveError::Fixed);
        }
        if self.image.is_none() {
            return Ok(());
        }
        if self.locked && !force {
            self.event = MediaEvent::EjectRequest;
            return Err(DriveError::Locked);
        }
        self.image = None;
        self.locked = false;
        self.tray_open = true;
        self.attention = false;
        self.event = MediaEvent::Removal;
        Ok(())
    }

    /// Inserts a medium.
    pub(crate) fn insert(&mut self, image: Image) -> Result<(), DriveError> {
        if !self.cdrom {
            return Err(DriveError::Fixed);
        }
        if self.image.is_some() {
            return Err(DriveError::Occupied);
        }
        self.image = Some(Arc::new(image));
        (self.tray_open, self.attention, self.event) = (false, true, MediaEvent::New);
        Ok(())
    }

    /// Begins a job and returns its medium; `None` without a medium.
    pub(crate) fn begin(&mut self) -> Option<Arc<Image>> {
        let image = self.image.clone()?;
        self.power = Power::Active;
        Some(image)
    }

    /// Closes the medium, after the guest has unplugged the drive.
    pub(crate) fn unplug(&mut self) {
        self.present = false;
        self.image = None;
    }

    /// The saved state, without the registers, which the transport saves.
    pub(crate) fn save(&self) -> DriveState {
        DriveState {
            multiple: u32::from(self.settings.multiple),
            sense_key: u32::from(self.sense.key),
            sense_code: u32::from(self.sense.asc),
            sense_qualifier: u32::from(self.sense.ascq),
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
                .map(|(heads, sectors)| TranslationState { heads: u32::from(heads), sectors: u32::from(sectors) }),
            no_write_cache: !self.settings.write_cache,
            no_look_ahead: !self.settings.look_ahead,
            keep_settings: self.settings.keep,
            power: self.power.save(),
            medium_on_open_tray: self.tray_open && self.image.is_some(),
            ..DriveState::default()
        }
    }

    /// Restores a state, whose values are those of `loaded`.
    pub(crate) fn load(&mut self, s: &DriveState, loaded: Loaded) {
        self.settings = loaded.settings;
        self.power = loaded.power;
        self.sense = loaded.sense;
        self.counters = Counters::load(s.counters.as_ref());
        self.present = s.present;
        self.locked = s.locked;
        // Another process may use the image of an unplugged drive.
        if !self.present {
            self.image = None;
        }
        // A medium that was inserted since then closes the tray.
        self.tray_open = s.tray_open && (s.medium_on_open_tray || self.image.is_none());
        self.attention = s.attention;
        self.event = loaded.event;
    }
}

/// The values of a saved state that can be invalid.
pub(crate) struct Loaded {
    settings: Settings,
    power: Power,
    sense: Sense,
    event: MediaEvent,
}

impl Loaded {
    /// Checks a saved state.
    pub(crate) fn of(s: &DriveState) -> Result<Self, StateError> {
        let byte = |v: u32, what| u8::try_from(v).map_err(|_| StateError::Value(what));
        let multiple = byte(s.multiple, "multiple")?;
        if multiple > MAX_MULTIPLE {
            return Err(StateError::Value("multiple"));
        }
        let translation = match s.translation {
            None => None,
            Some(TranslationState { heads: heads @ 1..=16, sectors: sectors @ 1..=255 }) => {
                Some((heads as u8, sectors as u8))
            }
            Some(_) => return Err(StateError::Value("translation")),
        };
        let power = Power::load(s.power).ok_or(StateError::Value("power mode"))?;
        let event = MediaEvent::from_u32(s.event).ok_or(StateError::Value("media event"))?;
        let sense = Sense {
            key: byte(s.sense_key, "sense")?,
            asc: byte(s.sense_code, "sense")?,
            ascq: byte(s.sense_qualifier, "sense")?,
        };
        let dma_mode = byte(s.dma_mode, "mode")?;
        let settings = Settings {
            translation,
            multiple,
            dma_mode,
            write_cache: !s.no_write_cache,
            look_ahead: !s.no_look_ahead,
            keep: s.keep_settings,
        };
        Ok(Self { settings, power, sense, event })
    }
}
