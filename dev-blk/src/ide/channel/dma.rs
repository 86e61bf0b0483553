//! Data by the bus master (Intel, Programming Interface for Bus Master IDE Controller 1.0).
use super::{After, Channel, Dma, Phase};
use crate::backend::{Executor, Job};
use crate::ide::spec::{BusMasterCommand, BusMasterStatus, SECTOR, Sense, Status, error};
use bulkhead_bus::{Context, Segment};

/// Entries of a PRD table that are read: it may not cross 64 KiB.
const PRDS: usize = 8192;
/// Bytes of the longest DMA transfer: 65536 sectors.
const DMA_MAX: usize = 65536 * SECTOR;

impl Channel {
    /// A command is ready for DMA: go if the guest has started the bus master, else wait for it.
    pub(super) fn prepare_dma(&mut self, dma: Dma, io: &mut dyn Executor, cx: &mut Context) {
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

    pub(super) fn dma_failed(&mut self) {
        self.bm_status.set_error(true);
        if self.packet {
            self.check(Sense { key: 0x0b, asc: 0, ascq: 0 });
        } else {
            self.fail(error::ABRT);
        }
    }

    pub(super) fn dma_done(&mut self) {
        // A table longer than the transfer leaves the bus master active (table "Interrupt/Activity status").
        self.bm_status.set_active(self.prd_longer);
        self.done();
    }

    /// Reads a bus master register.
    pub(crate) fn bm_read(&self, offset: u64, size: u8) -> u32 {
        let table = self.bm_table.to_le_bytes();
        let bytes = [
            self.bm_command.into_bits(),
            0xff,
            self.bm_status.into_bits(),
            0xff,
            table[0],
            table[1],
            table[2],
            table[3],
        ];
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
}
