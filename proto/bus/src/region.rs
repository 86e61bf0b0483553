//! A device's declaration: a pure function of its configuration, which the broker reads before the device runs.
use crate::pci::FunctionSpec;
use bulkhead_wire::Effects;

/// Index of a region in its device's declaration.
pub type RegionId = u16;

/// A region's place in the guest's address spaces.
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
    /// I/O ports or memory at the address in a base address register of a PCI function. The function's [`FunctionSpec`] has the
    /// kind and the size.
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
    /// A name for people to read.
    pub name: &'static str,
    /// Ports, a BAR or addresses.
    pub area: Area,
    /// Single writes to the region may be posted: they lower no interrupt, start or stop no DMA, and change no decoding and no
    /// shadowed register. Memory, and ports whose writes have no immediate effect (docs/decisions/0004).
    pub posted: bool,
    /// Offsets of single registers whose writes may be posted, in a region where not all may. An example is the register that gives
    /// a card more receive buffers: a later arrival of the write does no harm.
    pub posted_at: Vec<u16>,
    /// Single writes while the device has no process are kept for the next process, in order; a write in flight may be made twice.
    /// For devices to which a repeated write does little harm: their drivers write ring positions, interrupt masks, characters. If there
    /// are too many, the device is told of lost writes ([`crate::Device::lost_writes`]).
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

    /// Registers or memory that BAR `bar` of function `function` maps.
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

    /// Keeps writes while the device has no process.
    #[must_use]
    pub fn kept(mut self) -> Self {
        self.kept = true;
        self
    }

    /// Lets all single writes to the region be posted.
    #[must_use]
    pub fn posted(mut self) -> Self {
        self.posted = true;
        self
    }

    /// Lets single writes to the register at `offset` be posted.
    #[must_use]
    pub fn posted_at(mut self, offset: u16) -> Self {
        self.posted_at.push(offset);
        self
    }

    /// Lets the broker answer reads of `bytes` bytes at `offset` from shadow `index`.
    #[must_use]
    pub fn shadow(mut self, offset: u16, bytes: u8, index: u8) -> Self {
        self.shadows.push((offset, bytes, index));
        self
    }
}

/// The interrupt that a line of the device is wired to.
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

/// The effects that a device may request together with a reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// Power the guest off.
    pub power_off: bool,
    /// Reboot the guest.
    pub reboot: bool,
    /// Make the firmware's memory read-only, and writable again.
    pub rom: bool,
    /// Start the unplug protocol.
    pub unplug: bool,
    /// Eject PCI devices that were added while the guest ran.
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

/// Everything that the broker knows about a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Declaration {
    /// Its regions; a request names one by its index here.
    pub regions: Vec<Region>,
    /// Its PCI functions.
    pub functions: Vec<FunctionSpec>,
    /// The wiring of its interrupt lines.
    pub lines: Vec<Line>,
    /// The effects that it may request.
    pub permissions: Permissions,
    /// It maps guest memory, so it must handle Xen's INVALIDATE.
    pub dma: bool,
    /// The bits of the unplug protocol's mask that concern it.
    pub unplug: u16,
    /// Unplugging removes the whole device, its PCI functions included.
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
