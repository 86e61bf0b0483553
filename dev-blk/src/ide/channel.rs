//! One channel: two drives, the registers that select one of them, the command that is under way.
//!
//! | file | what |
//! |---|---|
//! | `commands.rs` | what a command asks for |
//! | `pio.rs` | data by the data register |
//! | `bus_master.rs` | the bus master's registers |
//! | `dma.rs` | data by the bus master |
//! | `saved.rs` | a channel as it is saved, and as people see it |
mod bus_master;
mod commands;
mod dma;
mod pio;
mod saved;

use super::spec::{DeviceControl, reg};
use crate::ata::cd_sector::Form;
use crate::ata::counters::Work;
use crate::ata::drive::Drive;
use crate::ata::settings::Power;
use crate::ata::spec::{CD_SECTOR, DeviceRegister, SECTOR, Sense, Status, command, error, reason};
use crate::backend::{Executor, Job, Outcome};
use bulkhead_bus::{Context, DriveFacts, Segment};
pub(super) use bus_master::BusMaster;
use bus_master::Progress;
use rustix::io::Errno;
use std::collections::VecDeque;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// The bytes are to be read by programmed I/O.
    PioIn,
    /// A block was written; more may follow.
    PioOut,
    /// A DMA transfer is done.
    Dma,
    /// The sectors that were read become parts of CD sectors, which go to memory; more may follow.
    Formed,
    /// Sectors were verified; more may follow.
    Verify,
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
    /// A packet command's list of parameters.
    Parameters,
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
    /// A packet command's list of parameters.
    Parameters { bytes: usize },
    /// Parts of CD sectors to memory.
    Formed { first: u64, count: u32, form: Form },
}

/// A channel.
pub(crate) struct Channel {
    lane: usize,
    pub(crate) drives: [Option<Drive>; 2],
    device: DeviceRegister,
    control: DeviceControl,
    /// A drive has an interrupt pending,
    interrupt: bool,
    /// which is device 1's. A drive shows its interrupt only while it is selected.
    interrupt_of: bool,
    /// The level of INTRQ, to see it rise.
    line: bool,
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
    /// What is made of a CD's sectors, of which this is the next.
    form: Form,
    form_next: u64,
    /// Where the rest of a DMA transfer goes that consists of several jobs.
    to: VecDeque<Segment>,
    pub(crate) bus_master: BusMaster,
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
            interrupt_of: false,
            line: false,
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
            form: Form::USER,
            form_next: 0,
            to: VecDeque::new(),
            bus_master: BusMaster::default(),
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

    /// The status register: of an absent drive 0, of an empty channel too (ATA/ATAPI-5, 4: the host pulls DD7 low, so that nobody seems
    /// to be busy; firmware waits for that).
    pub(crate) fn status(&self) -> u8 {
        match self.drive() {
            // A channel has one command at a time: while a job is under way, the other drive takes none, nor does one that was reset.
            Some(_) if matches!(self.phase, Phase::Working(_)) => Status::new().with_bsy(true).into_bits(),
            Some(drive) => drive.status.into_bits(),
            None => 0,
        }
    }

    /// The selected drive has an interrupt pending, which reading its status takes back.
    pub(crate) fn pending(&self) -> bool {
        self.interrupt && self.interrupt_of == self.device.dev()
    }

    /// The interrupt request: that of the selected drive, unless nIEN holds it back (ATA/ATAPI-5, 5.2.9).
    pub(crate) fn intrq(&self) -> bool {
        self.pending() && !self.control.nien()
    }

    /// INTRQ may have changed: the bus master notes where it rises (BM-IDE 1.0, status register, bit 2).
    fn edge(&mut self) {
        let level = self.intrq();
        if level && !self.line {
            self.bus_master.interrupted();
        }
        self.line = level;
    }

    /// No job is with a worker.
    pub(crate) fn quiescent(&self) -> bool {
        !matches!(self.phase, Phase::Working(_))
    }

    fn raise(&mut self) {
        self.interrupt = true;
        self.interrupt_of = self.current;
        self.edge();
    }

    fn lower(&mut self) {
        self.interrupt = false;
        self.edge();
    }

