//! Addresses on the bus: decoded BARs, unplugging, hot-plug and ejection.
use super::{Action, Dispatcher};
use crate::edge::Edge;
use crate::pci;
use crate::presence::Change;
use crate::route::Target;
use bulkhead_bus::Area;
use bulkhead_bus::pci::{BarKind, Decode};
use bulkhead_xen::Range;

impl<E: Edge> Dispatcher<E> {
    pub(super) fn claim_functions(&mut self, index: usize, claimed: bool) {
        for function in self.channels.get(index).map_or(&[][..], |c| &c.functions) {
            self.edge.claim(Range::Pci(function.spec.bdf()), claimed);
        }
    }

    /// Ejects devices completely, before the guest continues.
    pub(super) fn eject(&mut self, mask: u32) {
        for index in 0..self.channels.len() {
            let Some(channel) = self.channels.get_mut(index) else { continue };
            let meant = channel.functions.iter().any(|f| mask >> f.spec.device & 1 != 0);
            if !meant || !channel.presence.change(Change::Eject) {
                continue;
            }
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

    /// Removes the functions of completely unplugged devices, before the guest's write is answered.
    pub(super) fn remove_unplugged(&mut self) {
        for channel in &mut self.channels {
            let parts = std::mem::take(&mut channel.parts);
            channel.unplugged_parts |= parts;
            if parts != 0 {
                self.actions.push(Action::PartsUnplugged(channel.slot, parts));
            }
        }
        for index in 0..self.channels.len() {
            let Some(channel) = self.channels.get_mut(index) else { continue };
            if !channel.presence.change(Change::Confirmed) {
                continue;
            }
            let (slot, functions) = (channel.slot, channel.functions.len());
            for function in 0..functions {
                self.decode(index, function, Decode::default());
            }
            self.actions.push(Action::Unplugged(slot));
        }
    }

    /// Video RAM stays where the saved machine had it, and is cached as there.
    pub(crate) fn place_video_ram_again(&mut self) {
        if let Some(vram) = &self.video_ram {
            self.edge.pin(vram.gfn, vram.gfn.saturating_add(u64::from(vram.pages)).saturating_sub(1));
        }
    }

    /// Locks the firmware's memory, or lets the guest write it.
    pub(crate) fn set_rom_writable(&mut self, writable: bool) {
        self.rom_locked = !writable;
        self.edge.set_rom_writable(writable);
    }

    pub(crate) fn config_written(&mut self, index: usize, bdf: u16, offset: u8, size: u8, value: u32) {
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

    /// Moves a function's ranges to the addresses that it decodes now.
    pub(super) fn decode(&mut self, index: usize, at: usize, new: Decode) {
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

    /// Moves one target from its old range to its new one.
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

    /// Moves video RAM, only when it is decoded at another address: firmware and drivers disable decoding and enable it again, and
    /// moving thousands of pages each time would take longer than the rest of the boot.
    fn move_video_ram(&mut self, channel: usize, gfn: u64) {
        let Some(vram) = self.video_ram.as_mut().filter(|v| v.channel == channel && v.gfn != gfn) else { return };
        if self.edge.relocate(vram.gfn, gfn, vram.pages) {
            vram.gfn = gfn;
            self.actions.push(Action::VideoRamAt(gfn));
        }
    }

    /// Moves disabled video RAM away from a range in which another device is decoded.
    fn clear_of_video_ram(&mut self, first: u64, last: u64) {
        let Some(vram) = &self.video_ram else { return };
        let start = vram.gfn << 12;
        let end = start.saturating_add(u64::from(vram.pages) << 12);
        let decoded = self.channels.get(vram.channel).is_some_and(|c| {
            c.functions.iter().any(|f| {
                f.decoded
                    .bars
                    .iter()
                    .zip(&f.spec.bars)
                    .any(|(base, bar)| base.is_some() && bar.is_some_and(|b| b.kind == BarKind::Ram))
            })
        });
        let (channel, home) = (vram.channel, vram.home);
        if !decoded && first < end && start <= last {
            self.move_video_ram(channel, home);
        }
    }

    /// Returns the broker's own PCI registers to their power-on state.
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
}
