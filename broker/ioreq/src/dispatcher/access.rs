//! One request: its device, its reply and effects.
use super::Dispatcher;
use crate::cf8;
use crate::channel::DeviceChannel;
use crate::edge::Edge;
use crate::presence::Change;
use crate::route::Target;
use crate::vcpu::{Purpose, VcpuState, Waiting};
use bulkhead_plan::Death;
use bulkhead_wire::{self as wire, Op, PAYLOAD, Posted, Reply, Request, RequestFlags, Step};
use bulkhead_xen_abi::Shutdown;
use bulkhead_xen_abi::ioreq::{self, Ioreq};

impl<E: Edge> Dispatcher<E> {
    fn complete(&mut self, vcpu: usize, request: &Ioreq, data: Option<u64>) {
        if let Some(state) = self.vcpus.get_mut(vcpu) {
            *state = VcpuState::Idle;
        }
        self.edge.complete(vcpu, request, data);
    }

    /// Answers an access to an address without a device.
    fn unclaimed(&mut self, vcpu: usize, request: &Ioreq) {
        self.counters.unclaimed = self.counters.unclaimed.saturating_add(1);
        self.answer_ones(vcpu, request);
    }

    fn answer_ones(&mut self, vcpu: usize, request: &Ioreq) {
        if request.bits.read() && request.bits.data_is_ptr() {
            let len = (request.count as usize).saturating_mul(request.size as usize).min(PAYLOAD);
            self.operand_write(request, &vec![0xff; len]);
            self.complete(vcpu, request, None);
        } else {
            let data = request.bits.read().then(|| ones(request.size));
            self.complete(vcpu, request, data);
        }
    }

    pub(super) fn handle(&mut self, vcpu: usize, request: Ioreq) {
        match request.kind {
            ioreq::IOREQ_TYPE_PIO | ioreq::IOREQ_TYPE_COPY => self.access(vcpu, request),
            ioreq::IOREQ_TYPE_PCI_CONFIG => self.config(vcpu, request),
            ioreq::IOREQ_TYPE_INVALIDATE => {
                self.counters.invalidations = self.counters.invalidations.saturating_add(1);
                self.memory.invalidate();
                self.barrier(vcpu, request, Request::without_address(Op::Invalidate, 0), |c| c.declaration.dma, None);
            }
            ioreq::IOREQ_TYPE_TIMEOFFSET => {
                tracing::info!("the guest has set its clock by {} s", request.data as i64);
                self.complete(vcpu, &request, None);
            }
            _ => {
                self.counters.malformed = self.counters.malformed.saturating_add(1);
                self.answer_ones(vcpu, &request);
            }
        }
    }

    /// Sends a request to all channels for which `concerns` is true; the guest's access is answered with `data` when all have
    /// replied.
    fn barrier(
        &mut self,
        vcpu: usize,
        request: Ioreq,
        what: Request,
        concerns: impl Fn(&DeviceChannel) -> bool,
        data: Option<u64>,
    ) {
        let concerned: Vec<usize> =
            self.channels.iter().enumerate().filter(|(_, c)| concerns(c)).map(|(i, _)| i).collect();
        let channels: Vec<usize> = concerned.into_iter().filter(|i| self.send(*i, vcpu, what, &[])).collect();
        if channels.is_empty() {
            self.remove_unplugged();
            self.complete(vcpu, &request, data);
        } else if let Some(state) = self.vcpus.get_mut(vcpu) {
            *state = VcpuState::Waiting(Waiting {
                request,
                purpose: Purpose::Barrier,
                channels,
                ticks: 0,
                again: None,
                data,
            });
        }
    }

