//! The USB controller: there from the start, or one that QMP may add.
use super::{Failure, Host, Part};
use bulkhead_plan::DeviceConfig;

/// The controller. `free`: a device number for one that is added.
pub fn open(host: &Host, free: u8) -> Result<Part, Failure> {
    let config = match &host.machine.usb {
        Some(devices) => {
            let (device, function) = host.machine.usb_at.unwrap_or((1, 2));
            DeviceConfig::Usb { devices: devices.clone(), device, function, added: false }
        }
        None => DeviceConfig::Usb { devices: Vec::new(), device: free, function: 0, added: true },
    };
    Ok(Part { kept: vec![host.memory()?], ..Part::new(config) })
}
