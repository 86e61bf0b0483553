//! What happens to a request, and to its reply.
use crate::cf8::{self, Cf8};
use crate::channel::Channel;
use crate::edge::Edge;
use crate::pci;
use crate::route::{Space, Target};
use crate::vcpu::{Purpose, Slot, Waiting};
use bulkhead_bus::pci::{BarKind, Decode};
use bulkhead_bus::plan::{Death, Slot as ProcessSlot};
use bulkhead_bus::{Area, Declaration, GuestMemory};
use bulkhead_ring::BrokerEnd;
use bulkhead_wire::{self as wire, Op, PAYLOAD, Posted, Reply, Request, RequestFlags, Shape, Step};
use bulkhead_xen::Range;
use bulkhead_xen_abi::Shutdown;
use bulkhead_xen_abi::ioreq::{self, Ioreq};
use rustix::fd::OwnedFd;
use std::sync::Arc;

/// Ticks after which a device that has not answered is reported.
const TICKS_WARN: u32 = 10;
/// Ticks after which it is killed.
const TICKS_KILL: u32 = 50;
/// Regions from here on are configuration spaces.
const CONFIG_REGION: u16 = 0xff00;
/// Buffered requests that are taken in one go.
const BUFFERED_BUDGET: usize = 512;

/// A device, as the roles executable describes it to the broker.
pub struct MachineDevice {
    /// Its slot.
    pub slot: ProcessSlot,
    /// For people.
    pub name: String,
    /// What it has; from its configuration, not from the process.
    pub declaration: Declaration,
    /// Contents of its first function's expansion ROM.
    pub rom: Option<Vec<u8>>,
    /// Where its video RAM is: guest frame and pages.
    pub video_ram: Option<(u64, u32)>,
    /// It is not there before its process is, and the guest may eject it.
    pub added: bool,
}

/// What the launcher has to hear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A device is given up.
    Dead(ProcessSlot, Death),
    /// Video RAM has moved.
    VideoRamAt(u64),
    /// The guest has unplugged a device, and has been told that it is done.
    Unplugged(ProcessSlot),
    /// The guest has ejected a device that was added.
    Ejected(ProcessSlot),
    /// The guest has unplugged what these bits of the protocol's mask mean of the device: nobody shall have it again.
    PartsUnplugged(ProcessSlot, u16),
}

struct VideoRam {
    channel: usize,
    home: u64,
    gfn: u64,
    pages: u32,
}

#[derive(Debug, Default)]
struct Counters {
    hops: u64,
    shadowed: u64,
    config: u64,
    rom: u64,
    posted: u64,
    buffered: u64,
    nobody: u64,
    dead: u64,
    malformed: u64,
    invalidations: u64,
}

/// A broadcast that the broker itself has started, on its own cell.
struct Own {
    channels: Vec<usize>,
    lowest: u64,
}

/// The broker without its waiting: give it events, it does all that can be done.
pub struct Machine<E> {
    /// The hypervisor.
    pub edge: E,
    shape: Shape,
    memory: Arc<dyn GuestMemory>,
    channels: Vec<Channel>,
    ports: Space,
    addresses: Space,
    vcpus: Vec<Slot>,
    /// A buffered write that found no room.
    held: Option<(usize, Posted)>,
    video_ram: Option<VideoRam>,
    own: Option<Own>,
    actions: Vec<Action>,
    counters: Counters,
    scratch: Vec<u8>,
    cf8: Option<Cf8>,
}

impl<E: Edge> Machine<E> {
    /// A machine with these devices, none of them online. `memory` is for operands of string operations.
    pub fn new(edge: E, vcpus: u16, shape: Shape, memory: Arc<dyn GuestMemory>, devices: Vec<MachineDevice>) -> Self {
        let mut machine = Self {
            edge,
            shape,
            memory,
            channels: Vec::new(),
            ports: Space::default(),
            addresses: Space::default(),
            vcpus: (0..vcpus).map(|_| Slot::Idle).collect(),
            held: None,
            video_ram: None,
            own: None,
            actions: Vec::new(),
            counters: Counters::default(),
            scratch: Vec::new(),
            cf8: None,
        };
        machine.cf8 = Some(Cf8::new(&mut machine.edge));
        for device in devices {
            machine.add(device);
        }
        machine
    }