    fn access(&mut self, vcpu: usize, request: Ioreq) {
        let port = request.kind == ioreq::IOREQ_TYPE_PIO;
        if port
            && cf8::covers(request.addr)
            && request.count == 1
            && !request.bits.data_is_ptr()
            && let Some(value) = self.cf8.as_mut().and_then(|c| c.access(&request, &mut self.edge))
        {
            let data = request.bits.read().then_some(u64::from(value));
            return self.complete(vcpu, &request, data);
        }
        let Some(shape) = Shaped::of(&request, port) else {
            self.counters.malformed = self.counters.malformed.saturating_add(1);
            return self.answer_ones(vcpu, &request);
        };
        let space = if port { &self.ports } else { &self.addresses };
        let (channel, region, offset) = match space.find(shape.first, shape.last) {
            Some((Target::Region { channel, region }, offset)) => (channel, region, offset.wrapping_add(shape.start)),
            Some((Target::Rom { channel, function }, offset)) => {
                return self.rom(vcpu, request, channel, function, offset.wrapping_add(shape.start));
            }
            None => return self.unclaimed(vcpu, &request),
        };
        let single = request.count == 1 && !request.bits.data_is_ptr();
        if single && request.bits.read() && self.shadowed(vcpu, &request, channel, region, offset) {
            return;
        }
        if self.held.is_some_and(|(c, _)| c == channel) {
            return self.block(vcpu, request);
        }
        let posts = self.channels.get(channel).is_some_and(|c| {
            c.declaration
                .regions
                .get(usize::from(region))
                .is_some_and(|r| r.posted || single && r.posted_at.iter().any(|at| u64::from(*at) == offset))
        });
        if posts && !request.bits.read() && !request.bits.data_is_ptr() {
            let what = Posted {
                offset,
                data: request.data & ones(request.size),
                count: request.count,
                region,
                size: shape.size,
                step: shape.step as u8,
            };
            if let Some(c) = self.channels.get_mut(channel).filter(|c| single && c.live.is_none() && c.keeps(region)) {
                c.miss(what);
            }
            if self.post(channel, &what) {
                self.complete(vcpu, &request, None);
            } else {
                self.block(vcpu, request);
            }
            return;
        }
        self.hop(vcpu, request, channel, region, offset, &shape);
    }

    fn block(&mut self, vcpu: usize, request: Ioreq) {
        if let Some(state) = self.vcpus.get_mut(vcpu) {
            *state = VcpuState::Blocked(request);
        }
    }

    /// Answers from the device's shadow, if it is valid and no outstanding posted write could change it.
    fn shadowed(&mut self, vcpu: usize, request: &Ioreq, channel: usize, region: u16, offset: u64) -> bool {
        let Some(c) = self.channels.get_mut(channel) else { return false };
        let shadows = c.declaration.regions.get(usize::from(region)).map_or(&[][..], |r| &r.shadows);
        let Some((_, _, index)) =
            shadows.iter().find(|(at, size, _)| u64::from(*at) == offset && u32::from(*size) == request.size).copied()
        else {
            return false;
        };
        if !matches!(c.posted(), Ok(0)) {
            return false;
        }
        let Some(value) = c.live.as_ref().and_then(|l| l.end.shadow(usize::from(index))) else { return false };
        // The device publishes its lines before its shadows, and the guest must not see the value before the interrupt.
        c.update_lines(&mut self.edge);
        self.counters.shadowed = self.counters.shadowed.saturating_add(1);
        self.complete(vcpu, request, Some(u64::from(value) & ones(request.size)));
        true
    }

    fn rom(&mut self, vcpu: usize, request: Ioreq, channel: usize, function: usize, offset: u64) {
        self.counters.rom = self.counters.rom.saturating_add(1);
        if !request.bits.read() {
            return self.complete(vcpu, &request, None);
        }
        let len = (request.count as usize).saturating_mul(request.size as usize).min(PAYLOAD);
        let rom = self.channels.get(channel).and_then(|c| c.roms.get(function)).and_then(Option::as_ref);
        let mut bytes = vec![0xff; len];
        if let Some(from) = rom.and_then(|r| r.get(offset as usize..)) {
            for (to, from) in bytes.iter_mut().zip(from) {
                *to = *from;
            }
        }
        if request.bits.data_is_ptr() {
            self.operand_write(&request, &bytes);
            return self.complete(vcpu, &request, None);
        }
        let mut value = [0; 8];
        for (to, from) in value.iter_mut().zip(bytes.iter().take(request.size as usize)) {
            *to = *from;
        }
        self.complete(vcpu, &request, Some(u64::from_le_bytes(value)));
    }

    /// Sends the request to the device's process: the full hop.
    fn hop(&mut self, vcpu: usize, request: Ioreq, channel: usize, region: u16, offset: u64, shape: &Shaped) {
        let read = request.bits.read();
        let pointer = request.bits.data_is_ptr();
        let mut payload = std::mem::take(&mut self.scratch);
        payload.clear();
        if pointer && !read {
            payload.resize((request.count as usize).saturating_mul(request.size as usize), 0);
            if self.operand_read(&request, &mut payload).is_err() {
                payload.fill(0xff);
            }
        }
        let what = Request {
            op: if read { Op::Read as u8 } else { Op::Write as u8 },
            size: shape.size,
            step: shape.step as u8,
            flags: RequestFlags::new().with_payload(pointer && !read),
            region,
            pad: 0,
            count: request.count,
            posted: 0,
            offset,
            data: request.data & ones(request.size),
        };
        let kept =
            !read && !pointer && request.count == 1 && self.channels.get(channel).is_some_and(|c| c.keeps(region));
        let again = kept.then_some(Posted {
            offset,
            data: what.data,
            count: 1,
            region,
            size: shape.size,
            step: shape.step as u8,
        });
        let sent = self.send(channel, vcpu, what, &payload);
        self.scratch = payload;
        if sent {
            self.counters.hops = self.counters.hops.saturating_add(1);
            let purpose = if read { Purpose::Access } else { Purpose::Write { region, offset } };
            self.wait(vcpu, request, channel, purpose, again);
        } else {
            match (again, self.channels.get_mut(channel)) {
                (Some(again), Some(c)) => c.miss(again),
                (None, Some(c)) if !read => c.lose(region, offset),
                _ => {}
            }
            self.counters.dead = self.counters.dead.saturating_add(1);
            self.answer_ones(vcpu, &request);
        }
    }

