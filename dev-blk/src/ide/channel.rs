//! One channel: two drives, the registers that select one of them, the command that is under way.
//!
//! | file | what |
//! |---|---|
//! | `commands.rs` | what a command asks for |
//! | `pio.rs` | data by the data register |
//! | `dma.rs` | data by the bus master |
mod commands;
mod dma;
mod pio;

use super::atapi;
use super::counters::Work;
use super::drive::Drive;
use super::spec::{
    BusMasterCommand, BusMasterStatus, CD_SECTOR, DeviceControl, DeviceRegister, Sense, Status, command, error, reason,
    reg,
};
use super::state::ChannelState;
use crate::backend::{Executor, Job, Outcome};
use bulkhead_bus::{Context, DriveFacts, Inspect, StateError};

/// Where data of the command goes.
#[derive(Debug)]
enum Phase {
    /// No command.
    Idle,
    /// A job is with the worker.
    Working(After),
    /// The guest reads the buffer by programmed I/O.
    PioIn,
    /// The guest writes a block of a disk, or a packet.
    PioOut(Out),
    /// Everything is ready for DMA, but the guest has not started the bus master.
    AwaitDma(Dma),
}

/// What follows a job.
#[derive(Debug, PartialEq, Eq)]
enum After {
    /// The bytes are to be read by programmed I/O.
    PioIn,
    /// A block was written; more may follow.
    PioOut,
    /// A DMA transfer is done.
    Dma,
    /// The command is done.
    Done,
    /// Nobody waits any more: reset or stopped.
    Nothing,
}

/// What the guest writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Out {
    Sectors,
    Packet,
}

/// A DMA transfer to come.
#[derive(Debug)]
enum Dma {
    /// From the image to memory.
    Read { offset: u64, bytes: usize },
    /// From memory to the image.
    Write { offset: u64, bytes: usize },
    /// These bytes to memory.
    Bytes(Vec<u8>),
    /// A list of ranges from memory.
    Trim { bytes: usize },
}

/// A channel.
pub(crate) struct Channel {
    lane: usize,
    pub(crate) drives: [Option<Drive>; 2],
    device: DeviceRegister,
    control: DeviceControl,
    interrupt: bool,
    // The command under way.
    current: bool,
    phase: Phase,
    buffer: Vec<u8>,
    at: usize,
    /// End of the block that the guest may take or fill now.
    block_end: usize,
    /// Byte of the image where the next block goes or comes from, sectors that are left.
    offset: u64,
    left: u32,
    /// Sectors of a block.
    block: u32,
    /// Bytes that a packet command's host takes at once.
    limit: usize,
    packet: bool,
    raw: Option<u64>,
    // Bus master.
    bm_command: BusMasterCommand,
    bm_status: BusMasterStatus,
    bm_table: u32,
    prd_longer: bool,
    pub(crate) dirty: bool,
    jobs: u64,
    /// What is being done, and for which drive.
    work: Option<(u8, Work)>,
    /// The guest has written registers that nobody took: its next command would be another one than it believes.
    stale: bool,
}

impl Channel {
    pub(crate) fn new(lane: usize, drives: [Option<Drive>; 2]) -> Self {
        Self {
            lane,
            drives,
            device: DeviceRegister::new(),
            control: DeviceControl::new(),
            interrupt: false,
            current: false,
            phase: Phase::Idle,
            buffer: Vec::new(),
            at: 0,
            block_end: 0,
            offset: 0,
            left: 0,
            block: 1,
            limit: 0,
            packet: false,
            raw: None,
            bm_command: BusMasterCommand::new(),
            bm_status: BusMasterStatus::new(),
            bm_table: 0,
            prd_longer: false,
            dirty: true,
            jobs: 0,
            work: None,
            stale: false,
        }
    }

    /// The drive whose command is under way; the guest may have selected the other one since.
    fn selected(&mut self) -> Option<&mut Drive> {
        self.drives.get_mut(usize::from(self.current))?.as_mut().filter(|d| d.present)
    }

    fn drive(&self) -> Option<&Drive> {
        self.drives.get(usize::from(self.device.dev()))?.as_ref().filter(|d| d.present)
    }

