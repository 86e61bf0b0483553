//! The broker's state of one device.
use crate::edge::Edge;
use crate::pci::Function;
use crate::presence::Presence;
use bulkhead_bus::{Declaration, Line};
use bulkhead_plan::{Death, Slot};
use bulkhead_ring::{BrokerEnd, LineState, Poison};
use bulkhead_wire::{LOST_WRITES, Posted, Step};
use rustix::fd::OwnedFd;
use std::collections::BTreeMap;

/// The description of a device, from the roles executable.
pub struct ServedDevice {
    /// The slot of its process.
    pub slot: Slot,
    /// Its name in logs and tables.
    pub name: String,
    /// Its declaration, which follows from its configuration and not from the process.
    pub declaration: Declaration,
    /// Contents of its first function's expansion ROM.
    pub rom: Option<Vec<u8>>,
    /// First guest frame and number of pages of its video RAM.
    pub video_ram: Option<(u64, u32)>,
    /// It is absent until its process has been added, and the guest may eject it.
    pub added: bool,
}

/// The connection to a running device process.
pub(crate) struct Live {
    pub(crate) end: BrokerEnd,
    pub(crate) request_bell: OwnedFd,
    /// The device's bell when its replies were last read.
    pub(crate) seen: u32,
    /// The device need not ring: the broker reads its bell before it sleeps. True from a request until then. A device without
    /// requests keeps seeing the broker as asleep: it may ring needlessly while the broker runs, but each wait saves two stores and
    /// a fence for it.
    pub(crate) watched: bool,
    /// Wake-ups without any result since the last tick.
    pub(crate) idle: u32,
    /// Ticks during which posted writes have been outstanding without progress.
    pub(crate) posted_ticks: u32,
    posted_before: u32,
    /// Changes of its lines in the broker's time span with this number.
    moves: (u64, u32),
}

/// Most wake-ups without a result in one tick; a device that rings more often is given up.
const IDLE_LIMIT: u32 = 20_000;
/// Most changes of a device's lines between two moments at which the broker rests or has its tick; a device that exceeds them is
/// given up.
pub(crate) const LINE_LIMIT: u32 = 20_000;
/// Outstanding posted writes at which the device is woken.
const POSTED_WAKE: u32 = 256;

/// ACPI's interrupt, which Xen's own power management drives too.
const SCI: u8 = 9;

/// Most writes that are kept for the next process.
const MISSED: usize = 256;
const _: () = assert!(MISSED < bulkhead_wire::POSTED);

/// A device of the guest, with or without a process.
pub(crate) struct DeviceChannel {
    pub(crate) slot: Slot,
    pub(crate) name: String,
    pub(crate) declaration: Declaration,
    pub(crate) functions: Vec<Function>,
    /// Contents of expansion ROMs, by function.
    pub(crate) roms: Vec<Option<Vec<u8>>>,
    pub(crate) live: Option<Live>,
    lines: Vec<LineState>,
    /// Whether the device is present in the guest.
    pub(crate) presence: Presence,
    /// Unplugged parts that have not been reported to the launcher: bits of the protocol's mask.
    pub(crate) parts: u16,
    /// All parts that the guest has unplugged.
    pub(crate) unplugged_parts: u16,
    /// Guest writes to regions with kept writes, made while there was no process.
    missed: Vec<Posted>,
    /// Regions to which writes were lost, and the offset of each last lost write.
    lost: BTreeMap<u16, u64>,
    /// Number of full hops, by region; the last is configuration space.
    pub(crate) hops: Vec<u64>,
}

