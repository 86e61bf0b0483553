//! Every process but the launcher is this executable, so that all share its text; argv\[0\] says which it is. It is
//! started by `bulkhead-dm` only.
use bulkhead_bus::plan::{DeviceConfig, FdUse, MachinePlan};
use bulkhead_bus::Declaration;
use bulkhead_dev_input::serial;
use bulkhead_ioreq::MachineDevice;
use bulkhead_runtime::{Built, Fds, Resources, run_device};
use std::process::ExitCode;

fn main() -> ExitCode {
    let role = std::env::args().next().unwrap_or_default();
    let result = match role.as_str() {
        "control" => bulkhead_control::run(),
        "broker" => bulkhead_ioreq::run(describe),
        "serial" => run_device("serial", build),
        _ => {
            eprintln!("bulkhead-roles: this is started by bulkhead-dm, not by hand");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

/// What a device has, from its configuration alone.
fn declare(config: &DeviceConfig) -> Declaration {
    match config {
        DeviceConfig::Serial { index } => serial::declare(*index),
        _ => Declaration::default(),
    }
}

/// The devices, for the broker.
fn describe(plan: &MachinePlan, fds: &mut Fds) -> Result<Vec<MachineDevice>, String> {
    plan.devices
        .iter()
        .map(|device| {
            let rom = match (&device.config, fds.take(&FdUse::Rom(device.slot))) {
                (DeviceConfig::Vga { rom, .. }, Some(fd)) => {
                    let mut bytes = vec![0; *rom as usize];
                    rustix::io::pread(&fd, bytes.as_mut_slice(), 0).map_err(|e| format!("ROM: {e}"))?;
                    Some(bytes)
                }
                _ => None,
            };
            let video_ram = match &device.config {
                DeviceConfig::Vga { gfn, vram, .. } => Some((*gfn, *vram >> 12)),
                _ => None,
            };
            Ok(MachineDevice { slot: device.slot, name: device.name.clone(), declaration: declare(&device.config), rom, video_ram })
        })
        .collect()
}

/// Makes a device of its configuration and what it was given.
fn build(config: &DeviceConfig, mut resources: Resources) -> Result<Built, String> {
    match config {
        DeviceConfig::Serial { index } => {
            let mut polled = Vec::new();
            let backend: Box<dyn serial::Backend> = match resources.fds.take(&FdUse::Serial) {
                Some(fd) => {
                    polled.push((0, rustix::io::dup(&fd).map_err(|e| e.to_string())?));
                    Box::new(serial::FdBackend::new(fd))
                }
                None => Box::new(serial::NullBackend),
            };
            Ok(Built { device: Box::new(serial::Serial::new(*index, backend)), polled })
        }
        _ => Err("no such device".into()),
    }
}
