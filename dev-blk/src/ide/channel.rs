//! One channel: two drives, the registers that select one of them, the command that is under way, the bus master.
use super::atapi::{self, Answer};
use super::drive::Drive;
use super::identify;
use super::spec::{
    BusMasterCommand, BusMasterStatus, CD_SECTOR, DeviceControl, DeviceRegister, MAX_MULTIPLE, SECTOR, Sense, Status, command, error,
    reason, reg,
};
use super::state::ChannelState;
use super::counters::Work;
use crate::backend::{Executor, Job, Outcome};
use bulkhead_bus::{Context, Inspect, Segment, StateError};

/// Bytes that programmed I/O fetches at once.
const BUFFER: usize = 128 * 1024;
/// Entries of a PRD table that are read: it may not cross 64 KiB.
const PRDS: usize = 8192;
/// Bytes of the longest DMA transfer: 65536 sectors.
const DMA_MAX: usize = 65536 * SECTOR;

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
                if (self.drive().is_some() && !Status::from_bits(self.status()).bsy()) || value == command::EXECUTE_DIAGNOSTIC {
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

    /// First sector and count of a command, if they lie on the disk.
    fn range(&mut self, ext: bool) -> Option<(u64, u32)> {
        let device = self.device;
        let drive = self.selected()?;
        let lba = |i: usize| drive.lba.get(i).copied().unwrap_or_default();
        let (l, m, h) = (lba(0), lba(1), lba(2));
        let low = u64::from(l.now) | u64::from(m.now) << 8 | u64::from(h.now) << 16;
        let (first, count) = if ext {
            let high = u64::from(l.before) | u64::from(m.before) << 8 | u64::from(h.before) << 16;
            (low | high << 24, u32::from(drive.count.now) | u32::from(drive.count.before) << 8)
        } else if device.lba() {
            (low | u64::from(device.high()) << 24, u32::from(drive.count.now))
        } else {
            let (_, heads, spt) = identify::geometry(drive.sectors());
            let cylinder = u64::from(m.now) | u64::from(h.now) << 8;
            let track = cylinder.saturating_mul(u64::from(heads)).saturating_add(u64::from(device.high()));
            let sector = u64::from(l.now).checked_sub(1)?;
            (track.saturating_mul(u64::from(spt)).saturating_add(sector), u32::from(drive.count.now))
        };
        let count = match (count, ext) {
            (0, true) => 65536,
            (0, false) => 256,
            (n, _) => n,
        };
        let end = first.checked_add(u64::from(count))?;
        (end <= drive.sectors()).then_some((first, count))
    }

    fn command(&mut self, code: u8, io: &mut dyn Executor, cx: &mut Context) {
        // Whatever the last command still offered is gone.
        self.abandon();
        self.current = self.device.dev();
        self.packet = false;
        self.raw = None;
        if code == command::EXECUTE_DIAGNOSTIC {
            self.reset_drives();
            self.raise();
            return;
        }
        if std::mem::take(&mut self.stale) {
            return self.abort();
        }
        let Some(drive) = self.selected() else { return };
        drive.error = 0;
        let cdrom = drive.cdrom;
        match code {
            command::PACKET if cdrom => {
                let limit = usize::from(drive.lba[1].now) | usize::from(drive.lba[2].now) << 8;
                drive.count.now = reason::COMMAND;
                drive.status = Status::new().with_drdy(true).with_drq(true);
                self.packet = true;
                self.limit = limit;
                self.buffer.resize(12, 0);
                self.at = 0;
                self.block_end = 12;
                self.phase = Phase::PioOut(Out::Packet);
            }
            command::IDENTIFY_PACKET if cdrom => {
                let data = identify::cdrom(drive.index, drive.dma_mode);
                self.answer_pio(data);
            }
            command::DEVICE_RESET if cdrom => {
                self.abandon();
                if let Some(drive) = self.selected() {
                    drive.signature();
                }
            }
            command::IDENTIFY if cdrom => {
                drive.signature();
                self.fail(error::ABRT);
            }
            command::SET_FEATURES => self.set_features(),
            command::STANDBY_IMMEDIATE | command::IDLE_IMMEDIATE | command::STANDBY | command::IDLE | command::SLEEP => self.done(),
            command::CHECK_POWER => {
                drive.count.now = 0xff;
                self.done();
            }
            _ if cdrom => self.fail(error::ABRT),
            _ => self.disk_command(code, io, cx),
        }
    }

    fn disk_command(&mut self, code: u8, io: &mut dyn Executor, cx: &mut Context) {
        use command::*;
        let ext = matches!(
            code,
            READ_SECTORS_EXT | READ_DMA_EXT | READ_MULTIPLE_EXT | WRITE_SECTORS_EXT | WRITE_DMA_EXT | WRITE_MULTIPLE_EXT | READ_VERIFY_EXT
        );
        let Some(drive) = self.selected() else { return };
        let (multiple, read_only, sectors) = (u32::from(drive.multiple), drive.read_only, drive.sectors());
        match code {
            IDENTIFY => {
                let data = identify::disk(sectors, drive.index, drive.multiple, drive.dma_mode);
                self.answer_pio(data);
            }
            READ_SECTORS | READ_SECTORS_NORETRY | READ_SECTORS_EXT => self.pio_read(ext, 1, io),
            READ_MULTIPLE | READ_MULTIPLE_EXT if multiple > 0 => self.pio_read(ext, multiple, io),
            WRITE_SECTORS | WRITE_SECTORS_NORETRY | WRITE_SECTORS_EXT if !read_only => self.pio_write(ext, 1),
            WRITE_MULTIPLE | WRITE_MULTIPLE_EXT if multiple > 0 && !read_only => self.pio_write(ext, multiple),
            READ_DMA | READ_DMA_NORETRY | READ_DMA_EXT => match self.range(ext) {
                Some((first, count)) => {
                    let bytes = (count as usize).saturating_mul(SECTOR);
                    self.prepare_dma(Dma::Read { offset: first << 9, bytes }, io, cx);
                }
                None => self.fail(error::IDNF),
            },
            WRITE_DMA | WRITE_DMA_NORETRY | WRITE_DMA_EXT if !read_only => match self.range(ext) {
                Some((first, count)) => {
                    let bytes = (count as usize).saturating_mul(SECTOR);
                    self.prepare_dma(Dma::Write { offset: first << 9, bytes }, io, cx);
                }
                None => self.fail(error::IDNF),
            },
            READ_VERIFY | READ_VERIFY_NORETRY | READ_VERIFY_EXT => match self.range(ext) {
                Some(_) => self.done(),
                None => self.fail(error::IDNF),
            },
            FLUSH | FLUSH_EXT => self.submit(Job::Flush, After::Done, io),
            DATA_SET_MANAGEMENT if drive.features.now & 1 != 0 && drive.count.now == 1 && !read_only => {
                self.prepare_dma(Dma::Trim { bytes: SECTOR }, io, cx);
            }
            SET_MULTIPLE => {
                let n = drive.count.now;
                if n == 0 || n > MAX_MULTIPLE || !n.is_power_of_two() {
                    drive.multiple = 0;
                    self.fail(error::ABRT);
                } else {
                    drive.multiple = n;
                    self.done();
                }
            }
            READ_NATIVE_MAX | READ_NATIVE_MAX_EXT => {
                let last = sectors.saturating_sub(1);
                let last = if code == READ_NATIVE_MAX { last.min(0x0fff_ffff) } else { last };
                let bytes = last.to_le_bytes();
                let [b0, b1, b2, b3, b4, b5, ..] = bytes;
                for (register, (now, before)) in drive.lba.iter_mut().zip([(b0, b3), (b1, b4), (b2, b5)]) {
                    (register.now, register.before) = (now, before);
                }
                if code == READ_NATIVE_MAX {
                    self.device.set_high(b3 & 0x0f);
                }
                self.done();
            }
            INITIALIZE_PARAMETERS | SEEK => self.done(),
            _ if code & 0xf0 == RECALIBRATE => self.done(),
            _ => self.fail(error::ABRT),
        }
    }

    fn set_features(&mut self) {
        let Some(drive) = self.selected() else { return };
        match drive.features.now {
            // Transfer mode: PIO, multiword DMA 0–2, Ultra DMA 0–5.
            0x03 => {
                let mode = drive.count.now;
                match mode >> 3 {
                    0 | 1 => self.done(),
                    4 if mode & 7 <= 2 => {
                        drive.dma_mode = mode;
                        self.done();
                    }
                    8 if mode & 7 <= 5 => {
                        drive.dma_mode = mode;
                        self.done();
                    }
                    _ => self.fail(error::ABRT),
                }
            }
            // Write cache, look-ahead, power-on defaults.
            0x02 | 0x82 | 0xaa | 0x55 | 0x66 | 0xcc => self.done(),
            _ => self.fail(error::ABRT),
        }
    }

    /// Bytes for the guest to read, at once.
    fn answer_pio(&mut self, data: Vec<u8>) {
        self.buffer = data;
        self.at = 0;
        self.left = 0;
        self.offer(self.buffer.len());
    }

    /// Lets the guest read `bytes` of the buffer from where it is.
    fn offer(&mut self, bytes: usize) {
        self.block_end = self.at.saturating_add(bytes).min(self.buffer.len());
        let len = self.block_end.saturating_sub(self.at);
        let packet = self.packet;
        if let Some(drive) = self.selected() {
            drive.status = Status::new().with_drdy(true).with_dsc(true).with_drq(true);
            if packet {
                let [low, high] = u16::try_from(len).unwrap_or(0xfffe).to_le_bytes();
                drive.lba[1].now = low;
                drive.lba[2].now = high;
                drive.count.now = reason::DATA_IN;
            }
        }
        self.phase = Phase::PioIn;
        self.raise();
    }

    fn pio_read(&mut self, ext: bool, block: u32, io: &mut dyn Executor) {
        let Some((first, count)) = self.range(ext) else { return self.fail(error::IDNF) };
        (self.offset, self.left, self.block) = (first << 9, count, block);
        self.fetch(SECTOR, io);
    }

    /// Fetches the next part of a read into the buffer.
    fn fetch(&mut self, sector: usize, io: &mut dyn Executor) {
        let most = u32::try_from(BUFFER.div_euclid(sector)).unwrap_or(1);
        let count = self.left.min(most);
        self.left = self.left.saturating_sub(count);
        let len = (count as usize).saturating_mul(sector);
        let offset = self.offset;
        self.offset = offset.saturating_add(len as u64);
        self.submit(Job::Read { offset, len }, After::PioIn, io);
    }

    fn block_bytes(&self) -> usize {
        if self.packet {
            // The host's limit, even, and what is left otherwise.
            match self.limit {
                0 | 0xffff => 0xfffe,
                n => (n & !1).max(2),
            }
        } else {
            (self.block as usize).saturating_mul(SECTOR)
        }
    }

    fn pio_write(&mut self, ext: bool, block: u32) {
        let Some((first, count)) = self.range(ext) else { return self.fail(error::IDNF) };
        (self.offset, self.left, self.block) = (first << 9, count, block);
        self.accept_block();
    }

    /// Lets the guest write the next block.
    fn accept_block(&mut self) {
        let sectors = self.left.min(self.block);
        let len = (sectors as usize).saturating_mul(SECTOR);
        self.buffer.clear();
        self.buffer.resize(len, 0);
        self.at = 0;
        self.block_end = len;
        self.phase = Phase::PioOut(Out::Sectors);
        if let Some(drive) = self.selected() {
            drive.status = Status::new().with_drdy(true).with_dsc(true).with_drq(true);
        }
    }

    /// Reads from the data register.
    pub(crate) fn data_in(&mut self, to: &mut [u8], io: &mut dyn Executor) {
        let mut rest = to;
        while !rest.is_empty() {
            if !matches!(self.phase, Phase::PioIn) {
                rest.fill(0xff);
                return;
            }
            let from = self.buffer.get(self.at..self.block_end).unwrap_or_default();
            let n = from.len().min(rest.len());
            if n == 0 {
                rest.fill(0xff);
                return;
            }
            let (now, later) = rest.split_at_mut(n);
            now.copy_from_slice(from.get(..n).unwrap_or_default());
            rest = later;
            self.at = self.at.saturating_add(n);
            if self.at >= self.block_end {
                self.block_taken(io);
            }
        }
    }

    fn block_taken(&mut self, io: &mut dyn Executor) {
        self.dirty = true;
        if self.at < self.buffer.len() {
            let next = self.block_bytes();
            self.offer(next);
        } else if self.left > 0 {
            let sector = if self.packet { CD_SECTOR } else { SECTOR };
            self.fetch(sector, io);
        } else if self.packet {
            self.done();
        } else {
            // The last block of a disk's read ends without another interrupt.
            self.phase = Phase::Idle;
            if let Some(drive) = self.selected() {
                drive.status = Status::new().with_drdy(true).with_dsc(true);
            }
        }
    }

    /// Writes to the data register.
    pub(crate) fn data_out(&mut self, from: &[u8], io: &mut dyn Executor, cx: &mut Context) {
        let mut rest = from;
        while !rest.is_empty() {
            let Phase::PioOut(what) = self.phase else { return };
            let room = self.buffer.get_mut(self.at..self.block_end).unwrap_or_default();
            let n = room.len().min(rest.len());
            if n == 0 {
                return;
            }
            let (now, later) = rest.split_at(n);
            if let Some(room) = room.get_mut(..n) {
                room.copy_from_slice(now);
            }
            rest = later;
            self.at = self.at.saturating_add(n);
            if self.at < self.block_end {
                return;
            }
            self.dirty = true;
            match what {
                Out::Packet => {
                    let mut packet = [0; 12];
                    packet.copy_from_slice(self.buffer.get(..12).unwrap_or(&[0; 12]));
                    self.packet_command(&packet, io, cx);
                }
                Out::Sectors => {
                    let data = std::mem::take(&mut self.buffer);
                    let offset = self.offset;
                    self.offset = offset.saturating_add(data.len() as u64);
                    self.left = self.left.saturating_sub(u32::try_from(data.len() >> 9).unwrap_or(0));
                    self.submit(Job::Write { offset, data }, After::PioOut, io);
                }
            }
        }
    }

    fn packet_command(&mut self, packet: &[u8; 12], io: &mut dyn Executor, cx: &mut Context) {
        let Some(drive) = self.selected() else { return };
        let dma = drive.features.now & 1 != 0;
        let sectors = drive.cd_sectors();
        let sense = drive.sense;
        let seen = atapi::Drive {
            sectors,
            locked: &mut drive.locked,
            tray_open: drive.tray_open,
            attention: &mut drive.attention,
            event: &mut drive.event,
            sense,
        };
        let answer = atapi::execute(packet, seen);
        if packet.first() != Some(&0x03) {
            drive.sense = Sense::NONE;
        }
        match answer {
            Answer::Done => self.done(),
            Answer::Check(sense) => self.check(sense),
            Answer::Data(data) if dma => self.prepare_dma(Dma::Bytes(data), io, cx),
            Answer::Data(data) => {
                self.buffer = data;
                self.at = 0;
                self.left = 0;
                let next = self.block_bytes();
                self.offer(next);
            }
            Answer::Sectors { first, count, raw: false } if dma => {
                let bytes = (count as usize).saturating_mul(CD_SECTOR);
                self.prepare_dma(Dma::Read { offset: first << 11, bytes }, io, cx);
            }
            // Raw sectors are made of what programmed I/O fetches.
            Answer::Sectors { raw: true, .. } if dma => self.check(Sense::INVALID_FIELD),
            Answer::Sectors { first, count, raw } => {
                self.raw = raw.then_some(first);
                (self.offset, self.left) = (first << 11, count);
                self.fetch(CD_SECTOR, io);
            }
        }
    }

    /// A command is ready for DMA: go if the guest has started the bus master, else wait for it.
    fn prepare_dma(&mut self, dma: Dma, io: &mut dyn Executor, cx: &mut Context) {
        if let Some(drive) = self.selected() {
            drive.status = Status::new().with_drdy(true).with_bsy(true);
        }
        self.phase = Phase::AwaitDma(dma);
        if self.bm_command.start() {
            self.start_dma(io, cx);
        }
    }

    /// The segments of the PRD table for `bytes` bytes; `None` if the table is too short or cannot be read.
    fn segments(&mut self, bytes: usize, cx: &Context) -> Option<Vec<Segment>> {
        let mut segments = Vec::new();
        let mut need = bytes.min(DMA_MAX);
        let mut at = u64::from(self.bm_table);
        self.prd_longer = false;
        let mut page = [0; 512];
        let mut cached = 0..0;
        for _ in 0..PRDS {
            // The table is read by the half-kilobyte; a short rest entry by entry.
            if !(cached.start <= at && at.saturating_add(8) <= cached.end) {
                if cx.memory.read(at, &mut page).is_ok() {
                    cached = at..at.saturating_add(512);
                } else {
                    cx.memory.read(at, page.first_chunk_mut::<8>()?).ok()?;
                    cached = at..at.saturating_add(8);
                }
            }
            let inside = usize::try_from(at.saturating_sub(cached.start)).ok()?;
            let entry = page.get(inside..)?.first_chunk::<8>()?;
            let [a0, a1, a2, a3, c0, c1, _, flags] = *entry;
            let address = u32::from_le_bytes([a0, a1, a2, a3]) & !1;
            let count = match u16::from_le_bytes([c0, c1]) & !1 {
                0 => 0x1_0000,
                n => u32::from(n),
            };
            let last = flags & 0x80 != 0;
            let len = (count as usize).min(need);
            segments.push(Segment { address: u64::from(address), len: u32::try_from(len).ok()? });
            need = need.saturating_sub(len);
            if need == 0 {
                self.prd_longer = !last || len < count as usize;
                return Some(segments);
            }
            if last {
                return None;
            }
            at = at.saturating_add(8);
        }
        None
    }

    fn start_dma(&mut self, io: &mut dyn Executor, cx: &mut Context) {
        let Phase::AwaitDma(dma) = std::mem::replace(&mut self.phase, Phase::Idle) else { return };
        self.bm_status.set_active(true);
        let (bytes, to_memory) = match &dma {
            Dma::Read { bytes, .. } => (*bytes, true),
            Dma::Bytes(data) => (data.len(), true),
            Dma::Write { bytes, .. } | Dma::Trim { bytes } => (*bytes, false),
        };
        let direction_right = self.bm_command.to_memory() == to_memory;
        let Some(segments) = self.segments(bytes, cx).filter(|_| direction_right) else {
            return self.dma_failed();
        };
        match dma {
            Dma::Read { offset, .. } => self.submit(Job::ReadDma { offset, to: segments }, After::Dma, io),
            Dma::Write { offset, .. } => self.submit(Job::WriteDma { offset, from: segments }, After::Dma, io),
            Dma::Bytes(data) => {
                let mut rest = data.as_slice();
                for segment in segments {
                    let (now, later) = rest.split_at(rest.len().min(segment.len as usize));
                    if cx.memory.write(segment.address, now).is_err() {
                        return self.dma_failed();
                    }
                    rest = later;
                }
                self.dma_done();
            }
            Dma::Trim { .. } => {
                let mut list = Vec::new();
                for segment in segments {
                    let mut piece = vec![0; segment.len as usize];
                    if cx.memory.read(segment.address, &mut piece).is_err() {
                        return self.dma_failed();
                    }
                    list.append(&mut piece);
                }
                let sectors = self.selected().map_or(0, |d| d.sectors());
                let mut ranges = Vec::new();
                for entry in list.as_chunks::<8>().0 {
                    let word = u64::from_le_bytes(*entry);
                    let (first, count) = (word & 0xffff_ffff_ffff, word >> 48);
                    if count == 0 {
                        continue;
                    }
                    if first.saturating_add(count) > sectors {
                        self.bm_status.set_active(false);
                        return self.fail(error::IDNF);
                    }
                    ranges.push((first << 9, count << 9));
                }
                self.submit(Job::Trim(ranges), After::Dma, io);
            }
        }
    }

    fn dma_failed(&mut self) {
        self.bm_status.set_error(true);
        if self.packet {
            self.check(Sense { key: 0x0b, asc: 0, ascq: 0 });
        } else {
            self.fail(error::ABRT);
        }
    }

    fn dma_done(&mut self) {
        // A table longer than the transfer leaves the bus master active (table "Interrupt/Activity status").
        self.bm_status.set_active(self.prd_longer);
        self.done();
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

    /// Reads a bus master register.
    pub(crate) fn bm_read(&self, offset: u64, size: u8) -> u32 {
        let table = self.bm_table.to_le_bytes();
        let bytes = [self.bm_command.into_bits(), 0xff, self.bm_status.into_bits(), 0xff, table[0], table[1], table[2], table[3]];
        let mut value = [0xff; 4];
        for (to, from) in value.iter_mut().zip(bytes.iter().skip(offset as usize)).take(usize::from(size)) {
            *to = *from;
        }
        u32::from_le_bytes(value)
    }

    /// Writes a bus master register.
    pub(crate) fn bm_write(&mut self, offset: u64, size: u8, value: u32, io: &mut dyn Executor, cx: &mut Context) {
        self.dirty = true;
        for (i, byte) in (offset..8).zip(value.to_le_bytes()).take(usize::from(size)) {
            match i {
                0 => {
                    let new = BusMasterCommand::from_bits(byte & 0x09);
                    let started = new.start() && !self.bm_command.start();
                    let stopped = !new.start() && self.bm_command.start();
                    self.bm_command = new;
                    if started {
                        self.bm_status.set_active(true);
                        self.start_dma(io, cx);
                    } else if stopped {
                        self.bm_status.set_active(false);
                    }
                }
                2 => {
                    let new = BusMasterStatus::from_bits(byte);
                    self.bm_status = self
                        .bm_status
                        .with_error(self.bm_status.error() && !new.error())
                        .with_interrupt(self.bm_status.interrupt() && !new.interrupt())
                        .with_capable(new.capable());
                }
                4..=7 => {
                    let shift = (i as u32).wrapping_sub(4).wrapping_mul(8);
                    let kept = self.bm_table & !(0xffu32 << (shift & 31));
                    self.bm_table = (kept | u32::from(byte) << (shift & 31)) & !3;
                }
                _ => {}
            }
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

    pub(crate) fn inspect(&self, out: &mut Inspect) {
        out.hex("status", self.status()).hex("control", self.control.into_bits()).hex("device", self.device.into_bits());
        out.value("interrupt", self.interrupt).value("phase", format_args!("{:?}", self.phase)).value("jobs", self.jobs);
        out.hex("BM command", self.bm_command.into_bits()).hex("BM status", self.bm_status.into_bits()).hex("BM table", self.bm_table);
        for drive in self.drives.iter().flatten() {
            out.group(&format!("drive{}", drive.index), |out| {
                out.value("kind", if drive.cdrom { "CD" } else { "disk" }).value("present", drive.present);
                out.value("waits for room", drive.image.as_ref().is_some_and(|i| i.waits()));
                drive.counters.inspect(out);
                out.value("sectors", drive.sectors()).hex("error", drive.error).value("sense", format_args!("{:?}", drive.sense));
                if drive.cdrom {
                    out.value("tray locked", drive.locked).value("tray open", drive.tray_open).value("event", format_args!("{:?}", drive.event));
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
