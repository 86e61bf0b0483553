//! The transmit ring: descriptors to frames (SDM 3.3, 3.4, 3.5).
use super::E1000;
use super::spec::{Command, Ctrl, DESCRIPTOR, TRANSMIT_DONE, Tctl, TransmitDescriptor, cause, reg};
use crate::frame::{self, Frame, GsoKind, Offload, Partial};
use crate::offload;
use crate::port::Way;
use bulkhead_bus::Context;

/// Most descriptors that are handled before other work.
const BUDGET: usize = 256;

/// The last context descriptor: positions in the frame (SDM 3.3.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Checksums {
    pub(super) ip_start: u8,
    pub(super) ip_field: u8,
    pub(super) ip_end: u16,
    pub(super) tcp_start: u8,
    pub(super) tcp_field: u8,
    pub(super) segment: u16,
    pub(super) ipv4: bool,
    pub(super) tcp: bool,
}

/// A frame that is being collected.
#[derive(Clone, Debug, Default)]
pub(super) struct Transmit {
    pub(super) context: Checksums,
    /// Bytes collected so far. (The part has separate contexts for segmented packets; one serves both here, because drivers set a
    /// context for each packet.)
    bytes: Vec<u8>,
    /// The frame is too large or could not be read.
    bad: bool,
    /// From its first data descriptor: segments, checksums of IP and TCP.
    segment: bool,
    ip_sum: bool,
    tcp_sum: bool,
    begun: bool,
}

impl E1000 {
    /// Sends the frames in the ring, up to the budget.
    pub(super) fn transmit(&mut self, cx: &mut Context) {
        if !self.running || !Tctl::from_bits(self.get(reg::TCTL)).enable() || !self.link() {
            return;
        }
        let count = self.get(reg::TDLEN) >> 4;
        let base = u64::from(self.get(reg::TDBAH)) << 32 | u64::from(self.get(reg::TDBAL));
        let tail = self.get(reg::TDT);
        let mut causes = 0;
        for _ in 0..BUDGET {
            if !self.port.flush(cx) {
                break;
            }
            let head = self.get(reg::TDH);
            if head == tail {
                break;
            }
            // A head or tail outside of the ring stops it, because the walk would never end.
            if head >= count || tail >= count {
                self.ring_errors = self.ring_errors.saturating_add(1);
                break;
            }
            let address = base.wrapping_add(u64::from(head).saturating_mul(DESCRIPTOR));
            let mut bytes = [0; 16];
            let next = if head.saturating_add(1) == count { 0 } else { head.saturating_add(1) };
            if cx.memory.read(address, &mut bytes).is_err() {
                // The descriptor is outside of RAM: the guest loses the frames in this ring.
                self.ring_errors = self.ring_errors.saturating_add(1);
                self.set(reg::TDH, tail);
                self.mark_transmit(tail, cx);
                break;
            }
            let descriptor = TransmitDescriptor::from_bytes(&bytes);
            self.descriptor(descriptor, cx);
            let command = descriptor.command();
            if !(self.tx.begun || command.extended() && descriptor.kind() == 0) {
                // The frame has been sent. The mark is set before the guest sees its status, because the guest may reuse the
                // buffers then.
                self.mark_transmit(next, cx);
            }
            if command.report() || command.report_sent() {
                let status = descriptor.byte(4) | TRANSMIT_DONE;
                let _ = cx.memory.write(address.wrapping_add(12), &[status]);
                if command.delay() && self.get(reg::TIDV) != 0 {
                    self.delay_transmit(cx)
                } else {
                    causes |= cause::TXDW
                }
            }
            self.set(reg::TDH, next);
            if next == tail {
                causes |= cause::TXQE;
            }
        }
        self.raise(causes, cx);
        if self.get(reg::TDH) != tail && self.port.is_idle() && self.get(reg::TDH) < count && tail < count {
            cx.again();
        }
    }

