//! Receiving: C mode's one buffer (5.6), C+ mode's ring (7.2.2), and which frames are for this card (5.9).
use super::spec::{DESCRIPTOR, RECEIVE_TAG, RING, ReceiveWord, cause, reg};
use super::{Rtl8139, hash};
use crate::frame::{Frame, be16, ether_type};
use crate::port::{self, Port, SHORTEST};
use bulkhead_bus::Context;

/// Most bytes of a frame in C mode, with its frame check sequence: an Ethernet frame with a tag.
const LONGEST: usize = 1522;
/// Most bytes that C+ mode's descriptors can report (7.2.2).
const LONGEST_PLUS: usize = 0x1fff;
/// Status of a frame in C mode's buffer (6.2): received, broadcast, own address, multicast.
const OK: u16 = 1;
const BROADCAST: u16 = 1 << 13;
const OWN: u16 = 1 << 14;
const MULTICAST: u16 = 1 << 15;

/// The filter by which the card accepts a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Match {
    Own,
    Broadcast,
    Multicast,
}

impl port::Receiver for Rtl8139 {
    fn port(&mut self) -> &mut Port {
        &mut self.port
    }

    fn receiver_enabled(&self) -> bool {
        self.command().receive() && self.port.cable()
    }

    fn deliver(&mut self, frame: Frame, cx: &mut Context) -> Result<(), Frame> {
        if self.plus().receive() { self.put_plus(frame, cx) } else { self.put_classic(frame, cx) }
    }
}

impl Rtl8139 {
    /// Stores received frames in guest memory.
    pub(super) fn receive(&mut self, cx: &mut Context) {
        if self.running {
            port::receive(self, cx);
        }
    }

    /// Whether this card accepts a frame, and by which filter.
    fn wanted(&self, bytes: &[u8]) -> Option<Match> {
        let rcr = self.rcr();
        let destination = bytes.first_chunk::<6>()?;
        let kind = match destination {
            [0xff, 0xff, 0xff, 0xff, 0xff, 0xff] => Match::Broadcast,
            [first, ..] if first & 1 != 0 => Match::Multicast,
            _ => Match::Own,
        };
        let listed = match kind {
            Match::Broadcast => rcr.broadcast(),
            Match::Multicast => {
                let bit = hash(destination);
                rcr.multicast() && self.get64(reg::MAR) >> bit & 1 != 0
            }
            Match::Own => rcr.own() && *destination == self.get::<6>(reg::IDR),
        };
        (listed || rcr.all()).then_some(kind)
    }

    /// Stores a frame in C mode's buffer. `Err`: it does not fit now.
    fn put_classic(&mut self, frame: Frame, cx: &mut Context) -> Result<(), Frame> {
        let Some(kind) = self.wanted(&frame.bytes) else { return Ok(()) };
        let mut bytes = frame.bytes.clone();
        bytes.resize(bytes.len().max(SHORTEST), 0);
        let len = bytes.len().saturating_add(4);
        if len > LONGEST {
            self.count(3);
            return Ok(());
        }
        let size = self.buffer();
        let at = u32::from(self.get16(reg::CBR)).checked_rem(size).unwrap_or(0);
        // A header, the frame, and up to the next four bytes; one byte stays free, so that full and empty differ.
        let need = (len as u32).saturating_add(4).next_multiple_of(4);
        let used = at.saturating_add(size).saturating_sub(self.reading()).checked_rem(size).unwrap_or(0);
        if used.saturating_add(need) >= size {
            // ISR's RXOVW (5.6): the buffer is exhausted. Unlike on real hardware the frame stays queued.
            self.raise(cause::OVERFLOW, cx);
            return Err(frame);
        }
        let status = OK
            | match kind {
                Match::Broadcast => BROADCAST,
                Match::Own => OWN,
                Match::Multicast => MULTICAST,
            };
        let mut record = [status.to_le_bytes(), (len as u16).to_le_bytes()].concat();
        record.extend_from_slice(&bytes);
        record.extend_from_slice(&[0; 4]);
        let base = u64::from(self.get32(reg::RBSTART));
        // The record continues after the buffer's end, or wraps.
        let straight =
            if self.rcr().wrap() { record.len() } else { record.len().min(size.saturating_sub(at) as usize) };
        let (first, rest) = record.split_at(straight.min(record.len()));
        let written = cx
            .memory
            .write(base.saturating_add(u64::from(at)), first)
            .and_then(|()| if rest.is_empty() { Ok(()) } else { cx.memory.write(base, rest) });
        if written.is_err() {
            self.ring_errors = self.ring_errors.saturating_add(1);
        }
        let next = at.saturating_add(need).checked_rem(size).unwrap_or(0);
        self.put(reg::CBR, &(next as u16).to_le_bytes());
        self.mark(cx);
        self.received(kind);
        self.raise(cause::RECEIVED, cx);
        Ok(())
    }