    fn add(&mut self, device: MachineDevice) {
        let channel = self.channels.len();
        if let Some((gfn, pages)) = device.video_ram {
            self.video_ram = Some(VideoRam { channel, home: gfn, gfn, pages });
        }
        for (i, region) in device.declaration.regions.iter().enumerate() {
            let target = Target::Region { channel, region: i as u16 };
            let (added, range) = match region.area {
                Area::Ports { base, len } => {
                    let last = base.saturating_add(len.saturating_sub(1));
                    (self.ports.add(u64::from(base), u64::from(len), target), Range::Ports(base, last))
                }
                Area::Memory { base, len } => {
                    let last = base.saturating_add(len.saturating_sub(1));
                    (self.addresses.add(base, len, target), Range::Memory(base, last))
                }
                Area::Bar { .. } => continue,
            };
            if matches!(range, Range::Ports(first, last) if cf8::covers(u64::from(first)) && first == last) {
                // Claimed together with the rest of the address register.
            } else if added {
                self.edge.claim(range, true);
            } else {
                tracing::error!("{}: {} overlaps another device's region; it is not there", device.name, region.name);
            }
        }
        let mut new = Channel::new(device.slot, device.name, device.declaration, device.rom);
        (new.added, new.removed) = (device.added, device.added);
        self.channels.push(new);
        if !device.added {
            self.claim_functions(channel, true);
        }
    }

    fn claim_functions(&mut self, index: usize, claimed: bool) {
        for function in self.channels.get(index).map_or(&[][..], |c| &c.functions) {
            self.edge.claim(Range::Pci(function.spec.bdf()), claimed);
        }
    }

    /// The guest ejects devices: nothing of them is left before it goes on.
    fn eject(&mut self, mask: u32) {
        for index in 0..self.channels.len() {
            let Some(channel) = self.channels.get_mut(index).filter(|c| c.added && !c.removed) else { continue };
            if !channel.functions.iter().any(|f| mask >> f.spec.device & 1 != 0) {
                continue;
            }
            channel.removed = true;
            let (slot, functions) = (channel.slot, channel.functions.len());
            self.drop_channel(index);
            for at in 0..functions {
                self.decode(index, at, Decode::default());
                if let Some(function) = self.channels.get_mut(index).and_then(|c| c.functions.get_mut(at)) {
                    function.reset();
                }
            }
            self.claim_functions(index, false);
            self.actions.push(Action::Ejected(slot));
        }
    }

    fn channel_of(&self, slot: ProcessSlot) -> Option<usize> {
        self.channels.iter().position(|c| c.slot == slot)
    }

    /// The shape of every channel.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// A device's channel is in use from now on.
    pub fn online(&mut self, slot: ProcessSlot, end: BrokerEnd, request_bell: OwnedFd) {
        let Some(index) = self.channel_of(slot) else { return };
        if end.hello().is_err() {
            tracing::error!("slot {slot}: the process is of another build");
            self.actions.push(Action::Dead(slot, Death::Protocol));
            return;
        }
        if self.channels.get_mut(index).is_some_and(|c| c.added && std::mem::take(&mut c.removed)) {
            self.claim_functions(index, true);
        }
        if let Some(channel) = self.channels.get_mut(index) {
            channel.online(end, request_bell);
            channel.update_lines(&mut self.edge);
        }
    }

    /// A device is dead: what waits for it is answered as if nothing were there.
    pub fn offline(&mut self, slot: ProcessSlot) {
        let Some(index) = self.channel_of(slot) else { return };
        self.drop_channel(index);
    }

