//! Sending: C mode's four buffers (5.4), C+ mode's rings (7.2.1).
use super::spec::{DESCRIPTOR, RING, TRANSMIT_TAG, TransmitStatus, TransmitWord, cause, reg};
use super::{LARGEST, Rtl8139};
use crate::frame::{self, Frame, GsoKind, ether_type};
use crate::offload;
use crate::port::Way;
use bulkhead_bus::Context;

/// Most descriptors for one poll command: twice the ring. A driver that adds more polls again; a ring that looped-back frames
/// refill ends here.
const BUDGET: usize = 128;

impl Rtl8139 {
    /// C mode: sends buffer `index`, whose size and flags the driver has written.
    pub(super) fn send_buffer(&mut self, index: usize, value: u32, cx: &mut Context) {
        let at = index.saturating_mul(4);
        let status = TransmitStatus::from_bits(value);
        if status.own() || !self.command().transmit() {
            self.put(reg::TSD.saturating_add(at), &value.to_le_bytes());
            return;
        }
        let size = usize::from(status.size());
        let address = u64::from(self.get32(reg::TSAD.saturating_add(at)));
        let mut bytes = vec![0; size];
        let good = size <= LARGEST && cx.memory.read(address, &mut bytes).is_ok();
        if good && size > 0 {
            self.send(Frame { bytes, ..Frame::default() }, cx);
        } else if !good {
            self.ring_errors = self.ring_errors.saturating_add(1);
            self.count(2);
        }
        let status = status.with_own(true).with_ok(good).with_abort(!good);
        self.put(reg::TSD.saturating_add(at), &status.into_bits().to_le_bytes());
        self.raise(if good { cause::SENT } else { cause::SEND_ERROR }, cx);
    }

    /// C+ mode: sends the frames of the rings, the one of high priority first.
    pub(super) fn transmit(&mut self, cx: &mut Context) {
        if !self.running || !self.port.cable() || !self.command().transmit() || !self.plus().transmit() {
            return;
        }
        let [poll] = self.get::<1>(reg::TPPOLL);
        let mut left = poll;
        for (bit, which, base) in [(0x80u8, 1usize, reg::THPDS), (0x40, 0, reg::TNPDS)] {
            if left & bit != 0 && self.ring(which, self.get64(base), cx) {
                left &= !bit;
            }
        }
        self.put(reg::TPPOLL, &[left]);
    }

    /// Walks one ring. Returns whether it has reached a descriptor that does not belong to the card.
    fn ring(&mut self, which: usize, base: u64, cx: &mut Context) -> bool {
        let mut frame: Vec<u8> = Vec::new();
        let mut first: Option<(TransmitWord, u32)> = None;
        let mut bad = false;
        // A frame's descriptors are returned when the frame is complete.
        let mut walked: Vec<(u64, TransmitWord)> = Vec::new();
        let start = self.positions.get(which).copied().unwrap_or(0);
        let mut position = start;
        for _ in 0..BUDGET {
            if !self.port.flush(cx) {
                return false;
            }
            let address = base.wrapping_add(u64::from(position).saturating_mul(DESCRIPTOR));
            let mut bytes = [0; 16];
            if cx.memory.read(address, &mut bytes).is_err() {
                self.ring_errors = self.ring_errors.saturating_add(1);
                return true;
            }
            let mut words = bytes.chunks_exact(4).map(|w| w.first_chunk::<4>().map_or(0, |w| u32::from_le_bytes(*w)));
            let mut next = || words.next().unwrap_or(0);
            let (word, tag, low, high) = (TransmitWord::from_bits(next()), next(), next(), next());
            // The frame is incomplete: it is collected again at the next poll command.
            if !word.own() || walked.len() >= RING as usize {
                return true;
            }
            if word.first() {
                frame.clear();
                (first, bad) = (Some((word, tag)), false);
            }
            walked.push((address, word));
            position =
                if word.end_of_ring() || position.saturating_add(1) >= RING { 0 } else { position.saturating_add(1) };
            let (at, len) = (frame.len(), usize::from(word.size()));
            if at.saturating_add(len) > frame::MAX {
                bad = true;
            } else {
                frame.resize(at.saturating_add(len), 0);
                let read = frame.get_mut(at..).map(|to| cx.memory.read(u64::from(high) << 32 | u64::from(low), to));
                bad |= !matches!(read, Some(Ok(())));
            }
            if !word.last() {
                continue;
            }
            let bytes = std::mem::take(&mut frame);
            match first.take() {
                Some((word, tag)) if !bad && !bytes.is_empty() => self.emit(bytes, word, tag, cx),
                _ => self.ring_errors = self.ring_errors.saturating_add(1),
            }
            if let Some(place) = self.positions.get_mut(which) {
                *place = position;
            }
            // The mark is set before the descriptors are returned, because the guest may reuse the buffers then.
            self.mark(cx);
            for (address, word) in walked.drain(..) {
                let _ = cx.memory.write(address, &word.sent().into_bits().to_le_bytes());
            }
            self.raise(cause::SENT, cx);
        }
        true
    }

    /// Sends a complete frame; its first descriptor has the offloads.
    fn emit(&mut self, mut bytes: Vec<u8>, word: TransmitWord, tag: u32, cx: &mut Context) {
        if tag & TRANSMIT_TAG != 0 && bytes.len() >= 12 {
            let [t0, t1] = ether_type::VLAN.to_be_bytes();
            // The tag's bytes are in wire order (7.2.1).
            let [v0, v1, ..] = tag.to_le_bytes();
            bytes.splice(12..12, [t0, t1, v0, v1]);
            if bytes.len() > frame::MAX {
                self.ring_errors = self.ring_errors.saturating_add(1);
                return;
            }
        }
        let frame = if word.large() {
            let kind =
                match frame::be16(&bytes, 12).filter(|t| *t != ether_type::VLAN).or_else(|| frame::be16(&bytes, 16)) {
                    Some(ether_type::IPV6) => GsoKind::Tcp6,
                    _ => GsoKind::Tcp4,
                };
            match offload::large(bytes, kind, word.segment()) {
                Some(frame) => frame,
                None => {
                    self.ring_errors = self.ring_errors.saturating_add(1);
                    return;
                }
            }
        } else {
            offload::checksums(Frame { bytes, ..Frame::default() }, word.ip(), word.tcp() || word.udp())
        };
        self.send(frame, cx);
    }

    fn send(&mut self, frame: Frame, cx: &mut Context) {
        self.count(0);
        // Both bits: the frame is received by the card and not sent (5.8).
        let way = if self.get32(reg::TCR) >> 17 & 3 == 3 { Way::Loopback } else { Way::Cable };
        self.port.send(frame, way, true, cx);
    }
}
