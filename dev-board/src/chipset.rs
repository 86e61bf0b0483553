//! Configuration spaces of the host bridge (82441FX), the ISA bridge (82371SB) and power management (82371AB).
//! Power-on values are those of the i440FX machine that guests know.
use bulkhead_bus::pci::{ConfigSpace, FunctionSpec, reg};

/// The host bridge (82441FX, 3.2): parity and SERR# are writable. Memory and bus master are writable too, because they are off
/// after power-on here and firmware sets them; the part has them fixed at one.
pub(crate) const HOST_BRIDGE: FunctionSpec = FunctionSpec::new(0, 0).with_command(0x0146);
/// The ISA bridge (82371SB, 2.2): SERR# and special cycles; ports, memory and bus master as above.
pub(crate) const ISA_BRIDGE: FunctionSpec = FunctionSpec::new(1, 0).with_command(0x010f);
/// Power management (82371AB, 7.1): ports only.
pub(crate) const POWER_MANAGEMENT: FunctionSpec = FunctionSpec::new(1, 3).with_command(0x0001);

/// The three configuration spaces.
pub(crate) struct Chipset {
    spaces: [ConfigSpace; 3],
}

impl Chipset {
    pub(crate) fn new(serial: bool) -> Self {
        Self { spaces: [host_bridge(), isa_bridge(), power_management(serial)] }
    }

    pub(crate) fn space(&mut self, function: u8) -> Option<&mut ConfigSpace> {
        self.spaces.get_mut(usize::from(function))
    }

    pub(crate) fn get(&self, function: u8) -> Option<&ConfigSpace> {
        self.spaces.get(usize::from(function))
    }
}

/// 82441FX, section 3. Memory attributes and SMRAM are stored: on Xen the firmware's memory is RAM already.
fn host_bridge() -> ConfigSpace {
    let mut s = ConfigSpace::new(&HOST_BRIDGE, 0x8086, 0x1237, 2, 0x06_0000);
    s.hard_wire(reg::INTERRUPT_LINE, 1, 0xff); // a bridge has none
    s.set(0x57, 1, 0x40);
    s.set(0x72, 1, 0x02);
    s.allow(0x50, 4, 0xffff_ffff); // PMC configuration, deturbo, DRAM cache
    s.allow(0x57, 1, 0xff); // DRAM control
    s.allow(0x58, 1, 0xff); // DRAM timing
    s.allow(0x59, 4, 0xffff_ffff); // PAM0–3
    s.allow(0x5d, 3, 0x00ff_ffff); // PAM4–6
    s.allow(0x60, 4, 0xffff_ffff); // DRAM row boundaries
    s.allow(0x64, 4, 0xffff_ffff);
    s.allow(0x68, 1, 0xff); // fixed DRAM hole
    s.allow(0x70, 1, 0xff); // multi-transaction timer
    s.allow(0x72, 1, 0x7f); // SMRAM
    s
}

/// 82371SB, section 2.2 (function 0).
fn isa_bridge() -> ConfigSpace {
    let mut s = ConfigSpace::new(&ISA_BRIDGE, 0x8086, 0x7000, 0, 0x06_0100);
    s.hard_wire(reg::INTERRUPT_LINE, 1, 0xff); // a bridge has none
    s.set(reg::HEADER_TYPE, 1, 0x80);
    s.set(reg::STATUS, 2, 0x0200);
    for (at, value) in [
        (0x4c, 0x4d),
        (0x4e, 0x03),
        (0x60, 0x80),
        (0x61, 0x80),
        (0x62, 0x80),
        (0x63, 0x80),
        (0x69, 0x02),
        (0x70, 0x80),
        (0x76, 0x0c),
        (0x77, 0x0c),
        (0x78, 0x02),
        (0xa0, 0x08),
        (0xa8, 0x0f),
    ] {
        s.set(at, 1, value);
    }
    s.allow(0x4c, 4, 0x0000_ffff); // I/O recovery, X-bus chip selects
    s.allow(0x60, 4, 0x8f8f_8f8f); // PIRQ route control
    s.allow(0x69, 3, 0x00ff_ffff); // top of memory, miscellaneous
    s.allow(0x70, 4, 0xffff_ffff); // motherboard interrupts
    s.allow(0x76, 2, 0x8f8f);
    s.allow(0x78, 2, 0xffff);
    s.allow(0x82, 1, 0xff);
    s.allow(0xa0, 4, 0xffff_ffff); // SMI control
    s.allow(0xa4, 4, 0xffff_ffff);
    s.allow(0xa8, 4, 0xffff_ffff);
    s.allow(0xac, 4, 0xffff_ffff);
    s
}

/// 82371AB, section 7 (function 3). The addresses of its register blocks are fixed, because hvmloader writes these addresses.
fn power_management(serial: bool) -> ConfigSpace {
    let mut s = ConfigSpace::new(&POWER_MANAGEMENT, 0x8086, 0x7113, 3, 0x06_8000);
    s.set(reg::STATUS, 2, 0x0280);
    s.set(reg::INTERRUPT_PIN, 1, 1);
    s.set(0x40, 4, 0x0000_0001);
    s.set(0x5f, 1, 0x10);
    s.set(0x63, 1, 0x60);
    s.set(0x67, 1, if serial { 0x08 } else { 0x00 });
    s.set(0x90, 4, 0x0000_b101);
    s.set(0xd2, 1, 0x09);
    s.allow(0x40, 2, 0xffc0); // PM base
    s.allow(0x44, 4, 0xffff_ffff); // counters
    s.allow(0x48, 4, 0xffff_ffff);
    s.allow(0x4c, 4, 0xffff_ffff);
    s.allow(0x50, 4, 0xffff_ffff); // device resources
    s.allow(0x54, 4, 0xffff_ffff);
    s.allow(0x58, 4, 0xffff_ffff);
    s.allow(0x80, 1, 0x01); // PM I/O enable
    s.allow(0x90, 2, 0xfff0); // SMBus base
    s.allow(0xd2, 1, 0x0f); // SMBus host configuration
    s
}
