//! Carries out commands. A transport passes the command's code and its registers; it gets a [`Reply`] and the changed registers.
//! The transport handles EXECUTE DEVICE DIAGNOSTIC and DEVICE RESET, because each may end a command in progress.
use super::atapi::{self, Answer};
use super::counters::Work;
use super::drive::Drive;
use super::identify;
use super::registers::Registers;
use super::settings::{Geometry, Power};
use super::spec::{MAX_MULTIPLE, SECTOR, Sense, Status, command, error, reason};
use super::transfer::{Data, List, Protocol, Reply, Sectors};
use crate::backend::Job;

impl Drive {
    /// Carries out the command `code`.
    pub(crate) fn command(&mut self, code: u8, r: &mut Registers) -> Reply {
        self.packet = false;
        r.error = 0;
        match code {
            command::PACKET if self.cdrom => {
                self.packet = true;
                self.limit = r.byte_count();
                r.set_low_count(reason::COMMAND);
                r.status = Status::new().with_drdy(true).with_drq(true);
                Reply::Packet
            }
            command::IDENTIFY_PACKET if self.cdrom => identification(identify::cdrom(self)),
            // By the signature a disk driver recognises that this is not a disk (ATA/ATAPI-5, 8.12, 8.27).
            command::IDENTIFY | command::READ_SECTORS | command::READ_SECTORS_NORETRY if self.cdrom => {
                self.signature(r);
                self.fail(error::ABRT, r)
            }
            command::SET_FEATURES => self.set_features(r),
            command::STANDBY_IMMEDIATE | command::STANDBY | command::SLEEP => {
                self.power = Power::Standby;
                self.done(r)
            }
            command::IDLE_IMMEDIATE | command::IDLE => {
                self.power = Power::Idle;
                self.done(r)
            }
            command::CHECK_POWER => {
                r.set_low_count(self.power as u8);
                self.done(r)
            }
            _ if self.cdrom => self.fail(error::ABRT, r),
            _ => self.disk_command(code, r),
        }
    }

    fn disk_command(&mut self, code: u8, r: &mut Registers) -> Reply {
        use command::*;
        let ext = matches!(
            code,
            READ_SECTORS_EXT
                | READ_DMA_EXT
                | READ_MULTIPLE_EXT
                | WRITE_SECTORS_EXT
                | WRITE_DMA_EXT
                | WRITE_MULTIPLE_EXT
                | READ_VERIFY_EXT
        );
        let multiple = self.settings.multiple > 0;
        let one = Protocol::Pio { block: SECTOR };
        let many = Protocol::Pio { block: usize::from(self.settings.multiple).saturating_mul(SECTOR) };
        match code {
            IDENTIFY => identification(identify::disk(self)),
            READ_SECTORS | READ_SECTORS_NORETRY | READ_SECTORS_EXT => self.sectors_in(ext, one, r),
            READ_MULTIPLE | READ_MULTIPLE_EXT if multiple => self.sectors_in(ext, many, r),
            READ_DMA | READ_DMA_NORETRY | READ_DMA_EXT => self.sectors_in(ext, Protocol::Dma, r),
            WRITE_SECTORS | WRITE_SECTORS_NORETRY | WRITE_SECTORS_EXT if !self.read_only => {
                self.sectors_out(ext, one, r)
            }
            WRITE_MULTIPLE | WRITE_MULTIPLE_EXT if multiple && !self.read_only => self.sectors_out(ext, many, r),
            WRITE_DMA | WRITE_DMA_NORETRY | WRITE_DMA_EXT if !self.read_only => self.sectors_out(ext, Protocol::Dma, r),
            READ_VERIFY | READ_VERIFY_NORETRY | READ_VERIFY_EXT => match self.range(ext, r) {
                Some(sectors) => Reply::Verify(sectors),
                None => self.fail(error::IDNF, r),
            },
            FLUSH | FLUSH_EXT => Reply::Job(Job::Flush),
            DATA_SET_MANAGEMENT if r.feature_0() && r.low_count() == 1 && !self.read_only => {
                Reply::Data { what: Data::List { list: List::Ranges, bytes: SECTOR }, by: Protocol::Dma }
            }
            SET_MULTIPLE => {
                let n = r.low_count();
                if n == 0 || n > MAX_MULTIPLE || !n.is_power_of_two() {
                    self.settings.multiple = 0;
                    self.fail(error::ABRT, r)
                } else {
                    self.settings.multiple = n;
                    self.done(r)
                }
            }
            READ_NATIVE_MAX | READ_NATIVE_MAX_EXT => self.native_max(code == READ_NATIVE_MAX_EXT, r),
            // Sectors per track in the count register, the highest head in the device register (ATA/ATAPI-5, 8.16).
            INITIALIZE_PARAMETERS => match (r.low_count(), r.device.high()) {
                (0, _) => self.fail(error::ABRT, r),
                (of_track, highest) => {
                    self.settings.translation = Some((highest.saturating_add(1), of_track));
                    self.done(r)
                }
            },
            SEEK => {
                let there = self.address(false, r).is_some_and(|lba| lba < self.sectors());
                if there { self.done(r) } else { self.fail(error::IDNF, r) }
            }
            _ if code & 0xf0 == RECALIBRATE => self.done(r),
            _ => self.fail(error::ABRT, r),
        }
    }

