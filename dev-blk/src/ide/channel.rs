//! One channel: two drives, the registers that select one of them, the command in progress.
//!
//! | file | what |
//! |---|---|
//! | `commands.rs` | commands, and the drive's replies |
//! | `pio.rs` | data transfer by the data register |
//! | `bus_master.rs` | the bus master's registers |
//! | `dma.rs` | data transfer by the bus master |
//! | `saved.rs` | the saved state of a channel, and its registers for `inspect` |
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

/// The state of the command in progress.
#[derive(Debug)]
enum TransferPhase {
    /// No command.
    Idle,
    /// A job is in the worker's lane.
    Working(After),
    /// The guest reads the buffer by programmed I/O.
    PioIn,
    /// The guest writes a block of sectors, a packet or a list.
    PioOut(Out),
    /// The command is ready for DMA, and the guest has not started the bus master.
    AwaitDma(Data),
}

/// The next step after a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// The guest reads the bytes by programmed I/O.
    PioIn,
    /// A block was written; more may follow.
    PioOut,
    /// A DMA transfer has ended.
    Dma,
    /// The selected parts of the CD sectors that were read are copied to guest memory; more may follow.
    Formed,
    /// Sectors were verified; more may follow.
    Verify,
    /// The command ends.
    Done,
    /// The result is dropped, because the command was reset or abandoned.
    Nothing,
}

/// The kind of data that the guest writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Out {
    Sectors,
    Packet,
    List(List),
}

/// An IDE channel.
pub(crate) struct Channel {
    lane: usize,
    drives: [Option<Attached>; 2],
    device: DeviceRegister,
    control: DeviceControl,
    /// A drive has an interrupt pending.
    interrupt: bool,
    /// The pending interrupt belongs to device 1. A drive asserts its interrupt only while it is selected.
    interrupt_of: bool,
    /// The last level of INTRQ, to detect its rise.
    line: bool,
    // The command in progress.
    current: bool,
    phase: TransferPhase,
    buffer: Vec<u8>,
    at: usize,
    /// End in the buffer of the block that the guest may read or write now.
    block_end: usize,
    /// Bytes of a block.
    block: usize,
    /// Sectors that the command has not transferred yet.
    sectors: Sectors,
    /// Remaining destinations of a DMA transfer that consists of several jobs.
    to: VecDeque<Segment>,
    pub(crate) bus_master: BusMaster,
    pub(crate) dirty: bool,
    jobs: u64,
    /// The index of the drive and the kind of the job in progress, for the counters.
    work: Option<(u8, Work)>,
    /// Writes to registers were lost, so the next command would not be the one that the guest has intended.
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
            phase: TransferPhase::Idle,
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

    /// The drive of the command in progress; the guest may have selected the other one since.
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

    /// Whether a job is in progress that does not belong to the selected drive's command: the other drive's, or one from before a
    /// reset.
    fn works_for_other(&self) -> bool {
        match &self.phase {
            TransferPhase::Working(After::Nothing) => true,
            TransferPhase::Working(_) => self.current != self.device.dev(),
            _ => false,
        }
    }

    /// The status register; 0 for an absent drive and an empty channel (ATA/ATAPI-5, 4: the host pulls DD7 low, so that BSY reads
    /// as 0, for which firmware waits).
    pub(crate) fn status(&self) -> u8 {
        match self.selected() {
            // A channel has one command at a time: while a job is in progress, neither the other drive nor one that was reset
            // accepts a command.
            Some(_) if self.works_for_other() => Status::new().with_bsy(true).into_bits(),
            Some(selected) => selected.task_file.status.into_bits(),
            None => 0,
        }
    }

    /// Whether the selected drive has an interrupt pending, which a read of its status clears.
    pub(crate) fn pending(&self) -> bool {
        self.interrupt && self.interrupt_of == self.device.dev()
    }

    /// The interrupt request: that of the selected drive, unless nIEN masks it (ATA/ATAPI-5, 5.2.9).
    pub(crate) fn intrq(&self) -> bool {
        self.pending() && !self.control.nien()
    }

    /// Called when INTRQ may have changed: the bus master records its rise (BM-IDE 1.0, status register, bit 2).
    fn edge(&mut self) {
        let level = self.intrq();
        if level && !self.line {
            self.bus_master.interrupted();
        }
        self.line = level;
    }