    /// Reads a command block register other than data.
    pub(crate) fn read(&mut self, offset: u64) -> u8 {
        let value = self.peek(offset);
        if offset == reg::STATUS_COMMAND && self.pending() {
            self.lower();
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
            let other = self.drives.iter().flatten().any(|d| d.present);
            return if offset == reg::DEVICE && other { device } else { status };
        };
        let pick = |t: crate::ata::drive::Twice| if hob { t.before } else { t.now };
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
            reg::DEVICE => {
                self.device = DeviceRegister::from_bits(value);
                self.edge();
            }
            reg::STATUS_COMMAND => {
                let ready = self.drive().is_some_and(|drive| {
                    !Status::from_bits(self.status()).bsy() || (value == command::DEVICE_RESET && drive.cdrom)
                });
                if !self.control.srst() && (ready || value == command::EXECUTE_DIAGNOSTIC) {
                    self.lower();
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
            self.bus_master.abandoned();
            self.interrupt = false;
            for drive in self.drives.iter_mut().flatten() {
                drive.status = Status::new().with_bsy(true);
            }
        } else if !new.srst() && self.control.srst() {
            self.reset_drives(Drive::software_reset);
        }
        self.control = new;
        self.edge();
    }

    fn reset_drives(&mut self, how: impl Fn(&mut Drive)) {
        self.device = DeviceRegister::new();
        self.interrupt = false;
        self.stale = false;
        self.drives.iter_mut().flatten().for_each(how);
        self.edge();
    }

    /// Power-on or PCI reset.
    pub(crate) fn reset(&mut self) {
        self.abandon();
        self.reset_drives(Drive::hard_reset);
        self.control = DeviceControl::new();
        self.bus_master = BusMaster::default();
        self.dirty = true;
    }

    /// Forgets the command; a job that is under way ends, but nobody hears of it.
    fn abandon(&mut self) {
        self.phase = match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Working(_) => Phase::Working(After::Nothing),
            Phase::Idle => Phase::Idle,
            // The drive waits no more, also if the next command is the other one's.
            Phase::PioIn | Phase::PioOut(_) | Phase::AwaitDma(_) => {
                if let Some(drive) = self.selected() {
                    drive.status = Status::new().with_drdy(true).with_dsc(true);
                }
                Phase::Idle
            }
        };
        self.give_up();
        self.buffer.clear();
        self.to.clear();
        self.form = Form::USER;
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
        drive.power = Power::Active;
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
        let packet = self.packet;
        if let Some(drive) = self.selected() {
            drive.status = Status::new().with_drdy(true).with_dsc(true).with_err(true);
            drive.error = code;
            if packet {
                drive.count.now = reason::STATUS;
            }
        }
        self.raise();
    }

    /// A packet command has failed.
    fn check(&mut self, sense: Sense) {
        let key = sense.key;
        if let Some(drive) = self.selected() {
            drive.sense = sense;
        }
        self.fail(key << 4 | error::ABRT);
    }

    /// A command ends as one that was not carried out; the guest's driver tries again.
    fn abort(&mut self) {
        self.bus_master.abandoned();
        self.packet = self.drive().is_some_and(|d| d.cdrom);
        if self.packet {
            self.check(Sense::ABORTED);
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
    pub(crate) fn finished(&mut self, outcome: Outcome, io: &mut dyn Executor, cx: &mut Context) {
        self.dirty = true;
        let work = self.work.map(|(_, work)| work);
        // The drive that was asked, which need not be the one that is selected now.
        if let Some((index, work)) = self.work.take()
            && let Some(drive) = self.drives.iter_mut().flatten().find(|d| d.index == index)
        {
            drive.counters.ended(work, outcome.is_ok());
        }
        let Phase::Working(after) = std::mem::replace(&mut self.phase, Phase::Idle) else { return };
        if after == After::Nothing {
            self.bus_master.given_up_has_ended();
            return;
        }
        let data = match outcome {
            Ok(data) => data,
            Err(why) => return self.job_failed(why, after, work),
        };
        // Without a write cache a write has ended when it is durable.
        let durable = self.selected().is_none_or(|drive| drive.settings.write_cache);
        if matches!(work, Some(Work::Write(_))) && !durable {
            return self.submit(Job::Flush, after, io);
        }
        match after {
            After::PioIn => {
                self.buffer = self.formed(data);
                self.at = 0;
                let next = self.block_bytes();
                self.offer(next);
            }
            After::PioOut if self.left > 0 => {
                self.accept_block();
                self.raise();
            }
            After::Verify if self.left > 0 => self.fetch(SECTOR, After::Verify, io),
            After::Formed => {
                let formed = self.formed(data);
                if self.scatter(&formed, cx).is_err() {
                    self.dma_failed();
                } else if self.left > 0 {
                    self.fetch(CD_SECTOR, After::Formed, io);
                } else {
                    self.dma_done();
                }
            }
            After::Dma => self.dma_done(),
            After::PioOut | After::Verify | After::Done => self.done(),
            After::Nothing => {}
        }
    }

    /// The host could not do what the command needs. The error register is that of the command's table (ATA/ATAPI-5, 8; ACS-2, 7.10): UNC
    /// is for data that cannot be read, what cannot be written is aborted.
    fn job_failed(&mut self, why: Errno, after: After, work: Option<Work>) {
        let dma = matches!(after, After::Dma | After::Formed);
        if dma && why == Errno::FAULT {
            return self.dma_failed();
        }
        if dma {
            self.bus_master.ended(Progress::Failed);
        }
        if self.packet {
            self.check(Sense::READ_ERROR);
        } else if matches!(work, Some(Work::Read(_))) {
            self.fail(error::UNC);
        } else {
            self.fail(error::ABRT);
        }
    }

    /// Sectors of a CD, as the command wants them.
    fn formed(&mut self, data: Vec<u8>) -> Vec<u8> {
        let first = self.form_next;
        self.form_next = first.saturating_add((data.len() >> 11) as u64);
        self.form.of(first, data)
    }

    /// Takes the disks away that `gone` picks.
    pub(crate) fn unplug(&mut self, gone: impl Fn(&Drive) -> bool) {
        for drive in self.drives.iter_mut().flatten() {
            if !drive.cdrom && gone(drive) {
                drive.present = false;
                drive.image = None;
            }
        }
        // Its interrupt goes with it.
        let owner = self.drives.get(usize::from(self.interrupt_of)).and_then(Option::as_ref);
        if owner.is_some_and(|drive| !drive.present) {
            self.lower();
        }
        self.dirty = true;
    }

    /// The drive with this number, to change its medium.
    pub(crate) fn medium(&mut self, index: u8) -> Option<&mut Drive> {
        self.dirty = true;
        self.drives.iter_mut().flatten().find(|d| d.index == index)
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
}