    /// The status register: of an absent drive 0, of an empty channel all ones, as a floating bus reads.
    pub(crate) fn status(&self) -> u8 {
        match self.drive() {
            // A job of before a reset is still under way.
            Some(_) if matches!(self.phase, Phase::Working(After::Nothing)) => Status::new().with_bsy(true).into_bits(),
            Some(drive) => drive.status.into_bits(),
            None if self.drives.iter().flatten().any(|d| d.present) => 0,
            None => 0xff,
        }
    }

    /// The interrupt request.
    pub(crate) fn intrq(&self) -> bool {
        self.interrupt && !self.control.nien()
    }

    /// No job is with a worker.
    pub(crate) fn quiescent(&self) -> bool {
        !matches!(self.phase, Phase::Working(_))
    }

    fn raise(&mut self) {
        self.interrupt = true;
        if !self.control.nien() {
            self.bm_status.set_interrupt(true);
        }
    }

    /// Reads a command block register other than data.
    pub(crate) fn read(&mut self, offset: u64) -> u8 {
        let value = self.peek(offset);
        if offset == reg::STATUS_COMMAND && self.interrupt {
            self.interrupt = false;
            self.dirty = true;
        }
        value
    }

    /// What such a register holds; only reading the status does anything else.
    pub(crate) fn peek(&self, offset: u64) -> u8 {
        let hob = self.control.hob();
        let status = self.status();
        let device = self.device.into_bits() | 0xa0;
        let Some(drive) = self.drive() else {
            return if offset == reg::DEVICE { device } else { status };
        };
        let pick = |t: super::drive::Twice| if hob { t.before } else { t.now };
        match offset {
            reg::ERROR_FEATURES => drive.error,
            reg::COUNT => pick(drive.count),
            reg::LBA_LOW => pick(drive.lba[0]),
            reg::LBA_MID => pick(drive.lba[1]),
            reg::LBA_HIGH => pick(drive.lba[2]),
            reg::DEVICE => device,
            _ => status,
        }
    }

    /// Writes a command block register other than data.
    pub(crate) fn write(&mut self, offset: u64, value: u8, io: &mut dyn Executor, cx: &mut Context) {
        self.dirty = true;
        self.control.set_hob(false);
        match offset {
            reg::DEVICE => self.device = DeviceRegister::from_bits(value),
            reg::STATUS_COMMAND => {
                if (self.drive().is_some() && !Status::from_bits(self.status()).bsy())
                    || value == command::EXECUTE_DIAGNOSTIC
                {
                    self.interrupt = false;
                    self.command(value, io, cx);
                }
            }
            _ => {
                // Both drives take it; one that is busy does not.
                for drive in self.drives.iter_mut().flatten().filter(|d| !d.status.bsy()) {
                    match offset {
                        reg::ERROR_FEATURES => drive.features.write(value),
                        reg::COUNT => drive.count.write(value),
                        reg::LBA_LOW => drive.lba[0].write(value),
                        reg::LBA_MID => drive.lba[1].write(value),
                        reg::LBA_HIGH => drive.lba[2].write(value),
                        _ => {}
                    }
                }
            }
        }
    }

    /// Writes device control.
    pub(crate) fn write_control(&mut self, value: u8) {
        self.dirty = true;
        let new = DeviceControl::from_bits(value);
        if new.srst() && !self.control.srst() {
            self.abandon();
            self.bm_status.set_active(false);
            for drive in self.drives.iter_mut().flatten() {
                drive.status = Status::new().with_bsy(true);
            }
        } else if !new.srst() && self.control.srst() {
            self.reset_drives();
        }
        self.control = new;
    }

    fn reset_drives(&mut self) {
        self.device = DeviceRegister::new();
        self.interrupt = false;
        self.stale = false;
        for drive in self.drives.iter_mut().flatten() {
            drive.signature();
            drive.multiple = 0;
        }
    }

    /// Power-on or PCI reset.
    pub(crate) fn reset(&mut self) {
        self.abandon();
        self.reset_drives();
        self.control = DeviceControl::new();
        self.bm_command = BusMasterCommand::new();
        self.bm_status = BusMasterStatus::new();
        self.bm_table = 0;
        self.dirty = true;
    }

