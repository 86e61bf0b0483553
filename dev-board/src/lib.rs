//! The board: i440FX, PIIX3's bridge function, PIIX4's power management, CMOS RAM, reset and debug ports, the DMA
//! controllers' registers, and the xen-platform PCI device. It is a device like others, without guest memory and without a back
//! end.
//!
//! | file | what | source |
//! |---|---|---|
//! | `chipset.rs` | configuration spaces of 00:00.0, 00:01.0, 00:01.3 | Intel 82441FX, 82371SB, 82371AB data sheets |
//! | `cmos.rs` | CMOS RAM 0x0e–0x7f and the index latch | hvmloader, SeaBIOS |
//! | `pm.rs` | PM1a control, GPE0, APM, CPU hot-plug registers | ACPI 6, libacpi |
//! | `pci_hotplug.rs` | PCI hot-plug registers | libacpi |
//! | `dma.rs` | the two 8237 | Intel 8237A data sheet |
//! | `spec.rs` | names of the registers, for fuzzing | |
//! | `fw_cfg/` | a device of its own: direct kernel boot | see `fw_cfg/mod.rs` |
//! | `xen_platform.rs` | 5853:0001 and ports 0x10–0x13 | docs/misc/hvm-emulated-unplug.pandoc |
mod chipset;
mod cmos;
mod dma;
mod exercised;
pub mod fw_cfg;
mod pci_hotplug;
mod pm;
mod spec;
mod state;
mod xen_platform;

use bulkhead_bus::DiskGeometry;
use bulkhead_bus::pci::{ConfigSpace, FunctionSpec};
use bulkhead_bus::{
    Access, Board, BoardError, Context, Declaration, Device, Inspect, IoError, IoResult, Line, Permissions, Region,
    Reset, StateError,
};
use chipset::Chipset;
use cmos::Cmos;
use dma::Dma;
pub use exercised::TARGET;
use pm::Pm;
use prost::Message as _;
use state::{PlatformState, VERSION};
use xen_platform::XenPlatform;

/// Regions, by index.
mod region {
    pub(crate) const CMOS: u16 = 0;
    pub(crate) const PORT92: u16 = 1;
    pub(crate) const RESET_CONTROL: u16 = 2;
    pub(crate) const APM: u16 = 3;
    pub(crate) const PM1_CONTROL: u16 = 4;
    pub(crate) const GPE: u16 = 5;
    pub(crate) const PCI_HOTPLUG: u16 = 6;
    pub(crate) const CPU_HOTPLUG: u16 = 7;
    pub(crate) const POST: u16 = 8;
    pub(crate) const FERR: u16 = 9;
    pub(crate) const DEBUG: u16 = 10;
    pub(crate) const DMA1: u16 = 11;
    pub(crate) const DMA_PAGES: u16 = 12;
    pub(crate) const DMA2: u16 = 13;
    /// Regions of the xen-platform device.
    pub(crate) const XEN_PORTS: u16 = 14;
    pub(crate) const XEN_BAR0: u16 = 15;
    pub(crate) const XEN_BAR1: u16 = 16;
}

/// Index of the line of the system control interrupt.
const SCI: usize = 0;

/// Configuration of the board.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Most vCPUs of the guest.
    pub vcpus: u16,
    /// vCPUs that are plugged in at the start.
    pub online: u16,
    /// The board has the xen-platform device.
    pub xen_platform: bool,
    /// Boot order in QEMU's letters, at most three.
    pub boot: String,
    /// The firmware boots a floppy disk without checking its signature.
    pub unsigned_floppy: bool,
    /// Geometries of the emulated disks, for CMOS.
    pub disks: Vec<DiskGeometry>,
    /// The machine has a COM1.
    pub serial: bool,
    /// The guest may unplug emulated disks.
    pub unplug: bool,
}

/// PCI functions of the board.
fn functions(config: &Config) -> Vec<FunctionSpec> {
    let mut functions = vec![chipset::HOST_BRIDGE, chipset::ISA_BRIDGE, chipset::POWER_MANAGEMENT];
    if config.xen_platform {
        functions.push(xen_platform::function());
    }
    functions
}

/// The board's declaration.
pub fn declare(config: &Config) -> Declaration {
    let mut regions = vec![
        Region::ports("CMOS", 0x70, 2),
        Region::ports("port 92", 0x92, 1),
        Region::ports("reset control", 0xcf9, 1),
        Region::ports("APM", 0xb2, 2),
        Region::ports("PM1a control", pm::PM1A_CONTROL, 2),
        Region::ports("GPE0", pm::GPE0, 4),
        Region::ports("PCI hot-plug", pm::PCI_HOTPLUG, pci_hotplug::LEN),
        Region::ports("CPU hot-plug", pm::CPU_HOTPLUG, 0x20),
        Region::ports("POST", 0x80, 1).posted(),
        Region::ports("FERR", 0xf0, 1),
        Region::ports("debug console", 0x402, 1).posted(),
        Region::ports("DMA 1", 0x00, 0x10),
        Region::ports("DMA pages", 0x81, 0x0f),
        Region::ports("DMA 2", 0xc0, 0x20),
    ];
    if config.xen_platform {
        regions.push(Region::ports("xen-platform", 0x10, 0x10));
        regions.push(Region::bar("xen-platform BAR 0", 3, 0));
        regions.push(Region::bar("xen-platform BAR 1", 3, 1));
    }
    Declaration {
        regions,
        functions: functions(config),
        lines: vec![Line::Isa(9)],
        permissions: Permissions { power_off: true, reboot: true, rom: true, unplug: config.unplug, eject: true },
        ..Declaration::default()
    }
}