    /// Whether no job is in a worker's lane.
    pub(crate) fn quiescent(&self) -> bool {
        !matches!(self.phase, TransferPhase::Working(_))
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

    /// The value of such a register, without the side effect of reading the status.
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
                // Both drives accept the write, except one that is busy.
                for attached in self.drives.iter_mut().flatten().filter(|d| !d.task_file.status.bsy()) {
                    attached.task_file.write(offset, value);
                }
            }
        }
    }

    /// Writes the device control register.
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

    /// Resets both drives, as power-on and a PCI reset do.
    pub(crate) fn reset(&mut self) {
        self.abandon();
        self.reset_drives(Drive::hard_reset);
        self.control = DeviceControl::new();
        self.bus_master = BusMaster::default();
        self.dirty = true;
    }

    /// Abandons the command; the result of a job in progress will be dropped.
    fn abandon(&mut self) {
        self.phase = match std::mem::replace(&mut self.phase, TransferPhase::Idle) {
            TransferPhase::Working(_) => TransferPhase::Working(After::Nothing),
            TransferPhase::Idle => TransferPhase::Idle,
            // The drive is ready, even if the next command is for the other one.
            TransferPhase::PioIn | TransferPhase::PioOut(_) | TransferPhase::AwaitDma(_) => {
                if let Some(current) = self.current() {
                    current.task_file.status = Status::READY;
                }
                TransferPhase::Idle
            }
        };
        self.give_up();
        self.buffer.clear();
        self.to.clear();
        self.sectors = Sectors::NONE;
        self.at = 0;
        self.block_end = 0;
    }

    /// Lets a write that waits for space fail.
    /// Lets no write that waits for space be tried again while `held`.
    pub(crate) fn hold(&self, held: bool) {
        for image in self.drives.iter().flatten().filter_map(|d| d.drive.image.as_ref()) {
            image.hold(held);
        }
    }

    /// Whether the job under way waits for space and is held.
    pub(crate) fn is_held(&self) -> bool {
        self.drives.iter().flatten().filter_map(|d| d.drive.image.as_ref()).any(|image| image.held() > 0)
    }

    /// Lets a write that waits for space fail.
    pub(crate) fn give_up(&self) {
        for image in self.drives.iter().flatten().filter_map(|d| d.drive.image.as_ref()) {
            image.give_up();
        }
    }

    fn submit(&mut self, job: Job, after: After, io: &mut dyn Executor) {
        self.jobs = self.jobs.saturating_add(1);
        // Without a drive or a medium there is no job, and a DMA transfer that has begun for it ends.
        let Some(current) = self.current() else {
            self.bus_master.abandoned_job_ended();
            self.phase = TransferPhase::Idle;
            return;
        };
        let Some(image) = current.drive.begin() else {
            self.bus_master.abandoned_job_ended();
            self.with(|drive, r| drive.fail(error::ABRT, r));
            return self.ended();
        };
        let work = (current.drive.index, Work::of(&job));
        let status = &mut current.task_file.status;
        *status = status.with_bsy(true).with_drq(false);
        self.work = Some(work);
        self.phase = TransferPhase::Working(after);
        io.submit(self.lane, image, job);
    }

    /// The command has ended, with its result in the registers: the drive interrupts.
    fn ended(&mut self) {
        self.phase = TransferPhase::Idle;
        self.raise();
    }

    /// The command has succeeded.
    fn done(&mut self) {
        self.with(|drive, r| drive.done(r));
        self.ended();
    }

    /// Aborts the selected drive's command; the guest's driver tries again.
    fn abort(&mut self) {
        // A command of the other drive may wait for the guest.
        self.abandon();
        self.current = self.device.dev();
        self.abort_current();
    }

    /// The same for the command in progress, even if the other drive is selected.
    fn abort_current(&mut self) {
        self.bus_master.abandoned();
        self.with(Drive::abort);
        self.ended();
    }

    /// Handles lost writes, the last one to the command register (`to_command`) or to another one. A command for which the guest
    /// waits is aborted now. A later command would use registers other than the guest has written and transfer the wrong sectors,
    /// so it is aborted too.
    pub(crate) fn lost_writes(&mut self, to_command: bool) {
        self.dirty = true;
        self.stale |= !to_command;
        // A new process has no job in progress; in other cases the job ends by itself.
        if !self.quiescent() {
            return;
        }
        // A lost command belongs to the selected drive.
        if !to_command && !matches!(self.phase, TransferPhase::Idle) {
            self.abort_current();
        } else if self.selected().is_some() {
            self.abort();
        }
    }

    /// Handles the result of a job.
    pub(crate) fn finished(&mut self, outcome: Outcome, io: &mut dyn Executor, cx: &mut Context) {
        self.dirty = true;
        let work = self.work.map(|(_, work)| work);
        // The drive of the job, which may differ from the selected one.
        if let Some((index, work)) = self.work.take()
            && let Some(drive) = self.medium(index)
        {
            drive.counters.ended(work, outcome.is_ok());
        }
        let TransferPhase::Working(after) = std::mem::replace(&mut self.phase, TransferPhase::Idle) else { return };
        if after == After::Nothing {
            self.bus_master.abandoned_job_ended();
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

    /// Ends a command whose job has failed.
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

    /// Unplugs the disks for which `gone` is true.
    pub(crate) fn unplug(&mut self, gone: impl Fn(&Drive) -> bool) {
        // Its command goes with it: nobody is left to end it.
        if self.current().is_some_and(|current| !current.drive.cdrom && gone(&current.drive)) {
            self.abandon();
            self.bus_master.abandoned();
        }
        for Attached { drive, .. } in self.drives.iter_mut().flatten() {
            if !drive.cdrom && gone(drive) {
                drive.unplug();
            }
        }
        // A pending interrupt of an unplugged drive is cleared.
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

    /// Facts of the drives that have not been unplugged.
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