    fn wait(&mut self, vcpu: usize, request: Ioreq, channel: usize, purpose: Purpose, again: Option<Posted>) {
        if let Some(state) = self.vcpus.get_mut(vcpu) {
            *state =
                VcpuState::Waiting(Waiting { request, purpose, channels: vec![channel], ticks: 0, again, data: None });
        }
    }

    pub(super) fn config(&mut self, vcpu: usize, request: Ioreq) {
        let bdf = (request.addr >> 32) as u16;
        let offset = request.addr as u8;
        let known = request.addr >> 48 == 0 && request.addr & 0xff00 == 0;
        let valid = matches!(request.size, 1 | 2 | 4) && request.count == 1 && !request.bits.data_is_ptr();
        let place = self
            .channels
            .iter()
            .enumerate()
            .filter(|(_, c)| c.presence.decoded())
            .find_map(|(i, c)| c.functions.iter().position(|f| f.spec.bdf() == bdf).map(|f| (i, f)));
        let Some((index, function)) = place.filter(|_| known && valid) else {
            return self.unclaimed(vcpu, &request);
        };
        let size = request.size as u8;
        if request.bits.read() {
            let value = self.channels.get_mut(index).and_then(|c| {
                let quiet = matches!(c.posted(), Ok(0));
                c.live.as_ref().filter(|_| quiet).map(|l| l.end.config(function, offset))
            });
            if let Some(value) = value {
                self.counters.config = self.counters.config.saturating_add(1);
                return self.complete(vcpu, &request, Some(u64::from(value) & ones(request.size)));
            }
        }
        let what = Request {
            op: if request.bits.read() { Op::Read as u8 } else { Op::Write as u8 },
            size,
            step: Step::Stay as u8,
            flags: RequestFlags::new(),
            region: wire::config_region(function as u8),
            pad: 0,
            count: 1,
            posted: 0,
            offset: u64::from(offset),
            data: request.data & ones(request.size),
        };
        if !self.send(index, vcpu, what, &[]) {
            self.counters.dead = self.counters.dead.saturating_add(1);
            return self.answer_ones(vcpu, &request);
        }
        self.counters.hops = self.counters.hops.saturating_add(1);
        let value = request.data as u32;
        let purpose = if request.bits.read() { Purpose::Access } else { Purpose::ConfigWrite { offset, size, value } };
        self.wait(vcpu, request, index, purpose, None);
    }

    /// Handles the reply of channel `index` to vCPU `vcpu`'s request, or the channel's death (`None`).
    pub(super) fn answered(&mut self, vcpu: usize, index: usize, reply: Option<Reply>) {
        let Some(VcpuState::Waiting(waiting)) = self.vcpus.get_mut(vcpu) else { return };
        let Some(at) = waiting.channels.iter().position(|c| *c == index) else { return };
        waiting.channels.swap_remove(at);
        if !waiting.channels.is_empty() {
            return;
        }
        let Some(VcpuState::Waiting(waiting)) = self.vcpus.get_mut(vcpu).map(std::mem::take) else { return };
        let request = waiting.request;
        let Some(reply) = reply.filter(|_| waiting.purpose != Purpose::Barrier) else {
            if waiting.purpose == Purpose::Barrier {
                self.remove_unplugged();
                return self.complete(vcpu, &request, waiting.data);
            }
            match (waiting.again, waiting.purpose, self.channels.get_mut(index)) {
                (Some(again), _, Some(c)) => c.miss(again),
                // It is unknown whether the write was carried out.
                (None, Purpose::Write { region, offset }, Some(c)) => c.lose(region, offset),
                _ => {}
            }
            self.counters.dead = self.counters.dead.saturating_add(1);
            return self.answer_ones(vcpu, &request);
        };
        if let Purpose::ConfigWrite { offset, size, value } = waiting.purpose {
            self.config_written(index, (request.addr >> 32) as u16, offset, size, value);
        }
        let data = if !request.bits.read() {
            None
        } else if request.bits.data_is_ptr() || request.count > 1 {
            let len = (request.count as usize).saturating_mul(request.size as usize);
            let mut bytes = vec![0xff; len.min(PAYLOAD)];
            let channel = self.channels.get(index).and_then(|c| c.live.as_ref());
            let _ = channel.is_some_and(|l| l.end.payload(vcpu, &mut bytes));
            if request.bits.data_is_ptr() {
                self.operand_write(&request, &bytes);
                None
            } else {
                let mut last = [0; 8];
                let size = request.size as usize;
                for (to, from) in last.iter_mut().zip(bytes.iter().skip(len.saturating_sub(size))) {
                    *to = *from;
                }
                Some(u64::from_le_bytes(last))
            }
        } else {
            Some(reply.value & ones(request.size))
        };
        self.effects(vcpu, request, index, &reply, data);
    }

