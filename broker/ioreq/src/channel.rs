//! One device, as the broker keeps it.
use crate::edge::Edge;
use crate::pci::Function;
use crate::presence::Presence;
use bulkhead_bus::{Declaration, Line};
use bulkhead_plan::{Death, Slot};
use bulkhead_ring::{BrokerEnd, LineState, Poison};
use bulkhead_wire::{LOST_WRITES, Posted, Step};
use rustix::fd::OwnedFd;
use std::collections::BTreeMap;

/// A device, as the roles executable describes it to the broker.
pub struct ServedDevice {
    /// The slot of its process.
    pub slot: Slot,
    /// The name that people read in logs and tables.
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

/// A channel that is in use.
pub(crate) struct Live {
    pub(crate) end: BrokerEnd,
    pub(crate) request_bell: OwnedFd,
    /// The device's bell at the last look.
    pub(crate) seen: u32,
    /// The device need not ring: its bell will be looked at before the broker sleeps. True from a request until then; a
    /// device that nobody has asked for anything stays told that the broker sleeps, which costs it a doorbell if it
    /// publishes while the broker happens to run, and saves two stores and a fence for each channel in every wait.
    pub(crate) watched: bool,
    /// Wake-ups without any result since the last tick.
    pub(crate) idle: u32,
    /// Ticks that posted writes have been outstanding without progress.
    pub(crate) posted_ticks: u32,
    posted_before: u32,
}

/// Wake-ups without a result in one tick that are believed; a device that rings more often is out of its mind.
const IDLE_LIMIT: u32 = 20_000;
/// Posted writes that wait before the device is woken for them.
const POSTED_WAKE: u32 = 256;

/// Writes that are kept for a process to come.
const MISSED: usize = 256;
const _: () = assert!(MISSED < bulkhead_wire::POSTED);

/// A device.
pub(crate) struct Channel {
    pub(crate) slot: Slot,
    pub(crate) name: String,
    pub(crate) declaration: Declaration,
    pub(crate) functions: Vec<Function>,
    /// Contents of expansion ROMs, by function.
    pub(crate) roms: Vec<Option<Vec<u8>>>,
    pub(crate) live: Option<Live>,
    lines: Vec<LineState>,
    /// Whether the guest has it.
    pub(crate) presence: Presence,
    /// Parts of it that have been unplugged and of which the launcher has not heard: bits of the protocol's mask.
    pub(crate) parts: u16,
    /// Writes of the guest's to regions that are kept, made while no process was there.
    missed: Vec<Posted>,
    /// Regions to which others were made, and the register of the last one.
    lost: BTreeMap<u16, u64>,
    /// Full hops, by region; the last is configuration space.
    pub(crate) hops: Vec<u64>,
}

impl Channel {
    pub(crate) fn new(device: ServedDevice) -> Self {
        let ServedDevice { slot, name, declaration, rom, video_ram: _, added } = device;
        let functions: Vec<_> = declaration.functions.iter().cloned().map(Function::new).collect();
        let mut roms: Vec<Option<Vec<u8>>> = functions.iter().map(|_| None).collect();
        if let Some(first) = roms.first_mut() {
            *first = rom;
        }
        let lines = vec![LineState::default(); declaration.lines.len()];
        let hops = vec![0; declaration.regions.len().saturating_add(1)];
        Self {
            slot,
            name,
            hops,
            declaration,
            functions,
            roms,
            live: None,
            lines,
            presence: Presence::at_power_on(added),
            parts: 0,
            missed: Vec::new(),
            lost: BTreeMap::new(),
        }
    }

    pub(crate) fn online(&mut self, end: BrokerEnd, request_bell: OwnedFd) {
        let seen = end.bell().wrapping_sub(1);
        let mut live = Live { end, request_bell, seen, watched: true, idle: 0, posted_ticks: 0, posted_before: 0 };
        for (region, offset) in std::mem::take(&mut self.lost) {
            let _ = live.end.post(&Posted {
                offset,
                data: u64::from(region),
                count: 1,
                region: LOST_WRITES,
                size: 1,
                step: Step::Stay as u8,
            });
        }
        for what in std::mem::take(&mut self.missed) {
            // There is room for all of them, and a new process has broken nothing yet.
            let _ = live.end.post(&what);
        }
        let ring = live.end.publish_posted();
        self.live = Some(live);
        if ring {
            self.ring();
        }
    }

