//! The broker's part of PCI: the addresses of decoded BARs.
//!
//! The broker keeps its own copy of the relevant registers: command, BARs, ROM base, and for the ISA bridge the link routes. They
//! follow from the *guest's* writes, never from a device.
use bulkhead_bus::pci::{ConfigSpace, Decode, FunctionSpec};

/// A function and its decoded ranges.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) spec: FunctionSpec,
    registers: ConfigSpace,
    pub(crate) decoded: Decode,
}

impl Function {
    pub(crate) fn new(spec: FunctionSpec) -> Self {
        let registers = ConfigSpace::new(&spec, 0, 0, 0, 0);
        Self { spec, registers, decoded: Decode::default() }
    }

    /// Handles a write of the guest. Returns the decoded ranges if they have changed.
    pub(crate) fn written(&mut self, offset: u8, size: u8, value: u32) -> Option<Decode> {
        self.registers.write(offset, size, value);
        let new = Decode::of(&self.spec, &self.registers);
        (new != self.decoded).then_some(new)
    }

    /// A register, as the guest has written it.
    pub(crate) fn register(&self, offset: u8, size: u8) -> u32 {
        self.registers.read(offset, size)
    }

    /// Returns to the power-on state, in which nothing is decoded.
    pub(crate) fn reset(&mut self) -> Decode {
        *self = Self::new(self.spec.clone());
        self.decoded
    }
}

/// PIIX3's PIRQ route control registers (82371SB data sheet, 2.2.9): a write to 0x60–0x63 of 00:01.0 routes a link.
pub(crate) fn links(bdf: u16, offset: u8, size: u8, value: u32) -> impl Iterator<Item = (u8, u8)> {
    let bytes = value.to_le_bytes();
    (0..size).filter_map(move |i| {
        let register = offset.checked_add(i)?;
        let value = *bytes.get(usize::from(i))?;
        let link = register.checked_sub(0x60).filter(|l| *l < 4 && bdf == 8)?;
        Some((link, if value & 0x80 != 0 { 0 } else { value & 0x0f }))
    })
}
