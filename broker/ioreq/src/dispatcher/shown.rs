//! The broker's counters and address map.
use super::Dispatcher;
use crate::edge::Edge;
use crate::presence::Presence;
use crate::vcpu::VcpuState;
use bulkhead_runtime::FunctionFacts;

impl<E: Edge> Dispatcher<E> {
    /// The counters by name, for people to read.
    pub fn statistics(&self) -> Vec<(&'static str, u64)> {
        let c = &self.counters;
        vec![
            ("full hops", c.hops),
            ("answered from a shadow", c.shadowed),
            ("answered from configuration space", c.config),
            ("answered from a ROM", c.rom),
            ("posted writes", c.posted),
            ("buffered requests", c.buffered),
            ("nobody there", c.unclaimed),
            ("dead device", c.dead),
            ("malformed", c.malformed),
            ("invalidations", c.invalidations),
        ]
    }

    /// Number of posted writes that were passed to devices.
    pub fn posted(&self) -> u64 {
        self.counters.posted
    }

    /// The PCI functions that the guest can find, as their devices publish them.
    pub fn functions(&self) -> Vec<FunctionFacts> {
        let mut all = Vec::new();
        for channel in self.channels.iter().filter(|c| c.presence != Presence::Absent) {
            let Some(live) = &channel.live else { continue };
            for (i, f) in channel.functions.iter().enumerate() {
                let [id, class, interrupt] = [0x00, 0x08, 0x3c].map(|at| live.end.config(i, at));
                let [v0, v1, m0, m1] = id.to_le_bytes();
                let [irq, pin, ..] = interrupt.to_le_bytes();
                all.push(FunctionFacts {
                    of: channel.name.clone(),
                    device: f.spec.device,
                    function: f.spec.function,
                    vendor: u16::from_le_bytes([v0, v1]),
                    model: u16::from_le_bytes([m0, m1]),
                    class: class >> 8,
                    irq,
                    pin,
                });
            }
        }
        all
    }

    /// The address map, for people to read.
    pub fn inspect(&self, out: &mut bulkhead_bus::Inspect) {
        for channel in self.channels.iter().filter(|c| c.presence != Presence::Absent) {
            out.group(&channel.name, |out| {
                out.value("online", channel.live.is_some()).value("unplugged", channel.presence.unplugged());
                let names = channel.declaration.regions.iter().map(|r| r.name).chain(["configuration"]);
                for (name, hops) in names.zip(&channel.hops).filter(|(_, hops)| **hops > 0) {
                    out.value(&format!("hops to {name}"), hops);
                }
                for f in &channel.functions {
                    out.value(&format!("{:02x}.{}", f.spec.device, f.spec.function), format_args!("{:x?}", f.decoded));
                }
            });
        }
        for f in self.functions() {
            let value = format!("{:04x}:{:04x} {:06x} irq {} pin {}", f.vendor, f.model, f.class, f.irq, f.pin);
            out.value(&format!("{}.pci {:02x}.{}", f.of, f.device, f.function), value);
        }
        if let Some(vram) = &self.video_ram {
            out.hex("video RAM at frame", vram.gfn);
        }
        for (i, state) in self.vcpus.iter().enumerate() {
            out.value(
                &format!("vcpu{i}"),
                match state {
                    VcpuState::Idle => "idle".to_owned(),
                    VcpuState::Blocked(_) => "blocked by earlier posted writes".to_owned(),
                    VcpuState::Waiting(w) => format!("waiting {} ticks for {:?}", w.ticks, w.channels),
                },
            );
        }
    }
}