    /// The addressed sector, which may be beyond the disk's end.
    fn address(&self, ext: bool, r: &Registers) -> Option<u64> {
        let [low, mid, high, low_before, mid_before, high_before] = r.lba;
        let below = u64::from(u32::from_le_bytes([low, mid, high, 0]));
        if ext {
            Some(below | u64::from(u32::from_le_bytes([low_before, mid_before, high_before, 0])) << 24)
        } else if r.device.lba() {
            Some(below | u64::from(r.device.high()) << 24)
        } else {
            self.geometry().block(u16::from_le_bytes([mid, high]), r.device.high(), low)
        }
    }

    /// The addressed sectors, if the disk has all of them.
    fn range(&self, ext: bool, r: &Registers) -> Option<Sectors> {
        let first = self.address(ext, r)?;
        let count = match (u32::from(r.count), ext) {
            (0, true) => 65536,
            (n, true) => n,
            (n, false) if n & 0xff == 0 => 256,
            (n, false) => n & 0xff,
        };
        let end = first.checked_add(u64::from(count))?;
        (end <= self.sectors()).then_some(Sectors::of_disk(first, count))
    }

    fn sectors_in(&mut self, ext: bool, by: Protocol, r: &mut Registers) -> Reply {
        match self.range(ext, r) {
            Some(sectors) => Reply::Data { what: Data::In(sectors), by },
            None => self.fail(error::IDNF, r),
        }
    }

    fn sectors_out(&mut self, ext: bool, by: Protocol, r: &mut Registers) -> Reply {
        match self.range(ext, r) {
            Some(sectors) => Reply::Data { what: Data::Out(sectors), by },
            None => self.fail(error::IDNF, r),
        }
    }

    /// READ NATIVE MAX ADDRESS: the last sector's address; without LBA the last one of the default translation (ATA/ATAPI-5, 8.26).
    fn native_max(&mut self, ext: bool, r: &mut Registers) -> Reply {
        let lba = r.device.lba();
        let last = self.sectors().saturating_sub(1);
        let [b0, b1, b2, b3, b4, b5, ..] = if ext { last } else { last.min(0x0fff_ffff) }.to_le_bytes();
        if ext || lba {
            r.lba = [b0, b1, b2, b3, b4, b5];
        } else {
            let Geometry { cylinders, sectors, .. } = Geometry::default_of(self.sectors());
            r.lba[0] = sectors;
            [r.lba[1], r.lba[2]] = cylinders.saturating_sub(1).to_le_bytes();
        }
        match (ext, lba) {
            (true, _) => {}
            (false, true) => r.device.set_high(b3 & 0x0f),
            (false, false) => r.device.set_high(Geometry::HEADS.saturating_sub(1)),
        }
        self.done(r)
    }

    fn set_features(&mut self, r: &mut Registers) -> Reply {
        let (mode, disk) = (r.low_count(), !self.cdrom);
        let [subcommand, _] = r.features.to_le_bytes();
        let settings = &mut self.settings;
        match subcommand {
            // Transfer mode: PIO default, PIO 0 to 4, multiword DMA 0 to 2, Ultra DMA 0 to 5.
            0x03 => match mode {
                0x00 | 0x01 | 0x08..=0x0c => {}
                0x20..=0x22 | 0x40..=0x45 => settings.dma_mode = mode,
                _ => return self.fail(error::ABRT, r),
            },
            0x02 if disk => settings.write_cache = true,
            // Cached writes are durable before the command ends.
            0x82 if disk => {
                settings.write_cache = false;
                return Reply::Job(Job::Flush);
            }
            0xaa if disk => settings.look_ahead = true,
            0x55 if disk => settings.look_ahead = false,
            0x66 => settings.keep = true,
            0xcc => settings.keep = false,
            _ => return self.fail(error::ABRT, r),
        }
        self.done(r)
    }

    /// Carries out a packet that the drive has requested.
    pub(crate) fn packet(&mut self, packet: &[u8; 12], r: &mut Registers) -> Reply {
        let dma = r.feature_0();
        let sectors = self.cd_sectors();
        let waits = (self.attention, self.event);
        let sense = std::mem::replace(&mut self.sense, Sense::NONE);
        let seen = atapi::View {
            sectors,
            has_medium: self.image.is_some(),
            locked: &mut self.locked,
            tray_open: &mut self.tray_open,
            attention: &mut self.attention,
            event: &mut self.event,
            sense,
        };
        let answer = atapi::execute(packet, seen);
        // No byte count limit, and word 125 of IDENTIFY PACKET DEVICE has none either: aborted (ATA/ATAPI-7 vol. 1, PACKET).
        if !dma && self.limit == 0 && !matches!(answer, Answer::Done | Answer::Check(_)) {
            // The host has not received the event, so it stays pending.
            (self.attention, self.event) = waits;
            return self.fail(error::ABRT, r);
        }
        // The host's limit, rounded down to an even number.
        let block = match self.limit {
            0xffff => 0xfffe,
            n => usize::from(n & !1).max(2),
        };
        let by = if dma { Protocol::Dma } else { Protocol::Pio { block } };
        let what = match answer {
            Answer::Done => return self.done(r),
            Answer::Check(sense) => return self.check(sense, r),
            Answer::Data(data) => Data::Bytes(data),
            Answer::Sectors { first, count, form } => Data::In(Sectors::of_cd(first, count, form)),
            Answer::Parameters(bytes) => Data::List { list: List::Parameters, bytes },
        };
        Reply::Data { what, by }
    }

