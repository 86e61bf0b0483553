//! Data by the data register.
use super::{After, Channel, Out, Phase};
use crate::ata::spec::{CD_SECTOR, SECTOR, Status, error, reason};
use crate::backend::{Executor, Job};
use bulkhead_bus::Context;

/// Bytes that programmed I/O fetches at once.
const BUFFER: usize = 128 * 1024;

impl Channel {
    /// Bytes for the guest to read, at once.
    pub(super) fn answer_pio(&mut self, data: Vec<u8>) {
        self.buffer = data;
        self.at = 0;
        self.left = 0;
        self.offer(self.buffer.len());
    }

    /// Lets the guest read `bytes` of the buffer from where it is.
    pub(super) fn offer(&mut self, bytes: usize) {
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

    pub(super) fn pio_read(&mut self, ext: bool, block: u32, io: &mut dyn Executor) {
        let Some((first, count)) = self.range(ext) else { return self.fail(error::IDNF) };
        (self.offset, self.left, self.block) = (first << 9, count, block);
        self.fetch(SECTOR, After::PioIn, io);
    }

    /// READ VERIFY: what cannot be read is told, the rest is nobody's.
    pub(super) fn verify(&mut self, ext: bool, io: &mut dyn Executor) {
        let Some((first, count)) = self.range(ext) else { return self.fail(error::IDNF) };
        (self.offset, self.left) = (first << 9, count);
        self.fetch(SECTOR, After::Verify, io);
    }

    /// Fetches the next part of a read into the buffer.
    pub(super) fn fetch(&mut self, sector: usize, after: After, io: &mut dyn Executor) {
        let most = u32::try_from(BUFFER.div_euclid(sector)).unwrap_or(1);
        let count = self.left.min(most);
        self.left = self.left.saturating_sub(count);
        let len = (count as usize).saturating_mul(sector);
        let offset = self.offset;
        self.offset = offset.saturating_add(len as u64);
        self.submit(Job::Read { offset, len }, after, io);
    }

    pub(super) fn block_bytes(&self) -> usize {
        if self.packet {
            // The host's limit, even, and what is left otherwise.
            match self.limit {
                0xffff => 0xfffe,
                n => (n & !1).max(2),
            }
        } else {
            (self.block as usize).saturating_mul(SECTOR)
        }
    }

    pub(super) fn pio_write(&mut self, ext: bool, block: u32) {
        let Some((first, count)) = self.range(ext) else { return self.fail(error::IDNF) };
        (self.offset, self.left, self.block) = (first << 9, count, block);
        self.accept_block();
    }

    /// Lets the guest write a parameter list.
    pub(super) fn accept_parameters(&mut self, bytes: usize) {
        self.buffer.clear();
        self.buffer.resize(bytes, 0);
        self.at = 0;
        self.accept_more_parameters();
    }

    fn accept_more_parameters(&mut self) {
        self.block_end = self.at.saturating_add(self.block_bytes()).min(self.buffer.len());
        let len = self.block_end.saturating_sub(self.at);
        self.phase = Phase::PioOut(Out::Parameters);
        if let Some(drive) = self.selected() {
            drive.status = Status::new().with_drdy(true).with_dsc(true).with_drq(true);
            let [low, high] = u16::try_from(len).unwrap_or(u16::MAX).to_le_bytes();
            drive.lba[1].now = low;
            drive.lba[2].now = high;
            drive.count.now = reason::DATA_OUT;
        }
        self.raise();
    }

    /// Lets the guest write the next block.
    pub(super) fn accept_block(&mut self) {
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
            self.fetch(sector, After::PioIn, io);
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
                Out::Parameters if self.at < self.buffer.len() => self.accept_more_parameters(),
                Out::Parameters => {
                    let list = std::mem::take(&mut self.buffer);
                    self.parameters(&list);
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
}