/// The board's registers: one device, with its PCI functions.
pub struct Platform {
    config: Config,
    chipset: Chipset,
    cmos: Cmos,
    pm: Pm,
    dma: Dma,
    xen: Option<XenPlatform>,
    port92: u8,
    post: u8,
    reset_control: u8,
    dirty: bool,
}

impl Platform {
    /// A board in its power-on state.
    pub fn new(config: Config) -> Self {
        Self {
            chipset: Chipset::new(config.serial),
            cmos: Cmos::new(&config),
            pm: Pm::new(config.vcpus, config.online),
            dma: Dma::new(),
            xen: config.xen_platform.then(|| XenPlatform::new(config.unplug)),
            port92: 0,
            post: 0,
            reset_control: 0,
            dirty: true,
            config,
        }
    }

    fn space(&mut self, function: u8) -> Option<&mut ConfigSpace> {
        match function {
            3 => self.xen.as_mut().map(|x| &mut x.config),
            n => self.chipset.space(n),
        }
    }
}

impl Device for Platform {
    fn declaration(&self) -> Declaration {
        declare(&self.config)
    }

    fn read(&mut self, at: Access, _: &mut Context) -> IoResult<u64> {
        let offset = at.offset as u16;
        let byte = |value: u8| if at.size == 1 { Ok(u64::from(value)) } else { Err(IoError::Size) };
        match at.region {
            region::CMOS => byte(self.cmos.read(offset)),
            region::PORT92 => byte(self.port92),
            region::RESET_CONTROL => byte(self.reset_control),
            region::APM => byte(self.pm.apm_read(offset)),
            region::PM1_CONTROL => self.pm.control_read(offset, at.size).map(u64::from),
            region::GPE => self.pm.gpe_read(offset, at.size).map(u64::from),
            region::PCI_HOTPLUG => self.pm.pci.read(offset, at.size).map(u64::from),
            region::CPU_HOTPLUG => byte(self.pm.cpu_hotplug_read(offset)),
            region::POST => byte(self.post),
            region::FERR => byte(0xff),
            // Firmware recognises the debug console by this value.
            region::DEBUG => byte(0xe9),
            region::DMA1 if at.size == 1 => {
                self.dirty = true;
                Ok(u64::from(self.dma.read(0, offset)))
            }
            region::DMA_PAGES => byte(self.dma.page_read(offset)),
            region::DMA2 if at.size == 1 => {
                self.dirty = true;
                Ok(u64::from(self.dma.read(1, offset >> 1)))
            }
            region::DMA1 | region::DMA2 => Err(IoError::Size),
            region::XEN_PORTS => {
                self.xen.as_ref().ok_or(IoError::NoRegister)?.port_read(offset, at.size).map(u64::from)
            }
            region::XEN_BAR0 => self.xen.as_ref().ok_or(IoError::NoRegister)?.bar_read(offset, at.size).map(u64::from),
            region::XEN_BAR1 => Ok(0),
            _ => Err(IoError::NoRegister),
        }
    }

    fn write(&mut self, at: Access, value: u64, cx: &mut Context) -> IoResult<()> {
        self.dirty = true;
        let offset = at.offset as u16;
        let byte = if at.size == 1 { Ok(value as u8) } else { Err(IoError::Size) };
        match at.region {
            region::CMOS => self.cmos.write(offset, byte?),
            region::PORT92 => {
                // A rise of bit 0 resets the CPU; bit 1 is A20, which is always enabled in an HVM guest.
                let new = byte?;
                if new & !self.port92 & 1 != 0 {
                    cx.reboot();
                }
                self.port92 = new;
            }
            region::RESET_CONTROL => {
                self.reset_control = byte?;
                if self.reset_control & 4 != 0 {
                    cx.reboot();
                }
            }
            region::APM => self.pm.apm_write(offset, byte?),
            region::PM1_CONTROL => self.pm.control_write(offset, at.size, value as u16, cx)?,
            region::GPE => self.pm.gpe_write(offset, at.size, value as u32)?,
            region::PCI_HOTPLUG => self.pm.pci.write(offset, at.size, value as u32, cx)?,
            region::POST => self.post = byte?,
            region::FERR | region::CPU_HOTPLUG | region::XEN_BAR1 => {}
            region::DEBUG => cx.log.push(byte?),
            region::DMA1 => self.dma.write(0, offset, byte?),
            region::DMA_PAGES => self.dma.page_write(offset, byte?),
            region::DMA2 => self.dma.write(1, offset >> 1, byte?),
            region::XEN_PORTS => {
                self.xen.as_mut().ok_or(IoError::NoRegister)?.port_write(offset, at.size, value as u32, cx)?
            }
            region::XEN_BAR0 => {
                self.xen.as_mut().ok_or(IoError::NoRegister)?.bar_write(offset, at.size, value as u32, cx)?
            }
            _ => return Err(IoError::NoRegister),
        }
        cx.lines.set(SCI, self.pm.sci());
        Ok(())
    }

