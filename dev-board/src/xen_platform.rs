//! The xen-platform PCI device 5853:0001 and the fixed ports 0x10–0x13: the unplug protocol
//! (docs/misc/hvm-emulated-unplug.pandoc), the firmware's ROM lock, a log port.
use crate::state::XenState;
use bulkhead_bus::pci::{BarKind, ConfigSpace, FunctionSpec, reg};
use bulkhead_bus::{Context, Inspect, IoError, IoResult, StateError};

/// The magic number of the protocol.
const MAGIC: u16 = 0x49d2;
/// The magic number by which a driver knows that it must not unplug emulated devices.
const BLACKLISTED: u16 = 0xd249;
/// Version of the protocol.
const PROTOCOL: u8 = 1;
/// Unplug: IDE and SCSI disks.
pub(crate) const UNPLUG_DISKS: u16 = 1;
/// Unplug: network cards.
pub(crate) const UNPLUG_NICS: u16 = 2;
/// Flag: the firmware's memory is read-only.
pub(crate) const ROM_LOCK: u8 = 1;

/// Place and BARs of the device.
pub(crate) fn function() -> FunctionSpec {
    // The device decodes ports and memory, and is no bus master.
    FunctionSpec::new(2, 0).with_command(0x0003).with_bar(0, BarKind::Io, 0x100).with_bar(
        1,
        BarKind::Memory { prefetchable: true },
        16 << 20,
    )
}

/// The xen-platform PCI device and its ports.
pub(crate) struct XenPlatform {
    pub(crate) config: ConfigSpace,
    /// The guest may unplug emulated disks. If not, its drivers read that they are blacklisted, so a guest whose disks have no PV
    /// back end keeps the emulated ones.
    unplug: bool,
    flags: u8,
    product: u16,
    build: u32,
}

impl XenPlatform {
    pub(crate) fn new(unplug: bool) -> Self {
        let mut config = ConfigSpace::new(&function(), 0x5853, 0x0001, 1, 0xff_8000);
        config.set(reg::SUBSYSTEM_VENDOR, 2, 0x5853);
        config.set(reg::SUBSYSTEM, 2, 0x0001);
        config.set(reg::INTERRUPT_PIN, 1, 1);
        Self { config, unplug, flags: 0, product: 0, build: 0 }
    }

    pub(crate) fn port_read(&self, offset: u16, size: u8) -> IoResult<u32> {
        match (offset, size) {
            (0, 2) => Ok(u32::from(if self.unplug { MAGIC } else { BLACKLISTED })),
            (0, 1) => Ok(u32::from(self.flags)),
            (2, 1) => Ok(u32::from(PROTOCOL)),
            (_, 1) => Ok(0xff),
            (_, 2) => Ok(0xffff),
            (_, 4) => Ok(u32::MAX),
            _ => Err(IoError::Size),
        }
    }

    pub(crate) fn port_write(&mut self, offset: u16, size: u8, value: u32, cx: &mut Context) -> IoResult<()> {
        match (offset, size) {
            (0, 1) => self.set_flags(value as u8, cx),
            (2, 1) => cx.log.push(value as u8),
            (0, 2) => self.ask_unplug(value as u16, cx),
            (2, 2) => self.product = value as u16,
            (0, 4) => {
                self.build = value;
                let text = format!("[platform] PV drivers: product {}, build {}\n", self.product, self.build);
                text.bytes().for_each(|b| cx.log.push(b));
            }
            (_, 1 | 2 | 4) => {}
            _ => return Err(IoError::Size),
        }
        Ok(())
    }

    fn set_flags(&mut self, value: u8, cx: &mut Context) {
        let new = value & ROM_LOCK;
        if new != self.flags {
            cx.effects.bits.set_rom_lock(new != 0);
            cx.effects.bits.set_rom_unlock(new == 0);
        }
        self.flags = new;
    }

    fn ask_unplug(&mut self, mask: u16, cx: &mut Context) {
        if self.unplug && mask != 0 {
            cx.effects.bits.set_unplug(true);
            // A string of writes is one access: its effects add up.
            cx.effects.mask |= u32::from(mask);
        }
    }

    pub(crate) fn bar_read(&self, offset: u16, size: u8) -> IoResult<u32> {
        match (offset, size) {
            (0, 1) => Ok(u32::from(self.flags)),
            (_, 1) => Ok(0xff),
            _ => Err(IoError::Size),
        }
    }

    pub(crate) fn bar_write(&mut self, offset: u16, size: u8, value: u32, cx: &mut Context) -> IoResult<()> {
        match (offset, size, value as u8) {
            (0, 1, v) => self.set_flags(v, cx),
            (4, 1, 1) => self.ask_unplug(UNPLUG_DISKS | UNPLUG_NICS, cx),
            (8, 1, 1) => self.ask_unplug(UNPLUG_DISKS, cx),
            (8, 1, 2) => self.ask_unplug(UNPLUG_NICS, cx),
            (8, 1, v) => cx.log.push(v),
            (_, 1, _) => {}
            _ => return Err(IoError::Size),
        }
        Ok(())
    }

    pub(crate) fn save(&self) -> XenState {
        XenState {
            config: self.config.save(),
            flags: u32::from(self.flags),
            product: u32::from(self.product),
            build: self.build,
        }
    }

    pub(crate) fn load(&mut self, s: &XenState) -> Result<(), StateError> {
        self.config.load(&s.config)?;
        self.flags = u8::try_from(s.flags).map_err(|_| StateError::Value("flags"))? & ROM_LOCK;
        self.product = u16::try_from(s.product).map_err(|_| StateError::Value("product"))?;
        self.build = s.build;
        Ok(())
    }

    pub(crate) fn inspect(&self, out: &mut Inspect) {
        out.hex("flags", self.flags).value("product", self.product).value("build", self.build);
        out.value("unplug offered", self.unplug);
    }
}