    /// Carries out a list that the drive has requested.
    pub(crate) fn list(&mut self, list: List, data: &[u8], r: &mut Registers) -> Reply {
        match list {
            List::Ranges => self.trim(data, r),
            // Only MODE SELECT has one.
            List::Parameters => match atapi::mode_select(data, self.locked) {
                Ok(()) => self.done(r),
                Err(sense) => self.check(sense, r),
            },
        }
    }

    /// Carries out the list of DATA SET MANAGEMENT. If one range is beyond the end, none is trimmed (ACS-2, 7.10).
    fn trim(&mut self, list: &[u8], r: &mut Registers) -> Reply {
        let mut ranges = Vec::new();
        for entry in list.as_chunks::<8>().0 {
            let word = u64::from_le_bytes(*entry);
            let (first, count) = (word & 0xffff_ffff_ffff, word >> 48);
            if count == 0 {
                continue;
            }
            if first.saturating_add(count) > self.sectors() {
                return self.fail(error::ABRT, r);
            }
            ranges.push((first << 9, count << 9));
        }
        Reply::Job(Job::Trim(ranges))
    }

    /// Sets the registers for programmed I/O: the host may read or write the next `bytes` bytes.
    pub(crate) fn data_request(&self, to_host: bool, bytes: usize, r: &mut Registers) {
        r.status = Status::READY.with_drq(true);
        if self.packet {
            r.set_byte_count(u16::try_from(bytes).unwrap_or(0xfffe));
            r.set_low_count(if to_host { reason::DATA_IN } else { reason::DATA_OUT });
        }
    }

    /// Whether the command in progress is a packet command, whose data ends with an interrupt.
    pub(crate) fn has_packet(&self) -> bool {
        self.packet
    }

    /// Sets the registers after a command that succeeded.
    pub(crate) fn done(&self, r: &mut Registers) -> Reply {
        r.status = Status::READY;
        if self.packet {
            r.set_low_count(reason::STATUS);
        }
        Reply::Ended
    }

    /// Sets the registers after a command that failed with the error register `code`.
    pub(crate) fn fail(&self, code: u8, r: &mut Registers) -> Reply {
        self.done(r);
        r.status.set_err(true);
        r.error = code;
        Reply::Ended
    }

    /// Sets the registers and the sense after a packet command that failed.
    fn check(&mut self, sense: Sense, r: &mut Registers) -> Reply {
        self.sense = sense;
        self.fail(sense.key << 4 | error::ABRT, r)
    }

    /// Sets the registers after a command whose data could not be transferred.
    pub(crate) fn transfer_failed(&mut self, r: &mut Registers) -> Reply {
        if self.packet { self.check(Sense::ABORTED, r) } else { self.fail(error::ABRT, r) }
    }

    /// Aborts a command of any kind; the guest's driver tries again.
    pub(crate) fn abort(&mut self, r: &mut Registers) -> Reply {
        self.packet = self.cdrom;
        self.sense = self.aborted(r);
        Reply::Ended
    }

    /// Sets the registers as [`Self::abort`] does, and returns the sense that the drive then has.
    pub(crate) fn aborted(&self, r: &mut Registers) -> Sense {
        r.status = Status::READY.with_err(true);
        if self.cdrom {
            r.set_low_count(reason::STATUS);
            r.error = Sense::ABORTED.key << 4 | error::ABRT;
            Sense::ABORTED
        } else {
            r.error = error::ABRT;
            self.sense
        }
    }

    /// Sets the registers after a job of the host has failed. The error register follows the command's table (ATA/ATAPI-5, 8;
    /// ACS-2, 7.10): UNC for data that cannot be read, ABRT for data that cannot be written.
    pub(crate) fn job_failed(&mut self, work: Option<Work>, r: &mut Registers) -> Reply {
        if self.packet {
            self.check(Sense::READ_ERROR, r)
        } else if matches!(work, Some(Work::Read(_))) {
            self.fail(error::UNC, r)
        } else {
            self.fail(error::ABRT, r)
        }
    }

    /// The job that must follow a successful one: without a write cache, a write ends with a flush.
    pub(crate) fn then(&self, work: Work) -> Option<Job> {
        (matches!(work, Work::Write(_)) && !self.settings.write_cache).then_some(Job::Flush)
    }
}

/// IDENTIFY DEVICE and IDENTIFY PACKET DEVICE.
fn identification(words: Vec<u8>) -> Reply {
    Reply::Data { what: Data::Bytes(words), by: Protocol::Pio { block: SECTOR } }
}