    fn drop_channel(&mut self, index: usize) {
        if let Some(channel) = self.channels.get_mut(index) {
            channel.offline(&mut self.edge);
        }
        if self.held.is_some_and(|(c, _)| c == index) {
            self.held = None;
        }
        for vcpu in 0..self.vcpus.len() {
            self.answered(vcpu, index, None);
        }
        self.own_answered(index, u64::MAX);
    }

    fn kill(&mut self, index: usize, death: Death) {
        let Some(channel) = self.channels.get(index).filter(|c| c.live.is_some()) else { return };
        tracing::error!("{}: {death:?}; the device is given up", channel.name);
        self.actions.push(Action::Dead(channel.slot, death));
        self.drop_channel(index);
    }

    /// What the launcher has to hear.
    pub fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// Whether a tick is needed: a request or a posted write is outstanding.
    pub fn outstanding(&mut self) -> bool {
        self.own.is_some()
            || self.held.is_some()
            || self.vcpus.iter().any(|v| !matches!(v, Slot::Idle))
            || self.channels.iter_mut().any(|c| !matches!(c.posted(), Ok(0)))
    }

    /// 100 ms have passed while something was outstanding.
    pub fn tick(&mut self) {
        let mut late = Vec::new();
        for slot in &mut self.vcpus {
            if let Slot::Waiting(waiting) = slot {
                waiting.ticks = waiting.ticks.saturating_add(1);
                if waiting.ticks == TICKS_WARN {
                    for c in waiting.channels.iter().filter_map(|c| self.channels.get(*c)) {
                        tracing::warn!("{} has not answered for a second", c.name);
                    }
                }
                if waiting.ticks > TICKS_KILL {
                    late.extend_from_slice(&waiting.channels);
                }
            }
        }
        for index in late {
            self.kill(index, Death::Deadline);
        }
        for index in 0..self.channels.len() {
            if let Some(Err(death)) = self.channels.get_mut(index).map(|c| c.tick(TICKS_KILL)) {
                self.kill(index, death);
            }
        }
    }

    /// Does everything that can be done now. Returns whether there was anything.
    pub fn step(&mut self) -> bool {
        let mut progress = self.drain_buffered();
        for vcpu in 0..self.vcpus.len() {
            match self.vcpus.get(vcpu) {
                Some(Slot::Idle) => {
                    if let Some(request) = self.edge.take(vcpu) {
                        progress = true;
                        self.handle(vcpu, request);
                    }
                }
                Some(Slot::Blocked(request)) => {
                    let request = *request;
                    self.handle(vcpu, request);
                    progress |= !matches!(self.vcpus.get(vcpu), Some(Slot::Blocked(_)));
                }
                _ => {}
            }
        }
        for index in 0..self.channels.len() {
            progress |= self.look_at(index);
        }
        progress
    }

    /// Whether it is safe to sleep: every device will ring.
    pub fn may_sleep(&mut self) -> bool {
        let mut safe = true;
        for live in self.channels.iter_mut().filter_map(|c| c.live.as_mut()).filter(|l| l.watched) {
            live.watched = !live.end.may_sleep(live.seen);
            safe &= !live.watched;
        }
        safe
    }