    fn descriptor(&mut self, d: TransmitDescriptor, cx: &mut Context) {
        let command = d.command();
        if command.extended() && d.kind() == 0 {
            let [ip_start, ip_field, i0, i1, tcp_start, tcp_field, ..] = d.0.to_le_bytes();
            self.tx.context = Checksums {
                ip_start,
                ip_field,
                ip_end: u16::from_le_bytes([i0, i1]),
                tcp_start,
                tcp_field,
                segment: d.special(),
                ipv4: command.crc(),
                tcp: command.end(),
            };
            return;
        }
        let len = if command.extended() { (d.1 & 0xf_ffff) as usize } else { (d.1 & 0xffff) as usize };
        if command.extended() && d.kind() != 1 {
            return;
        }
        let tx = &mut self.tx;
        if !tx.begun {
            tx.begun = true;
            let options = if command.extended() { d.byte(5) } else { 0 };
            (tx.segment, tx.ip_sum, tx.tcp_sum) =
                (command.extended() && command.checksum_or_segment(), options & 1 != 0, options & 2 != 0);
        }
        let at = tx.bytes.len();
        if at.saturating_add(len) > frame::MAX {
            tx.bad = true;
        } else {
            tx.bytes.resize(at.saturating_add(len), 0);
            let read = tx.bytes.get_mut(at..).map(|to| cx.memory.read(d.0, to));
            tx.bad |= !matches!(read, Some(Ok(())));
        }
        if command.end() {
            let tx = std::mem::take(&mut self.tx);
            self.tx.context = tx.context;
            if tx.bad {
                self.ring_errors = self.ring_errors.saturating_add(1);
            } else if !tx.bytes.is_empty() {
                self.emit(tx, d, command, cx);
            }
        }
    }

    /// Sends a complete frame.
    fn emit(&mut self, tx: Transmit, last: TransmitDescriptor, command: Command, cx: &mut Context) {
        let context = tx.context;
        let mut bytes = tx.bytes;
        let mut shift = 0;
        if command.vlan() && Ctrl::from_bits(self.get(reg::CTRL)).vlan() && bytes.len() >= 12 {
            let [t0, t1] = (self.get(reg::VET) as u16).to_be_bytes();
            let [s0, s1] = last.special().to_be_bytes();
            bytes.splice(12..12, [t0, t1, s0, s1]);
            shift = 4;
            if bytes.len() > frame::MAX {
                self.ring_errors = self.ring_errors.saturating_add(1);
                return;
            }
        }
        let place = |at: u8| usize::from(at).saturating_add(shift);
        let partial = |start: u8, field: u8| {
            let offset = u16::from(field.checked_sub(start)?);
            Some(Partial { start: u16::try_from(place(start)).ok()?, offset })
        };
        let frame = if tx.segment {
            let kind = if context.ipv4 { GsoKind::Tcp4 } else { GsoKind::Tcp6 };
            match offload::large(bytes, kind, context.segment).filter(|_| context.tcp) {
                Some(frame) => frame,
                None => {
                    self.set_stat(reg::TSCTC.wrapping_add(4), 1);
                    return;
                }
            }
        } else {
            if tx.ip_sum {
                // An end of zero stands for the frame's end.
                let end = if context.ip_end == 0 {
                    bytes.len()
                } else {
                    usize::from(context.ip_end).saturating_add(shift).saturating_add(1)
                };
                let end = end.min(bytes.len());
                if let (Some(partial), Some(header)) =
                    (partial(context.ip_start, context.ip_field), bytes.get_mut(..end))
                {
                    frame::put_be16(header, place(context.ip_field), 0);
                    offload::complete(header, partial);
                }
            }
            let mut checksum = if tx.tcp_sum { partial(context.tcp_start, context.tcp_field) } else { None };
            if !command.extended() && command.checksum_or_segment() {
                let (field, start) = (last.byte(2), last.byte(5));
                checksum = partial(start, field);
            }
            // A checksum outside of the frame is not completed.
            checksum = checksum.filter(|c| {
                usize::from(c.start).saturating_add(usize::from(c.offset)).saturating_add(2) <= bytes.len()
            });
            Frame { bytes, offload: Offload { checksum, ..Offload::default() } }
        };
        if frame.offload.segmentation.is_some() {
            self.set_stat(reg::TSCTC, 1);
        }
        self.send(frame, cx);
    }

    fn send(&mut self, frame: Frame, cx: &mut Context) {
        self.sent(&frame);
        let way = if self.rctl().loopback() == 3 { Way::Loopback } else { Way::Cable };
        let pad = Tctl::from_bits(self.get(reg::TCTL)).pad();
        self.port.send(frame, way, pad, cx);
    }

    /// Counts a frame that was sent (13.7).
    fn sent(&mut self, frame: &Frame) {
        let len = frame.bytes.len().saturating_add(4);
        self.count_size(reg::PTC64, len);
        self.set_stat(reg::TPT, 1);
        self.set_stat(reg::GPTC, 1);
        self.add_octets(reg::TOTL, len);
        self.add_octets(reg::GOTCL, len);
        match frame.bytes.get(..6) {
            Some([0xff, 0xff, 0xff, 0xff, 0xff, 0xff]) => self.set_stat(reg::BPTC, 1),
            Some([first, ..]) if first & 1 != 0 => self.set_stat(reg::MPTC, 1),
            _ => {}
        }
    }
}
