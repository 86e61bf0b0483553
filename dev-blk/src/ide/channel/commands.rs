//! What a command asks for.
use super::{After, Channel, Dma, Out, Phase};
use crate::ata::atapi::{self, Answer};
use crate::ata::cd_sector::Form;
use crate::ata::drive::Drive;
use crate::ata::identify;
use crate::ata::settings::{Geometry, Power};
use crate::ata::spec::{CD_SECTOR, DeviceRegister, MAX_MULTIPLE, SECTOR, Sense, Status, command, error, reason};
use crate::backend::{Executor, Job};
use bulkhead_bus::Context;

impl Channel {
    /// First sector and count of a command, if they lie on the disk.
    pub(super) fn range(&mut self, ext: bool) -> Option<(u64, u32)> {
        let device = self.device;
        let drive = self.selected()?;
        let first = address(drive, device, ext)?;
        let count = match (u32::from(drive.count.now) | u32::from(drive.count.before) << 8, ext) {
            (0, true) => 65536,
            (n, true) => n,
            (n, false) if n & 0xff == 0 => 256,
            (n, false) => n & 0xff,
        };
        let end = first.checked_add(u64::from(count))?;
        (end <= drive.sectors()).then_some((first, count))
    }

    pub(super) fn command(&mut self, code: u8, io: &mut dyn Executor, cx: &mut Context) {
        // DEVICE RESET is for the selected drive; the other one goes on with what it does.
        let other_works = self.current != self.device.dev() && matches!(self.phase, Phase::Working(_));
        if code == command::DEVICE_RESET && other_works {
            let drive = self.drives.get_mut(usize::from(self.device.dev())).and_then(Option::as_mut);
            drive.into_iter().for_each(Drive::device_reset);
            return;
        }
        // Whatever the last command still offered is gone.
        self.abandon();
        self.current = self.device.dev();
        self.packet = false;
        if code == command::EXECUTE_DIAGNOSTIC {
            // It leaves the signature, and resets no setting; device 0 interrupts (ATA/ATAPI-5, 8.9).
            self.reset_drives(Drive::signature);
            self.current = false;
            self.raise();
            return;
        }
        if code == command::DEVICE_RESET
            && let Some(drive) = self.selected().filter(|drive| drive.cdrom)
        {
            drive.device_reset();
            self.stale = false;
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
                let data = identify::cdrom(drive);
                self.answer_pio(data);
            }
            // A disk driver finds out here that it is none (ATA/ATAPI-5, 8.12, 8.27).
            command::IDENTIFY | command::READ_SECTORS | command::READ_SECTORS_NORETRY if cdrom => {
                drive.signature();
                self.fail(error::ABRT);
            }
            command::SET_FEATURES => self.set_features(io),
            command::STANDBY_IMMEDIATE | command::STANDBY | command::SLEEP => {
                drive.power = Power::Standby;
                self.done();
            }
            command::IDLE_IMMEDIATE | command::IDLE => {
                drive.power = Power::Idle;
                self.done();
            }
            command::CHECK_POWER => {
                drive.count.now = drive.power as u8;
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
            READ_SECTORS_EXT
                | READ_DMA_EXT
                | READ_MULTIPLE_EXT
                | WRITE_SECTORS_EXT
                | WRITE_DMA_EXT
                | WRITE_MULTIPLE_EXT
                | READ_VERIFY_EXT
        );
        let device = self.device;
        let Some(drive) = self.selected() else { return };
        let (multiple, read_only) = (u32::from(drive.settings.multiple), drive.read_only);
        match code {
            IDENTIFY => {
                let data = identify::disk(drive);
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
            READ_VERIFY | READ_VERIFY_NORETRY | READ_VERIFY_EXT => self.verify(ext, io),
            FLUSH | FLUSH_EXT => self.submit(Job::Flush, After::Done, io),
            DATA_SET_MANAGEMENT if drive.features.now & 1 != 0 && drive.count.now == 1 && !read_only => {
                self.prepare_dma(Dma::Trim { bytes: SECTOR }, io, cx);
            }
            SET_MULTIPLE => {
                let n = drive.count.now;
                if n == 0 || n > MAX_MULTIPLE || !n.is_power_of_two() {
                    drive.settings.multiple = 0;
                    self.fail(error::ABRT);
                } else {
                    drive.settings.multiple = n;
                    self.done();
                }
            }
            READ_NATIVE_MAX | READ_NATIVE_MAX_EXT => self.native_max(code == READ_NATIVE_MAX_EXT),
            // Sectors of a track in the count register, the highest head in the device register (ATA/ATAPI-5, 8.16).
            INITIALIZE_PARAMETERS => match (drive.count.now, device.high()) {
                (0, _) => self.fail(error::ABRT),
                (of_track, highest) => {
                    drive.settings.translation = Some((highest.saturating_add(1), of_track));
                    self.done();
                }
            },
            SEEK => {
                let there = address(drive, device, false).is_some_and(|lba| lba < drive.sectors());
                if there { self.done() } else { self.fail(error::IDNF) }
            }
            _ if code & 0xf0 == RECALIBRATE => self.done(),
            _ => self.fail(error::ABRT),
        }
    }

    /// READ NATIVE MAX ADDRESS: the last sector's address; without LBA the last one of the default translation (ATA/ATAPI-5, 8.26).
    fn native_max(&mut self, ext: bool) {
        let lba = self.device.lba();
        let Some(drive) = self.selected() else { return };
        let last = drive.sectors().saturating_sub(1);
        let [b0, b1, b2, b3, b4, b5, ..] = if ext { last } else { last.min(0x0fff_ffff) }.to_le_bytes();
        if ext || lba {
            for (register, (now, before)) in drive.lba.iter_mut().zip([(b0, b3), (b1, b4), (b2, b5)]) {
                (register.now, register.before) = (now, before);
            }
        } else {
            let Geometry { cylinders, sectors, .. } = Geometry::default_of(drive.sectors());
            let [low, high] = cylinders.saturating_sub(1).to_le_bytes();
            for (register, now) in drive.lba.iter_mut().zip([sectors, low, high]) {
                register.now = now;
            }
        }
        match (ext, lba) {
            (true, _) => {}
            (false, true) => self.device.set_high(b3 & 0x0f),
            (false, false) => self.device.set_high(Geometry::HEADS.saturating_sub(1)),
        }
        self.done();
    }

    fn set_features(&mut self, io: &mut dyn Executor) {
        let Some(drive) = self.selected() else { return };
        let (mode, disk) = (drive.count.now, !drive.cdrom);
        let settings = &mut drive.settings;
        match drive.features.now {
            // Transfer mode: PIO default, PIO 0 to 4, multiword DMA 0 to 2, Ultra DMA 0 to 5.
            0x03 => match mode {
                0x00 | 0x01 | 0x08..=0x0c => {}
                0x20..=0x22 | 0x40..=0x45 => settings.dma_mode = mode,
                _ => return self.fail(error::ABRT),
            },
            0x02 if disk => settings.write_cache = true,
            // What the cache holds is durable before the command ends.
            0x82 if disk => {
                settings.write_cache = false;
                return self.submit(Job::Flush, After::Done, io);
            }
            0xaa if disk => settings.look_ahead = true,
            0x55 if disk => settings.look_ahead = false,
            0x66 => settings.keep = true,
            0xcc => settings.keep = false,
            _ => return self.fail(error::ABRT),
        }
        self.done();
    }

    pub(super) fn packet_command(&mut self, packet: &[u8; 12], io: &mut dyn Executor, cx: &mut Context) {
        let Some(drive) = self.selected() else { return };
        let dma = drive.features.now & 1 != 0;
        let sectors = drive.cd_sectors();
        let sense = std::mem::replace(&mut drive.sense, Sense::NONE);
        let seen = atapi::Drive {
            sectors,
            has_medium: drive.image.is_some(),
            locked: &mut drive.locked,
            tray_open: &mut drive.tray_open,
            attention: &mut drive.attention,
            event: &mut drive.event,
            sense,
        };
        let answer = atapi::execute(packet, seen);
        // No byte count limit, and word 125 of IDENTIFY PACKET DEVICE has none either: aborted (ATA/ATAPI-7 vol. 1, PACKET).
        if !dma && self.limit == 0 && !matches!(answer, Answer::Done | Answer::Check(_)) {
            return self.fail(error::ABRT);
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
            Answer::Sectors { first, count, form: Form::USER } if dma => {
                let bytes = (count as usize).saturating_mul(CD_SECTOR);
                self.prepare_dma(Dma::Read { offset: first << 11, bytes }, io, cx);
            }
            Answer::Sectors { first, count, form } if dma => {
                self.prepare_dma(Dma::Formed { first, count, form }, io, cx)
            }
            Answer::Sectors { first, count, form } => {
                self.form = form;
                self.form_next = first;
                self.offset = first << 11;
                self.left = count;
                self.fetch(CD_SECTOR, After::PioIn, io);
            }
            Answer::Parameters(bytes) if dma => self.prepare_dma(Dma::Parameters { bytes }, io, cx),
            Answer::Parameters(bytes) => self.accept_parameters(bytes),
        }
    }

    /// A packet command has its list of parameters; only MODE SELECT has one.
    pub(super) fn parameters(&mut self, list: &[u8]) {
        let locked = self.selected().is_some_and(|drive| drive.locked);
        match atapi::mode_select(list, locked) {
            Ok(()) => self.done(),
            Err(sense) => self.check(sense),
        }
    }
}

/// The sector that the registers name, whether or not the disk has it.
fn address(drive: &Drive, device: DeviceRegister, ext: bool) -> Option<u64> {
    let [l, m, h] = drive.lba;
    let low = u64::from(l.now) | u64::from(m.now) << 8 | u64::from(h.now) << 16;
    if ext {
        let high = u64::from(l.before) | u64::from(m.before) << 8 | u64::from(h.before) << 16;
        Some(low | high << 24)
    } else if device.lba() {
        Some(low | u64::from(device.high()) << 24)
    } else {
        drive.geometry().block(u16::from_le_bytes([m.now, h.now]), device.high(), l.now)
    }
}
