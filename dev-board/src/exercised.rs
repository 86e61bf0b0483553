//! The board for its fuzz target and its corpus test.
mod recipes;

use crate::spec::REGISTERS;
use crate::{Config, Platform};
use bulkhead_bus::exercise::{Host, Restart, SETTINGS, Stage, Target};
use bulkhead_bus::{Context, Device, DiskGeometry, Translation};

/// Bits of the first byte of the settings.
mod flag {
    pub(super) const NO_XEN_PLATFORM: u8 = 1 << 0;
    pub(super) const NO_UNPLUG: u8 = 1 << 1;
    pub(super) const NO_SERIAL: u8 = 1 << 2;
    pub(super) const UNSIGNED_FLOPPY: u8 = 1 << 3;
    /// No PCI device is plugged in at the start.
    pub(super) const NO_DEVICE: u8 = 1 << 4;
}

/// Boot orders, by the second byte.
const BOOT: [&str; 8] = ["dca", "", "c", "n", "adcn", "xyz", "\u{e9}c", "cdn"];
/// vCPUs: the most, and those at the start; by the third byte.
const VCPUS: [(u16, u16); 6] = [(3, 2), (1, 1), (8, 8), (128, 1), (256, 255), (512, 3)];

/// What the toolstack and the launcher do.
pub(crate) mod action {
    /// PCI device number `value` is plugged in.
    pub(crate) const PLUG_PCI: u8 = 0;
    /// The guest is asked to eject a PCI device.
    pub(crate) const EJECT_PCI: u8 = 1;
    /// vCPU `value` is plugged in.
    pub(crate) const PLUG_CPU: u8 = 2;
    /// The vCPUs are listed.
    pub(crate) const LIST_CPUS: u8 = 3;
    pub(crate) const COUNT: u8 = 4;
}

/// The host's side of the board.
struct Toolstack {
    config: Config,
    device: bool,
    violation: Option<String>,
}

/// Settings: [`flag`]s; numbers in [`BOOT`] and [`VCPUS`]; the number of disks; the drive of the first in the low half and its
/// translation in the high half; cylinders, heads.
fn make(stage: &Stage) -> Box<dyn Host> {
    let [flags, boot, vcpus, disks, drive, c0, c1, heads]: [u8; SETTINGS] = stage.settings;
    let of = |n: u8, len: usize| usize::from(n).checked_rem(len).unwrap_or(0);
    let (vcpus, online) = VCPUS.get(of(vcpus, VCPUS.len())).copied().unwrap_or((1, 1));
    let translation = match drive >> 4 & 3 {
        0 => Translation::None,
        1 => Translation::Lba,
        2 => Translation::Large,
        _ => Translation::Rechs,
    };
    let cylinders = u16::from_le_bytes([c0, c1]);
    let disk =
        |n: u8| DiskGeometry { drive: (drive & 0x0f).saturating_add(n), cylinders, heads, sectors: 63, translation };
    let config = Config {
        vcpus,
        online,
        xen_platform: flags & flag::NO_XEN_PLATFORM == 0,
        boot: BOOT.get(of(boot, BOOT.len())).copied().unwrap_or_default().into(),
        unsigned_floppy: flags & flag::UNSIGNED_FLOPPY != 0,
        disks: (0..disks & 7).map(disk).collect(),
        serial: flags & flag::NO_SERIAL == 0,
        unplug: flags & flag::NO_UNPLUG == 0,
    };
    Box::new(Toolstack { config, device: flags & flag::NO_DEVICE == 0, violation: None })
}

/// A name of a PCI device: one of a few, so that names meet again, or up to 24 characters of `data`.
fn name(value: u64, data: &[u8]) -> String {
    if data.is_empty() {
        return ["usb", "nvme", "net", "usb2"].get((value >> 8 & 3) as usize).copied().unwrap_or_default().into();
    }
    data.iter().take(24).map(|byte| char::from(byte & 0x7f)).collect()
}

impl Host for Toolstack {
    fn device(&mut self) -> Box<dyn Device> {
        let mut board = Platform::new(self.config.clone());
        if self.device {
            let _ = board.pm.plug_pci(Some(5), "usb");
        }
        Box::new(board)
    }

    fn act(&mut self, action: u8, value: u64, data: &[u8], device: &mut dyn Device, cx: &mut Context) {
        let Some(board) = device.board() else { return };
        let refused = match action {
            action::PLUG_PCI => board.plug_pci(Some(value as u8), &name(value, data), cx).err(),
            action::EJECT_PCI => board.plug_pci(None, &name(value, data), cx).err(),
            action::PLUG_CPU => board.plug_cpu(value as u16, cx).err(),
            _ => None,
        };
        // What a person reads.
        let _ = refused.map(|e| e.to_string());
        let vcpus = board.vcpus();
        let ordered = vcpus.iter().zip(vcpus.iter().skip(1)).all(|(one, next)| one < next);
        let all = usize::from(self.config.online)..=usize::from(self.config.vcpus);
        if !ordered || !all.contains(&vcpus.len()) || vcpus.last().is_some_and(|cpu| *cpu >= self.config.vcpus) {
            self.violation = Some(format!("vCPUs {vcpus:?} of {all:?}"));
        }
    }

    fn holds(&mut self) -> Result<(), String> {
        self.violation.take().map_or(Ok(()), Err)
    }
}

/// The board with all devices, with unplug, and with a PCI device that can be ejected. It reads no guest memory.
pub static TARGET: Target = Target {
    work: 0,
    registers: REGISTERS,
    actions: action::COUNT,
    recipes: recipes::ALL,
    restart: Restart::Same,
    ..Target::new("platform", make)
};
