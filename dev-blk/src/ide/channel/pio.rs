//! Data transfer by the data register.
use super::{After, Channel, Out, TransferPhase};
use crate::ata::transfer::List;
use crate::backend::Executor;
use bulkhead_bus::Context;

impl Channel {
    /// Offers bytes for the guest to read, block by block.
    pub(super) fn offer(&mut self, data: Vec<u8>) {
        self.buffer = data;
        self.at = 0;
        self.offer_block();
    }

    /// Offers the next block of the buffer.
    fn offer_block(&mut self) {
        let len = self.next_block();
        self.with(|drive, r| drive.data_request(true, len, r));
        self.phase = TransferPhase::PioIn;
        self.raise();
    }

    /// Begins the next block of the buffer, and returns its length.
    fn next_block(&mut self) -> usize {
        self.block_end = self.at.saturating_add(self.block).min(self.buffer.len());
        self.block_end.saturating_sub(self.at)
    }

    /// Submits the job for the next part of a read.
    pub(super) fn fetch(&mut self, after: After, io: &mut dyn Executor) {
        let job = self.sectors.read();
        self.submit(job, after, io);
    }

    /// Prepares the buffer for `bytes` bytes of the guest.
    fn room(&mut self, bytes: usize) {
        self.buffer.clear();
        self.buffer.resize(bytes, 0);
        self.at = 0;
    }

    /// Requests a packet from the guest.
    pub(super) fn accept_packet(&mut self) {
        self.room(12);
        self.block_end = 12;
        self.phase = TransferPhase::PioOut(Out::Packet);
    }

    /// Requests a list from the guest.
    pub(super) fn accept_list(&mut self, list: List, bytes: usize) {
        self.room(bytes);
        self.accept_list_block(list);
    }

    /// Requests the next block of a list.
    fn accept_list_block(&mut self, list: List) {
        let len = self.next_block();
        self.phase = TransferPhase::PioOut(Out::List(list));
        self.with(|drive, r| drive.data_request(false, len, r));
        self.raise();
    }

    /// Requests the next block of sectors; the first one has no interrupt.
    pub(super) fn accept_sectors(&mut self) {
        let len = self.sectors.block(self.block);
        self.room(len);
        self.block_end = len;
        self.phase = TransferPhase::PioOut(Out::Sectors);
        self.with(|drive, r| drive.data_request(false, len, r));
    }

    /// Reads from the data register.
    pub(crate) fn data_in(&mut self, to: &mut [u8], io: &mut dyn Executor) {
        let mut rest = to;
        while !rest.is_empty() {
            if !matches!(self.phase, TransferPhase::PioIn) {
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
            self.offer_block();
        } else if !self.sectors.is_empty() {
            self.fetch(After::PioIn, io);
        } else {
            // The last block of a disk's read ends without another interrupt.
            let packet = self.with(|drive, r| {
                drive.done(r);
                drive.has_packet()
            });
            self.phase = TransferPhase::Idle;
            if packet == Some(true) {
                self.raise();
            }
        }
    }

    /// Writes to the data register.
    pub(crate) fn data_out(&mut self, from: &[u8], io: &mut dyn Executor, cx: &mut Context) {
        let mut rest = from;
        while !rest.is_empty() {
            let TransferPhase::PioOut(what) = self.phase else { return };
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
                    if let Some(reply) = self.with(|drive, r| drive.packet(&packet, r)) {
                        self.carry_out(reply, io, cx);
                    }
                }
                Out::List(list) if self.at < self.buffer.len() => self.accept_list_block(list),
                Out::List(list) => {
                    let data = std::mem::take(&mut self.buffer);
                    if let Some(reply) = self.with(|drive, r| drive.list(list, &data, r)) {
                        self.carry_out(reply, io, cx);
                    }
                }
                Out::Sectors => {
                    let data = std::mem::take(&mut self.buffer);
                    let job = self.sectors.write(data);
                    self.submit(job, After::PioOut, io);
                }
            }
        }
    }
}
