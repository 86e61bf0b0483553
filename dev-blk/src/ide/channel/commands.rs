//! What a command asks for.
use super::{After, Channel, Dma, Out, Phase};
use crate::backend::{Executor, Job};
use crate::ide::atapi::{self, Answer};
use crate::ide::identify;
use crate::ide::spec::{CD_SECTOR, MAX_MULTIPLE, SECTOR, Sense, Status, command, error, reason};
use bulkhead_bus::Context;

impl Channel {
    /// First sector and count of a command, if they lie on the disk.
    pub(super) fn range(&mut self, ext: bool) -> Option<(u64, u32)> {
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

    pub(super) fn command(&mut self, code: u8, io: &mut dyn Executor, cx: &mut Context) {
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
            command::STANDBY_IMMEDIATE
            | command::IDLE_IMMEDIATE
            | command::STANDBY
            | command::IDLE
            | command::SLEEP => self.done(),
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
            READ_SECTORS_EXT
                | READ_DMA_EXT
                | READ_MULTIPLE_EXT
                | WRITE_SECTORS_EXT
                | WRITE_DMA_EXT
                | WRITE_MULTIPLE_EXT
                | READ_VERIFY_EXT
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

    pub(super) fn packet_command(&mut self, packet: &[u8; 12], io: &mut dyn Executor, cx: &mut Context) {
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
}
