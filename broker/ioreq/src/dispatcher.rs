//! The dispatcher: it carries requests of Xen to devices, and their replies back.
//!
//! | file | what |
//! |---|---|
//! | `access.rs` | one request: its device, its reply and effects |
//! | `bus.rs` | addresses on the bus: BARs, unplugging, hot-plug |
//! | `shown.rs` | counters and the address map, for people to read |
mod access;
mod bus;
mod shown;

use crate::cf8::{self, Cf8};
use crate::channel::{DeviceChannel, ServedDevice};
use crate::dirty_log::DirtyLog;
use crate::edge::Edge;
use crate::presence::Change;
use crate::route::{Space, Target};
use crate::state::Domain;
use crate::vcpu::VcpuState;
use bulkhead_bus::{Area, GuestMemory};
use bulkhead_plan::{Death, Slot};
use bulkhead_ring::{BrokerEnd, DirtyMap};
use bulkhead_wire::{Op, Posted, Request, Shape, Step};
use bulkhead_xen::Range;
use bulkhead_xen_abi::ioreq;
use rustix::fd::OwnedFd;
use std::sync::Arc;

/// Ticks without an answer after which a device is logged.
const TICKS_WARN: u32 = 10;
/// Ticks without an answer after which a device is killed.
const TICKS_KILL: u32 = 50;
/// Most steps before the broker looks at its events.
pub(crate) const STEPS: u32 = 64;
/// Places of the ring of buffered requests (IOREQ_BUFFER_SLOT_NUM, xen/public/hvm/ioreq.h).
const BUFFERED_RING: usize = 511;
/// Most buffered requests that are taken before other work.
const BUFFERED_BUDGET: usize = 512;

/// A message for the launcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A device is regarded as dead.
    Dead(Slot, Death),
    /// Video RAM has moved.
    VideoRamAt(u64),
    /// The guest has unplugged a device, and its write has been answered.
    Unplugged(Slot),
    /// The guest has ejected a device that was added.
    Ejected(Slot),
    /// The guest has unplugged the parts of the device with these bits of the protocol's mask; a restarted process must not have
    /// them.
    PartsUnplugged(Slot, u16),
}

pub(crate) struct VideoRam {
    channel: usize,
    pub(crate) home: u64,
    pub(crate) gfn: u64,
    pages: u32,
}

impl VideoRam {
    /// Whether it is that of the device with this channel.
    pub(crate) fn is_of(&self, channel: Option<usize>) -> bool {
        channel == Some(self.channel)
    }
}

#[derive(Debug, Default)]
struct Counters {
    hops: u64,
    shadowed: u64,
    config: u64,
    rom: u64,
    posted: u64,
    buffered: u64,
    unclaimed: u64,
    dead: u64,
    malformed: u64,
    invalidations: u64,
}

/// A broadcast of the broker itself, on its own cell.
struct Broadcast {
    channels: Vec<usize>,
    lowest: u64,
}

/// The broker without its event loop: the caller reports events, and the dispatcher does all work that is possible.
pub struct Dispatcher<E> {
    /// Xen, or the simulated machine.
    pub edge: E,
    shape: Shape,
    pub(crate) memory: Arc<dyn GuestMemory>,
    pub(crate) channels: Vec<DeviceChannel>,
    ports: Space,
    addresses: Space,
    vcpus: Vec<VcpuState>,
    /// A buffered write that waits because the ring is full.
    held: Option<(usize, Posted)>,
    pub(crate) video_ram: Option<VideoRam>,
    broadcast: Option<Broadcast>,
    actions: Vec<Action>,
    counters: Counters,
    scratch: Vec<u8>,
    pub(crate) cf8: Option<Cf8>,
    /// The machine is stopped: vCPUs' requests stay where they are.
    stopped: bool,
    /// Since then all that the guest had begun before is done; buffered writes that come after it stay in their ring.
    drained: bool,
    /// Buffered writes that a stop still carries out: what was in the ring, and no more, whatever the guest goes on to write.
    left: usize,
    /// Number of the time span in which a device's line changes are counted: from one sleep or tick of the broker to the next.
    span: u64,
    /// The firmware's memory is read-only.
    pub(crate) rom_locked: bool,
    /// The machine was saved: Xen has lines' levels of its own.
    pub(crate) restored: bool,
    /// The domain that is served.
    pub domain: Domain,
    /// What the guest had unplugged before it was saved. The launcher hears of it when the machine runs.
    pub(crate) unplugged: Vec<Action>,
    /// Pages that devices write.
    pub(crate) dirty: DirtyLog,
}

