//! How a target looks in a whole machine, ours or another: the arguments that make it, and where its registers are.
use bulkhead_bus::Area;
use bulkhead_bus::exercise::{Kind, Record, SETTINGS, Target};
use bulkhead_bus::pci::{BarKind, FunctionSpec};
use std::path::Path;

/// First address of memory BARs.
const MEMORY: u64 = 0xe000_0000;
/// First port of port BARs.
const PORTS: u64 = 0xc000;

/// The arguments that give a machine the device of the target with plain settings. `{image}` is a disk of a mebibyte. They are in QEMU's
/// language, which bulkhead-dm speaks.
pub fn arguments(name: &str) -> &'static [&'static str] {
    match name {
        "ide" => &["-drive", "file={image},if=ide,index=0,media=disk,format=raw"],
        "e1000" => &["-device", "e1000,mac=02:00:00:00:00:01,addr=2"],
        "rtl8139" => &["-device", "rtl8139,mac=02:00:00:00:00:01,addr=2"],
        "serial" => &["-serial", "null"],
        "usb" => &["-usb", "-device", "usb-tablet", "-device", "usb-kbd"],
        "vga" => &["-device", "VGA,vgamem_mb=16,addr=2"],
        _ => &[],
    }
}

/// The settings with which the device alone is that of such a machine.
pub fn settings(name: &str) -> [u8; SETTINGS] {
    match name {
        // A disk, and nothing at the three other places.
        "ide" => [0x20, 0x01, 0, 0, 0, 0, 0, 0],
        // Without xen-platform, its unplugging, and a plugged device; one vCPU.
        "platform" => [0x13, 0, 1, 0, 0, 0, 0, 0],
        _ => [0; SETTINGS],
    }
}

/// The device number on bus 0 of a card: the first free one, in a machine with nothing else.
fn slot(target: &Target) -> Option<u8> {
    ["e1000", "rtl8139", "vga"].contains(&target.name).then_some(2)
}

/// Puts a disk's image at `{image}`.
pub fn filled(arguments: &[&str], image: &Path) -> Vec<String> {
    arguments.iter().map(|a| a.replace("{image}", &image.display().to_string())).collect()
}

/// Where a region begins: in ports or in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// The first port.
    Ports(u64),
    /// The first address.
    Memory(u64),
}

/// The device's regions and functions in a machine, where the script puts its BARs.
pub struct Layout {
    /// Base and length of each region.
    pub regions: Vec<(Base, u64)>,
    /// The device's functions.
    pub functions: Vec<FunctionSpec>,
    /// The ISA interrupt of each line; `None` for those of PCI functions, which the chipset routes.
    pub lines: Vec<Option<u32>>,
    /// What has to be written first: BARs and command registers.
    pub prologue: Vec<Record>,
}

fn bar_base(function: usize, bar: usize, ports: bool) -> u64 {
    let n = (function as u64).saturating_mul(6).saturating_add(bar as u64);
    if ports {
        PORTS.saturating_add(n.saturating_mul(0x100))
    } else {
        MEMORY.saturating_add(n.saturating_mul(0x0200_0000))
    }
}

/// The layout of a target.
pub fn layout(target: &Target) -> Layout {
    let memory = std::sync::Arc::new(bulkhead_bus::exercise::RunMemory::new(target.memory));
    let stage = bulkhead_bus::exercise::Stage { memory, settings: settings(target.name) };
    let declaration = (target.make)(&stage).device().declaration();
    let mut prologue = Vec::new();
    let config = |function: usize, offset: u32, size: u8, value: u64| Record {
        place: function as u8,
        offset,
        size,
        value,
        ..Record::new(Kind::ConfigWrite)
    };
    for (f, function) in declaration.functions.iter().enumerate() {
        for (b, bar) in function.bars.iter().enumerate() {
            let Some(bar) = bar else { continue };
            let register = 0x10u32.saturating_add((b as u32).saturating_mul(4));
            prologue.push(config(f, register, 4, bar_base(f, b, bar.kind == BarKind::Io)));
        }
        if function.bars.iter().any(Option::is_some) {
            prologue.push(config(f, 4, 2, 7));
        }
    }
    match target.name {
        // What firmware does: the self-test, then a command byte with interrupts, system flag and translation. A reset leaves other bits at each.
        "ps2" => prologue.extend([
            Record::write(1, 0, 1, 0xaa),
            Record::read(0, 0, 1),
            Record::write(1, 0, 1, 0x60),
            Record::write(0, 0, 1, 0x47),
        ]),
        // OUT2, as every driver sets it: on a PC it lets the interrupt out.
        "serial" => prologue.push(Record::write(0, 4, 1, 8)),
        _ => {}
    }
    let regions = declaration.regions.iter().map(|region| match region.area {
        Area::Ports { base, len } => (Base::Ports(base.into()), len.into()),
        Area::Memory { base, len } => (Base::Memory(base), len),
        Area::Bar { function, bar } => {
            let spec = declaration
                .functions
                .get(usize::from(function))
                .and_then(|f| f.bars.get(usize::from(bar)).copied().flatten());
            let (ports, size) = spec.map_or((false, 0), |s| (s.kind == BarKind::Io, u64::from(s.size)));
            let base = bar_base(function.into(), bar.into(), ports);
            (if ports { Base::Ports(base) } else { Base::Memory(base) }, size)
        }
    });
    let mut functions = declaration.functions.clone();
    if let Some(slot) = slot(target) {
        functions.iter_mut().for_each(|f| f.device = slot);
    }
    let isa = declaration.lines.iter().map(|line| match line {
        bulkhead_bus::Line::Isa(number) => Some(u32::from(*number)),
        bulkhead_bus::Line::Intx { .. } => None,
    });
    Layout { regions: regions.collect(), functions, lines: isa.collect(), prologue }
}