    /// Keeps a write for the process to come. One that more have been made for than are kept has lost all of them: the guest's driver
    /// has been at it for long, and half of what it did is worse than nothing.
    pub(crate) fn miss(&mut self, what: Posted) {
        if self.missed.len() >= MISSED {
            self.missed.clear();
        }
        self.missed.push(what);
    }

    /// A write that is not kept has reached nobody.
    pub(crate) fn lose(&mut self, region: u16, offset: u64) {
        if usize::from(region) < self.declaration.regions.len() {
            self.lost.insert(region, offset);
        }
    }

    /// Whether single writes to this region are kept while no process is there.
    pub(crate) fn keeps(&self, region: u16) -> bool {
        self.presence.decoded() && self.declaration.regions.get(usize::from(region)).is_some_and(|r| r.kept)
    }

    /// The device is dead: its lines go down.
    pub(crate) fn offline(&mut self, edge: &mut impl Edge) {
        if let Some(mut live) = self.live.take() {
            for what in live.end.unhandled() {
                if what.count == 1 && self.keeps(what.region) {
                    self.miss(what);
                } else {
                    self.lose(what.region, what.offset);
                }
            }
        }
        let lines = std::mem::take(&mut self.lines);
        for (line, state) in self.declaration.lines.iter().zip(&lines) {
            if state.level {
                set(edge, &self.declaration, *line, false);
            }
        }
        self.lines = vec![LineState::default(); self.declaration.lines.len()];
    }

    /// Brings Xen's lines to what the device has published. Returns whether anything was different.
    pub(crate) fn update_lines(&mut self, edge: &mut impl Edge) -> bool {
        let Some(live) = &self.live else { return false };
        let mut changed = false;
        for (i, (line, old)) in self.declaration.lines.iter().zip(&mut self.lines).enumerate() {
            let new = live.end.line(i);
            if new == *old {
                continue;
            }
            changed = true;
            let mut level = old.level;
            if new.edges != old.edges {
                // Pulses that came together are one, as on a wire that is sampled.
                if level {
                    set(edge, &self.declaration, *line, false);
                }
                set(edge, &self.declaration, *line, true);
                level = true;
            }
            if level != new.level {
                set(edge, &self.declaration, *line, new.level);
            }
            *old = new;
        }
        changed
    }

    /// Rings the device.
    pub(crate) fn ring(&self) {
        if let Some(live) = &self.live {
            let _ = rustix::io::write(&live.request_bell, &1u64.to_ne_bytes());
        }
    }

    /// Posts a write. `Ok(false)`: no room now.
    pub(crate) fn post(&mut self, what: &Posted) -> Result<bool, Poison> {
        // A dead device loses it, as it loses every write.
        let Some(live) = &mut self.live else { return Ok(true) };
        let outstanding = live.end.post(what)?;
        let enough = outstanding.is_none_or(|n| n >= POSTED_WAKE);
        if enough && live.end.publish_posted() {
            self.ring();
        }
        Ok(outstanding.is_some())
    }

    /// Posted writes that are outstanding.
    pub(crate) fn posted(&mut self) -> Result<u32, Poison> {
        self.live.as_mut().map_or(Ok(0), |live| live.end.posted_outstanding())
    }

    /// Once in each tick. Wakes the device for posted writes that wait; counts how long they have.
    pub(crate) fn tick(&mut self, limit: u32) -> Result<(), Death> {
        let Some(live) = &mut self.live else { return Ok(()) };
        live.idle = 0;
        let outstanding = live.end.posted_outstanding().map_err(|_| Death::Protocol)?;
        let progress = outstanding == 0 || outstanding < live.posted_before;
        live.posted_before = outstanding;
        live.posted_ticks = if progress { 0 } else { live.posted_ticks.saturating_add(1) };
        if live.posted_ticks > limit {
            return Err(Death::Deadline);
        }
        if outstanding > 0 && live.end.publish_posted() {
            self.ring();
        }
        Ok(())
    }

    /// The device has rung or published without any result.
    pub(crate) fn fruitless(&mut self) -> Result<(), Death> {
        let Some(live) = &mut self.live else { return Ok(()) };
        live.idle = live.idle.saturating_add(1);
        if live.idle > IDLE_LIMIT { Err(Death::Protocol) } else { Ok(()) }
    }
}

fn set(edge: &mut impl Edge, declaration: &Declaration, line: Line, level: bool) {
    match line {
        Line::Isa(irq) => edge.set_isa_irq(irq, level),
        Line::Intx { function, pin } => {
            if let Some(spec) = declaration.functions.get(usize::from(function)) {
                edge.set_pci_intx(spec.device, pin, level);
            }
        }
    }
}