impl<E: Edge> Dispatcher<E> {
    /// A dispatcher for these devices, none of them online. `memory` is for operands of string operations.
    pub fn new(edge: E, vcpus: u16, shape: Shape, memory: Arc<dyn GuestMemory>, devices: Vec<ServedDevice>) -> Self {
        let mut dispatcher = Self {
            edge,
            shape,
            memory,
            channels: Vec::new(),
            ports: Space::default(),
            addresses: Space::default(),
            vcpus: (0..vcpus).map(|_| VcpuState::Idle).collect(),
            held: None,
            video_ram: None,
            broadcast: None,
            actions: Vec::new(),
            counters: Counters::default(),
            scratch: Vec::new(),
            span: 0,
            stopped: false,
            drained: false,
            left: 0,
            cf8: None,
            rom_locked: false,
            restored: false,
            domain: Domain::default(),
            unplugged: Vec::new(),
            dirty: DirtyLog::default(),
        };
        dispatcher.cf8 = Some(Cf8::new(&mut dispatcher.edge));
        for device in devices {
            dispatcher.add(device);
        }
        dispatcher
    }

    /// Logs writes of guest memory by these maps, of the processes in these slots.
    pub fn logs(&mut self, maps: Vec<(Slot, Arc<DirtyMap>)>) {
        self.dirty = DirtyLog::new(maps);
    }