    fn config_write(&mut self, function: u8, offset: u8, size: u8, value: u32, _: &mut Context) {
        self.dirty = true;
        if let Some(space) = self.space(function) {
            space.write(offset, size, value);
        }
    }

    fn config(&self, function: u8) -> Option<&ConfigSpace> {
        match function {
            3 => self.xen.as_ref().map(|x| &x.config),
            n => self.chipset.get(n),
        }
    }

    fn reset(&mut self, _: Reset, cx: &mut Context) {
        let mut fresh = Self::new(self.config.clone());
        std::mem::swap(&mut fresh.pm, &mut self.pm);
        fresh.pm.reset();
        *self = fresh;
        cx.lines.set(SCI, false);
    }

    fn checkpoint(&mut self) -> Option<Vec<u8>> {
        std::mem::take(&mut self.dirty).then(|| self.save())
    }

    fn save(&self) -> Vec<u8> {
        let Self { config: _, dirty: _, chipset, cmos, pm, dma, xen, port92, post, reset_control } = self;
        PlatformState {
            version: VERSION,
            spaces: (0..3).filter_map(|i| chipset.get(i)).map(ConfigSpace::save).collect(),
            cmos: cmos.save(),
            cmos_index: u32::from(cmos.index()),
            pm: Some(pm.save()),
            dma: dma.save(),
            xen: xen.as_ref().map(XenPlatform::save),
            port92: u32::from(*port92),
            post: u32::from(*post),
            reset_control: u32::from(*reset_control),
        }
        .encode_to_vec()
    }

    fn load(&mut self, state: &[u8], cx: &mut Context) -> Result<(), StateError> {
        let s = PlatformState::decode(state)?;
        if s.version != VERSION {
            return Err(StateError::Version(s.version, VERSION));
        }
        let byte = |value: u32, what| u8::try_from(value).map_err(|_| StateError::Value(what));
        let mut new = Self::new(self.config.clone());
        if s.spaces.len() != 3 {
            return Err(StateError::Value("number of configuration spaces"));
        }
        for (i, saved) in s.spaces.iter().enumerate() {
            new.chipset.space(i as u8).ok_or(StateError::Value("configuration space"))?.load(saved)?;
        }
        new.cmos.load(&s.cmos, byte(s.cmos_index, "CMOS index")?)?;
        new.pm.load(&s.pm.ok_or(StateError::Value("power management"))?)?;
        new.dma.load(&s.dma)?;
        match (&mut new.xen, &s.xen) {
            (Some(xen), Some(saved)) => xen.load(saved)?,
            (None, None) => {}
            _ => return Err(StateError::Value("xen-platform device")),
        }
        new.port92 = byte(s.port92, "port 92")?;
        new.post = byte(s.post, "POST code")?;
        new.reset_control = byte(s.reset_control, "reset control")?;
        *self = new;
        cx.lines.set(SCI, self.pm.sci());
        Ok(())
    }

    fn board(&mut self) -> Option<&mut dyn Board> {
        Some(self)
    }

    fn inspect(&self, out: &mut Inspect) {
        out.hex("port 92", self.port92).hex("POST", self.post).hex("reset control", self.reset_control);
        out.group("CMOS", |out| self.cmos.inspect(out));
        out.group("PM", |out| self.pm.inspect(out));
        if let Some(xen) = &self.xen {
            out.group("xen-platform", |out| xen.inspect(out));
        }
    }
}

impl Board for Platform {
    fn plug_pci(&mut self, device: Option<u8>, id: &str, cx: &mut Context) -> Result<(), BoardError> {
        self.pm.plug_pci(device, id)?;
        self.dirty = true;
        cx.lines.set(SCI, self.pm.sci());
        Ok(())
    }

    fn plug_cpu(&mut self, cpu: u16, cx: &mut Context) -> Result<(), BoardError> {
        self.pm.plug_cpu(cpu)?;
        self.dirty = true;
        cx.lines.set(SCI, self.pm.sci());
        Ok(())
    }

    fn vcpus(&self) -> Vec<u16> {
        self.pm.vcpus()
    }
}

#[cfg(test)]
mod tests;