impl DeviceChannel {
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
            unplugged_parts: 0,
            missed: Vec::new(),
            lost: BTreeMap::new(),
        }
    }

    pub(crate) fn online(&mut self, end: BrokerEnd, request_bell: OwnedFd) {
        let seen = end.bell().wrapping_sub(1);
        let mut live =
            Live { end, request_bell, seen, watched: true, idle: 0, posted_ticks: 0, posted_before: 0, moves: (0, 0) };
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
            // A new ring has room for all of them, and a new process has not violated the protocol.
            let _ = live.end.post(&what);
        }
        let ring = live.end.publish_posted();
        self.live = Some(live);
        if ring {
            self.ring();
        }
    }

    /// Keeps a write for the next process. Beyond the limit all kept writes are lost, and the device is told: the driver has worked
    /// with it for long, and a part of its writes would do more harm than none.
    pub(crate) fn miss(&mut self, what: Posted) {
        if self.missed.len() >= MISSED {
            for lost in std::mem::take(&mut self.missed) {
                self.lose(lost.region, lost.offset);
            }
        }
        self.missed.push(what);
    }

    /// Records a lost write.
    pub(crate) fn lose(&mut self, region: u16, offset: u64) {
        if usize::from(region) < self.declaration.regions.len() {
            self.lost.insert(region, offset);
        }
    }

    /// Whether single writes to this region are kept while there is no process.
    pub(crate) fn keeps(&self, region: u16) -> bool {
        self.presence.decoded() && self.declaration.regions.get(usize::from(region)).is_some_and(|r| r.kept)
    }

    /// Handles the death of the device's process: deasserts its lines.
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

    /// Tells Xen the published level of each line, whatever it knows: it has another memory of a machine that was restored. A line
    /// that others drive too, as Xen does ACPI's, is only raised.
    pub(crate) fn assert_lines(&mut self, edge: &mut impl Edge) {
        let Some(live) = &self.live else { return };
        for (i, (line, old)) in self.declaration.lines.iter().zip(&mut self.lines).enumerate() {
            *old = live.end.line(i);
            if old.level || *line != Line::Isa(SCI) {
                set(edge, &self.declaration, *line, old.level);
            }
        }
    }

    /// Sets Xen's lines to the published levels. Returns whether any has changed.
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
                // Several pulses since the last update become one, as on a sampled wire.
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

    /// Rings the device's doorbell.
    pub(crate) fn ring(&self) {
        if let Some(live) = &self.live {
            let _ = rustix::io::write(&live.request_bell, &1u64.to_ne_bytes());
        }
    }

    /// Posts a write. `Ok(false)`: the ring is full.
    pub(crate) fn post(&mut self, what: &Posted) -> Result<bool, Poison> {
        // Without a process the write is lost, as every write is.
        let Some(live) = &mut self.live else { return Ok(true) };
        let outstanding = live.end.post(what)?;
        let enough = outstanding.is_none_or(|n| n >= POSTED_WAKE);
        if enough && live.end.publish_posted() {
            self.ring();
        }
        Ok(outstanding.is_some())
    }

    /// Number of outstanding posted writes.
    pub(crate) fn posted(&mut self) -> Result<u32, Poison> {
        self.live.as_mut().map_or(Ok(0), |live| live.end.posted_outstanding())
    }

    /// Called on each tick: wakes the device for outstanding posted writes, and counts the ticks without progress.
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

    /// Counts a change of the device's lines in the broker's time span `span`.
    pub(crate) fn line_moved(&mut self, span: u64) -> Result<(), Death> {
        let Some(live) = &mut self.live else { return Ok(()) };
        let before = if live.moves.0 == span { live.moves.1 } else { 0 };
        live.moves = (span, before.saturating_add(1));
        if live.moves.1 > LINE_LIMIT { Err(Death::Protocol) } else { Ok(()) }
    }

    /// Whether wake-ups without a result are counted, which the next tick forgets.
    pub(crate) fn is_counted(&self) -> bool {
        self.live.as_ref().is_some_and(|live| live.idle > 0)
    }

    /// Counts a wake-up of the broker by the device without a result.
    pub(crate) fn count_idle_wakeup(&mut self) -> Result<(), Death> {
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