    /// Replies and lines of one device, if it has published since the last look.
    fn look_at(&mut self, index: usize) -> bool {
        let Some(live) = self.channels.get_mut(index).and_then(|c| c.live.as_mut()) else { return false };
        let bell = live.end.bell();
        if bell == live.seen {
            return false;
        }
        live.seen = bell;
        let (mut lines, mut replies) = (false, false);
        for vcpu in 0..self.vcpus.len() {
            let waits = matches!(self.vcpus.get(vcpu), Some(Slot::Waiting(w)) if w.channels.contains(&index));
            if !waits {
                continue;
            }
            let reply = self.channels.get(index).and_then(|c| c.live.as_ref()).map(|l| l.end.reply(vcpu));
            match reply {
                Some(Ok(Some(reply))) => {
                    replies = true;
                    // The device publishes its lines before its reply; so they are looked at after it was seen.
                    self.update_lines(index);
                    self.answered(vcpu, index, Some(reply));
                }
                Some(Err(_)) => {
                    self.kill(index, Death::Protocol);
                    return true;
                }
                _ => {}
            }
        }
        if self.own.as_ref().is_some_and(|o| o.channels.contains(&index)) {
            let cell = self.vcpus.len();
            let reply = self.channels.get(index).and_then(|c| c.live.as_ref()).map(|l| l.end.reply(cell));
            match reply {
                Some(Ok(Some(reply))) => {
                    replies = true;
                    self.update_lines(index);
                    self.own_answered(index, reply.value);
                }
                Some(Err(_)) => {
                    self.kill(index, Death::Protocol);
                    return true;
                }
                _ => {}
            }
        }
        if !replies {
            lines = self.update_lines(index);
        }
        if !(lines || replies) {
            let verdict = self.channels.get_mut(index).map_or(Ok(()), Channel::fruitless);
            if let Err(death) = verdict {
                self.kill(index, death);
            }
        }
        lines || replies
    }

    fn update_lines(&mut self, index: usize) -> bool {
        self.channels.get_mut(index).is_some_and(|c| c.update_lines(&mut self.edge))
    }

    /// Starts a broadcast of the broker's own; false if one is under way.
    pub fn broadcast(&mut self, op: Op, data: u64) -> bool {
        if self.own.is_some() {
            return false;
        }
        let cell = self.vcpus.len();
        let what = plain(op, data);
        let channels: Vec<usize> = (0..self.channels.len()).filter(|i| self.send(*i, cell, what, &[])).collect();
        self.own = Some(Own { channels, lowest: u64::MAX });
        true
    }

    /// The result of the broadcast, the lowest of all answers, when all have come.
    pub fn take_broadcast(&mut self) -> Option<u64> {
        let done = self.own.as_ref().is_some_and(|o| o.channels.is_empty());
        if done { self.own.take().map(|o| o.lowest) } else { None }
    }

    fn own_answered(&mut self, index: usize, value: u64) {
        if let Some(own) = &mut self.own
            && let Some(at) = own.channels.iter().position(|c| *c == index)
        {
            own.channels.swap_remove(at);
            own.lowest = own.lowest.min(value);
        }
    }

    /// Sends a request and rings if the device sleeps. False if the device is dead.
    fn send(&mut self, index: usize, cell: usize, what: Request, payload: &[u8]) -> bool {
        let Some(channel) = self.channels.get_mut(index) else { return false };
        let Some(live) = &mut channel.live else { return false };
        if !live.watched {
            live.watched = true;
            live.end.awake();
        }
        let ring = live.end.send(cell, what, payload);
        let last = channel.hops.len().saturating_sub(1);
        if let Some(hops) = channel.hops.get_mut(usize::from(what.region).min(last)) {
            *hops = hops.saturating_add(1);
        }
        if ring {
            channel.ring();
        }
        true
    }

    fn drain_buffered(&mut self) -> bool {
        let mut progress = false;
        for _ in 0..BUFFERED_BUDGET {
            if let Some((index, what)) = self.held {
                if !self.post(index, &what) {
                    return progress;
                }
                self.held = None;
            }
            let Some((request, data)) = self.edge.take_buffered() else { return progress };
            progress = true;
            self.counters.buffered = self.counters.buffered.saturating_add(1);
            if request.kind() != ioreq::IOREQ_TYPE_COPY || request.read() {
                continue;
            }
            let size = 1u8 << request.size();
            let first = u64::from(request.addr());
            let last = first.saturating_add(u64::from(size)).saturating_sub(1);
            if let Some((Target::Region { channel, region }, offset)) = self.addresses.find(first, last) {
                self.held = Some((channel, Posted { offset, data, count: 1, region, size, step: Step::Stay as u8 }));
            }
        }
        progress
    }

