//! Expansion ROMs of the display and the network cards, from the host's files.
use bulkhead_plan::NicModel;
use bulkhead_ring::{AreaError, SharedArea};
use rustix::fd::OwnedFd;

/// Directory of Bulkhead's own firmware files.
const SHARE: &str = "/usr/share/bulkhead";
/// Debian's copy of the VGA firmware.
const VGABIOS: Paths = ("vgabios-stdvga.bin", &["/usr/share/seabios/vgabios-stdvga.bin"]);
/// The cards' boot firmware: Debian's iPXE, at QEMU's paths.
const E1000_ROM: Paths = ("efi-e1000.rom", &["/usr/lib/ipxe/qemu/efi-e1000.rom", "/usr/share/qemu/efi-e1000.rom"]);
const RTL8139_ROM: Paths =
    ("efi-rtl8139.rom", &["/usr/lib/ipxe/qemu/efi-rtl8139.rom", "/usr/share/qemu/efi-rtl8139.rom"]);

/// Places of a firmware file in their order: its name below [`SHARE`], then full paths.
type Paths = (&'static str, &'static [&'static str]);

/// The VGA firmware in a memfd, and the ROM's size, a power of two.
pub fn vga_rom() -> Result<(OwnedFd, u32), FirmwareFault> {
    rom(VGABIOS, "VGA firmware")
}

/// A network card's boot firmware, in the same form. Without it the guest cannot boot over the network.
pub fn nic_rom(model: NicModel) -> Result<(OwnedFd, u32), FirmwareFault> {
    let names = match model {
        NicModel::E1000 => E1000_ROM,
        NicModel::Rtl8139 => RTL8139_ROM,
    };
    rom(names, "boot firmware")
}

/// Loads the first of these files that can be used. The error is the last file's.
fn rom((installed, others): Paths, what: &'static str) -> Result<(OwnedFd, u32), FirmwareFault> {
    let first = load(format!("{SHARE}/{installed}"), what);
    others.iter().fold(first, |rom, path| rom.or_else(|_| load((*path).to_owned(), what)))
}

fn load(path: String, what: &'static str) -> Result<(OwnedFd, u32), FirmwareFault> {
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(source) => return Err(FirmwareFault::File { path, source }),
    };
    if !(512..=512 * 1024).contains(&bytes.len()) {
        return Err(FirmwareFault::Size { path, what });
    }
    let size = bytes.len().next_power_of_two().max(2048);
    let fd = SharedArea::create("rom", size.next_multiple_of(4096))?;
    rustix::io::pwrite(&fd, &bytes, 0).map_err(|e| FirmwareFault::Copy(e.into()))?;
    Ok((fd, u32::try_from(size).unwrap_or(0)))
}

/// What is wrong with a firmware file.
#[derive(Debug, thiserror::Error)]
pub enum FirmwareFault {
    /// It cannot be read.
    #[error("{path}: {source}")]
    File {
        /// The path of the last candidate.
        path: String,
        /// The kernel's error.
        source: std::io::Error,
    },
    /// Its size is no expansion ROM's: 512 bytes to 512 KiB.
    #[error("{path}: not a {what}")]
    Size {
        /// The path of the last candidate.
        path: String,
        /// What it is to be.
        what: &'static str,
    },
    /// There is no memory for its copy.
    #[error(transparent)]
    Area(#[from] AreaError),
    /// The copy cannot be written.
    #[error("rom: {0}")]
    Copy(#[source] std::io::Error),
}
