//! The broker's counters and map, for people.
use super::Machine;
use crate::edge::Edge;
use crate::vcpu::Slot;

impl<E: Edge> Machine<E> {
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
            out.value(
                &format!("vcpu{i}"),
                match slot {
                    Slot::Idle => "idle".to_owned(),
                    Slot::Blocked(_) => "blocked by earlier posted writes".to_owned(),
                    Slot::Waiting(w) => format!("waiting {} ticks for {:?}", w.ticks, w.channels),
                },
            );
        }
    }
}
