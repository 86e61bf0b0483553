//! PCI configuration space: its 256 bytes with their writable bits, and the BARs.
//! PCI Local Bus Specification 3.0, chapter 6.
use bitfield_struct::bitfield;

/// Offsets of the header's registers (6.1).
#[expect(missing_docs, reason = "the specification's own names")]
pub mod reg {
    pub const VENDOR_ID: u8 = 0x00;
    pub const DEVICE_ID: u8 = 0x02;
    pub const COMMAND: u8 = 0x04;
    pub const STATUS: u8 = 0x06;
    pub const REVISION: u8 = 0x08;
    pub const CLASS: u8 = 0x09;
    pub const HEADER_TYPE: u8 = 0x0e;
    pub const BAR0: u8 = 0x10;
    pub const SUBSYSTEM_VENDOR: u8 = 0x2c;
    pub const SUBSYSTEM: u8 = 0x2e;
    pub const ROM: u8 = 0x30;
    pub const INTERRUPT_LINE: u8 = 0x3c;
    pub const INTERRUPT_PIN: u8 = 0x3d;
}

/// The command register (6.2.2).
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct Command {
    /// Decode I/O space.
    pub io: bool,
    /// Decode memory space.
    pub memory: bool,
    /// The function may be a bus master.
    pub master: bool,
    #[bits(7)]
    __: u8,
    /// INTx# disabled.
    pub intx_disable: bool,
    #[bits(5)]
    __: u8,
}

/// The address space of a BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    /// I/O ports.
    Io,
    /// 32-bit memory.
    Memory {
        /// Reads have no side effects.
        prefetchable: bool,
    },
    /// 32-bit memory that is guest RAM, mapped there by the hypervisor: video RAM. Accesses do not reach the device.
    Ram,
}

/// Address space and size of a base address register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarSpec {
    /// The address space.
    pub kind: BarKind,
    /// Bytes, a power of two: from 4 for ports, from 16 for memory.
    pub size: u32,
}

/// The declaration of a PCI function: its place, BARs, ROM and command register. The broker's decoder and [`ConfigSpace`] both
/// follow it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionSpec {
    /// Device number on bus 0, 0 to 31.
    pub device: u8,
    /// Function number, 0 to 7.
    pub function: u8,
    /// The base address registers; `None`: the register is zero.
    pub bars: [Option<BarSpec>; 6],
    /// Bytes of the expansion ROM, a power of two from 2048, or 0.
    pub rom: u32,
    /// The bits of the command register that can be written; the others are hard-wired.
    pub command: u16,
}

impl FunctionSpec {
    /// A function without BARs. The writable bits of its command register are those that most devices implement.
    pub const fn new(device: u8, function: u8) -> Self {
        Self { device, function, bars: [None; 6], rom: 0, command: 0x0547 }
    }

    /// Sets the writable bits of the command register, as in the part's data sheet.
    #[must_use]
    pub const fn with_command(self, command: u16) -> Self {
        Self { command, ..self }
    }

    /// Adds BAR `index` of `size` bytes.
    #[must_use]
    pub fn with_bar(mut self, index: usize, kind: BarKind, size: u32) -> Self {
        if let Some(slot) = self.bars.get_mut(index) {
            *slot = Some(BarSpec { kind, size });
        }
        self
    }

    /// Xen's number of the function: device << 3 | function on bus 0 of segment 0.
    pub fn bdf(&self) -> u16 {
        u16::from(self.device) << 3 | u16::from(self.function & 7)
    }
}

/// A function's 256 bytes of configuration space.
#[derive(Clone, PartialEq, Eq)]
pub struct ConfigSpace {
    bytes: [u8; 256],
    writable: [u8; 256],
    /// Bits that are cleared by writing 1 (status).
    clear: [u8; 256],
}

impl std::fmt::Debug for ConfigSpace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ConfigSpace({:04x}:{:04x})", self.read(0, 2), self.read(2, 2))
    }
}

