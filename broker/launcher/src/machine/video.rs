//! The display: firmware and video RAM.
use super::Machine;
use super::host::{Host, Part};
use super::option::{
    ArgumentError, Arguments, Fate, Given, Group, Keys, OptionSpec, PLACE, XENOPSD, flag, keys, number, option,
};
use super::{DeviceKind, firmware};
use crate::failure::Failure;
use Fate::{Ignored, Implemented, Refused, Substituted};
use bulkhead_plan::{DeviceConfig, FdUse, kind};
use bulkhead_ring::SharedArea;

pub(super) static DEVICE: DeviceKind = DeviceKind {
    kinds: &[&kind::VGA],
    arguments: Group { options: OPTIONS, keys: KEYS, arguments: || Box::new(Adapter) },
    open,
};

const OPTIONS: &[OptionSpec] = &[
    option("device VGA", Implemented("vgamem_mb 1 to 256, rounded up to a power of two"), "vga=\"stdvga\""),
    option("device cirrus-vga", Substituted("the standard VGA takes its place"), "vga=\"cirrus\", the default"),
    option("device qxl-vga", Refused("the QXL display"), "vga=\"qxl\""),
    flag("std-vga", Implemented("as -device VGA"), XENOPSD),
    option("vga none", Implemented("no display"), "a guest that is not HVM"),
    option("vga std", Implemented("as -device VGA"), ""),
    option("vga cirrus", Substituted("the standard VGA takes its place"), ""),
    option("vga", Refused("this display"), ""),
    option("videoram", Ignored("the standard VGA has 16 MiB"), XENOPSD),
];

const KEYS: &[Keys] =
    &[keys("device VGA", &["driver", "vgamem_mb"], PLACE), keys("device cirrus-vga", &["driver", "vgamem_mb"], PLACE)];

/// The display adapter, as the arguments describe it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Video {
    /// MiB of video RAM, a power of two.
    pub mib: u32,
}

impl Default for Video {
    fn default() -> Self {
        Self { mib: 16 }
    }
}

struct Adapter;

impl Arguments for Adapter {
    fn take(&mut self, given: &mut Given, machine: &mut Machine) -> Result<(), ArgumentError> {
        match (given.name.as_str(), given.value.as_str()) {
            ("device", _) => {
                let bad = |why: &str| given.bad(why);
                let mib = given.options.get("vgamem_mb");
                let mib = mib.map_or(Some(16), number).ok_or(bad("vgamem_mb is a number"))?;
                // QEMU rounds up to a power of two. The frame buffers of large modes need 16 MiB.
                let mib: u32 = Some(mib).filter(|m| (1..=256).contains(m)).ok_or(bad("vgamem_mb is 1 to 256"))?;
                machine.video = Some(Video { mib: mib.next_power_of_two() });
            }
            ("vga", "none") => machine.video = None,
            _ => machine.video = machine.video.or(Some(Video::default())),
        }
        Ok(())
    }
}

/// First guest frame of video RAM: above all RAM, 4 GiB up at least, where no BAR is. A saved machine has it at its place.
pub fn frame(host: &Host) -> u64 {
    if let Some(saved) = &host.saved {
        return saved.video_ram();
    }
    above_ram(host.machine)
}

/// A guest frame above all RAM: that begins at 0, and leaves a hole below 4 GiB.
fn above_ram(machine: &Machine) -> u64 {
    (0x10_0000u64).saturating_add(machine.memory_mib.saturating_mul(256)).next_multiple_of(0x1000)
}

/// Guest frames whose writes are logged: all RAM, and the first place of video RAM.
pub fn logged_frames(machine: &Machine) -> u64 {
    above_ram(machine).saturating_add(machine.video.map_or(0, |v| u64::from(v.mib).saturating_mul(256)))
}

/// Standard VGA; `None` if the machine has no display.
pub fn open(host: &mut Host) -> Result<Vec<Part>, Failure> {
    let Some(video) = host.machine.video else { return Ok(Vec::new()) };
    let (rom, bytes) = firmware::vga_rom()?;
    let vram = video.mib << 20;
    let memory = match &host.machine.sim {
        Some(_) => {
            let fd = SharedArea::create("vram", vram as usize)?;
            SharedArea::seal_size(&fd)?;
            (FdUse::SimVram, fd)
        }
        None => (FdUse::Privcmd, host.restricted()?),
    };
    let device = if host.machine.xen_platform { 3 } else { 2 };
    let config = DeviceConfig::Vga { device, vram, gfn: frame(host), rom: bytes };
    Ok(vec![Part { kept: vec![memory], rom: Some(rom), ..Part::new(config) }])
}
