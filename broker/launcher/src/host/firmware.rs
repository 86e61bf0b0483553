//! Firmware of cards and the display, from the host's files.
use super::{Failure, errno};
use bulkhead_plan::NicModel;
use rustix::fd::OwnedFd;

/// Where what is installed beside the executables is.
const SHARE: &str = "/usr/share/bulkhead";
/// Debian's copy of the VGA firmware.
const VGABIOS: &[&str] = &["vgabios-stdvga.bin", "/usr/share/seabios/vgabios-stdvga.bin"];
/// The cards' boot firmware: Debian's iPXE, where QEMU for Xen finds it.
const E1000_ROM: &[&str] = &["efi-e1000.rom", "/usr/lib/ipxe/qemu/efi-e1000.rom", "/usr/share/qemu/efi-e1000.rom"];
const RTL8139_ROM: &[&str] =
    &["efi-rtl8139.rom", "/usr/lib/ipxe/qemu/efi-rtl8139.rom", "/usr/share/qemu/efi-rtl8139.rom"];

/// The VGA firmware, in a memfd of a power of two.
pub fn vga_rom() -> Result<(OwnedFd, u32), Failure> {
    rom(VGABIOS, "VGA firmware")
}

/// A network card's boot firmware: without it the guest cannot boot over the network.
pub fn nic_rom(model: NicModel) -> Result<(OwnedFd, u32), Failure> {
    let names = match model {
        NicModel::E1000 => E1000_ROM,
        NicModel::Rtl8139 => RTL8139_ROM,
    };
    rom(names, "boot firmware")
}

/// The first of these files that is there, in a memfd of a power of two.
fn rom(names: &[&str], what: &str) -> Result<(OwnedFd, u32), Failure> {
    let mut last = String::new();
    for name in names {
        let path = if name.starts_with('/') { (*name).to_owned() } else { format!("{SHARE}/{name}") };
        match std::fs::read(&path) {
            Ok(bytes) if bytes.len() >= 512 && bytes.len() <= 512 * 1024 => {
                let size = bytes.len().next_power_of_two().max(2048);
                let fd =
                    bulkhead_ring::SharedArea::create("rom", size.next_multiple_of(4096)).map_err(|e| e.to_string())?;
                rustix::io::pwrite(&fd, &bytes, 0).map_err(|e| errno("rom", e))?;
                return Ok((fd, u32::try_from(size).unwrap_or(0)));
            }
            Ok(_) => last = format!("{path}: not a {what}"),
            Err(e) => last = format!("{path}: {e}"),
        }
    }
    Err(last)
}
