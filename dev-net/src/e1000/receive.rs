//! The receive ring: frames to descriptors (SDM 3.2), and which frames are for this card (3.2.1, 13.5).
use super::E1000;
use super::spec::{Ctrl, DESCRIPTOR, ReceiveStatus, cause, reg};
use crate::frame::{Frame, be16};
use crate::port::{self, Port, SHORTEST};
use bulkhead_bus::Context;

/// Most bytes of a frame without and with RCTL's long bit, including the frame check sequence.
const LONGEST: usize = 1522;
const LONGEST_LONG: usize = 16_384;

impl port::Receiver for E1000 {
    fn port(&mut self) -> &mut Port {
        &mut self.port
    }

    fn receiver_enabled(&self) -> bool {
        self.rctl().enable() && self.link()
    }

    fn has_room(&self) -> bool {
        self.free() > 0
    }

    fn deliver(&mut self, frame: Frame, cx: &mut Context) -> Result<(), Frame> {
        self.put(frame, cx)
    }
}

impl E1000 {
    /// Stores received frames in the ring.
    pub(super) fn receive(&mut self, cx: &mut Context) {
        if self.running {
            port::receive(self, cx);
        }
    }

    /// Continues where a dead process stopped. If it was storing a frame, the descriptors whose status is done have been written.
    pub(super) fn resume_receive(&mut self, cx: &mut Context) {
        let Some(mark) = cx.marks.former(super::RECEIVE_MARK) else { return };
        let count = self.get(reg::RDLEN) >> 4;
        let (mut head, next) = ((mark & 0xffff_ffff) as u32, (mark >> 32) as u32);
        if head >= count || next >= count {
            return;
        }
        let base = u64::from(self.get(reg::RDBAH)) << 32 | u64::from(self.get(reg::RDBAL));
        for _ in 0..count {
            let mut status = [0];
            let address = base.wrapping_add(u64::from(head).saturating_mul(DESCRIPTOR)).wrapping_add(12);
            if head == next
                || cx.memory.read(address, &mut status).is_err()
                || !ReceiveStatus::from_bits(u16::from(status[0])).done()
            {
                break;
            }
            head = if head.saturating_add(1) >= count { 0 } else { head.saturating_add(1) };
        }
        self.set(reg::RDH, head);
        self.mark_receive(head, cx);
    }

    /// Number of descriptors that the guest has given to the card.
    fn free(&self) -> u32 {
        let count = self.get(reg::RDLEN) >> 4;
        let (head, tail) = (self.get(reg::RDH), self.get(reg::RDT));
        match (head < count && tail < count, tail.checked_sub(head)) {
            (false, _) => 0,
            (true, Some(free)) => free,
            (true, None) => count.saturating_sub(head.saturating_sub(tail)),
        }
    }