impl ConfigSpace {
    /// Identity, BARs and command register of `spec`; `class` is class, subclass, interface as in 0x0b–0x09.
    pub fn new(spec: &FunctionSpec, vendor: u16, device: u16, revision: u8, class: u32) -> Self {
        let mut space = Self { bytes: [0; 256], writable: [0; 256], clear: [0; 256] };
        space.set(reg::VENDOR_ID, 2, u32::from(vendor));
        space.set(reg::DEVICE_ID, 2, u32::from(device));
        space.set(reg::REVISION, 4, class << 8 | u32::from(revision));
        space.set(reg::SUBSYSTEM_VENDOR, 2, 0x1af4);
        space.set(reg::SUBSYSTEM, 2, 0x1100);
        space.allow(reg::COMMAND, 2, u32::from(spec.command));
        space.allow(reg::INTERRUPT_LINE, 1, 0xff);
        for (i, bar) in spec.bars.iter().enumerate() {
            let Some(bar) = bar else { continue };
            let at = reg::BAR0.wrapping_add((i as u8).wrapping_mul(4));
            let (flags, low) = match bar.kind {
                BarKind::Io => (1, 0x3),
                BarKind::Memory { prefetchable } => (u32::from(prefetchable) << 3, 0xf),
                BarKind::Ram => (8, 0xf),
            };
            space.set(at, 4, flags);
            space.allow(at, 4, !(bar.size.wrapping_sub(1) | low));
        }
        if spec.rom != 0 {
            space.allow(reg::ROM, 4, !spec.rom.wrapping_sub(1) & 0xffff_f800 | 1);
        }
        space
    }

    fn range(offset: u8, size: u8) -> std::ops::Range<usize> {
        let start = usize::from(offset);
        start..start.saturating_add(usize::from(size)).min(256)
    }

    /// Sets `size` bytes at `offset`, read-only bits included.
    pub fn set(&mut self, offset: u8, size: u8, value: u32) {
        for (byte, v) in
            self.bytes.get_mut(Self::range(offset, size)).unwrap_or(&mut []).iter_mut().zip(value.to_le_bytes())
        {
            *byte = v;
        }
    }

    /// Makes the bits of `mask` writable, in addition to those that are.
    pub fn allow(&mut self, offset: u8, size: u8, mask: u32) {
        for (byte, m) in
            self.writable.get_mut(Self::range(offset, size)).unwrap_or(&mut []).iter_mut().zip(mask.to_le_bytes())
        {
            *byte |= m;
        }
    }

    /// Makes the bits of `mask` read-only.
    pub fn hard_wire(&mut self, offset: u8, size: u8, mask: u32) {
        for (byte, m) in
            self.writable.get_mut(Self::range(offset, size)).unwrap_or(&mut []).iter_mut().zip(mask.to_le_bytes())
        {
            *byte &= !m;
        }
    }

    /// Lets a write of 1 clear the bits of `mask`.
    pub fn allow_clear(&mut self, offset: u8, size: u8, mask: u32) {
        for (byte, m) in
            self.clear.get_mut(Self::range(offset, size)).unwrap_or(&mut []).iter_mut().zip(mask.to_le_bytes())
        {
            *byte |= m;
        }
    }

    /// Reads 1, 2 or 4 bytes. Bytes beyond the end are ones.
    pub fn read(&self, offset: u8, size: u8) -> u32 {
        let mut value = [0xff; 4];
        let bytes = self.bytes.get(Self::range(offset, size)).unwrap_or(&[]);
        for (v, byte) in value.iter_mut().zip(bytes) {
            *v = *byte;
        }
        let value = u32::from_le_bytes(value);
        if size >= 4 { value } else { value & (1u32 << (u32::from(size).wrapping_mul(8) & 31)).wrapping_sub(1) }
    }

    /// Writes 1, 2 or 4 bytes, only their writable bits.
    pub fn write(&mut self, offset: u8, size: u8, value: u32) {
        for (i, v) in Self::range(offset, size.min(4)).zip(value.to_le_bytes()) {
            if let (Some(byte), Some(&w), Some(&c)) = (self.bytes.get_mut(i), self.writable.get(i), self.clear.get(i)) {
                *byte = (*byte & !w | v & w) & !(v & c);
            }
        }
    }

    /// All 256 bytes.
    pub fn bytes(&self) -> &[u8; 256] {
        &self.bytes
    }

    /// The command register's current value.
    pub fn command(&self) -> Command {
        Command::from_bits(self.read(reg::COMMAND, 2) as u16)
    }

    /// The bytes of a saved state.
    pub fn save(&self) -> Vec<u8> {
        self.bytes.to_vec()
    }

    /// Restores the writable bits of a saved state; the other bits keep their values.
    pub fn load(&mut self, saved: &[u8]) -> Result<(), crate::StateError> {
        if saved.len() != 256 {
            return Err(crate::StateError::Value("configuration space"));
        }
        for ((byte, saved), (w, c)) in self.bytes.iter_mut().zip(saved).zip(self.writable.iter().zip(&self.clear)) {
            *byte = *byte & !(w | c) | saved & (w | c);
        }
        Ok(())
    }
}

