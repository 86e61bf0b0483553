//! One channel: two drives, the registers that select one of them, the command that is under way.
//!
//! | file | what |
//! |---|---|
//! | `commands.rs` | commands, and what the drive replies |
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
use super::task_file::Attached;
use crate::ata::counters::Work;
use crate::ata::drive::Drive;
use crate::ata::registers::Registers;
use crate::ata::spec::{DeviceRegister, Status, command, error};
use crate::ata::transfer::{Data, List, Sectors};
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
    AwaitDma(Data),
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
    List(List),
}

/// A channel.
pub(crate) struct Channel {
    lane: usize,
    drives: [Option<Attached>; 2],
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
    /// Bytes of a block.
    block: usize,
    /// Sectors that the command still moves.
    sectors: Sectors,
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
    pub(crate) fn new(lane: usize, drives: [Option<Attached>; 2]) -> Self {
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
            block: 0,
            sectors: Sectors::NONE,
            to: VecDeque::new(),
            bus_master: BusMaster::default(),
            dirty: true,
            jobs: 0,
            work: None,
            stale: false,
        }
    }

    /// The drive whose command is under way; the guest may have selected the other one since.
    fn current(&mut self) -> Option<&mut Attached> {
        self.drives.get_mut(usize::from(self.current))?.as_mut().filter(|d| d.drive.present)
    }

    /// Lets that drive read and change its registers.
    fn with<R>(&mut self, act: impl FnOnce(&mut Drive, &mut Registers) -> R) -> Option<R> {
        let mut device = self.device;
        let result = self.current()?.with(&mut device, act);
        self.device = device;
        Some(result)
    }

    /// The drive that is selected.
    fn selected(&self) -> Option<&Attached> {
        self.drives.get(usize::from(self.device.dev()))?.as_ref().filter(|d| d.drive.present)
    }

    /// A job is under way that is not the selected drive's command: the other drive's, or one of before a reset.
    fn works_for_another(&self) -> bool {
        match &self.phase {
            Phase::Working(After::Nothing) => true,
            Phase::Working(_) => self.current != self.device.dev(),
            _ => false,
        }
    }

    /// The status register: of an absent drive 0, of an empty channel too (ATA/ATAPI-5, 4: the host pulls DD7 low, so that nobody seems
    /// to be busy; firmware waits for that).
    pub(crate) fn status(&self) -> u8 {
        match self.selected() {
            // A channel has one command at a time: while a job is under way, the other drive takes none, nor does one that was reset.
            Some(_) if self.works_for_another() => Status::new().with_bsy(true).into_bits(),
            Some(selected) => selected.task_file.status.into_bits(),
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
        let Some(selected) = self.selected() else {
            let other = self.drives.iter().flatten().any(|d| d.drive.present);
            return if offset == reg::DEVICE && other { device } else { status };
        };
        match offset {
            reg::DEVICE => device,
            _ => selected.task_file.read(offset, hob).unwrap_or(status),
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
                let ready = self.selected().is_some_and(|selected| {
                    !Status::from_bits(self.status()).bsy() || (value == command::DEVICE_RESET && selected.drive.cdrom)
                });
                if !self.control.srst() && (ready || value == command::EXECUTE_DIAGNOSTIC) {
                    self.lower();
                    self.command(value, io, cx);
                }
            }
            _ => {
                // Both drives take it; one that is busy does not.
                for attached in self.drives.iter_mut().flatten().filter(|d| !d.task_file.status.bsy()) {
                    attached.task_file.write(offset, value);
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
            for attached in self.drives.iter_mut().flatten() {
                attached.task_file.status = Status::new().with_bsy(true);
            }
        } else if !new.srst() && self.control.srst() {
            self.reset_drives(Drive::software_reset);
        }
        self.control = new;
        self.edge();
    }

    fn reset_drives(&mut self, how: impl Fn(&mut Drive, &mut Registers)) {
        self.device = DeviceRegister::new();
        self.interrupt = false;
        self.stale = false;
        for attached in self.drives.iter_mut().flatten() {
            attached.with(&mut self.device, &how);
        }
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
                if let Some(current) = self.current() {
                    current.task_file.status = Status::READY;
                }
                Phase::Idle
            }
        };
        self.give_up();
        self.buffer.clear();
        self.to.clear();
        self.sectors = Sectors::NONE;
        self.at = 0;
        self.block_end = 0;
    }

    /// A write that waits for room fails.
    pub(crate) fn give_up(&self) {
        for image in self.drives.iter().flatten().filter_map(|d| d.drive.image.as_ref()) {
            image.give_up();
        }
    }

    fn submit(&mut self, job: Job, after: After, io: &mut dyn Executor) {
        self.jobs = self.jobs.saturating_add(1);
        // Without a drive or a medium there is no job, and no transfer by DMA that has begun for it.
        let Some(current) = self.current() else {
            self.bus_master.given_up_has_ended();
            self.phase = Phase::Idle;
            return;
        };
        let Some(image) = current.drive.begin() else {
            self.bus_master.given_up_has_ended();
            self.with(|drive, r| drive.fail(error::ABRT, r));
            return self.ended();
        };
        let work = (current.drive.index, Work::of(&job));
        let status = &mut current.task_file.status;
        *status = status.with_bsy(true).with_drq(false);
        self.work = Some(work);
        self.phase = Phase::Working(after);
        io.submit(self.lane, image, job);
    }

    /// The command has ended, and the registers say how: the drive interrupts.
    fn ended(&mut self) {
        self.phase = Phase::Idle;
        self.raise();
    }

    /// The command has ended well.
    fn done(&mut self) {
        self.with(|drive, r| drive.done(r));
        self.ended();
    }

    /// The selected drive's command ends as one that was not carried out; the guest's driver tries again.
    fn abort(&mut self) {
        // The other one may have data that nobody takes any more.
        self.abandon();
        self.current = self.device.dev();
        self.abort_current();
    }

    /// The same for the command that is under way, whichever drive is selected by now.
    fn abort_current(&mut self) {
        self.bus_master.abandoned();
        self.with(Drive::abort);
        self.ended();
    }

    /// Writes have reached nobody, the last one to the command register or to another one. A command that the guest waits for ends now; one
    /// that it goes on to make of registers that are not what it wrote is not carried out: it would read or write elsewhere.
    pub(crate) fn lost_writes(&mut self, to_command: bool) {
        self.dirty = true;
        self.stale |= !to_command;
        // In a new life nothing is under way; what is under way otherwise ends by itself.
        if !self.quiescent() {
            return;
        }
        // A command that was lost is the selected drive's.
        if !to_command && !matches!(self.phase, Phase::Idle) {
            self.abort_current();
        } else if self.selected().is_some() {
            self.abort();
        }
    }

    /// A job has ended.
    pub(crate) fn finished(&mut self, outcome: Outcome, io: &mut dyn Executor, cx: &mut Context) {
        self.dirty = true;
        let work = self.work.map(|(_, work)| work);
        // The drive that was asked, which need not be the one that is selected now.
        if let Some((index, work)) = self.work.take()
            && let Some(drive) = self.medium(index)
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
        if let Some(job) = work.and_then(|work| self.current()?.drive.then(work)) {
            return self.submit(job, after, io);
        }
        match after {
            After::PioIn => {
                let data = self.sectors.formed(data);
                self.offer(data);
            }
            After::PioOut if !self.sectors.is_empty() => {
                self.accept_sectors();
                self.raise();
            }
            After::Verify if !self.sectors.is_empty() => self.fetch(After::Verify, io),
            After::Formed => {
                let formed = self.sectors.formed(data);
                if self.scatter(&formed, cx).is_err() {
                    self.dma_failed();
                } else if !self.sectors.is_empty() {
                    self.fetch(After::Formed, io);
                } else {
                    self.dma_done();
                }
            }
            After::Dma => self.dma_done(),
            After::PioOut | After::Verify | After::Done => self.done(),
            After::Nothing => {}
        }
    }

    /// The host could not do what the command needs.
    fn job_failed(&mut self, why: Errno, after: After, work: Option<Work>) {
        let dma = matches!(after, After::Dma | After::Formed);
        if dma && why == Errno::FAULT {
            return self.dma_failed();
        }
        if dma {
            self.bus_master.ended(Progress::Failed);
        }
        self.with(|drive, r| drive.job_failed(work, r));
        self.ended();
    }

    /// Takes the disks away that `gone` picks.
    pub(crate) fn unplug(&mut self, gone: impl Fn(&Drive) -> bool) {
        for Attached { drive, .. } in self.drives.iter_mut().flatten() {
            if !drive.cdrom && gone(drive) {
                drive.unplug();
            }
        }
        // Its interrupt goes with it.
        let owner = self.drives.get(usize::from(self.interrupt_of)).and_then(Option::as_ref);
        if owner.is_some_and(|owner| !owner.drive.present) {
            self.lower();
        }
        self.dirty = true;
    }

    /// The drive with this number, to change its medium.
    pub(crate) fn medium(&mut self, index: u8) -> Option<&mut Drive> {
        self.dirty = true;
        self.drives.iter_mut().flatten().map(|d| &mut d.drive).find(|d| d.index == index)
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
        self.drives.iter().flatten().map(|d| &d.drive).filter(|d| d.present).map(facts).collect()
    }
}