    /// Stores a frame in the ring. `Err`: it does not fit now.
    fn put(&mut self, frame: Frame, cx: &mut Context) -> Result<(), Frame> {
        let rctl = self.rctl();
        let tag = (be16(&frame.bytes, 12) == Some(self.get(reg::VET) as u16)).then(|| be16(&frame.bytes, 14)).flatten();
        let wanted = self.wanted(&frame.bytes);
        if wanted.is_none() || (rctl.vlan_filter() && tag.is_some_and(|tag| !self.vlan_wanted(tag))) {
            return Ok(());
        }
        let stripped = tag.filter(|_| Ctrl::from_bits(self.get(reg::CTRL)).vlan());
        let mut bytes = frame.bytes.clone();
        if stripped.is_some() {
            bytes.drain(12..16);
        }
        if bytes.len() < SHORTEST {
            bytes.resize(SHORTEST, 0);
        }
        // The frame check sequence is unknown here, and drivers do not check it.
        let size = bytes.len().saturating_add(4);
        if size > if rctl.long() { LONGEST_LONG } else { LONGEST } {
            self.set_stat(reg::ROC, 1);
            return Ok(());
        }
        if !rctl.strip_crc() {
            bytes.resize(size, 0);
        }
        let buffer = rctl.buffer().max(1);
        let need = u32::try_from(bytes.len().div_ceil(buffer)).unwrap_or(u32::MAX);
        // One descriptor always belongs to software: a frame that needs the whole ring never fits, and would block all later
        // frames.
        if need >= self.get(reg::RDLEN) >> 4 {
            self.set_stat(reg::ROC, 1);
            return Ok(());
        }
        if need > self.free() {
            self.set_stat(reg::RNBC, 1);
            self.raise(cause::RXO, cx);
            return Err(frame);
        }
        let rxcsum = self.get(reg::RXCSUM);
        let (ip, tcp) = (rxcsum & 0x100 != 0, rxcsum & 0x200 != 0);
        // Checksums are right if the host has verified them, or has left them incomplete because the frame never leaves the
        // machine.
        let checked = frame.offload.verified;
        let base = u64::from(self.get(reg::RDBAH)) << 32 | u64::from(self.get(reg::RDBAL));
        let count = self.get(reg::RDLEN) >> 4;
        let next = |head: u32| if head.saturating_add(1) >= count { 0 } else { head.saturating_add(1) };
        self.mark_receive((0..need).fold(self.get(reg::RDH), |head, _| next(head)), cx);
        let pieces = bytes.chunks(buffer);
        let last = pieces.len().saturating_sub(1);
        for (i, piece) in pieces.enumerate() {
            let head = self.get(reg::RDH);
            let address = base.wrapping_add(u64::from(head).saturating_mul(DESCRIPTOR));
            let mut target = [0; 8];
            let read = cx.memory.read(address, &mut target);
            let written = read.and_then(|()| cx.memory.write(u64::from_le_bytes(target), piece));
            let status = ReceiveStatus::new()
                .with_done(true)
                .with_end(i == last)
                .with_ignore_checksums(!checked || !(ip | tcp))
                .with_ip_checked(checked && ip)
                .with_tcp_checked(checked && tcp)
                .with_vlan(stripped.is_some())
                .with_inexact(wanted == Some(Match::Table))
                .with_rx_error(written.is_err());
            let mut back = [0; 8];
            let words = [u16::try_from(piece.len()).unwrap_or(0), 0, status.into_bits(), stripped.unwrap_or(0)];
            for (to, word) in back.chunks_exact_mut(2).zip(words) {
                to.copy_from_slice(&word.to_le_bytes());
            }
            if written.is_err() | cx.memory.write(address.wrapping_add(8), &back).is_err() {
                self.ring_errors = self.ring_errors.saturating_add(1);
            }
            self.set(reg::RDH, next(head));
        }
        self.mark_receive(self.get(reg::RDH), cx);
        self.received(&frame.bytes);
        let fraction = count >> u32::from(rctl.threshold()).saturating_add(1);
        let low = if self.free() <= fraction { cause::RXDMT0 } else { 0 };
        if self.get(reg::RDTR) == 0 {
            self.raise(cause::RXT0 | low, cx)
        } else {
            self.delay_receive(low, cx)
        }
        Ok(())
    }

    /// Whether this card accepts a frame, and by which filter.
    fn wanted(&self, bytes: &[u8]) -> Option<Match> {
        let rctl = self.rctl();
        let destination = bytes.first_chunk::<6>()?;
        if rctl.broadcast() && *destination == [0xff; 6] {
            return Some(Match::Exact);
        }
        let mut address = (0..16u32).map(|i| {
            let at = reg::RAL.wrapping_add(i.wrapping_mul(8));
            (self.get(at), self.get(at.wrapping_add(4)))
        });
        let [a, b, c, d, e, f] = *destination;
        let (low, high) = (u32::from_le_bytes([a, b, c, d]), u32::from(u16::from_le_bytes([e, f])));
        if address.any(|(l, h)| h >> 31 != 0 && l == low && h & 0xffff == high) {
            return Some(Match::Exact);
        }
        if a & 1 == 0 {
            return rctl.unicast_all().then_some(Match::Exact);
        }
        if rctl.multicast_all() {
            return Some(Match::Exact);
        }
        // Table 13-70: bits 47:36, 46:35, 45:34 or 43:32 of the address.
        let bits = u32::from(u16::from_le_bytes([e, f]))
            >> match rctl.multicast_offset() {
                0 => 4,
                1 => 3,
                2 => 2,
                _ => 0,
            }
            & 0xfff;
        let word = self.get(reg::MTA.wrapping_add((bits >> 5).wrapping_mul(4)));
        (word >> (bits & 31) & 1 != 0).then_some(Match::Table)
    }

    fn vlan_wanted(&self, tag: u16) -> bool {
        let id = u32::from(tag & 0x0fff);
        self.get(reg::VFTA.wrapping_add((id >> 5).wrapping_mul(4))) >> (id & 31) & 1 != 0
    }

    /// Counts a frame that was received.
    fn received(&mut self, bytes: &[u8]) {
        let len = bytes.len().max(SHORTEST).saturating_add(4);
        self.count_size(reg::PRC64, len);
        self.set_stat(reg::TPR, 1);
        self.set_stat(reg::GPRC, 1);
        self.add_octets(reg::TORL, len);
        self.add_octets(reg::GORCL, len);
        match bytes.get(..6) {
            Some([0xff, 0xff, 0xff, 0xff, 0xff, 0xff]) => self.set_stat(reg::BPRC, 1),
            Some([first, ..]) if first & 1 != 0 => self.set_stat(reg::MPRC, 1),
            _ => {}
        }
    }
}

/// How an address matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Match {
    Exact,
    /// By the multicast table, in which several addresses share a bit.
    Table,
}