    /// Forgets the command; a job that is under way ends, but nobody hears of it.
    fn abandon(&mut self) {
        self.phase = match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Working(_) => Phase::Working(After::Nothing),
            _ => Phase::Idle,
        };
        self.give_up();
        self.buffer.clear();
        self.at = 0;
        self.block_end = 0;
        self.left = 0;
    }

    /// A write that waits for room fails.
    pub(crate) fn give_up(&self) {
        for image in self.drives.iter().flatten().filter_map(|d| d.image.as_ref()) {
            image.give_up();
        }
    }

    fn submit(&mut self, job: Job, after: After, io: &mut dyn Executor) {
        self.jobs = self.jobs.saturating_add(1);
        let Some(drive) = self.selected() else {
            self.phase = Phase::Idle;
            return;
        };
        let Some(image) = drive.image.clone() else {
            return self.fail(error::ABRT);
        };
        let work = (drive.index, Work::of(&job));
        drive.status = drive.status.with_bsy(true).with_drq(false);
        self.work = Some(work);
        self.phase = Phase::Working(after);
        io.submit(self.lane, image, job);
    }

    /// The command is done.
    fn done(&mut self) {
        self.phase = Phase::Idle;
        let packet = self.packet;
        if let Some(drive) = self.selected() {
            drive.status = Status::new().with_drdy(true).with_dsc(true);
            if packet {
                drive.count.now = reason::STATUS;
            }
        }
        self.raise();
    }

    /// The command has failed.
    fn fail(&mut self, code: u8) {
        self.phase = Phase::Idle;
        self.bm_status.set_active(false);
        if let Some(drive) = self.selected() {
            drive.status = Status::new().with_drdy(true).with_dsc(true).with_err(true);
            drive.error = code;
        }
        self.raise();
    }

    /// A packet command has failed.
    fn check(&mut self, sense: Sense) {
        let key = sense.key;
        if let Some(drive) = self.selected() {
            drive.sense = sense;
            drive.count.now = reason::STATUS;
        }
        self.fail(key << 4 | error::ABRT);
    }

    /// A command ends as one that was not carried out; the guest's driver tries again.
    fn abort(&mut self) {
        self.packet = self.drive().is_some_and(|d| d.cdrom);
        if self.packet {
            self.check(Sense { key: 0x0b, asc: 0, ascq: 0 });
        } else {
            self.fail(error::ABRT);
        }
    }

    /// Writes have reached nobody, the last one to the command register or to another one. A command that the guest waits for ends now; one
    /// that it goes on to make of registers that are not what it wrote is not carried out: it would read or write elsewhere.
    pub(crate) fn lost_writes(&mut self, to_command: bool) {
        self.dirty = true;
        self.stale |= !to_command;
        // In a new life nothing is under way; what is under way otherwise ends by itself.
        if self.quiescent() && self.drive().is_some() {
            self.abort();
        }
    }

    /// A job has ended.
    pub(crate) fn finished(&mut self, outcome: Outcome) {
        self.dirty = true;
        // The drive that was asked, which need not be the one that is selected now.
        if let Some((index, work)) = self.work.take()
            && let Some(drive) = self.drives.iter_mut().flatten().find(|d| d.index == index)
        {
            drive.counters.ended(work, outcome.is_ok());
        }
        let Phase::Working(after) = std::mem::replace(&mut self.phase, Phase::Idle) else { return };
        let data = match (outcome, &after) {
            (_, After::Nothing) => return,
            (Ok(data), _) => data,
            (Err(_), _) if self.packet => return self.check(Sense::READ_ERROR),
            (Err(rustix::io::Errno::FAULT), After::Dma) => return self.dma_failed(),
            (Err(_), After::Done) => return self.fail(error::ABRT),
            (Err(_), After::PioOut) => return self.fail(error::ABRT),
            (Err(_), _) => return self.fail(error::UNC),
        };
        match after {
            After::PioIn => {
                self.buffer = match &mut self.raw {
                    Some(first) => raw_sectors(first, &data),
                    None => data,
                };
                self.at = 0;
                let next = self.block_bytes();
                self.offer(next);
            }
            After::PioOut if self.left > 0 => {
                self.accept_block();
                self.raise();
            }
            After::Dma => self.dma_done(),
            After::PioOut | After::Done => self.done(),
            After::Nothing => {}
        }
    }

    /// Takes the disks away that `gone` picks.
    pub(crate) fn unplug(&mut self, gone: impl Fn(&Drive) -> bool) {
        for drive in self.drives.iter_mut().flatten() {
            if !drive.cdrom && gone(drive) {
                drive.present = false;
                drive.image = None;
            }
        }
        self.dirty = true;
    }

    /// The drive with this number, to change its medium.
    pub(crate) fn medium(&mut self, index: u8) -> Option<&mut Drive> {
        self.dirty = true;
        self.drives.iter_mut().flatten().find(|d| d.index == index)
    }

    pub(crate) fn save(&self) -> ChannelState {
        ChannelState {
            control: u32::from(self.control.into_bits()),
            device: u32::from(self.device.into_bits()),
            interrupt: self.interrupt,
            bm_command: u32::from(self.bm_command.into_bits()),
            bm_status: u32::from(self.bm_status.into_bits()),
            bm_table: self.bm_table,
            drives: self.drives.iter().flatten().map(Drive::save).collect(),
            busy: !matches!(self.phase, Phase::Idle),
            stale: self.stale,
        }
    }

    pub(crate) fn load(&mut self, s: &ChannelState) -> Result<(), StateError> {
        let byte = |v: u32, what| u8::try_from(v).map_err(|_| StateError::Value(what));
        if s.drives.len() != self.drives.iter().flatten().count() {
            return Err(StateError::Value("number of drives"));
        }
        for (drive, saved) in self.drives.iter_mut().flatten().zip(&s.drives) {
            drive.load(saved)?;
        }
        self.control = DeviceControl::from_bits(byte(s.control, "device control")?);
        self.device = DeviceRegister::from_bits(byte(s.device, "device register")?);
        self.interrupt = s.interrupt;
        self.bm_command = BusMasterCommand::from_bits(byte(s.bm_command, "bus master command")? & 0x09);
        self.bm_status = BusMasterStatus::from_bits(byte(s.bm_status, "bus master status")?);
        self.bm_table = s.bm_table & !3;
        self.dirty = true;
        self.current = self.device.dev();
        self.stale = s.stale;
        if s.busy {
            self.abort();
        }
        Ok(())
    }

    /// The drives that are there.
    pub(crate) fn facts(&self) -> Vec<DriveFacts> {
        let facts = |drive: &Drive| DriveFacts {
            index: drive.index,
            sectors: drive.sectors(),
            locked: drive.locked,
            tray_open: drive.tray_open,
            counters: drive.counters.facts(),
        };
        self.drives.iter().flatten().filter(|d| d.present).map(facts).collect()
    }

    pub(crate) fn inspect(&self, out: &mut Inspect) {
        out.hex("status", self.status())
            .hex("control", self.control.into_bits())
            .hex("device", self.device.into_bits());
        out.value("interrupt", self.interrupt)
            .value("phase", format_args!("{:?}", self.phase))
            .value("jobs", self.jobs);
        out.hex("BM command", self.bm_command.into_bits())
            .hex("BM status", self.bm_status.into_bits())
            .hex("BM table", self.bm_table);
        for drive in self.drives.iter().flatten() {
            out.group(&format!("drive{}", drive.index), |out| {
                out.value("kind", if drive.cdrom { "CD" } else { "disk" }).value("present", drive.present);
                out.value("waits for room", drive.image.as_ref().is_some_and(|i| i.waits()));
                drive.counters.inspect(out);
                out.value("sectors", drive.sectors())
                    .hex("error", drive.error)
                    .value("sense", format_args!("{:?}", drive.sense));
                if drive.cdrom {
                    out.value("tray locked", drive.locked)
                        .value("tray open", drive.tray_open)
                        .value("event", format_args!("{:?}", drive.event));
                }
            });
        }
    }
}

/// Sectors of 2352 bytes: sync, header (mode 1), user data, and zeroes for the codes that nobody checks here.
fn raw_sectors(first: &mut u64, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len().div_euclid(CD_SECTOR).saturating_mul(2352));
    for sector in data.chunks_exact(CD_SECTOR) {
        out.push(0);
        out.extend_from_slice(&[0xff; 10]);
        out.push(0);
        let [m, s, f] = atapi::msf(u32::try_from(*first).unwrap_or(u32::MAX));
        let bcd = |n: u8| n.div_euclid(10) << 4 | n.rem_euclid(10);
        out.extend_from_slice(&[bcd(m), bcd(s), bcd(f), 1]);
        out.extend_from_slice(sector);
        out.resize(out.len().saturating_add(288), 0);
        *first = first.saturating_add(1);
    }
    out
}
