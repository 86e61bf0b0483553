//! What a device declares: a pure function of its configuration, read by the broker before the device runs.
use crate::pci::FunctionSpec;
use bulkhead_wire::Effects;

/// Index of a region in its device's declaration.
pub type RegionId = u16;

/// Where a region is in the guest's address spaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Area {
    /// I/O ports, fixed.
    Ports {
        /// First port.
        base: u16,
        /// Number of ports.
        len: u16,
    },
    /// Memory, fixed.
    Memory {
        /// First guest-physical address.
        base: u64,
        /// Bytes.
        len: u64,
    },
    /// I/O ports or memory at the address that a base address register of a PCI function holds. The function's
    /// specification says which of the two, and how large.
    Bar {
        /// Index into [`Declaration::functions`].
        function: u8,
        /// Number of the BAR, 0 to 5.
        bar: u8,
    },
}

/// One region of registers or memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// For people.
    pub name: &'static str,
    /// Where it is.
    pub area: Area,
    /// Single writes to it may be posted: they lower no interrupt, start or stop no DMA, change no decoding and no
    /// shadowed register. Memory, and ports that only take note of what is written (docs/decisions/0004).
    pub posted: bool,
    /// Registers of which the same is true, where it is not of all: offsets. Telling a card that it may fill more buffers is one such: it
    /// may hear of that a moment later.
    pub posted_at: Vec<u16>,
    /// Single writes while the device's process is away are kept for the next one, in order; one that was on its way may be made
    /// twice. For devices whose drivers only ever tell where they are and what they want to hear of, and read what became of it.
    pub kept: bool,
    /// Registers whose reads the broker may answer from the device's shadows: (offset, bytes, index of the shadow).
    pub shadows: Vec<(u16, u8, u8)>,
}

impl Region {
    /// Ports at a fixed address.
    pub fn ports(name: &'static str, base: u16, len: u16) -> Self {
        Self {
            name,
            area: Area::Ports { base, len },
            posted: false,
            posted_at: Vec::new(),
            kept: false,
            shadows: Vec::new(),
        }
    }

    /// Memory at a fixed address.
    pub fn memory(name: &'static str, base: u64, len: u64) -> Self {
        Self {
            name,
            area: Area::Memory { base, len },
            posted: false,
            posted_at: Vec::new(),
            kept: false,
            shadows: Vec::new(),
        }
    }

    /// What BAR `bar` of function `function` maps.
    pub fn bar(name: &'static str, function: u8, bar: u8) -> Self {
        Self {
            name,
            area: Area::Bar { function, bar },
            posted: false,
            posted_at: Vec::new(),
            kept: false,
            shadows: Vec::new(),
        }
    }

    /// The same, with writes that are kept.
    #[must_use]
    pub fn kept(mut self) -> Self {
        self.kept = true;
        self
    }

    /// The same, with posted writes.
    #[must_use]
    pub fn posted(mut self) -> Self {
        self.posted = true;
        self
    }

    /// The same, with posted writes to the register at `offset`.
    #[must_use]
    pub fn posted_at(mut self, offset: u16) -> Self {
        self.posted_at.push(offset);
        self
    }

    /// The same, with `bytes` bytes at `offset` answered from shadow `index`.
    #[must_use]
    pub fn shadow(mut self, offset: u16, bytes: u8, index: u8) -> Self {
        self.shadows.push((offset, bytes, index));
        self
    }
}

/// Which interrupt a line of the device is wired to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// ISA interrupt 0 to 15.
    Isa(u8),
    /// INTA# to INTD# (0 to 3) of the function with this index.
    Intx {
        /// Index into [`Declaration::functions`].
        function: u8,
        /// 0 = INTA#.
        pin: u8,
    },
}

/// What the broker lets a device ask for together with a reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// Switch the guest off.
    pub power_off: bool,
    /// Restart the guest.
    pub reboot: bool,
    /// Lock and unlock the firmware's memory.
    pub rom: bool,
    /// Start the unplug protocol.
    pub unplug: bool,
    /// Eject PCI devices that were added.
    pub eject: bool,
}

impl Permissions {
    /// Whether a device with these permissions may ask for all of `effects`. No device may set a reserved bit.
    pub fn allow(self, effects: Effects) -> bool {
        (self.power_off || !effects.power_off())
            && (self.reboot || !effects.reboot())
            && (self.rom || !(effects.rom_lock() || effects.rom_unlock()))
            && (self.unplug || !effects.unplug())
            && (self.eject || !effects.eject())
            && effects.reserved() == 0
    }
}

/// The unplug protocol's bit for all network cards (docs/misc/hvm-emulated-unplug.pandoc of Xen).
pub const UNPLUG_NICS: u16 = 2;

/// All that the broker needs to know of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Declaration {
    /// Its regions; the index is what a request names.
    pub regions: Vec<Region>,
    /// Its PCI functions.
    pub functions: Vec<FunctionSpec>,
    /// Its interrupt lines.
    pub lines: Vec<Line>,
    /// What it may ask for.
    pub permissions: Permissions,
    /// It maps guest memory, so Xen's INVALIDATE concerns it.
    pub dma: bool,
    /// Its part of the unplug protocol: the bits of the mask that concern it.
    pub unplug: u16,
    /// Unplugging takes away all of it, its functions too.
    pub unplug_removes: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_effect_needs_its_own_permission() {
        let none = Permissions::default();
        let all = Permissions { power_off: true, reboot: true, rom: true, unplug: true, eject: true };
        let pairs = [
            (Effects::new().with_power_off(true), Permissions { power_off: true, ..none }),
            (Effects::new().with_reboot(true), Permissions { reboot: true, ..none }),
            (Effects::new().with_rom_lock(true), Permissions { rom: true, ..none }),
            (Effects::new().with_rom_unlock(true), Permissions { rom: true, ..none }),
            (Effects::new().with_unplug(true), Permissions { unplug: true, ..none }),
            (Effects::new().with_eject(true), Permissions { eject: true, ..none }),
        ];
        for (effects, permission) in pairs {
            assert!(permission.allow(effects) && all.allow(effects) && !none.allow(effects), "{effects:?}");
            for (_, other) in pairs.iter().filter(|(_, other)| *other != permission) {
                assert!(!other.allow(effects), "{effects:?} by {other:?}");
            }
        }
        assert!(none.allow(Effects::new()));
        assert!(!all.allow(Effects::new().with_reserved(1)), "no device may set a reserved bit");
    }
}