/// The addresses at which a function's BARs and ROM are decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decode {
    /// Base of each BAR that is decoded.
    pub bars: [Option<u64>; 6],
    /// Base of the ROM if it is decoded.
    pub rom: Option<u64>,
}

impl Decode {
    /// The addresses that `space` decodes. A BAR whose address is zero, or whose end lies beyond its address space, is not decoded:
    /// firmware leaves the first in BARs that it does not place, and reads the second back while it sizes BARs.
    pub fn of(spec: &FunctionSpec, space: &ConfigSpace) -> Self {
        let command = space.command();
        let mut decode = Self::default();
        for (i, (slot, bar)) in decode.bars.iter_mut().zip(&spec.bars).enumerate() {
            let Some(bar) = bar else { continue };
            let raw = space.read(reg::BAR0.wrapping_add((i as u8).wrapping_mul(4)), 4);
            *slot = match bar.kind {
                BarKind::Io if command.io() => place(raw & !3, bar.size, 0x1_0000),
                BarKind::Memory { .. } | BarKind::Ram if command.memory() => place(raw & !15, bar.size, 0xffff_0000),
                _ => None,
            };
        }
        let rom = space.read(reg::ROM, 4);
        if spec.rom != 0 && command.memory() && rom & 1 != 0 {
            decode.rom = place(rom & 0xffff_f800, spec.rom, 0xffff_0000);
        }
        decode
    }
}

fn place(base: u32, size: u32, limit: u64) -> Option<u64> {
    let base = u64::from(base);
    (base != 0 && base.saturating_add(u64::from(size)) <= limit).then_some(base)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn vga() -> FunctionSpec {
        let mut spec = FunctionSpec::new(3, 0)
            .with_bar(0, BarKind::Ram, 16 << 20)
            .with_bar(1, BarKind::Io, 256)
            .with_bar(2, BarKind::Memory { prefetchable: false }, 4096);
        spec.rom = 65536;
        spec
    }

    #[test]
    fn sizing_a_bar_returns_its_size() {
        let spec = vga();
        let mut space = ConfigSpace::new(&spec, 0x1234, 0x1111, 2, 0x030000);
        for (at, want) in [(0x10, 0xff00_0008u32), (0x14, 0xffff_ff01), (0x18, 0xffff_f000), (0x1c, 0)] {
            space.write(at, 4, u32::MAX);
            assert_eq!(space.read(at, 4), want);
        }
        space.write(reg::ROM, 4, 0xffff_fffe);
        assert_eq!(space.read(reg::ROM, 4), 0xffff_0000);
        space.write(0, 4, 0);
        assert_eq!(space.read(0, 4), 0x1111_1234);
    }

    #[test]
    fn a_bar_is_decoded_only_while_the_command_register_says_so() {
        let spec = vga();
        let mut space = ConfigSpace::new(&spec, 0x1234, 0x1111, 2, 0x030000);
        space.write(0x10, 4, 0xf000_0000);
        space.write(0x14, 4, 0xc000);
        space.write(reg::ROM, 4, 0xf200_0001);
        assert_eq!(Decode::of(&spec, &space), Decode::default());
        space.write(reg::COMMAND, 2, 2);
        let decode = Decode::of(&spec, &space);
        assert_eq!((decode.bars[0], decode.bars[1], decode.bars[2]), (Some(0xf000_0000), None, None));
        assert_eq!(decode.rom, Some(0xf200_0000));
        space.write(reg::COMMAND, 2, 1);
        assert_eq!(Decode::of(&spec, &space).bars[1], Some(0xc000));
        // While firmware sizes BARs, no range at the top of the address space may be claimed.
        space.write(reg::COMMAND, 2, 3);
        space.write(0x10, 4, u32::MAX);
        space.write(0x14, 4, u32::MAX);
        assert_eq!(Decode::of(&spec, &space).bars, [None; 6]);
    }

    proptest! {
        #[test]
        fn read_only_bits_survive_any_writes(writes in prop::collection::vec((any::<u8>(), 1u8..=4, any::<u32>()), 0..50)) {
            let spec = vga();
            let fresh = ConfigSpace::new(&spec, 0x1234, 0x1111, 2, 0x030000);
            let mut space = fresh.clone();
            for (offset, size, value) in writes {
                space.write(offset, size, value);
            }
            for i in 0..256 {
                prop_assert_eq!(space.bytes[i] & !space.writable[i], fresh.bytes[i] & !space.writable[i]);
            }
            let mut loaded = fresh.clone();
            loaded.load(&space.save()).unwrap();
            prop_assert_eq!(loaded, space);
        }
    }
}
