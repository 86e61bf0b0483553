//! A drive on a channel: the drive, and its registers behind the ports.
use super::spec::reg;
use crate::ata::drive::{Drive, DriveSpec, Loaded};
use crate::ata::registers::Registers;
use crate::ata::spec::{DeviceRegister, Sense, Status};
use crate::ata::state::{DriveState, RegistersState};
use bulkhead_bus::StateError;

/// A register with its previous value (registers of commands with 48-bit addresses are written twice).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Twice {
    now: u8,
    before: u8,
}

impl Twice {
    fn write(&mut self, value: u8) {
        self.before = self.now;
        self.now = value;
    }

    fn both(self) -> u16 {
        u16::from_le_bytes([self.now, self.before])
    }

    fn of(both: u16) -> Self {
        let [now, before] = both.to_le_bytes();
        Self { now, before }
    }
}

/// The registers of one drive; the channel has the device register.
#[derive(Debug, Default)]
pub(super) struct TaskFile {
    features: Twice,
    count: Twice,
    lba: [Twice; 3],
    pub(super) status: Status,
    pub(super) error: u8,
}

impl TaskFile {
    /// Reads a register other than data, device and status; its previous value if `previous` is set and it has one.
    pub(super) fn read(&self, offset: u64, previous: bool) -> Option<u8> {
        let register = match offset {
            reg::ERROR_FEATURES => return Some(self.error),
            reg::COUNT => self.count,
            reg::LBA_LOW => self.lba[0],
            reg::LBA_MID => self.lba[1],
            reg::LBA_HIGH => self.lba[2],
            _ => return None,
        };
        Some(if previous { register.before } else { register.now })
    }

    /// Writes a register other than data, device and command.
    pub(super) fn write(&mut self, offset: u64, value: u8) {
        match offset {
            reg::ERROR_FEATURES => self.features.write(value),
            reg::COUNT => self.count.write(value),
            reg::LBA_LOW => self.lba[0].write(value),
            reg::LBA_MID => self.lba[1].write(value),
            reg::LBA_HIGH => self.lba[2].write(value),
            _ => {}
        }
    }

    fn value(&self, device: DeviceRegister) -> Registers {
        let [low, mid, high] = self.lba;
        Registers {
            features: self.features.both(),
            count: self.count.both(),
            lba: [low.now, mid.now, high.now, low.before, mid.before, high.before],
            device,
            status: self.status,
            error: self.error,
        }
    }

    fn set(&mut self, r: &Registers) {
        let [low, mid, high, low_before, mid_before, high_before] = r.lba;
        self.features = Twice::of(r.features);
        self.count = Twice::of(r.count);
        self.lba = [
            Twice { now: low, before: low_before },
            Twice { now: mid, before: mid_before },
            Twice { now: high, before: high_before },
        ];
        self.status = r.status;
        self.error = r.error;
    }

    fn load(s: &DriveState) -> Result<Self, StateError> {
        let byte = |v: u32, what| u8::try_from(v).map_err(|_| StateError::Value(what));
        let r = s.registers.ok_or(StateError::Value("drive registers"))?;
        let register = |v| byte(v, "drive registers");
        let twice = |now, before| Ok::<_, StateError>(Twice { now: register(now)?, before: register(before)? });
        Ok(Self {
            features: twice(r.features, r.features_before)?,
            count: twice(r.count, r.count_before)?,
            lba: [
                twice(r.lba_low, r.lba_low_before)?,
                twice(r.lba_mid, r.lba_mid_before)?,
                twice(r.lba_high, r.lba_high_before)?,
            ],
            status: Status::from_bits(byte(s.status, "status")?).with_drq(false),
            error: byte(s.error, "error")?,
        })
    }
}

/// A drive on a channel.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(super) drive: Drive,
    pub(super) task_file: TaskFile,
}

impl Attached {
    pub(super) fn new(spec: DriveSpec) -> Self {
        // Word 93: results of the last reset for device 0 and device 1, with a cable of 80 wires (ATA/ATAPI-7 vol. 1, 6.17).
        let reset_result = if spec.index & 1 == 0 { 0x600b } else { 0x6b00 };
        let mut new = Self { drive: Drive::new(spec, reset_result), task_file: TaskFile::default() };
        new.with(&mut DeviceRegister::new(), |drive, r| drive.signature(r));
        new
    }

    /// Calls `act` with the drive and its registers, `device` included, and stores the changed registers.
    pub(super) fn with<R>(
        &mut self,
        device: &mut DeviceRegister,
        act: impl FnOnce(&mut Drive, &mut Registers) -> R,
    ) -> R {
        let mut registers = self.task_file.value(*device);
        let result = act(&mut self.drive, &mut registers);
        self.task_file.set(&registers);
        *device = registers.device;
        result
    }

    /// The saved state of a drive whose command a restarted process cannot continue: it is aborted.
    pub(super) fn save_aborted(&self, device: DeviceRegister) -> DriveState {
        let mut registers = self.task_file.value(device);
        let Sense { key, asc, ascq } = self.drive.aborted(&mut registers);
        let mut task_file = TaskFile::default();
        task_file.set(&registers);
        DriveState {
            sense_key: u32::from(key),
            sense_code: u32::from(asc),
            sense_qualifier: u32::from(ascq),
            ..self.save_with(&task_file)
        }
    }

    pub(super) fn save(&self) -> DriveState {
        self.save_with(&self.task_file)
    }

    fn save_with(&self, task_file: &TaskFile) -> DriveState {
        let TaskFile { features, count, lba: [low, mid, high], status, error } = task_file;
        DriveState {
            registers: Some(RegistersState {
                features: u32::from(features.now),
                features_before: u32::from(features.before),
                count: u32::from(count.now),
                count_before: u32::from(count.before),
                lba_low: u32::from(low.now),
                lba_low_before: u32::from(low.before),
                lba_mid: u32::from(mid.now),
                lba_mid_before: u32::from(mid.before),
                lba_high: u32::from(high.now),
                lba_high_before: u32::from(high.before),
            }),
            status: u32::from(status.into_bits()),
            error: u32::from(*error),
            ..self.drive.save()
        }
    }

    /// Fails as [`Self::load`] would.
    pub(super) fn check(s: &DriveState) -> Result<(), StateError> {
        TaskFile::load(s)?;
        Loaded::of(s).map(drop)
    }

    /// Restores a state; `in_reset`: the guest holds the channel in software reset.
    pub(super) fn load(&mut self, s: &DriveState, in_reset: bool) -> Result<(), StateError> {
        let task_file = TaskFile::load(s)?;
        self.drive.load(s, Loaded::of(s)?);
        self.task_file = task_file;
        // Without a command, only a software reset in progress makes a drive busy.
        let busy = self.task_file.status.bsy() && in_reset;
        self.task_file.status.set_bsy(busy);
        Ok(())
    }
}