    fn add(&mut self, device: ServedDevice) {
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
                // `Cf8` claims it with the rest of the address register.
            } else if added {
                self.edge.claim(range, true);
            } else {
                tracing::error!("{}: {} overlaps another device's region; it is not there", device.name, region.name);
            }
        }
        let new = DeviceChannel::new(device);
        let decoded = new.presence.decoded();
        self.channels.push(new);
        if decoded {
            self.claim_functions(channel, true);
        }
    }

    fn channel_of(&self, slot: Slot) -> Option<usize> {
        self.channels.iter().position(|c| c.slot == slot)
    }

    /// The shape of all channels.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Connects a device's channel.
    pub fn online(&mut self, slot: Slot, end: BrokerEnd, request_bell: OwnedFd) {
        let Some(index) = self.channel_of(slot) else { return };
        if end.hello().is_err() {
            tracing::error!("slot {slot}: the process is of another build");
            self.actions.push(Action::Dead(slot, Death::Protocol));
            return;
        }
        if self.channels.get_mut(index).is_some_and(|c| c.presence.change(Change::Arrive)) {
            self.claim_functions(index, true);
        }
        if let Some(channel) = self.channels.get_mut(index) {
            channel.online(end, request_bell);
            if self.restored {
                channel.assert_lines(&mut self.edge);
            } else {
                channel.update_lines(&mut self.edge);
            }
        }
    }

    /// Handles the death of a device's process: pending requests are answered as if the device did not exist.
    pub fn offline(&mut self, slot: Slot) {
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
        self.broadcast_answered(index, u64::MAX);
    }

    fn kill(&mut self, index: usize, death: Death) {
        let Some(channel) = self.channels.get(index).filter(|c| c.live.is_some()) else { return };
        tracing::error!("{}: {death:?}; the device is given up", channel.name);
        self.actions.push(Action::Dead(channel.slot, death));
        self.drop_channel(index);
    }

    /// Takes the messages for the launcher.
    pub fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// Whether a tick is needed: pages that devices write are logged, a request or a posted write is outstanding, or wake-ups without a result are counted until the
    /// next one.
    pub fn outstanding(&mut self) -> bool {
        self.dirty.on
            || self.broadcast.is_some()
            || self.held.is_some()
            || self.vcpus.iter().any(|v| !matches!(v, VcpuState::Idle))
            || self.channels.iter_mut().any(|c| c.is_counted() || !matches!(c.posted(), Ok(0)))
    }

    /// Called every 100 ms while something is outstanding, or pages that devices write are logged.
    pub fn tick(&mut self) {
        self.span = self.span.wrapping_add(1);
        self.dirty_tick();
        let mut late = Vec::new();
        for state in &mut self.vcpus {
            if let VcpuState::Waiting(waiting) = state {
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

    /// Does all work that is possible now, in a bounded number of steps: a device that keeps a line moving, or a guest that keeps
    /// asking, must not keep the broker from its ticks and from the launcher. Returns false if there may be more.
    pub fn work(&mut self) -> bool {
        (0..STEPS).any(|_| !self.step())
    }

    /// Does one step of the work that is possible now. Returns whether there was any.
    pub fn step(&mut self) -> bool {
        let buffered = !self.drained && self.drain_buffered();
        let mut progress = buffered;
        for vcpu in 0..self.vcpus.len() {
            match self.vcpus.get(vcpu) {
                Some(VcpuState::Idle) if self.stopped => {}
                Some(VcpuState::Idle) => {
                    if let Some(request) = self.edge.take(vcpu) {
                        progress = true;
                        self.handle(vcpu, request);
                    }
                }
                Some(VcpuState::Blocked(request)) => {
                    let request = *request;
                    self.handle(vcpu, request);
                    progress |= !matches!(self.vcpus.get(vcpu), Some(VcpuState::Blocked(_)));
                }
                _ => {}
            }
        }
        for index in 0..self.channels.len() {
            progress |= self.look_at(index);
        }
        self.drained |= self.stopped && !buffered && self.is_done();
        progress
    }

    /// Stops the machine, or lets it run: while it is stopped no request is taken, and what the guest has begun before is carried out.
    pub fn stop(&mut self, stopped: bool) {
        (self.stopped, self.drained, self.left) = (stopped, false, BUFFERED_RING);
        if !stopped {
            self.actions.append(&mut self.unplugged);
        }
    }

    /// Whether a stopped machine has nothing under way between guest and devices.
    pub fn at_rest(&self) -> bool {
        self.drained
    }

    /// Whether everything that was taken from the guest is carried out.
    fn is_done(&mut self) -> bool {
        self.held.is_none()
            && self.vcpus.iter().all(|v| matches!(v, VcpuState::Idle))
            && self.channels.iter_mut().all(|c| matches!(c.posted(), Ok(0)))
    }

    /// Announces sleep to all devices. Returns whether sleeping is safe, because every device will ring.
    pub fn may_sleep(&mut self) -> bool {
        let mut safe = true;
        for live in self.channels.iter_mut().filter_map(|c| c.live.as_mut()).filter(|l| l.watched) {
            live.watched = !live.end.may_sleep(live.seen);
            safe &= !live.watched;
        }
        safe
    }

    /// Reads replies and lines of one device, if it has published since the last call.
    fn look_at(&mut self, index: usize) -> bool {
        let Some(live) = self.channels.get_mut(index).and_then(|c| c.live.as_mut()) else { return false };
        let bell = live.end.bell();
        if bell == live.seen {
            return false;
        }
        live.seen = bell;
        let (mut lines, mut replies) = (false, false);
        for vcpu in 0..self.vcpus.len() {
            let waits = matches!(self.vcpus.get(vcpu), Some(VcpuState::Waiting(w)) if w.channels.contains(&index));
            if !waits {
                continue;
            }
            let reply = self.channels.get(index).and_then(|c| c.live.as_ref()).map(|l| l.end.reply(vcpu));
            match reply {
                Some(Ok(Some(reply))) => {
                    replies = true;
                    // The device publishes its lines before its reply, so they are read after the reply.
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
        if self.broadcast.as_ref().is_some_and(|o| o.channels.contains(&index)) {
            let cell = self.vcpus.len();
            let reply = self.channels.get(index).and_then(|c| c.live.as_ref()).map(|l| l.end.reply(cell));
            match reply {
                Some(Ok(Some(reply))) => {
                    replies = true;
                    self.update_lines(index);
                    self.broadcast_answered(index, reply.value);
                }
                Some(Err(_)) => {
                    self.kill(index, Death::Protocol);
                    return true;
                }
                _ => {}
            }
        }
        if !replies {
            lines = self.update_lines(index) && self.count_line_change(index);
        }
        if !(lines || replies) {
            let verdict = self.channels.get_mut(index).map_or(Ok(()), DeviceChannel::count_idle_wakeup);
            if let Err(death) = verdict {
                self.kill(index, death);
            }
        }
        lines || replies
    }

    fn update_lines(&mut self, index: usize) -> bool {
        self.channels.get_mut(index).is_some_and(|channel| channel.update_lines(&mut self.edge))
    }

    /// Counts a change of a device's lines that no access has caused; changes that come with an answer are the guest's own doing.
    fn count_line_change(&mut self, index: usize) -> bool {
        let verdict = self.channels.get_mut(index).map_or(Ok(()), |channel| channel.line_moved(self.span));
        if let Err(death) = verdict {
            self.kill(index, death);
        }
        true
    }

    /// Called before the broker sleeps: starts a new span for the limit of line changes.
    pub fn rests(&mut self) {
        self.span = self.span.wrapping_add(1);
    }

    /// Starts a broadcast of the broker itself; false if one is in progress.
    pub fn broadcast(&mut self, op: Op, data: u64) -> bool {
        if self.broadcast.is_some() {
            return false;
        }
        let cell = self.vcpus.len();
        let what = Request::without_address(op, data);
        let channels: Vec<usize> = (0..self.channels.len()).filter(|i| self.send(*i, cell, what, &[])).collect();
        self.broadcast = Some(Broadcast { channels, lowest: u64::MAX });
        true
    }

    /// The result of the broadcast, the lowest of all answers, once all have arrived.
    pub fn take_broadcast(&mut self) -> Option<u64> {
        let done = self.broadcast.as_ref().is_some_and(|o| o.channels.is_empty());
        if done { self.broadcast.take().map(|o| o.lowest) } else { None }
    }

    fn broadcast_answered(&mut self, index: usize, value: u64) {
        if let Some(broadcast) = &mut self.broadcast
            && let Some(at) = broadcast.channels.iter().position(|c| *c == index)
        {
            broadcast.channels.swap_remove(at);
            broadcast.lowest = broadcast.lowest.min(value);
        }
    }

    /// Sends a request, and rings if the device sleeps. False if the device has no process.
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
            if self.stopped {
                let Some(left) = self.left.checked_sub(1) else { return progress };
                self.left = left;
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

    /// Posts a write; false if the ring is full.
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
}

#[cfg(test)]
pub(crate) mod tests;
