//! The board and its keyboard controller.
use super::DeviceKind;
use super::Machine;
use super::host::{Host, Part};
use super::option::{ArgumentError, Arguments, Given, Group};
use super::serial::Serial;
use crate::failure::Failure;
use bulkhead_plan::{DeviceConfig, kind};

/// The board. `devices`: the other devices, whose disks' geometries are in the CMOS RAM; `unplug`: the guest may unplug its
/// emulated devices.
pub fn open(host: &Host, devices: &[Part], unplug: bool) -> Part {
    let machine = host.machine;
    let drives = devices.iter().flat_map(|part| part.config.facets().drives);
    let disks = drives.filter_map(|d| d.geometry).collect();
    Part::new(DeviceConfig::Platform {
        vcpus: machine.vcpus,
        online: machine.online,
        xen_platform: machine.xen_platform,
        boot: machine.boot.clone(),
        unsigned_floppy: machine.unsigned_floppy,
        disks,
        serial: machine.serials.first().is_some_and(|s| *s != Serial::None),
        unplug,
    })
}

/// The keyboard controller, which every machine has: no option asks for it.
pub(super) static KEYBOARD: DeviceKind = DeviceKind {
    kinds: &[&kind::PS2],
    arguments: Group { options: &[], keys: &[], arguments: || Box::new(NoOption) },
    open: |_| -> Result<Vec<Part>, Failure> { Ok(vec![Part::new(DeviceConfig::Ps2)]) },
};

struct NoOption;

impl Arguments for NoOption {
    fn take(&mut self, given: &mut Given, _: &mut Machine) -> Result<(), ArgumentError> {
        Err(ArgumentError::Unknown(given.shown.clone()))
    }
}

/// The first free PCI device number after the board's and the display's, where QEMU too puts the first card: 4 with libxl's
/// arguments.
pub fn first_card(host: &Host) -> u8 {
    let there = [host.machine.xen_platform, host.machine.video.is_some()];
    there.iter().fold(2, |n, there| if *there { n.saturating_add(1) } else { n })
}
