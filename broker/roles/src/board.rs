//! The board, and fw_cfg.
use crate::error::BuildError;
use crate::role::{Prepared, Role, Seen, Visible, wrong};
use bulkhead_bus::Device;
use bulkhead_dev_board::fw_cfg::{self, FwCfg};
use bulkhead_plan::{DeviceConfig, FdUse, kind};
use bulkhead_runtime::Resources;

pub(crate) static PLATFORM: Role = Role {
    kind: &kind::PLATFORM,
    seen: Seen::ByGuest(|config| Ok(Visible::new(bulkhead_dev_board::declare(&board(config)?)))),
    prepare: |config, _| Ok(Prepared::device(bulkhead_dev_board::Platform::new(board(config)?), Vec::new())),
};

pub(crate) static FWCFG: Role =
    Role { kind: &kind::FWCFG, seen: Seen::ByGuest(|_| Ok(Visible::new(fw_cfg::declare()))), prepare: prepare_fw_cfg };

/// Converts the plan's configuration to the board's own.
fn board(config: &DeviceConfig) -> Result<bulkhead_dev_board::Config, BuildError> {
    let DeviceConfig::Platform { vcpus, online, xen_platform, boot, unsigned_floppy, disks, serial, unplug } = config
    else {
        return Err(wrong(config));
    };
    Ok(bulkhead_dev_board::Config {
        vcpus: *vcpus,
        online: *online,
        xen_platform: *xen_platform,
        boot: boot.clone(),
        unsigned_floppy: *unsigned_floppy,
        disks: disks.clone(),
        serial: *serial,
        unplug: *unplug,
    })
}

fn prepare_fw_cfg(config: &DeviceConfig, mut resources: Resources) -> Result<Prepared, BuildError> {
    let DeviceConfig::FwCfg { vcpus, online, memory_mib, menu, kernel, initrd, command_line } = config else {
        return Err(wrong(config));
    };
    let config = fw_cfg::Config {
        vcpus: *vcpus,
        online: *online,
        memory_mib: *memory_mib,
        menu: menu.clone(),
        command_line: command_line.clone(),
    };
    let boot = fw_cfg::Boot {
        kernel: resources.fds.take(&FdUse::Kernel).zip(*kernel),
        initrd: resources.fds.take(&FdUse::Initrd).zip(*initrd),
    };
    let build = move || Ok(Box::new(FwCfg::new(&config, boot)?) as Box<dyn Device>);
    Ok(Prepared { polled: Vec::new(), build: Box::new(build) })
}