    /// Carries out the permitted effects of a reply, then answers the request.
    fn effects(&mut self, vcpu: usize, request: Ioreq, index: usize, reply: &Reply, data: Option<u64>) {
        let Some(may) = self.channels.get(index).map(|c| c.declaration.permissions) else { return };
        let effects = reply.effects;
        if !may.allow(effects) {
            self.complete(vcpu, &request, data);
            return self.kill(index, Death::Protocol);
        }
        if effects.rom_lock() || effects.rom_unlock() {
            self.set_rom_writable(effects.rom_unlock());
        }
        if effects.power_off() {
            self.edge.shutdown(Shutdown::PowerOff);
        } else if effects.reboot() {
            self.edge.shutdown(Shutdown::Reboot);
        }
        if effects.eject() {
            self.eject(reply.mask);
        }
        if effects.unplug() {
            let mask = reply.mask as u16;
            for channel in self.channels.iter_mut().filter(|c| c.declaration.unplug & mask != 0) {
                if channel.declaration.unplug_removes {
                    channel.presence.change(Change::UnplugAll);
                } else {
                    channel.presence.change(Change::UnplugParts);
                    channel.parts = channel.declaration.unplug & mask;
                }
            }
            let what = Request::without_address(Op::Unplug, u64::from(mask));
            return self.barrier(vcpu, request, what, |c| c.declaration.unplug & mask != 0, data);
        }
        self.complete(vcpu, &request, data);
    }

    /// Lowest address of a string operation's operand in guest memory; with DF set, its first element is the highest.
    fn operand_address(request: &Ioreq) -> u64 {
        let back = u64::from(request.count).saturating_sub(1).saturating_mul(u64::from(request.size));
        if request.bits.df() { request.data.wrapping_sub(back) } else { request.data }
    }

    fn operand_read(&self, request: &Ioreq, to: &mut [u8]) -> Result<(), bulkhead_bus::DmaError> {
        self.memory.read(Self::operand_address(request), to)?;
        if request.bits.df() {
            reverse(to, request.size as usize);
        }
        Ok(())
    }

    fn operand_write(&self, request: &Ioreq, from: &[u8]) {
        let mut bytes = from.to_vec();
        if request.bits.df() {
            reverse(&mut bytes, request.size as usize);
        }
        let _ = self.memory.write(Self::operand_address(request), &bytes);
    }
}

/// `size` bytes of ones.
fn ones(size: u32) -> u64 {
    if size >= 8 { u64::MAX } else { (1u64 << (size.wrapping_mul(8) & 63)).wrapping_sub(1) }
}

fn reverse(bytes: &mut [u8], size: usize) {
    bytes.reverse();
    for element in bytes.chunks_exact_mut(size.max(1)) {
        element.reverse();
    }
}

/// A validated access.
#[derive(Debug, PartialEq, Eq)]
struct Shaped {
    /// Lowest and highest byte.
    first: u64,
    last: u64,
    /// Offset of the first element from `first`.
    start: u64,
    size: u8,
    step: Step,
}

impl Shaped {
    fn of(request: &Ioreq, port: bool) -> Option<Self> {
        let size = u8::try_from(request.size).ok().filter(|s| matches!(s, 1 | 2 | 4) || (*s == 8 && !port))?;
        let span = u64::from(request.count).checked_mul(u64::from(size))?;
        if request.count == 0 || span > wire::PAYLOAD as u64 {
            return None;
        }
        if port {
            let last = request.addr.checked_add(u64::from(size).checked_sub(1)?)?;
            return (last <= 0xffff).then_some(Self { first: request.addr, last, start: 0, size, step: Step::Stay });
        }
        let behind = span.checked_sub(u64::from(size))?;
        let down = request.bits.df() && request.count > 1;
        let first = if down { request.addr.checked_sub(behind)? } else { request.addr };
        let last = first.checked_add(span.checked_sub(1)?)?;
        let start = if down { behind } else { 0 };
        Some(Self { first, last, start, size, step: if down { Step::Down } else { Step::Up } })
    }
}