    /// Posts a write; false if there is no room.
    fn post(&mut self, index: usize, what: &Posted) -> bool {
        match self.channels.get_mut(index).map(|c| c.post(what)) {
            Some(Ok(done)) => {
                self.counters.posted = self.counters.posted.saturating_add(u64::from(done));
                done
            }
            Some(Err(_)) => {
                self.kill(index, Death::Protocol);
                true
            }
            None => true,
        }
    }

    fn complete(&mut self, vcpu: usize, request: &Ioreq, data: Option<u64>) {
        if let Some(slot) = self.vcpus.get_mut(vcpu) {
            *slot = Slot::Idle;
        }
        self.edge.complete(vcpu, request, data);
    }

    /// Answers as if nothing were there.
    fn nobody(&mut self, vcpu: usize, request: &Ioreq) {
        self.counters.nobody = self.counters.nobody.saturating_add(1);
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

    fn handle(&mut self, vcpu: usize, request: Ioreq) {
        match request.kind {
            ioreq::IOREQ_TYPE_PIO | ioreq::IOREQ_TYPE_COPY => self.access(vcpu, request),
            ioreq::IOREQ_TYPE_PCI_CONFIG => self.config(vcpu, request),
            ioreq::IOREQ_TYPE_INVALIDATE => {
                self.counters.invalidations = self.counters.invalidations.saturating_add(1);
                self.memory.invalidate();
                self.barrier(vcpu, request, plain(Op::Invalidate, 0), |c| c.declaration.dma, None);
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

    /// A request to all channels that `concerns` picks; answered with `data` when all have answered.
    fn barrier(&mut self, vcpu: usize, request: Ioreq, what: Request, concerns: impl Fn(&Channel) -> bool, data: Option<u64>) {
        let concerned: Vec<usize> =
            self.channels.iter().enumerate().filter(|(_, c)| concerns(c)).map(|(i, _)| i).collect();
        let channels: Vec<usize> = concerned.into_iter().filter(|i| self.send(*i, vcpu, what, &[])).collect();
        if channels.is_empty() {
            self.remove_unplugged();
            self.complete(vcpu, &request, data);
        } else if let Some(slot) = self.vcpus.get_mut(vcpu) {
            *slot = Slot::Waiting(Waiting { request, purpose: Purpose::Barrier, channels, ticks: 0, again: None, data });
        }
    }

    /// Devices of which nothing is left: their functions are gone, before the guest hears that it is done.
    fn remove_unplugged(&mut self) {
        for channel in self.channels.iter_mut().filter(|c| !c.declaration.unplug_removes) {
            let parts = std::mem::take(&mut channel.parts);
            if parts != 0 {
                self.actions.push(Action::PartsUnplugged(channel.slot, parts));
            }
        }
        for index in 0..self.channels.len() {
            let Some(channel) = self.channels.get_mut(index).filter(|c| c.unplugged && c.declaration.unplug_removes && !c.removed) else { continue };
            channel.removed = true;
            let (slot, functions) = (channel.slot, channel.functions.len());
            for function in 0..functions {
                self.decode(index, function, Decode::default());
            }
            self.actions.push(Action::Unplugged(slot));
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
            None => return self.nobody(vcpu, &request),
        };
        let single = request.count == 1 && !request.bits.data_is_ptr();
        if single && request.bits.read() && self.shadowed(vcpu, &request, channel, region, offset) {
            return;
        }
        if self.held.is_some_and(|(c, _)| c == channel) {
            return self.block(vcpu, request);
        }
        let posts = self.channels.get(channel).is_some_and(|c| {
            c.declaration.regions.get(usize::from(region)).is_some_and(|r| r.posted || single && r.posted_at.iter().any(|at| u64::from(*at) == offset))
        });
        if posts && !request.bits.read() && !request.bits.data_is_ptr() {
            let what = Posted { offset, data: request.data & ones(request.size), count: request.count, region, size: shape.size, step: shape.step as u8 };
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
        if let Some(slot) = self.vcpus.get_mut(vcpu) {
            *slot = Slot::Blocked(request);
        }
    }

    /// Answers from the device's shadow, if it has one now and no posted write could change it.
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
        // The device publishes its lines before its shadows: what the value tells, the interrupt must tell too.
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

    /// The full hop.
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
        let kept = !read && !pointer && request.count == 1 && self.channels.get(channel).is_some_and(|c| c.keeps(region));
        let again = kept.then_some(Posted { offset, data: what.data, count: 1, region, size: shape.size, step: shape.step as u8 });
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
        if let Some(slot) = self.vcpus.get_mut(vcpu) {
            *slot = Slot::Waiting(Waiting { request, purpose, channels: vec![channel], ticks: 0, again, data: None });
        }
    }

    fn config(&mut self, vcpu: usize, request: Ioreq) {
        let bdf = (request.addr >> 32) as u16;
        let offset = request.addr as u8;
        let known = request.addr >> 48 == 0 && request.addr & 0xff00 == 0;
        let valid = matches!(request.size, 1 | 2 | 4) && request.count == 1 && !request.bits.data_is_ptr();
        let place = self.channels.iter().enumerate().filter(|(_, c)| !c.removed).find_map(|(i, c)| {
            c.functions.iter().position(|f| f.spec.bdf() == bdf).map(|f| (i, f))
        });
        let Some((index, function)) = place.filter(|_| known && valid) else {
            return self.nobody(vcpu, &request);
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
        let region = CONFIG_REGION.wrapping_add(function as u16);
        let what = Request {
            op: if request.bits.read() { Op::Read as u8 } else { Op::Write as u8 },
            size,
            step: Step::Stay as u8,
            flags: RequestFlags::new(),
            region,
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

    /// Channel `index` has answered vCPU `vcpu`'s request, or has died (`None`).
    fn answered(&mut self, vcpu: usize, index: usize, reply: Option<Reply>) {
        let Some(Slot::Waiting(waiting)) = self.vcpus.get_mut(vcpu) else { return };
        let Some(at) = waiting.channels.iter().position(|c| *c == index) else { return };
        waiting.channels.swap_remove(at);
        if !waiting.channels.is_empty() {
            return;
        }
        let Some(Slot::Waiting(waiting)) = self.vcpus.get_mut(vcpu).map(std::mem::take) else { return };
        let request = waiting.request;
        let Some(reply) = reply.filter(|_| waiting.purpose != Purpose::Barrier) else {
            if waiting.purpose == Purpose::Barrier {
                self.remove_unplugged();
                return self.complete(vcpu, &request, waiting.data);
            }
            match (waiting.again, waiting.purpose, self.channels.get_mut(index)) {
                (Some(again), _, Some(c)) => c.miss(again),
                // Whether it was carried out nobody knows.
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

    /// What the device asks for together with its reply, as far as it may; then the answer.
    fn effects(&mut self, vcpu: usize, request: Ioreq, index: usize, reply: &Reply, data: Option<u64>) {
        let Some(may) = self.channels.get(index).map(|c| c.declaration.permissions) else { return };
        let effects = reply.effects;
        let refused = (effects.power_off() && !may.power_off)
            || (effects.reboot() && !may.reboot)
            || ((effects.rom_lock() || effects.rom_unlock()) && !may.rom)
            || (effects.unplug() && !may.unplug)
            || (effects.eject() && !may.eject);
        if refused || effects.into_bits() >> 6 != 0 {
            self.complete(vcpu, &request, data);
            return self.kill(index, Death::Protocol);
        }
        if effects.rom_lock() || effects.rom_unlock() {
            self.edge.set_rom_writable(effects.rom_unlock());
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
                channel.unplugged = true;
                channel.parts = channel.declaration.unplug & mask;
            }
            let what = plain(Op::Unplug, u64::from(mask));
            return self.barrier(vcpu, request, what, |c| c.declaration.unplug & mask != 0, data);
        }
        self.complete(vcpu, &request, data);
    }

    fn config_written(&mut self, index: usize, bdf: u16, offset: u8, size: u8, value: u32) {
        for (link, irq) in pci::links(bdf, offset, size, value) {
            self.edge.set_pci_link(link, irq);
        }
        let Some(channel) = self.channels.get_mut(index) else { return };
        let Some(at) = channel.functions.iter().position(|f| f.spec.bdf() == bdf) else { return };
        let new = channel.functions.get_mut(at).and_then(|f| f.written(offset, size, value));
        if let Some(new) = new {
            self.decode(index, at, new);
        }
    }

    /// Moves what a function decodes to where the guest wants it.
    fn decode(&mut self, index: usize, at: usize, new: Decode) {
        let Some(channel) = self.channels.get_mut(index) else { return };
        let Some(function) = channel.functions.get_mut(at) else { return };
        let old = std::mem::replace(&mut function.decoded, new);
        let spec = function.spec.clone();
        let regions = channel.declaration.regions.clone();
        for (bar, (old, new)) in old.bars.iter().zip(new.bars).enumerate() {
            let Some(bar_spec) = spec.bars.get(bar).copied().flatten().filter(|_| *old != new) else { continue };
            if bar_spec.kind == BarKind::Ram {
                if let Some(new) = new {
                    self.move_video_ram(index, new >> 12);
                }
                continue;
            }
            let region = regions.iter().position(|r| {
                matches!(r.area, Area::Bar { function, bar: b } if usize::from(function) == at && usize::from(b) == bar)
            });
            let Some(region) = region else { continue };
            let target = Target::Region { channel: index, region: region as u16 };
            let io = bar_spec.kind == BarKind::Io;
            self.place(target, io, new, bar_spec.size);
        }
        if old.rom != new.rom {
            self.place(Target::Rom { channel: index, function: at }, false, new.rom, spec.rom);
        }
    }

    /// Takes a target away from where it was and puts it where it shall be.
    fn place(&mut self, target: Target, io: bool, new: Option<u64>, size: u32) {
        let range = |first: u64, last: u64| {
            if io { Range::Ports(first as u16, last as u16) } else { Range::Memory(first, last) }
        };
        let space = if io { &mut self.ports } else { &mut self.addresses };
        for (first, last) in space.remove(target) {
            self.edge.claim(range(first, last), false);
        }
        let Some(first) = new else { return };
        let last = first.saturating_add(u64::from(size)).saturating_sub(1);
        if !io {
            self.clear_of_video_ram(first, last);
        }
        let space = if io { &mut self.ports } else { &mut self.addresses };
        if space.add(first, u64::from(size), target) {
            self.edge.claim(range(first, last), true);
        } else {
            tracing::debug!("a BAR at {first:#x} overlaps something; it is not decoded");
        }
    }

    /// Video RAM moves only when it is decoded at another place: firmware and drivers switch decoding off and on again
    /// for a moment, and moving thousands of pages each time would cost more than all the rest of the boot.
    fn move_video_ram(&mut self, channel: usize, gfn: u64) {
        let Some(vram) = self.video_ram.as_mut().filter(|v| v.channel == channel && v.gfn != gfn) else { return };
        if self.edge.relocate(vram.gfn, gfn, vram.pages) {
            vram.gfn = gfn;
            self.actions.push(Action::VideoRamAt(gfn));
        }
    }

    /// Something else is decoded where video RAM still lies although it is switched off: move it out of the way.
    fn clear_of_video_ram(&mut self, first: u64, last: u64) {
        let Some(vram) = &self.video_ram else { return };
        let start = vram.gfn << 12;
        let end = start.saturating_add(u64::from(vram.pages) << 12);
        let decoded = self.channels.get(vram.channel).is_some_and(|c| {
            c.functions.iter().any(|f| f.decoded.bars.iter().zip(&f.spec.bars).any(|(base, bar)| {
                base.is_some() && bar.is_some_and(|b| b.kind == BarKind::Ram)
            }))
        });
        let (channel, home) = (vram.channel, vram.home);
        if !decoded && first < end && start <= last {
            self.move_video_ram(channel, home);
        }
    }

    /// The operand of a string operation lies in guest memory, ascending; with DF its first element is the highest.
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

    /// Power-on state of what the broker itself keeps.
    pub fn reset_decoding(&mut self) {
        for index in 0..self.channels.len() {
            let functions = self.channels.get(index).map_or(0, |c| c.functions.len());
            for at in 0..functions {
                let new = Decode::default();
                self.decode(index, at, new);
                if let Some(f) = self.channels.get_mut(index).and_then(|c| c.functions.get_mut(at)) {
                    f.reset();
                }
            }
        }
    }

    /// Counters, for people.
    pub fn statistics(&self) -> Vec<(&'static str, u64)> {
        let c = &self.counters;
        vec![
            ("full hops", c.hops),
            ("answered from a shadow", c.shadowed),
            ("answered from configuration space", c.config),
            ("answered from a ROM", c.rom),
            ("posted writes", c.posted),
            ("buffered requests", c.buffered),
            ("nobody there", c.nobody),
            ("dead device", c.dead),
            ("malformed", c.malformed),
            ("invalidations", c.invalidations),
        ]
    }

    /// What is where, for people.
    pub fn inspect(&self, out: &mut bulkhead_bus::Inspect) {
        for channel in self.channels.iter().filter(|c| !(c.added && c.removed)) {
            out.group(&channel.name, |out| {
                out.value("online", channel.live.is_some()).value("unplugged", channel.unplugged);
                let names = channel.declaration.regions.iter().map(|r| r.name).chain(["configuration"]);
                for (name, hops) in names.zip(&channel.hops).filter(|(_, hops)| **hops > 0) {
                    out.value(&format!("hops to {name}"), hops);
                }
                for f in &channel.functions {
                    out.value(&format!("{:02x}.{}", f.spec.device, f.spec.function), format_args!("{:x?}", f.decoded));
                }
                for (i, f) in channel.functions.iter().enumerate() {
                    // What the device publishes: identity, class, interrupt.
                    let Some(live) = &channel.live else { continue };
                    let [id, class, interrupt] = [0x00, 0x08, 0x3c].map(|at| live.end.config(i, at));
                    let (irq, pin) = (interrupt & 0xff, interrupt >> 8 & 0xff);
                    let value = format!("{:04x}:{:04x} {:06x} irq {irq} pin {pin}", id & 0xffff, id >> 16, class >> 8);
                    out.value(&format!("pci {:02x}.{}", f.spec.device, f.spec.function), value);
                }
            });
        }
        if let Some(vram) = &self.video_ram {
            out.hex("video RAM at frame", vram.gfn);
        }
        for (i, slot) in self.vcpus.iter().enumerate() {
            out.value(&format!("vcpu{i}"), match slot {
                Slot::Idle => "idle".to_owned(),
                Slot::Blocked(_) => "blocked by earlier posted writes".to_owned(),
                Slot::Waiting(w) => format!("waiting {} ticks for {:?}", w.ticks, w.channels),
            });
        }
    }
}

/// A request without address.
fn plain(op: Op, data: u64) -> Request {
    Request { op: op as u8, size: 1, step: 0, flags: RequestFlags::new(), region: 0, pad: 0, count: 1, posted: 0, offset: 0, data }
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
    /// Where the first element is, from `first`.
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

#[cfg(test)]
mod tests;
