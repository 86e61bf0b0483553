//! Carries the guest's accesses from a cell to the device, and the answers back.
use super::Data;
use bulkhead_bus::{Access, Clock, Reset};
use bulkhead_wire::{self as wire, Op, Reply, Request};

impl Data {
    pub(super) fn request(&mut self, cell: usize, what: Request) {
        self.counters.requests = self.counters.requests.saturating_add(1);
        let Some(op) = Op::from_u8(what.op) else { return };
        let mut payload = Vec::new();
        let value = match op {
            Op::Read | Op::Write => self.access(cell, op, &what, &mut payload),
            Op::Invalidate | Op::Unplug => {
                self.deferred.push((cell, what));
                return;
            }
            Op::Reset => {
                self.device.reset(Reset::Machine, &mut self.cx);
                self.config_dirty = true;
                0
            }
            Op::NextDeadline if self.cx.clock.is_real() => u64::MAX,
            Op::NextDeadline => self.cx.timers.next().unwrap_or(u64::MAX),
            Op::Advance => {
                if let Clock::Driven(now) = &mut self.cx.clock {
                    *now = what.data;
                    self.due();
                }
                0
            }
        };
        self.answer(cell, value, &payload);
    }

    fn access(&mut self, cell: usize, op: Op, what: &Request, payload: &mut Vec<u8>) -> u64 {
        let value = self.access_untraced(cell, op, what, payload);
        if self.trace.is_some() {
            self.record(cell, op, what, value, payload);
        }
        value
    }

    /// Writes the request and its result to the trace.
    fn record(&mut self, cell: usize, op: Op, what: &Request, value: u64, payload: &[u8]) {
        let Some(trace) = &mut self.trace else { return };
        let write = op == Op::Write;
        if let Some(function) = wire::config_function(what.region) {
            if write {
                trace.config(function, what.offset as u8, what.size, what.data);
            }
            return;
        }
        let at = Access::new(what.region, what.offset, what.size);
        let bytes = (what.count as usize).saturating_mul(usize::from(what.size)).min(wire::PAYLOAD);
        let mut data = vec![0; bytes];
        match (write, what.count > 1 || what.flags.payload()) {
            (false, false) => fill(&mut data, value, what.size),
            (false, true) => data = payload.to_vec(),
            (true, _) if what.flags.payload() => {
                let _ = self.channel.payload(cell, &mut data);
            }
            (true, _) => fill(&mut data, what.data, what.size),
        }
        trace.access(&*self.device, at, &data, write);
    }

    fn access_untraced(&mut self, cell: usize, op: Op, what: &Request, payload: &mut Vec<u8>) -> u64 {
        self.counters.accesses = self.counters.accesses.saturating_add(1);
        if let Some(function) = wire::config_function(what.region) {
            let offset = what.offset as u8;
            if op == Op::Read {
                return u64::from(self.device.config_read(function, offset, what.size));
            }
            self.device.config_write(function, offset, what.size, what.data as u32, &mut self.cx);
            self.config_dirty = true;
            return 0;
        }
        let at = Access::new(what.region, what.offset, what.size);
        let bytes = (what.count as usize).saturating_mul(usize::from(what.size));
        let string = what.count > 1 || what.flags.payload();
        let result = match (op, string) {
            (Op::Read, false) => {
                let value = bulkhead_bus::bus_read(&mut *self.device, at, &mut self.cx);
                return self.value_or_ones(value);
            }
            (Op::Write, false) => bulkhead_bus::bus_write(&mut *self.device, at, what.data, &mut self.cx),
            (Op::Read, true) => {
                payload.resize(bytes, 0xff);
                self.each(at, what.step, payload, false)
            }
            (_, true) => {
                payload.resize(bytes, 0);
                if what.flags.payload() {
                    let _ = self.channel.payload(cell, payload);
                } else {
                    fill(payload, what.data, what.size);
                }
                let done = self.each(at, what.step, payload, true);
                payload.clear();
                done
            }
            _ => Ok(()),
        };
        self.value_or_ones(result.map(|()| 0))
    }

    /// A string operation: in one call for a port, element by element if the address changes.
    fn each(&mut self, at: Access, step: u8, data: &mut [u8], write: bool) -> bulkhead_bus::IoResult<()> {
        if step == wire::Step::Stay as u8 {
            return if write {
                self.device.write_string(at, data, &mut self.cx)
            } else {
                self.device.read_string(at, data, &mut self.cx)
            };
        }
        let size = usize::from(at.size);
        let mut offset = at.offset;
        for element in data.chunks_exact_mut(size) {
            let at = Access { offset, ..at };
            let done = if write {
                self.device.write_string(at, element, &mut self.cx)
            } else {
                self.device.read_string(at, element, &mut self.cx)
            };
            done?;
            let size = u64::from(at.size);
            offset = if step == wire::Step::Up as u8 { offset.wrapping_add(size) } else { offset.wrapping_sub(size) };
        }
        Ok(())
    }

    /// The value of a read; all ones, and counted, if the device does not respond.
    fn value_or_ones(&mut self, result: bulkhead_bus::IoResult<u64>) -> u64 {
        result.unwrap_or_else(|_| {
            self.counters.refused = self.counters.refused.saturating_add(1);
            u64::MAX
        })
    }

    pub(super) fn posted(&mut self, what: wire::Posted) {
        self.counters.posted = self.counters.posted.saturating_add(1);
        self.stale = true;
        if what.region == wire::LOST_WRITES {
            self.device.lost_writes(what.data as u16, what.offset, &mut self.cx);
            return self.channel.posted_done();
        }
        let at = Access::new(what.region, what.offset, what.size);
        if let Some(trace) = &mut self.trace {
            let mut data =
                vec![0; (what.count.max(1) as usize).saturating_mul(usize::from(what.size)).min(wire::PAYLOAD)];
            fill(&mut data, what.data, what.size);
            trace.access(&*self.device, at, &data, true);
        }
        if what.count <= 1 {
            let _ = bulkhead_bus::bus_write(&mut *self.device, at, what.data, &mut self.cx);
        } else {
            let bytes = (what.count as usize).saturating_mul(usize::from(what.size)).min(wire::PAYLOAD);
            let mut data = vec![0; bytes];
            fill(&mut data, what.data, what.size);
            let _ = self.each(at, what.step, &mut data, true);
        }
        self.channel.posted_done();
    }

    pub(super) fn answer(&mut self, cell: usize, value: u64, payload: &[u8]) {
        self.publish();
        let effects = std::mem::take(&mut self.cx.effects);
        let reply = Reply { value, effects: effects.bits, mask: effects.mask };
        if self.channel.reply(cell, &reply, payload) {
            self.ring();
        }
    }
}

/// Fills `to` with copies of the `size` low bytes of `data`.
fn fill(to: &mut [u8], data: u64, size: u8) {
    let bytes = data.to_le_bytes();
    for element in to.chunks_exact_mut(usize::from(size).max(1)) {
        element.copy_from_slice(bytes.get(..element.len()).unwrap_or(&bytes));
    }
}
