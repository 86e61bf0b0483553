//! The display: its firmware and video RAM.
use super::{Failure, Host, Part, firmware};
use crate::errors::{Code, Coded as _};
use bulkhead_plan::{DeviceConfig, FdUse};
use bulkhead_ring::SharedArea;

/// The guest frame where video RAM begins: above all RAM, out of the way of every BAR.
pub fn frame(host: &Host) -> u64 {
    (0x10_0000u64).saturating_add(host.machine.memory_mib.saturating_mul(256)).next_multiple_of(0x1000)
}

/// Standard VGA, if the machine has it.
pub fn open(host: &Host) -> Result<Option<Part>, Failure> {
    let Some(video) = host.machine.video else { return Ok(None) };
    let (rom, bytes) = firmware::vga_rom().coded(Code::Firmware)?;
    let vram = video.mib << 20;
    let memory = match &host.machine.sim {
        Some(_) => {
            let fd = SharedArea::create("vram", vram as usize).map_err(|e| e.to_string())?;
            SharedArea::seal_size(&fd).map_err(|e| e.to_string())?;
            (FdUse::SimVram, fd)
        }
        None => (FdUse::Privcmd, host.restricted()?),
    };
    let device = if host.machine.xen_platform { 3 } else { 2 };
    let config = DeviceConfig::Vga { device, vram, gfn: frame(host), rom: bytes };
    Ok(Some(Part { kept: vec![memory], rom: Some(rom), ..Part::new(config) }))
}