    /// Stores a frame in C+ mode's ring. `Err`: it does not fit now.
    fn put_plus(&mut self, frame: Frame, cx: &mut Context) -> Result<(), Frame> {
        let Some(kind) = self.wanted(&frame.bytes) else { return Ok(()) };
        let plus = self.plus();
        let mut bytes = frame.bytes.clone();
        let mut tag = 0;
        if plus.vlan() && be16(&bytes, 12) == Some(ether_type::VLAN) && bytes.len() >= 16 {
            let taken: Vec<u8> = bytes.drain(12..16).collect();
            if let [_, _, a, b] = *taken.as_slice() {
                tag = RECEIVE_TAG | u32::from(u16::from_le_bytes([a, b]));
            }
        }
        bytes.resize(bytes.len().max(SHORTEST), 0);
        let len = bytes.len().saturating_add(4);
        if len > LONGEST_PLUS {
            self.count(3);
            return Ok(());
        }
        let protocol = protocol(&bytes);
        bytes.extend_from_slice(&[0; 4]);
        // Collects all descriptors for the frame before any is written.
        let base = self.get64(reg::RDSAR) & !0xff;
        let start = self.positions.get(2).copied().unwrap_or(0);
        let mut position = start;
        let mut parts: Vec<(u64, ReceiveWord, u64, usize)> = Vec::new();
        let mut at = 0usize;
        while at < bytes.len() {
            // The frame needs the whole ring: it never fits, and would block all later frames.
            if position == start && !parts.is_empty() {
                self.count(3);
                return Ok(());
            }
            let address = base.wrapping_add(u64::from(position).saturating_mul(DESCRIPTOR));
            let mut d = [0; 16];
            if cx.memory.read(address, &mut d).is_err() {
                self.ring_errors = self.ring_errors.saturating_add(1);
                return Ok(());
            }
            let word = ReceiveWord::from_bits(d.first_chunk::<4>().map_or(0, |w| u32::from_le_bytes(*w)));
            let target = d.last_chunk::<8>().map_or(0, |w| u64::from_le_bytes(*w));
            let room = usize::from(word.size());
            if !word.own() || room == 0 || parts.len() >= RING as usize {
                self.raise(cause::OVERFLOW, cx);
                return Err(frame);
            }
            parts.push((address, word, target, at));
            at = at.saturating_add(room);
            position =
                if word.end_of_ring() || position.saturating_add(1) >= RING { 0 } else { position.saturating_add(1) };
        }
        let last = parts.len().saturating_sub(1);
        for (i, (address, word, target, at)) in parts.into_iter().enumerate() {
            let end = at.saturating_add(usize::from(word.size())).min(bytes.len());
            let written = cx.memory.write(target, bytes.get(at..end).unwrap_or_default());
            // Unverified checksums are reported as wrong, so that the guest checks them itself.
            let checked = plus.checksums() && frame.offload.verified;
            let done = ReceiveWord::new()
                .with_end_of_ring(word.end_of_ring())
                .with_first(i == 0)
                .with_last(i == last)
                .with_own_address(kind == Match::Own)
                .with_broadcast(kind == Match::Broadcast)
                .with_multicast(kind == Match::Multicast)
                .with_protocol(if checked { protocol } else { 0 })
                .with_size(len as u16 & 0x1fff);
            let back = [done.into_bits().to_le_bytes(), tag.to_le_bytes()].concat();
            // The word that returns the descriptor to the guest is written last.
            let given = cx
                .memory
                .write(address.wrapping_add(4), back.get(4..).unwrap_or_default())
                .and_then(|()| cx.memory.write(address, back.get(..4).unwrap_or_default()));
            if written.is_err() | given.is_err() {
                self.ring_errors = self.ring_errors.saturating_add(1);
            }
        }
        self.positions[2] = position;
        self.mark(cx);
        self.received(kind);
        self.raise(cause::RECEIVED, cx);
        Ok(())
    }

    fn received(&mut self, kind: Match) {
        self.count(1);
        self.count(match kind {
            Match::Own => 8,
            Match::Broadcast => 9,
            Match::Multicast => 10,
        });
    }
}

/// The protocol field of a receive descriptor: 1 TCP, 2 UDP, 3 other IP, 0 others. The card recognises only IPv4.
fn protocol(bytes: &[u8]) -> u8 {
    match (be16(bytes, 12), bytes.get(23)) {
        (Some(ether_type::IPV4), Some(6)) => 1,
        (Some(ether_type::IPV4), Some(17)) => 2,
        (Some(ether_type::IPV4), _) => 3,
        _ => 0,
    }
}
